//! Starts on copies of a stopped device, each with one fault: a block that is damaged, zeroed or
//! unreadable; a whole slot of zeroes; lost superblocks. The run itself continues with its own
//! device.
//!
//! **What may be refused.** All metadata that locates data is stored twice, so one fault of a
//! superblock, a segment header, a trailer or an event refuses nothing, and neither does a record
//! header whose segment has its trailer. A fault in a block of data refuses what was written there.
//! A record header without a trailer, and a whole slot, refuse what they held and what is older
//! than that. Everything refused is reported, no older data is returned instead, and the pool
//! always opens and accepts writes.
//!
//! Flipped bits and zeroes are put only where they cannot be mistaken for a torn write: not into
//! records that no trailer covers yet.

use std::collections::BTreeSet;
use std::sync::Arc;

use varve::archive::object::ObjectId;
use varve::archive::store::Store;
use varve::dma::{BLOCK_BYTES, DmaPool};
use varve::log::Recycling;
use varve::log::format::{
    EntryKind, FormatError, RecordHead, SegmentHeader, Superblock, TrailerHead, trailer_blocks,
};
use varve::log::geometry::FIRST_SLOT_BLOCK;
use varve::volume::{SegmentState, Sink, VolumeError};

use super::damage::problems;
use super::disk::{Crash, SimDisk};
use super::faults::{Place, ReadFaults, TRIES_MAX};
use super::rng::Rng;
use super::store::MemoryStore;
use super::workload::Run;
use super::world::World;

/// How the pool reports that it lost entries.
const NOT_SERVED: &str = "blocks that were not written again after them are not served";

/// How many faults are tried at one stop.
const STARTS_AT_ONCE: u64 = 3;

/// A stopped device, and its archive at that moment.
pub(super) struct StartCopy {
    disk: SimDisk,
    store: Option<MemoryStore>,
}

impl StartCopy {
    /// The objects that the archive had when the device was stopped.
    fn archived(&self) -> impl Iterator<Item = ObjectId> + '_ {
        let names = self.store.iter().flat_map(MemoryStore::names);
        names.filter_map(|name| ObjectId::parse(name.as_str()).ok())
    }

    /// Segments with damage in the archive: until they are archived again, only the device has
    /// them.
    fn damaged(&self) -> BTreeSet<u64> {
        let is_damaged = |id: &ObjectId| {
            let name = id.name().expect("it was read from one");
            self.store.as_ref().is_some_and(|store| store.is_damaged(&name))
        };
        self.archived().filter(is_damaged).map(|id| id.sequence.0).collect()
    }

    /// Whether a problem is about a block that an earlier fault took, and that the archive recorded
    /// as damaged before the stop.
    fn is_old(&self, problem: &str) -> bool {
        let Some(at) = problem.find("damaged when it was archived") else { return false };
        let sequence = problem[..at].strip_prefix("segment ").and_then(|rest| rest.split_once(':'));
        let sequence: Option<u64> = sequence.and_then(|(sequence, _)| sequence.parse().ok());
        self.archived().any(|id| sequence.is_none_or(|sequence| id.sequence.0 == sequence))
    }
}

/// How a block is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    FlippedBit,
    Zeroes,
    Unreadable,
    Tries(u32),
}

/// One fault of a start.
#[derive(Debug, Clone, Copy)]
enum StartFault {
    Block { block: u64, place: Place, harm: Harm },
    Slot { first_block: u64, end_lsn: u64, is_missed: bool },
    HeadSuperblocks { zeroes: bool },
}

/// What the fault may destroy.
#[derive(Debug, Clone, Copy)]
enum Effect {
    Nothing,
    Data(u64, u64),
    /// Entries from `first_lsn` up to `end_lsn` are lost; `events`: whether events are among them.
    Entries {
        first_lsn: u64,
        end_lsn: u64,
        events: bool,
    },
}

/// A segment of the copy.
#[derive(Debug, Clone, Copy)]
struct OnDevice {
    first_block: u64,
    first_lsn: u64,
    used_blocks: u64,
    /// Whether it has the trailer of a whole segment.
    has_trailer: bool,
    /// The end of what its trailer covers, even if that is the trailer of a clean stop in the
    /// middle.
    told_to: u64,
    /// Whether its loss matters: it may contain live blocks, or the archive does not have it.
    is_missed: bool,
}

impl OnDevice {
    fn lsn_of(&self, device_block: u64) -> u64 {
        self.first_lsn + (device_block - self.first_block)
    }
}

impl Run {
    /// At one stop in three, a copy of the device that was just stopped.
    pub(super) fn copy_for_starts(&mut self) -> Option<StartCopy> {
        if !self.trouble.has_starts() || !self.trouble.rng()?.one_in(3) {
            return None;
        }
        let store = self.trouble.memory_store.as_ref().map(|store| store.fork());
        if self.world.store.is_some() && store.is_none() {
            return None;
        }
        Some(StartCopy { disk: self.disk.fork(), store })
    }

    /// Starts on the copy with one fault after another. The model has the content of the device;
    /// everything up to `promised_lsn` was guaranteed when it was stopped.
    ///
    /// # Panics
    /// When a guarantee is violated.
    pub(super) fn try_starts(&mut self, copy: &StartCopy, promised_lsn: u64) {
        let mut whole = self.on_copy(copy, copy.disk.fork(), 0);
        let head = whole.recovered_head;
        assert!(
            promised_lsn <= head,
            "seed {}: a copy ends at {head}, and {promised_lsn} was promised",
            self.seed
        );
        // The copy can read a block that the run's own pool could not: a sector over which a write
        // was cut off.
        if self.trouble.has_cut_off {
            return;
        }
        // After a record that it could not read, the run's own pool must treat as lost what the
        // copy, which can read the record, knows never existed.
        if head < self.recovered_head
            && problems(&self.pool).iter().any(|problem| problem.ends_with(NOT_SERVED))
        {
            return;
        }
        whole.check_all();
        let known = problems(&whole.pool);
        let segments = whole.on_device(copy);
        drop(whole);
        for number in 0..STARTS_AT_ONCE {
            let Some(mut rng) = self.trouble.rng().map(|rng| Rng::new(rng.next_u64())) else { return };
            let Some(fault) = self.pick_start(copy, &segments, &mut rng) else { continue };
            self.try_start(copy, &segments, fault, &known, 1 + number);
        }
    }

    /// A run on a copy of the device, where it opens the pool.
    fn on_copy(&self, copy: &StartCopy, disk: SimDisk, number: u64) -> Run {
        let seed = self.seed;
        let mut world = World::new(seed ^ (number + 1) << 40);
        world.options = self.world.options;
        world.policy = self.world.policy;
        world.clock.move_with_looks(1_000_000);
        world.clock.advance(self.world.clock.now_ns() as i64);
        world.store = copy.store.as_ref().map(|store| Arc::new(store.fork()) as Arc<dyn Store>);
        let segment_blocks = self.shape.segment_blocks;
        let pool = world
            .open_loading(disk.open())
            .unwrap_or_else(|error| panic!("seed {seed}: a pool does not open: {error}"));
        disk.faults(|faults| faults.count_for(segment_blocks));
        let mut run = Run {
            seed,
            rng: Rng::new(seed ^ number << 8),
            disk,
            world,
            pool,
            model: self.model.clone(),
            shape: self.shape,
            lengths: self.lengths.clone(),
            last_length: self.last_length,
            bounds: BTreeSet::new(),
            lost_primary: self.lost_primary,
            archived_only_points: 0,
            segments_touched_max: 0,
            expired: self.expired.without_manager(),
            recovered_head: 0,
            trouble: self.trouble.of_copy(),
            going_back: None,
            start_copy: None,
            sink: Sink::new(),
            received: DmaPool::new(16 << 20),
            next_tag: self.next_tag,
            in_flight: std::collections::HashMap::new(),
            early: Vec::new(),
        };
        run.adopt_opened();
        run
    }

    /// The segments that the pool found, and their state on the device when it was stopped. By now
    /// the pool may have written more.
    fn on_device(&self, copy: &StartCopy) -> Vec<OnDevice> {
        let stopped = &copy.disk;
        let (pool, segment_blocks) = (self.pool.info().uuid, self.shape.segment_blocks);
        let segments: Vec<_> = self.pool.segments();
        // Entries appended since then may be where older records remain.
        let end_lsn = self.recovered_head + 1;
        let there = segments.iter().filter(|segment| {
            segment.sequence.is_some() && segment.slot != u64::MAX && segment.first_lsn < end_lsn
        });
        let archived: BTreeSet<u64> = copy.archived().filter(|id| id.whole).map(|id| id.sequence.0).collect();
        let keeps_past = self.world.options.recycling != Recycling::Discard;
        let found = there.map(|segment| {
            let first_block = FIRST_SLOT_BLOCK + segment.slot * segment_blocks;
            let trailer = stopped.block(first_block + segment_blocks - trailer_blocks(segment_blocks));
            let head = trailer.and_then(|block| TrailerHead::decode(&block, pool, segment_blocks).ok());
            let header = stopped
                .block(first_block)
                .and_then(|block| SegmentHeader::decode(&block, pool, segment_blocks).ok());
            // A trailer from an earlier use of the slot does not count, and neither does one whose
            // body was torn.
            let head = head.filter(|head| {
                Some(head.sequence.0) == segment.sequence
                    && header.is_some_and(|header| header.epoch == head.epoch)
                    && is_whole(stopped, head, first_block + segment_blocks - trailer_blocks(segment_blocks))
            });
            let is_in_use = matches!(segment.state, SegmentState::Current | SegmentState::Active);
            OnDevice {
                first_block,
                first_lsn: segment.first_lsn,
                used_blocks: segment.used_blocks.min(end_lsn - segment.first_lsn),
                has_trailer: head.is_some_and(|head| !head.partial),
                told_to: head.map_or(0, |head| head.end_lsn.0),
                is_missed: is_in_use
                    || (keeps_past && !segment.sequence.is_some_and(|sequence| archived.contains(&sequence))),
            }
        });
        found.collect()
    }

    fn pick_start(&self, copy: &StartCopy, segments: &[OnDevice], rng: &mut Rng) -> Option<StartFault> {
        let segment_blocks = self.shape.segment_blocks;
        match rng.below(16) {
            0 => return Some(StartFault::HeadSuperblocks { zeroes: rng.one_in(2) }),
            1 => {
                // Each segment begins with a catalog. Unless a newer segment certainly has one, the
                // volumes are lost with the slot.
                let has_catalog = |older: &OnDevice| {
                    let is_newer = |segment: &&OnDevice| segment.first_lsn > older.first_lsn;
                    segments.iter().filter(is_newer).any(|segment| segment.has_trailer)
                };
                let damaged = copy.damaged();
                let is_safe = |segment: &OnDevice| !damaged.contains(&(segment.first_lsn / segment_blocks));
                let old = segments.iter().filter(|segment| has_catalog(segment) && is_safe(segment));
                let old: Vec<&OnDevice> = old.collect();
                let slot = old.get(rng.below(old.len().max(1) as u64) as usize)?;
                let end_lsn = slot.first_lsn + segment_blocks;
                let (first_block, is_missed) = (slot.first_block, slot.is_missed);
                return Some(StartFault::Slot { first_block, end_lsn, is_missed });
            }
            _ => {}
        }
        let mut by_kind: std::collections::BTreeMap<usize, Vec<(u64, Place)>> =
            std::collections::BTreeMap::new();
        copy.disk.visit(|block, bytes| {
            let place = Place::of(block, segment_blocks, bytes);
            let is_of_log = place == Place::Superblock
                || segment_at(segments, block, segment_blocks).is_some_and(|segment| {
                    let offset = block - segment.first_block;
                    let in_trailer = matches!(place, Place::TrailerHead | Place::TrailerBody);
                    if in_trailer { segment.has_trailer } else { offset < segment.used_blocks }
                });
            if is_of_log && place != Place::Blank {
                by_kind.entry(place.kind()).or_default().push((block, place));
            }
        });
        let kinds: Vec<_> = by_kind.into_values().collect();
        let kind = kinds.get(rng.below(kinds.len().max(1) as u64) as usize)?;
        let (block, place) = kind[rng.below(kind.len() as u64) as usize];
        let is_open = segment_at(segments, block, segment_blocks).is_some_and(|segment| !segment.has_trailer);
        let may_be_torn = is_open && matches!(place, Place::Data(..) | Place::Event | Place::RecordHeader);
        let harm = match rng.below(4) {
            0 if !may_be_torn => Harm::FlippedBit,
            1 if !may_be_torn => Harm::Zeroes,
            2 => Harm::Tries(1 + rng.below(u64::from(TRIES_MAX)) as u32),
            _ => Harm::Unreadable,
        };
        Some(StartFault::Block { block, place, harm })
    }

    fn try_start(
        &mut self,
        copy: &StartCopy,
        segments: &[OnDevice],
        fault: StartFault,
        known: &[String],
        number: u64,
    ) {
        let segment_blocks = self.shape.segment_blocks;
        let disk = copy.disk.fork();
        disk.faults(|faults| *faults = ReadFaults::new(segment_blocks));
        let effect = self.put_start(&disk, segments, fault);
        let Some(effect) = effect else { return self.check_no_pool(&disk) };
        let context = format!("seed {}: a start with {fault:?}, which may take {effect:?}", self.seed);
        // Whatever fails below does not know the fault; this prints it.
        let _told = OnPanic(&context);
        let mut run = self.on_copy_with(copy, disk, effect, number);
        let found = problems(&run.pool);
        // A store that fails temporarily, and a pool that fills, have nothing to do with the fault.
        let is_news = |problem: &&String| {
            !known.iter().any(|known| kind_of(known) == kind_of(problem))
                && !problem.starts_with("the archive does not work")
                && !problem.starts_with("the pool is nearly full")
                && !copy.is_old(problem)
        };
        let news: Vec<&String> = found.iter().filter(is_news).collect();
        let is_told = !news.is_empty();
        self.note_start(fault, is_told);
        match effect {
            Effect::Entries { events, .. } => {
                let is_missed = !matches!(fault, StartFault::Slot { is_missed: false, .. });
                assert!(is_told || !is_missed, "{context}: entries are lost and nobody was told: {found:?}");
                if events {
                    return;
                }
                // Synchs among the lost entries are lost.
                run.check_volumes();
            }
            _ => run.check_all(),
        }
        match fault {
            StartFault::Block { harm: Harm::Tries(_), .. } => {
                assert!(!is_told, "{context}: what a retry cures is told: {news:?}");
            }
            // After the header of a segment without a record there is nothing to report.
            StartFault::Block { place: Place::SegmentHeader, block, .. }
                if segment_at(segments, block, segment_blocks)
                    .is_none_or(|segment| segment.used_blocks <= 1) => {}
            // A crash can also leave a segment without its trailer.
            StartFault::Block { place: Place::TrailerHead, harm: Harm::Zeroes, .. } => {}
            // A copy of the superblock remains where the end of a smaller device was.
            StartFault::Block { place: Place::Superblock, block, .. }
                if block > 1 && block != tail_of(&copy.disk) => {}
            // A crash may have torn the same copy.
            StartFault::Block { place: Place::Superblock, .. } | StartFault::HeadSuperblocks { .. } => {
                let is_told = found.iter().any(|problem| problem.starts_with("superblock copy"));
                assert!(is_told, "{context}: nobody was told: {found:?}");
            }
            StartFault::Block { place: Place::SegmentHeader | Place::TrailerHead, .. } => {
                assert!(is_told, "{context}: nobody was told: {found:?}");
            }
            _ => {}
        }
        // What only the trailer of a clean stop recorded is lost when the next start has removed
        // that trailer.
        let is_record = matches!(fault, StartFault::Block { place: Place::RecordHeader, .. });
        run.go_on_after_start(is_record || matches!(effect, Effect::Entries { .. }));
        self.trouble.counts.refused_blocks += run.trouble.excused.refused();
        self.trouble.counts.competitions += run.trouble.counts.competitions;
    }

    fn on_copy_with(&self, copy: &StartCopy, disk: SimDisk, effect: Effect, number: u64) -> Run {
        let mut run = self.on_copy(copy, disk, number);
        match effect {
            Effect::Nothing => {}
            Effect::Data(block, stamp) => run.trouble.excused.add(block, stamp),
            Effect::Entries { first_lsn, end_lsn, .. } => run.excuse_entries(first_lsn, end_lsn),
        }
        run
    }

    /// Injects the fault; `None`: there is no pool any more.
    fn put_start(&self, disk: &SimDisk, segments: &[OnDevice], fault: StartFault) -> Option<Effect> {
        let segment_blocks = self.shape.segment_blocks;
        match fault {
            StartFault::HeadSuperblocks { zeroes } => {
                for block in [0, 1] {
                    if zeroes {
                        disk.set_block(block, &[0; BLOCK_BYTES]);
                    } else {
                        disk.flip_bit(block, 300);
                    }
                }
                finds_superblock(disk).then_some(Effect::Nothing)
            }
            StartFault::Slot { first_block, end_lsn, .. } => {
                for block in first_block..first_block + segment_blocks {
                    disk.set_block(block, &[0; BLOCK_BYTES]);
                }
                Some(Effect::Entries { first_lsn: end_lsn - segment_blocks, end_lsn, events: false })
            }
            StartFault::Block { block, place, harm } => {
                let effect = effect_of(disk, segments, block, place, segment_blocks);
                match harm {
                    Harm::FlippedBit => drop(disk.flip_bit(block, 99)),
                    Harm::Zeroes => disk.set_block(block, &[0; BLOCK_BYTES]),
                    Harm::Unreadable => disk.fail_block(block, None),
                    Harm::Tries(tries) => {
                        disk.fail_block(block, Some(tries));
                        return Some(Effect::Nothing);
                    }
                }
                // A crash may have torn the other copy at the head, and the device may have grown
                // past the copy at the tail.
                (place != Place::Superblock || finds_superblock(disk)).then_some(effect)
            }
        }
    }

    /// Without a superblock there is no pool: the open must fail and change nothing.
    fn check_no_pool(&self, disk: &SimDisk) {
        let before: Vec<_> = disk.written_blocks().into_iter().map(|block| disk.block(block)).collect();
        let opened = World::new(self.seed).open(disk.open());
        assert!(
            matches!(opened, Err(VolumeError::Failed { .. })),
            "seed {}: a device without superblocks: {:?}",
            self.seed,
            opened.map(|_| ())
        );
        let after: Vec<_> = disk.written_blocks().into_iter().map(|block| disk.block(block)).collect();
        assert!(before == after, "seed {}: a device without superblocks was changed", self.seed);
    }

    fn note_start(&mut self, fault: StartFault, is_told: bool) {
        let counts = &mut self.trouble.counts;
        let count = match fault {
            StartFault::Slot { .. } => &mut counts.zeroed_slots,
            StartFault::HeadSuperblocks { .. } => &mut counts.starts[Place::Superblock.kind()],
            StartFault::Block { place, harm: Harm::FlippedBit | Harm::Zeroes, .. } => {
                &mut counts.starts[place.kind()]
            }
            StartFault::Block { place, .. } => &mut counts.unreadable_starts[place.kind()],
        };
        count.injected += 1;
        count.hit += u64::from(is_told);
    }

    /// Uses the pool on the copy, stops it and opens it again, with the bad sector still there.
    fn go_on_after_start(&mut self, loses_entries: bool) {
        let keeps_past = self.world.options.recycling != Recycling::Discard;
        if keeps_past {
            self.check_points(2);
        }
        for _ in 0..20 {
            let took = if keeps_past {
                self.step()
            } else {
                self.live().is_empty() || {
                    self.step_writes_only();
                    true
                }
            };
            if !took {
                break;
            }
        }
        self.compete(6, false);
        self.settle();
        if loses_entries {
            return;
        }
        self.crash(Crash::Process);
    }
}

fn segment_at(segments: &[OnDevice], block: u64, segment_blocks: u64) -> Option<&OnDevice> {
    segments
        .iter()
        .find(|segment| (segment.first_block..segment.first_block + segment_blocks).contains(&block))
}

/// Whether a readable copy of the superblock is where the pool searches for one: at the head, at
/// the end of the device, and before that if the head shows that a superblock existed.
fn finds_superblock(disk: &SimDisk) -> bool {
    let bad: Vec<u64> = disk.faults(|faults| faults.lasting().collect());
    let decode = |block: u64| {
        let bytes = disk.block(block).filter(|_| !bad.contains(&block))?;
        Some(Superblock::decode(&bytes))
    };
    let is_valid = |block: u64| matches!(decode(block), Some(Ok(_)));
    let was_there =
        |block: u64| bad.contains(&block) || matches!(decode(block), Some(Err(FormatError::Checksum)));
    let is_tail = |block: u64| match decode(block) {
        Some(Ok(superblock)) => superblock.tail_block() == Some(block),
        _ => false,
    };
    [0, 1, disk.len_blocks() - 1].into_iter().any(is_valid)
        || ([0, 1].into_iter().any(was_there) && (2..disk.len_blocks()).rev().any(is_tail))
}

/// The position of the last copy of the superblock.
fn tail_of(disk: &SimDisk) -> u64 {
    let heads = [0, 1].into_iter().filter_map(|block| Superblock::decode(&disk.block(block)?).ok());
    let newest = heads.max_by_key(|superblock| superblock.generation);
    newest.and_then(|superblock| superblock.tail_block()).unwrap_or(0)
}

/// A problem, or its kind if it names a block of a volume: the pool reports a limited number of
/// those, and which ones depends on who reads first. Their cause is reported separately.
fn kind_of(problem: &str) -> &str {
    let is_block = problem.starts_with("volume '") && problem.contains("', block ");
    if is_block { "a block" } else { problem }
}

/// Whether the body of a trailer matches its head.
fn is_whole(disk: &SimDisk, head: &TrailerHead, block: u64) -> bool {
    let len_blocks = TrailerHead::len_bytes(head.units as usize).div_ceil(BLOCK_BYTES) as u64;
    let area: Vec<u8> = (block..block + len_blocks)
        .flat_map(|at| disk.block(at).map_or_else(|| vec![0; BLOCK_BYTES], |block| block.clone()))
        .collect();
    head.body(&area).is_ok()
}

/// What the loss of a block may destroy.
fn effect_of(disk: &SimDisk, segments: &[OnDevice], at: u64, place: Place, segment_blocks: u64) -> Effect {
    let Some(segment) = segment_at(segments, at, segment_blocks) else { return Effect::Nothing };
    match place {
        Place::Data(block, stamp) => Effect::Data(block, stamp),
        Place::RecordHeader if !segment.has_trailer && segment.lsn_of(at) >= segment.told_to => {
            let bytes = disk.block(at).expect("it was written");
            let superblock = disk.block(0).and_then(|block| Superblock::decode(&block).ok());
            let pool = superblock.or_else(|| Superblock::decode(&disk.block(1)?).ok()).map(|it| it.pool);
            let Some(Ok((head, entries))) = pool.map(|pool| RecordHead::decode_any(&bytes, pool)) else {
                return Effect::Nothing;
            };
            let end_lsn = head.lsn.0 + 1 + u64::from(head.data_blocks);
            // After the last record there may be later ones, without those between them that a
            // crash took: they were never guaranteed, and nothing shows any more that something
            // before them is missing.
            let behind =
                end_lsn.max(segment.first_lsn + segment.used_blocks)..segment.first_lsn + segment_blocks;
            let is_record = |lsn: u64| {
                let bytes = disk.block(segment.first_block + lsn - segment.first_lsn);
                bytes.zip(pool).is_some_and(|(bytes, pool)| RecordHead::decode_any(&bytes, pool).is_ok())
            };
            let is_last = end_lsn >= segment.first_lsn + segment.used_blocks;
            let goes_on = is_last && behind.into_iter().any(is_record);
            let has_events = entries.iter().any(|entry| entry.kind() == Some(EntryKind::Event));
            Effect::Entries { first_lsn: head.lsn.0, end_lsn, events: has_events || goes_on }
        }
        _ => Effect::Nothing,
    }
}

/// Prints its text when a check fails.
pub(super) struct OnPanic<'a>(pub(super) &'a str);

impl Drop for OnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was {}", self.0);
        }
    }
}
