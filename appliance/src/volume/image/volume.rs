//! A volume while the pool is open: its index, and the counters that belong to the index.
//!
//! **Invariant.** `resident` is the number of blocks that the index maps above `resident_above`,
//! including those that a large trim has cut out and [`Volume::note_cut_gone`] has not subtracted
//! yet. Every method that changes the index changes the counter in the same step. So `resident` is
//! at most the index's count of mapped blocks, and equal to it if nothing is inherited; both are
//! asserted after each change.

use smallvec::SmallVec;

use super::trouble::Trouble;
use crate::dma::BLOCK_BYTES;
use crate::log::{BlockNumber, ImageId, Log, Lsn};
use crate::volume::image::census::Census;
use crate::volume::image::index::{Index, IndexBuilder, Mapping, RangeSet};
use crate::volume::info::VolumeStats;
use crate::volume::request::{IoError, Refusal};

/// Ranges of more blocks than this get a mask without a check of their content.
const LOOKED_AT_BLOCKS: u64 = 65_536;

/// The index of a volume, or the known part of it.
pub(in crate::volume) enum VolumeIndex {
    /// The complete index.
    Ready(Index),
    /// A clone after a restart: its own entries are known, and the inherited ones must still be
    /// looked up.
    Inherits(IndexBuilder),
    /// The inherited index could not be built. The volume's own entries are kept, and copied
    /// forward.
    Failed(IndexBuilder),
}

/// The parameters of a new volume.
pub(in crate::volume) struct NewVolume {
    /// Its name.
    pub(in crate::volume) name: String,
    /// Its size.
    pub(in crate::volume) size_blocks: u64,
    /// Whether hosts may not write.
    pub(in crate::volume) read_only: bool,
    /// Its image.
    pub(in crate::volume) image: ImageId,
    /// Its index.
    pub(in crate::volume) index: VolumeIndex,
    /// Mappings above this LSN are resident.
    pub(in crate::volume) resident_above: Lsn,
    /// Whether it keeps all inherited blocks on the primary device.
    pub(in crate::volume) keeps_inherited: bool,
    /// Whether some inherited blocks are resident.
    pub(in crate::volume) holds_inherited: bool,
    /// Whether its image may have entries.
    pub(in crate::volume) is_written: bool,
    /// Whether it may inherit anything.
    pub(in crate::volume) inherits: bool,
    /// Where the log ends.
    pub(in crate::volume) changed_lsn: Lsn,
    /// Whether its capacity is not reserved.
    pub(in crate::volume) thin: bool,
}

/// A volume while the pool is open. See the module's documentation.
pub(in crate::volume) struct Volume {
    name: String,
    size_blocks: u64,
    read_only: bool,
    image: ImageId,
    index: VolumeIndex,
    /// Mappings below this LSN are not certain; 0 if all are.
    uncertain_below: Lsn,
    /// How many of its blocks had such mappings when that was found out.
    uncertain_blocks: u64,
    /// Mappings above this LSN are resident: the log keeps their blocks in the working set.
    /// Mappings at or below it are inherited.
    resident_above: Lsn,
    /// Whether all inherited blocks are resident too, because there is no archive from which they
    /// can be read.
    keeps_inherited: bool,
    /// Whether some inherited blocks are resident: entries of its ancestors may be its blocks.
    holds_inherited: bool,
    /// Whether its image may have entries of its own.
    is_written: bool,
    /// Whether it may inherit anything: if so, its trims must be remembered as long as it exists.
    inherits: bool,
    /// Whether a hydration of it is running.
    hydrating: bool,
    /// While what it inherited is looked up: how many segments were read, and how many there are.
    loading: Option<(u64, u64)>,
    /// What prevents it from using what it inherited.
    trouble: Option<Trouble>,
    /// The position of its newest write or trim, or a later one: its state has not changed since.
    changed_lsn: Lsn,
    /// The ranges in which it no longer inherits anything.
    masked: RangeSet,
    /// How many of its blocks are resident.
    resident: u64,
    /// Whether it was created without reserving its capacity.
    thin: bool,
    stats: VolumeStats,
}

/// Another state for a volume, see [`Volume::rebase`].
pub(in crate::volume) struct Rebased {
    /// Its image; none of its entries is in the log.
    pub(in crate::volume) image: ImageId,
    /// Its size.
    pub(in crate::volume) size_blocks: u64,
    /// Its index.
    pub(in crate::volume) index: Index,
    /// Mappings above this LSN are resident.
    pub(in crate::volume) resident_above: Lsn,
    /// How many there are.
    pub(in crate::volume) resident: u64,
    /// Whether it needs its parent.
    pub(in crate::volume) inherits: bool,
    /// Where the log ends.
    pub(in crate::volume) changed_lsn: Lsn,
}

/// The state that a volume had before [`Volume::rebase`], whose blocks still count.
pub(in crate::volume) struct Outgoing {
    /// Its index.
    pub(in crate::volume) index: Index,
    /// Its image.
    pub(in crate::volume) image: ImageId,
    /// Mappings above this LSN are resident.
    pub(in crate::volume) above: Lsn,
    /// How many there are, with those in parts that a large trim has cut out.
    pub(in crate::volume) resident: u64,
    /// What prevented it from using what it inherited.
    pub(in crate::volume) trouble: Option<Trouble>,
}

/// What a trim removed.
pub(in crate::volume) struct Trimmed {
    /// Resident blocks that no longer count.
    pub(in crate::volume) freed: u64,
    /// The part that was cut out, to be counted later.
    pub(in crate::volume) cut: Option<Index>,
}

impl Volume {
    /// A volume without resident blocks so far; see [`count_resident`](Self::count_resident).
    pub(in crate::volume) fn new(new: NewVolume) -> Self {
        Volume {
            name: new.name,
            size_blocks: new.size_blocks,
            read_only: new.read_only,
            image: new.image,
            index: new.index,
            uncertain_below: Lsn(0),
            uncertain_blocks: 0,
            resident_above: new.resident_above,
            keeps_inherited: new.keeps_inherited,
            holds_inherited: new.holds_inherited,
            is_written: new.is_written,
            inherits: new.inherits,
            hydrating: false,
            loading: None,
            trouble: None,
            changed_lsn: new.changed_lsn,
            masked: RangeSet::default(),
            resident: 0,
            thin: new.thin,
            stats: VolumeStats::default(),
        }
    }

    pub(in crate::volume) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::volume) fn size_blocks(&self) -> u64 {
        self.size_blocks
    }

    pub(in crate::volume) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(in crate::volume) fn image(&self) -> ImageId {
        self.image
    }

    pub(in crate::volume) fn index(&self) -> &VolumeIndex {
        &self.index
    }

    pub(in crate::volume) fn is_thin(&self) -> bool {
        self.thin
    }

    pub(in crate::volume) fn inherits(&self) -> bool {
        self.inherits
    }

    pub(in crate::volume) fn keeps_inherited(&self) -> bool {
        self.keeps_inherited
    }

    pub(in crate::volume) fn holds_inherited(&self) -> bool {
        self.holds_inherited
    }

    pub(in crate::volume) fn is_written(&self) -> bool {
        self.is_written
    }

    pub(in crate::volume) fn is_hydrating(&self) -> bool {
        self.hydrating
    }

    pub(in crate::volume) fn resident(&self) -> u64 {
        self.resident
    }

    pub(in crate::volume) fn resident_above(&self) -> Lsn {
        self.resident_above
    }

    pub(in crate::volume) fn uncertain_below(&self) -> Lsn {
        self.uncertain_below
    }

    pub(in crate::volume) fn uncertain_blocks(&self) -> u64 {
        self.uncertain_blocks
    }

    pub(in crate::volume) fn changed_lsn(&self) -> Lsn {
        self.changed_lsn
    }

    pub(in crate::volume) fn stats(&self) -> VolumeStats {
        self.stats
    }

    /// How many blocks have contents; 0 if its index is not complete.
    pub(in crate::volume) fn mapped(&self) -> u64 {
        self.ready_index().map_or(0, Index::mapped)
    }

    /// The complete index, if it is known.
    pub(in crate::volume) fn ready_index(&self) -> Option<&Index> {
        match &self.index {
            VolumeIndex::Ready(index) => Some(index),
            VolumeIndex::Inherits(_) | VolumeIndex::Failed(_) => None,
        }
    }

    /// Whether the inherited index could not be built.
    pub(in crate::volume) fn lookup_failed(&self) -> bool {
        matches!(self.index, VolumeIndex::Failed(_))
    }

    /// The index, or the known part of it.
    pub(in crate::volume) fn own_index(&self) -> &Index {
        match &self.index {
            VolumeIndex::Ready(index) => index,
            VolumeIndex::Inherits(builder) | VolumeIndex::Failed(builder) => builder.seen(),
        }
    }

    /// The index for a host's request.
    pub(in crate::volume) fn usable_index(&self) -> Result<&Index, Refusal> {
        match &self.index {
            VolumeIndex::Ready(index) => Ok(index),
            VolumeIndex::Inherits(_) => Err(Refusal::Busy),
            // It is looked up again at the next start, or when the archive answers.
            VolumeIndex::Failed(_) => Err(Refusal::Error(IoError::NotNow)),
        }
    }

    /// Whether the index maps `block` to exactly this mapping, and the log keeps it.
    pub(in crate::volume) fn holds(&self, block: u64, mapping: Mapping) -> bool {
        mapping.lsn() > self.resident_above && self.own_index().get(block) == mapping
    }

    /// Refuses a range that is not within the volume.
    pub(in crate::volume) fn check_range(&self, block: u64, len_blocks: u64) -> Result<(), IoError> {
        match block.checked_add(len_blocks) {
            Some(end) if end <= self.size_blocks => Ok(()),
            _ => Err(IoError::OutOfRange),
        }
    }

    /// Refuses writes where hosts may not write.
    pub(in crate::volume) fn check_write(&self) -> Result<(), IoError> {
        if self.read_only { Err(IoError::ReadOnly) } else { Ok(()) }
    }

    /// How many of `len_blocks` blocks from `block` on would become resident if they were written.
    pub(in crate::volume) fn not_resident(&self, block: u64, len_blocks: u64) -> Result<u64, Refusal> {
        let index = self.usable_index()?;
        let blocks = block..block + len_blocks;
        Ok(blocks.filter(|&at| index.get(at).lsn() <= self.resident_above).count() as u64)
    }

    /// Appends `len_blocks` blocks from `first` on, each with `append`, and points the index to
    /// them. Returns how many became resident.
    pub(in crate::volume) fn write(
        &mut self,
        log: &mut Log,
        first: u64,
        len_blocks: u64,
        mut append: impl FnMut(&mut Log, usize, BlockNumber, Lsn, bool) -> (Lsn, u32),
    ) -> Result<u64, Refusal> {
        let resident_above = self.resident_above;
        let index = match &mut self.index {
            VolumeIndex::Ready(index) => index,
            VolumeIndex::Inherits(_) => return Err(Refusal::Busy),
            VolumeIndex::Failed(_) => return Err(Refusal::Error(IoError::NotNow)),
        };
        self.is_written = true;
        let mut new_blocks = 0;
        for offset in 0..len_blocks {
            let at = first + offset;
            let superseded = index.get(at).lsn();
            let last = offset + 1 == len_blocks;
            let (lsn, crc) = append(log, offset as usize, BlockNumber(at), superseded, last);
            index.set(at, Mapping::new(lsn, crc));
            if superseded > resident_above {
                log.note_dead(superseded);
            } else {
                new_blocks += 1;
            }
            log.note_live(lsn);
            self.changed_lsn = lsn;
        }
        self.resident += new_blocks;
        self.stats.writes += 1;
        self.stats.written_bytes += len_blocks * BLOCK_BYTES as u64;
        self.assert_counted();
        Ok(new_blocks)
    }

    /// Which ranges of a trim need a mask: those of a clone in which something is mapped, unless a
    /// mask already covers them. If nothing is mapped that is not hidden by a mask, nothing was
    /// inherited.
    pub(in crate::volume) fn hiding_of(&self, part: &[(u64, u64)]) -> Result<SmallVec<[bool; 8]>, Refusal> {
        if !self.inherits {
            return Ok(part.iter().map(|_| false).collect());
        }
        let is_certain = self.uncertain_below.0 == 0;
        let mut hiding = SmallVec::new();
        for &(block, len_blocks) in part {
            let is_masked = self.masked.covers(block, block + len_blocks);
            let is_unknown = !is_certain || len_blocks > LOOKED_AT_BLOCKS;
            hiding.push(!is_masked && (is_unknown || self.usable_index()?.holds_any(block, len_blocks)));
        }
        Ok(hiding)
    }

    /// Appends the ranges of a trim, with a mask for each that is `hiding`, and empties them. If
    /// the trim `is_large`, its blocks are cut out and counted later.
    pub(in crate::volume) fn trim(
        &mut self,
        log: &mut Log,
        part: &[(u64, u64)],
        hiding: &[bool],
        is_large: bool,
    ) -> Result<Trimmed, Refusal> {
        let (image, resident_above) = (self.image, self.resident_above);
        let index = match &mut self.index {
            VolumeIndex::Ready(index) => index,
            VolumeIndex::Inherits(_) => return Err(Refusal::Busy),
            VolumeIndex::Failed(_) => return Err(Refusal::Error(IoError::NotNow)),
        };
        self.is_written = true;
        let mut cut = is_large.then(|| index.empty_like());
        let mut freed = 0;
        for (done, (&(block, len_blocks), &hides)) in part.iter().zip(hiding).enumerate() {
            if hides {
                self.masked.insert(block, block + len_blocks);
            }
            let is_last = done + 1 == part.len();
            self.changed_lsn = log.append_trim(image, BlockNumber(block), len_blocks, hides, is_last);
            if let Some(cut) = &mut cut {
                index.cut(block, len_blocks, cut);
                continue;
            }
            index.trim(block, len_blocks, |gone| {
                if gone.lsn() > resident_above {
                    log.note_dead(gone.lsn());
                    freed += 1;
                }
            });
        }
        self.resident -= freed;
        self.assert_counted();
        Ok(Trimmed { freed, cut })
    }

    /// Stops counting `removed` blocks that [`trim`](Self::trim) cut out, of which `freed` were
    /// resident.
    pub(in crate::volume) fn note_cut_gone(&mut self, removed: u64, freed: u64) {
        assert!(freed <= removed && freed <= self.resident, "a cut takes only what counted");
        self.resident -= freed;
        if let VolumeIndex::Ready(index) = &mut self.index {
            index.note_gone(removed);
        }
        self.assert_counted();
    }

    /// Points the index to the new place of a copied block. Returns whether the block was
    /// inherited, and is resident now.
    pub(in crate::volume) fn move_block(&mut self, block: u64, mapping: Mapping) -> bool {
        self.is_written = true;
        let before = match &mut self.index {
            VolumeIndex::Ready(index) => index.set(block, mapping),
            VolumeIndex::Inherits(builder) | VolumeIndex::Failed(builder) => {
                let before = builder.seen().get(block);
                builder.move_block(block, mapping);
                before
            }
        };
        let is_new = before.lsn() <= self.resident_above;
        self.resident += u64::from(is_new);
        self.assert_counted();
        is_new
    }

    /// Replaces an inherited mapping by another of the same content, if the block still has it.
    pub(in crate::volume) fn settle(&mut self, block: u64, from: Mapping, to: Mapping) {
        assert!(from.lsn() <= self.resident_above && to.lsn() <= self.resident_above, "both are inherited");
        if let VolumeIndex::Ready(index) = &mut self.index
            && index.get(block) == from
            && !to.is_none()
        {
            index.set(block, to);
        }
    }

    /// Counts the resident blocks of a volume that has just been added. Returns how many there are.
    pub(in crate::volume) fn count_resident(&mut self, log: &mut Log) -> u64 {
        let above = self.resident_above;
        let mut resident = 0;
        self.own_index().visit(|_, mapping| {
            if mapping.lsn() > above {
                log.note_live(mapping.lsn());
                resident += 1;
            }
        });
        self.resident = resident;
        self.assert_counted();
        resident
    }

    /// The same for a volume of which all is resident, and whose blocks were counted before.
    pub(in crate::volume) fn count_kept(&mut self, log: &mut Log, census: &Census) -> u64 {
        assert!(self.resident_above.0 == 0, "all of it is resident");
        log.note_live_in(census);
        self.resident = census.values().sum();
        self.assert_counted();
        self.resident
    }

    /// Reverts [`count_resident`](Self::count_resident). Returns how many blocks there were.
    fn uncount_resident(&mut self, log: &mut Log) -> u64 {
        let above = self.resident_above;
        self.own_index().visit(|_, mapping| {
            if mapping.lsn() > above {
                log.note_dead(mapping.lsn());
            }
        });
        std::mem::take(&mut self.resident)
    }

    /// Sets the index after the lookup of inherited blocks: `inherited` has their mappings, and the
    /// volume's own mappings override them. Returns how many blocks were resident before, and are
    /// now.
    pub(in crate::volume) fn take_inherited(&mut self, mut inherited: Index, log: &mut Log) -> (u64, u64) {
        // Its own blocks may have been copied forward during the lookup.
        inherited.overlay(self.own_index());
        if !self.keeps_inherited {
            self.index = VolumeIndex::Ready(inherited);
            self.assert_counted();
            return (self.resident, self.resident);
        }
        let before = self.uncount_resident(log);
        self.index = VolumeIndex::Ready(inherited);
        (before, self.count_resident(log))
    }

    /// Notes that the lookup of inherited blocks failed.
    pub(in crate::volume) fn fail_lookup(&mut self) {
        if let VolumeIndex::Inherits(own) = &self.index {
            self.index = VolumeIndex::Failed(own.clone());
        }
    }

    /// Marks mappings below this LSN as not certain. Cost: one pass over the mappings, if the LSN
    /// is not 0.
    pub(in crate::volume) fn set_uncertain_below(&mut self, lsn: Lsn) {
        let mut uncertain_blocks = 0;
        if lsn.0 > 0 {
            self.own_index().visit(|_, mapping| uncertain_blocks += u64::from(mapping.lsn() < lsn));
        }
        (self.uncertain_below, self.uncertain_blocks) = (lsn, uncertain_blocks);
    }

    /// Sets the ranges in which it no longer inherits anything, from the log.
    pub(in crate::volume) fn set_masked(&mut self, masked: RangeSet) {
        self.masked = masked;
    }

    /// Shows another state of the past from now on: replaces image, size and index, and what
    /// belongs to them. Id, name and counters of I/O stay. The caller has counted the new resident
    /// blocks in their segments, and buries what is returned.
    pub(super) fn rebase(&mut self, to: Rebased) -> Outgoing {
        let index = std::mem::replace(&mut self.index, VolumeIndex::Ready(to.index));
        let outgoing = Outgoing {
            index: match index {
                VolumeIndex::Ready(index) => index,
                VolumeIndex::Inherits(builder) | VolumeIndex::Failed(builder) => builder.finish(),
            },
            image: self.image,
            above: self.resident_above,
            resident: self.resident,
            trouble: self.trouble.take(),
        };
        self.image = to.image;
        self.size_blocks = to.size_blocks;
        self.resident_above = to.resident_above;
        self.resident = to.resident;
        self.holds_inherited = to.resident > 0;
        self.inherits = to.inherits;
        self.is_written = !to.inherits;
        self.changed_lsn = to.changed_lsn;
        self.masked = RangeSet::default();
        (self.uncertain_below, self.uncertain_blocks) = (Lsn(0), 0);
        self.assert_counted();
        outgoing
    }

    /// Gives it another name.
    pub(super) fn rename(&mut self, name: String) {
        self.name = name;
    }

    /// Sets a larger size.
    pub(super) fn grow(&mut self, size_blocks: u64) {
        assert!(size_blocks >= self.size_blocks, "a volume never shrinks");
        self.size_blocks = size_blocks;
    }

    /// Sets what prevents it from using what it inherited. Returns the previous value.
    pub(in crate::volume) fn set_trouble(&mut self, trouble: Option<Trouble>) -> Option<Trouble> {
        std::mem::replace(&mut self.trouble, trouble)
    }

    /// What prevents it from using what it inherited.
    pub(in crate::volume) fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Whether it is in temporary trouble.
    pub(in crate::volume) fn is_in_passing_trouble(&self) -> bool {
        self.trouble.as_ref().is_some_and(Trouble::passes)
    }

    /// Whether its inherited blocks must be looked up: for the first time, or again.
    pub(in crate::volume) fn is_to_be_looked_up(&self) -> bool {
        match &self.index {
            VolumeIndex::Ready(_) => false,
            VolumeIndex::Inherits(_) => true,
            VolumeIndex::Failed(_) => self.is_in_passing_trouble(),
        }
    }

    /// Notes how many of how many segments were read to look up what it inherited.
    pub(in crate::volume) fn note_loading(&mut self, read: u64, of: u64) {
        self.loading = Some((read, of));
    }

    /// How much of what it inherited was looked up, in percent, while it is loading.
    pub(in crate::volume) fn loading_percent(&self) -> Option<u64> {
        let (read, of) = self.loading.filter(|_| matches!(self.index, VolumeIndex::Inherits(_)))?;
        Some(read * 100 / of.max(1))
    }

    /// Sets whether a hydration of it is running.
    pub(in crate::volume) fn set_hydrating(&mut self, hydrating: bool) {
        self.hydrating = hydrating;
    }

    /// Notes that nothing in it is inherited any longer.
    pub(in crate::volume) fn note_hydrated(&mut self) {
        self.inherits = false;
        self.is_written = true;
        self.masked = RangeSet::default();
    }

    /// Its problem, as text for the operator.
    pub(in crate::volume) fn problem(&self) -> Option<String> {
        if self.lookup_failed() {
            return Some("what it inherited could not be looked up; `varve pool list` says why".to_owned());
        }
        (self.uncertain_below.0 > 0).then(|| {
            format!(
                "entries of the log before LSN {} are lost: {} of its {} blocks with contents, and those without, were not certain when that was found, and read as media errors until they are written again",
                self.uncertain_below,
                self.uncertain_blocks,
                self.own_index().mapped()
            )
        })
    }

    /// The index of a volume that is being deleted.
    pub(in crate::volume) fn into_index(self) -> Index {
        match self.index {
            VolumeIndex::Ready(index) => index,
            VolumeIndex::Inherits(builder) | VolumeIndex::Failed(builder) => builder.finish(),
        }
    }

    /// Counts a host's read of `len_blocks` blocks.
    pub(in crate::volume) fn note_read(&mut self, len_blocks: u64) {
        self.stats.reads += 1;
        self.stats.read_bytes += len_blocks * BLOCK_BYTES as u64;
    }

    /// Counts a host's trim of `len_blocks` blocks.
    pub(in crate::volume) fn note_trim(&mut self, len_blocks: u64) {
        self.stats.trims += 1;
        self.stats.trimmed_bytes += len_blocks * BLOCK_BYTES as u64;
    }

    /// Counts a host's flush.
    pub(in crate::volume) fn note_flush(&mut self) {
        self.stats.flushes += 1;
    }

    /// Counts a host's request that ended with an error.
    pub(in crate::volume) fn note_error(&mut self) {
        self.stats.errors += 1;
    }

    fn assert_counted(&self) {
        if let VolumeIndex::Ready(index) = &self.index {
            assert!(self.resident <= index.mapped(), "a resident block is a mapped one");
            assert!(
                self.resident_above.0 > 0 || self.resident == index.mapped(),
                "without inheritance every mapped block is resident"
            );
        }
    }
}
