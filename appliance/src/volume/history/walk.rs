//! The state of a volume at a position of the log, and moving it along the log in both directions.
//!
//! **Forward**, an entry sets or clears mappings, as it did when it was written. **Backward**, a
//! write gives the mapping that it superseded: its entry has the position, and the entry there the
//! checksum, in whatever segment it is. A copy changes no content: forward, the mapping follows it;
//! backward, it stays at the copy, because the origin may have expired. A mask changes no content
//! either. A range that was trimmed has no such way back: it is rebuilt by a scan of the W+1
//! segments that end at the position, for all such ranges together. So is a block whose superseded
//! entry is gone, and a copy that holds an error, which its origin may not.
//!
//! **When it opens anew:** the way is longer than the W+1 segments of a scan; something between is
//! not known, or was not certain; the volume was rolled back between.
//!
//! **Invariant.** At every position, each block has the content that a scan there gives, and a size
//! that the catalog there gives; only the position of the same content may differ, at a newer copy.
//! A move that fails leaves the state as it was: the index is replaced at its end.
//!
//! **Bounds:** [`BLOCKS_MAX`] blocks wait for the entries that they superseded. The reactor runs
//! other work between pieces of [`PIECE_RECORDS`] records and [`PIECE_BLOCKS`] blocks.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::log::format::{EntryKind, EventHead, EventKind};
use crate::log::reader::{PlacedEntry, SegmentEntries};
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::catalog::{Catalog, CatalogVolume};
use crate::volume::error::VolumeError;
use crate::volume::history::entry_cache::EntryCache;
use crate::volume::history::past::{Nowhere, ScanReport};
pub(in crate::volume) use crate::volume::history::past_volume::PastVolume;
use crate::volume::history::reigns::VolumeThen;
use crate::volume::image::free::free;
use crate::volume::image::index::{Index, IndexBuilder, Mapping, RangeSet};
use crate::volume::manage::checks::VOLUME_BLOCKS_MAX;
use crate::volume::pool::Pool;

/// How many blocks wait for their superseded entries before these are looked up.
const BLOCKS_MAX: usize = 1 << 18;
/// How many records are moved over in one piece: at most 168 entries each.
const PIECE_RECORDS: usize = 16;
/// How many mappings are set in one piece.
const PIECE_BLOCKS: usize = 1024;
/// How many leaves of a rebuilt or emptied range are looked at in one piece.
const PIECE_LEAVES: usize = 4;

/// What a move cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalkReport {
    /// Entries moved over, of all volumes.
    pub entries: u64,
    /// Segments whose entries were read, without those that were in the cache.
    pub segments_read: u64,
    /// Ranges rebuilt by a scan.
    pub ranges_rebuilt: u64,
    /// Entries read by scans.
    pub entries_scanned: u64,
    /// Whether the state was opened anew by a scan.
    pub opened_anew: bool,
    /// Bytes of anchors read by scans.
    #[serde(default)]
    pub anchor_bytes: u64,
}

impl WalkReport {
    /// Adds what another move cost.
    pub(in crate::volume) fn add(&mut self, other: &WalkReport) {
        self.entries += other.entries;
        self.segments_read += other.segments_read;
        self.ranges_rebuilt += other.ranges_rebuilt;
        self.entries_scanned += other.entries_scanned;
        self.opened_anew |= other.opened_anew;
        self.anchor_bytes += other.anchor_bytes;
    }

    fn add_scan(&mut self, scan: &ScanReport) {
        self.entries_scanned += scan.entries_scanned;
        self.segments_read += scan.segments_touched;
        self.anchor_bytes += scan.anchor_bytes;
    }
}

/// What a block was before the entries that were moved over.
#[derive(Clone, Copy)]
enum Before {
    /// What is at the position that the oldest write superseded; 0: nothing.
    Superseded(Lsn),
    /// The content of a copy.
    Copy(Mapping),
}

/// What the catalog has at the end of a move.
struct There {
    then: VolumeThen,
    catalog: Catalog,
    uncertain_below: Lsn,
}

/// A move under way.
struct Move {
    image: u32,
    /// Positions after this one, and at or before the other, are moved over.
    after: Lsn,
    up_to: Lsn,
    index: Index,
    /// The end of the last block that was written.
    end_block: u64,
    /// Whether the catalog may have changed.
    is_catalog_changed: bool,
    /// Backward: what blocks were before.
    before: HashMap<u64, Before>,
    /// Backward: what must be scanned.
    rebuild: RangeSet,
    /// The blocks of writes and trims.
    touched: Option<RangeSet>,
    report: WalkReport,
}

impl Move {
    fn is_on_way(&self, placed: &PlacedEntry) -> bool {
        placed.lsn > self.after && placed.lsn <= self.up_to
    }

    fn touch(&mut self, block: u64, end: u64) {
        self.end_block = self.end_block.max(end);
        if let Some(touched) = &mut self.touched {
            touched.insert(block, end);
        }
    }

    /// The blocks of an entry, within what any volume can have; `None` if it is none of the
    /// image's.
    fn blocks_of(&mut self, placed: &PlacedEntry) -> Option<(EntryKind, u64, u64)> {
        self.report.entries += 1;
        let entry = placed.entry;
        let kind = entry.kind()?;
        if kind == EntryKind::Event {
            let event = EventHead::decode(entry.block().0).kind;
            self.is_catalog_changed |= matches!(event, Some(EventKind::Catalog | EventKind::Change));
            return None;
        }
        let block = entry.block().0;
        if entry.image().0 != self.image || block >= VOLUME_BLOCKS_MAX {
            return None;
        }
        let len_blocks = if kind == EntryKind::Trim { entry.value() } else { 1 };
        Some((kind, block, block.saturating_add(len_blocks).min(VOLUME_BLOCKS_MAX)))
    }

    /// Moves forward over an entry. Returns the range that it empties, if it is a trim.
    fn forward(&mut self, placed: &PlacedEntry) -> Option<(u64, u64)> {
        let (kind, block, end) = self.blocks_of(placed)?;
        match kind {
            EntryKind::Write | EntryKind::Copied => {
                self.index.set(block, Mapping::new(placed.lsn, placed.entry.crc()));
                if kind == EntryKind::Write {
                    self.touch(block, end);
                }
            }
            EntryKind::Trim => {
                if let Some(touched) = &mut self.touched {
                    touched.insert(block, end);
                }
                return Some((block, end - block));
            }
            EntryKind::Mask | EntryKind::Event | EntryKind::Opening => {}
        }
        None
    }

    /// Moves backward over an entry.
    fn backward(&mut self, placed: &PlacedEntry) {
        let Some((kind, block, end)) = self.blocks_of(placed) else { return };
        let entry = placed.entry;
        match kind {
            EntryKind::Write => {
                let superseded = Lsn(entry.value());
                if superseded < placed.lsn {
                    self.before.insert(block, Before::Superseded(superseded));
                } else {
                    self.rebuild.insert(block, end);
                }
                self.touch(block, end);
            }
            EntryKind::Copied if entry.is_bad() => self.rebuild.insert(block, end),
            EntryKind::Copied => {
                self.before.insert(block, Before::Copy(Mapping::new(placed.lsn, entry.crc())));
            }
            EntryKind::Trim => {
                self.rebuild.insert(block, end);
                if let Some(touched) = &mut self.touched {
                    touched.insert(block, end);
                }
            }
            EntryKind::Mask | EntryKind::Event | EntryKind::Opening => {}
        }
    }
}

impl Pool {
    /// Opens a volume at a position, which is the end of a command.
    ///
    /// # Errors
    /// It did not exist there; the history there is gone or cannot be read.
    pub(in crate::volume) async fn past_volume(
        &self,
        uuid: Uuid,
        at: Lsn,
    ) -> Result<(PastVolume, WalkReport), VolumeError> {
        let (then, catalog) = self.volume_then(uuid, at).await?;
        let volume = catalog.volume_with_uuid(uuid);
        let volume: CatalogVolume = volume.cloned().ok_or_else(|| not_there(&then, at))?;
        let (index, scan) = self.index_at(&catalog, &volume, at).await?;
        let known_below = catalog.uncertain_below(then.image, at);
        let mut report = WalkReport { opened_anew: true, ..WalkReport::default() };
        report.add_scan(&scan);
        let uncertain_below = scan.uncertain_below.max(known_below);
        Ok((PastVolume::known(then, catalog, at, index, uncertain_below), report))
    }

    /// Moves a volume to another position, which is the end of a command. `touched` gets the blocks
    /// of the writes and trims that were moved over; all of them if the volume is opened anew.
    ///
    /// # Errors
    /// It did not exist there; the history there is gone or cannot be read. The volume is then
    /// where it was.
    pub(in crate::volume) async fn walk(
        &self,
        past: &mut PastVolume,
        to: Lsn,
        cache: &mut EntryCache,
        touched: Option<&mut RangeSet>,
    ) -> Result<WalkReport, VolumeError> {
        if to == past.at() {
            return Ok(WalkReport::default());
        }
        let loads = cache.loads();
        let mut moved = Move {
            image: past.then().image,
            after: past.at().min(to),
            up_to: past.at().max(to),
            index: past.index().clone(),
            end_block: 0,
            is_catalog_changed: false,
            before: HashMap::new(),
            rebuild: RangeSet::default(),
            touched: touched.is_some().then(RangeSet::default),
            report: WalkReport::default(),
        };
        let is_forward = to > past.at();
        let there = if self.is_walkable(past, &moved, is_forward) {
            self.pass(past, &mut moved, is_forward, cache).await?
        } else {
            None
        };
        let Some(There { then, catalog, uncertain_below }) = there else {
            let (opened, mut report) = self.past_volume(past.then().uuid, to).await?;
            report.segments_read += cache.loads() - loads;
            report.entries += moved.report.entries;
            if let Some(touched) = touched {
                touched.insert(0, opened.then().size_blocks.max(past.then().size_blocks));
            }
            free(std::mem::replace(past, opened).into_index()).await;
            return Ok(report);
        };
        if let (Some(touched), Some(of_move)) = (touched, &moved.touched) {
            of_move.iter().for_each(|(start, end)| touched.insert(start, end));
        }
        moved.report.segments_read += cache.loads() - loads;
        let there = PastVolume::known(then, catalog, to, moved.index, uncertain_below);
        free(std::mem::replace(past, there).into_index()).await;
        Ok(moved.report)
    }

    /// Whether moving costs no more than a scan, and may be exact.
    fn is_walkable(&self, past: &PastVolume, moved: &Move, is_forward: bool) -> bool {
        let geometry = self.log.borrow().geometry();
        let (first, last) = (geometry.sequence_of(moved.after), geometry.sequence_of(moved.up_to));
        // What was uncertain may have been certain before.
        last.0 - first.0 <= self.working_set_at(last) + 1 && (is_forward || past.uncertain_below().0 == 0)
    }

    /// Moves over the entries between. Returns what the catalog has there; `None` if the volume
    /// must
    /// be opened anew.
    async fn pass(
        &self,
        past: &PastVolume,
        moved: &mut Move,
        is_forward: bool,
        cache: &mut EntryCache,
    ) -> Result<Option<There>, VolumeError> {
        let geometry = self.log.borrow().geometry();
        let (first, last) = (geometry.sequence_of(moved.after).0, geometry.sequence_of(moved.up_to).0);
        for step in 0..=last - first {
            let sequence = SegmentSeq(if is_forward { first + step } else { last - step });
            let known = match self.cached_known(cache, sequence, moved.up_to).await {
                Err(VolumeError::NoSuchPoint { .. }) => return Ok(None),
                known => known?,
            };
            if known.hole_between(moved.after, moved.up_to).is_some() {
                return Ok(None);
            }
            let records = known.entries.records_between(moved.after, moved.up_to);
            let count = records.len();
            for done in 0..count {
                let index = if is_forward { records.start + done } else { records.end - 1 - done };
                let (line, entries) = known.entries.record(index);
                if is_forward {
                    for placed in SegmentEntries::placed(line, entries) {
                        if moved.is_on_way(&placed)
                            && let Some((block, len_blocks)) = moved.forward(&placed)
                        {
                            empty(&mut moved.index, block, len_blocks).await;
                        }
                    }
                } else {
                    for placed in SegmentEntries::placed_backward(line, entries) {
                        if moved.is_on_way(&placed) {
                            moved.backward(&placed);
                        }
                    }
                }
                if done % PIECE_RECORDS == PIECE_RECORDS - 1 {
                    yield_now().await;
                }
            }
            if moved.before.len() >= BLOCKS_MAX {
                self.undo(moved, cache).await?;
            }
        }
        self.undo(moved, cache).await?;
        let to = if is_forward { moved.up_to } else { moved.after };
        let mut uncertain_below = past.uncertain_below();
        let (mut then, mut catalog) = (past.then().clone(), past.catalog().clone());
        if moved.is_catalog_changed || moved.rebuild.iter().next().is_some() {
            let (found, of_there) = self.volume_then(past.then().uuid, to).await?;
            if !found.continues(past.then()) {
                return Ok(None);
            }
            (then, catalog) = (found, of_there);
            if moved.rebuild.iter().next().is_some() {
                uncertain_below = uncertain_below.max(self.rebuild(&catalog, &then, to, moved).await?);
            }
        }
        let size_blocks = then.size_blocks.max(past.then().size_blocks);
        if moved.end_block > size_blocks {
            // An entry that the volume cannot have.
            return Ok(None);
        }
        Ok(Some(There { then, catalog, uncertain_below }))
    }

    /// Gives the blocks that were moved over backward their mappings from before.
    async fn undo(&self, moved: &mut Move, cache: &mut EntryCache) -> Result<(), VolumeError> {
        let mut before: Vec<(u64, Before)> = moved.before.drain().collect();
        // Each segment's entries are read once.
        before.sort_unstable_by_key(|(_, before)| match before {
            Before::Superseded(lsn) => *lsn,
            Before::Copy(_) => Lsn(0),
        });
        for (done, (block, before)) in before.into_iter().enumerate() {
            let mapping = match before {
                Before::Copy(mapping) => Some(mapping),
                Before::Superseded(Lsn(0)) => Some(Mapping::NONE),
                Before::Superseded(lsn) => self.mapping_at(block, lsn, cache).await?,
            };
            match mapping {
                Some(mapping) => {
                    moved.index.set(block, mapping);
                }
                None => moved.rebuild.insert(block, block + 1),
            }
            if done % PIECE_BLOCKS == PIECE_BLOCKS - 1 {
                yield_now().await;
            }
        }
        Ok(())
    }

    /// The mapping of a block that an entry at a position had; `None` if the entry is gone.
    async fn mapping_at(
        &self,
        block: u64,
        lsn: Lsn,
        cache: &mut EntryCache,
    ) -> Result<Option<Mapping>, VolumeError> {
        let sequence = self.log.borrow().geometry().sequence_of(lsn);
        let known = match self.cached_known(cache, sequence, lsn).await {
            Err(VolumeError::NoSuchPoint { .. }) => return Ok(None),
            known => known?,
        };
        let entry = known.entries.at(lsn).map(|placed| placed.entry);
        let entry = entry.filter(|entry| {
            matches!(entry.kind(), Some(EntryKind::Write | EntryKind::Copied)) && entry.block().0 == block
        });
        Ok(entry.map(|entry| Mapping::new(lsn, entry.crc())))
    }

    /// Builds the ranges that have no way back by a scan. Returns below which position they are not
    /// certain.
    async fn rebuild(
        &self,
        catalog: &Catalog,
        then: &VolumeThen,
        at: Lsn,
        moved: &mut Move,
    ) -> Result<Lsn, VolumeError> {
        let mut builder = IndexBuilder::new(then.size_blocks);
        let mut end_before = 0;
        let ranges: Vec<(u64, u64)> = moved.rebuild.iter().collect();
        for &(start, end) in &ranges {
            // Everything else counts as known already.
            builder.see_trim(end_before, start - end_before);
            end_before = end;
        }
        builder.see_trim(end_before, u64::MAX);
        let mut scan = ScanReport::default();
        self.scan_generations(catalog, then.image, at, &mut builder, &mut scan, Nowhere::Refuse).await?;
        moved.report.ranges_rebuilt += ranges.len() as u64;
        moved.report.add_scan(&scan);
        for (done, (start, end)) in ranges.into_iter().enumerate() {
            empty(&mut moved.index, start, end - start).await;
            if done % PIECE_BLOCKS == PIECE_BLOCKS - 1 {
                yield_now().await;
            }
        }
        let built = builder.finish();
        let mut next = Some(0);
        while let Some(from) = next {
            next = built.visit_some(from, PIECE_LEAVES, |block, mapping| {
                moved.index.set(block, mapping);
            });
            yield_now().await;
        }
        Ok(scan.uncertain_below)
    }
}

/// Empties a range of an index, a large one in pieces.
async fn empty(index: &mut Index, block: u64, len_blocks: u64) {
    if len_blocks <= PIECE_BLOCKS as u64 {
        index.trim(block, len_blocks, |_| {});
        return;
    }
    let mut piece = index.empty_like();
    index.cut(block, len_blocks, &mut piece);
    let mut next = Some(0);
    while let Some(from) = next {
        let mut gone = 0;
        next = piece.visit_some(from, PIECE_LEAVES, |_, _| gone += 1);
        index.note_gone(gone);
        yield_now().await;
    }
    free(piece).await;
}

fn not_there(then: &VolumeThen, at: Lsn) -> VolumeError {
    VolumeError::NoSuchPoint {
        point: format!("lsn:{at}"),
        reason: format!("volume '{}' did not exist there", then.name),
    }
}
