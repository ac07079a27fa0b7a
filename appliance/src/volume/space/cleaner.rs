//! Copy-forward: appends the live blocks of the oldest segment again, so that the segment can leave
//! the working set (R18).
//!
//! **States:** idle → loading the victim's entries → searching the indexes for blocks in ranges
//! with unknown entries → (reading a batch of its live blocks → asking the archive for those that
//! the device cannot read → appending the batch) until it contains no live blocks → idle. The
//! victim is the oldest segment that contains live blocks.
//!
//! **Unreadable data.** Nothing unreadable prevents a victim from being emptied, because writes
//! would then wait forever. If its entries are unreadable, the indexes show which blocks are live
//! there; they are searched in pieces. Such a block is checked with the 16 bits in the index, and
//! its copy has all 32 bits again. A block that neither the device nor the archive returns is
//! copied as an error. If a pass over a victim does not find its live blocks, the victim is
//! searched as a whole. If that does not find them either, it is left alone for [`REST_NS`] between
//! passes, and this is reported.
//!
//! **Invariants.** A copy is appended only if the index still points to its source at that moment;
//! it carries the LSN of the first write; it does not end a command, so no point is between a copy
//! and its source. Trims of a clone hide inherited data, so they are copied forward as masks. A
//! block that cannot be read as it was written, or is not certain, remains an error (`copies`).
//!
//! **Pace.** The copies that must be made before the next segment is opened are spread over the
//! blocks that hosts append to the current one, so there are no bursts: after a share of the room
//! for hosts is used, the same share of the copies is done. Cold data is concentrated, so whole
//! segments of live data come up together. The pace therefore looks ahead: if a range of the oldest
//! segments holds more than the average of the working set, copies are made at the rate that the
//! worst such range needs. Blocks that are copied early have less time to become dead, so nothing
//! is copied early otherwise: under a steady load, older segments hold less live data than younger
//! ones, and only the oldest is copied.
//!
//! **Draining.** While the working set is being shortened, the live data outside the target is
//! copied too, oldest first. Under load this takes half of the hosts' room in each segment, at
//! their pace, so hosts keep at least half of their speed. This is enough, because the oldest
//! segments hold no more than the average, which is less than half of a segment's room at the
//! default over-provisioning; with less over-provisioning it only takes longer. While no command
//! arrives, draining runs at its own speed, and opens segments.
//!
//! **Order.** A batch is appended in the order of images and blocks. For randomly written blocks
//! this changes little, because a batch contains few blocks of each volume. It separates the data
//! of hosts that wrote in turns.
//!
//! **Costs:** a copy is one read, merged with its neighbours, one CRC32C, 24 bytes of entry and its
//! share of a record; its bytes are not copied in memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::format::EntryKind;
use crate::log::load::load_segment;
use crate::log::reader::{LsnRange, PlacedEntry, ReadError, SegmentEntries};
use crate::log::table::Mask;
use crate::log::{
    AppendClass, AppendError, BlockNumber, ImageId, Log, Lsn, Recycling, SegmentSeq, SharedLog,
};

use crate::volume::archiving::Archive;
use crate::volume::catalog::Catalog;
use crate::volume::image::index::{Mapping, RangeSet};
use crate::volume::image::volumes::Volumes;
use crate::volume::space::copies::{Batch, Source, read};
use fetching::Fetching;
use search::Search;

mod fetching;
mod search;

/// How many blocks a batch has, which are read together.
const BATCH_BLOCKS: usize = 128;
/// The maximum number of copies appended in one turn, so that hosts' commands do not wait for more.
const COPIES_PER_TURN_MAX: usize = 32;
/// The maximum number of copies appended in a turn in which hosts append nothing; a single write
/// that arrives waits for no more than these.
const COPIES_PER_TURN_MIN: usize = 4;
/// How many copies are allowed for each block that hosts have appended since the last turn: more
/// than any load with room for its copies needs, so that the pace is kept.
const COPIES_PER_HOST_BLOCK: u64 = 8;
/// How long a victim is left alone if no block to copy is found in it.
const REST_NS: u64 = 100_000_000;
/// After more fruitless passes in a row than this, it is reported.
const FRUITLESS_TOLD: u32 = 8;

/// After this time without a command, draining runs at its own speed.
const IDLE_NS: u64 = 1_000_000;

/// Copies are made ahead of time if a range holds more than this multiple of the average, because
/// segments vary.
const AHEAD_FROM: f64 = 1.1;

/// The parts of the pool that copy-forward reads and changes.
pub(in crate::volume) struct CleanerSide<'a> {
    /// The volumes, whose indexes determine what is live.
    pub(in crate::volume) volumes: &'a mut Volumes,
    /// The catalog, with the target of a working set that is being shortened.
    pub(in crate::volume) catalog: &'a Catalog,
    /// The archive, which has blocks that the device cannot read.
    pub(in crate::volume) archive: Option<&'a mut Archive>,
    /// Whether everything that has disappeared for hosts is counted.
    pub(in crate::volume) is_counted: bool,
    /// At least one block of zeroes.
    pub(in crate::volume) zeroes: &'a DmaBuf,
}

enum CleanerStep {
    Idle,
    Loading(Pin<Box<dyn Future<Output = Result<SegmentEntries, ReadError>>>>),
    Searching(Search),
    Reading(Pin<Box<dyn Future<Output = Batch>>>),
    Fetching(Fetching),
    Appending(std::vec::IntoIter<(Source, Option<DmaBuf>)>),
    /// Until this time of the clock of spans.
    Resting(u64),
}

/// How much must be copied into the current segment.
#[derive(Default)]
struct Pace {
    sequence: Option<SegmentSeq>,
    /// Copies planned for this segment.
    planned: u64,
    /// The maximum planned for a shorter working set: what must be copied anyway, and half of the
    /// rest.
    drained_at_most: u64,
    /// How many of them are done.
    copied: u64,
}

/// The state of copy-forward. See the module's documentation.
pub(in crate::volume) struct Cleaner {
    work: CleanerStep,
    victim: Option<SegmentSeq>,
    entries: SegmentEntries,
    /// Ranges of the victim that hide what clones inherited; these are copied forward first.
    masks: Vec<(ImageId, u64, u64)>,
    /// The next record and entry of the victim to process.
    next: (usize, usize),
    next_lsn: Lsn,
    /// Live blocks known only from the indexes, last one first.
    found: Vec<Source>,
    /// How many passes over the victim in a row made no copy.
    fruitless: u32,
    /// Whether it was left alone since.
    has_rested: bool,
    /// Copies since the victim was loaded.
    copied: u64,
    pace: Pace,
    /// An append that found no room, to be tried again.
    retry: Option<(Source, Option<DmaBuf>)>,
    /// While draining: the newest point, since when it has been the newest, and whether that is
    /// long enough.
    newest_point: Lsn,
    newest_point_ns: u64,
    is_idle: bool,
    /// The maximum number of copies in this turn.
    per_turn: usize,
    /// Where the log ended after the last turn.
    head_seen: Lsn,
    /// Where the log ended, and how far it was written, when there was nothing to copy.
    rests_at: Option<(Lsn, Lsn)>,
}

impl Default for Cleaner {
    fn default() -> Self {
        Cleaner {
            work: CleanerStep::Idle,
            victim: None,
            entries: SegmentEntries::default(),
            masks: Vec::new(),
            next: (0, 0),
            next_lsn: Lsn(0),
            found: Vec::new(),
            fruitless: 0,
            has_rested: false,
            copied: 0,
            pace: Pace::default(),
            retry: None,
            newest_point: Lsn(0),
            newest_point_ns: 0,
            is_idle: false,
            per_turn: COPIES_PER_TURN_MIN,
            head_seen: Lsn(0),
            rests_at: None,
        }
    }
}

impl Cleaner {
    /// One turn. Returns how much was done.
    pub(in crate::volume) fn poll(&mut self, mut side: CleanerSide<'_>, shared: &SharedLog) -> usize {
        {
            let log = shared.borrow();
            if log.recycling() == Recycling::Never || log.poisoned().is_some() {
                return 0;
            }
            // Only hosts have appended since the last turn. If an append waits for copies, the
            // limit is the maximum, because copies then delay nobody.
            let of_hosts = log.head_lsn().0.saturating_sub(self.head_seen.0);
            // If there was nothing to copy at this length of the log, there is nothing until it
            // grows, or until an append waits for copies.
            if self.rests_at == Some((log.head_lsn(), log.written_lsn()))
                && !log.why_busy().needs_copies()
                && side.catalog.working_set_target.is_none()
            {
                return 0;
            }
            self.per_turn = match (COPIES_PER_HOST_BLOCK * of_hosts) as usize {
                _ if log.why_busy().needs_copies() || self.is_idle => COPIES_PER_TURN_MAX,
                copies => copies.clamp(COPIES_PER_TURN_MIN, COPIES_PER_TURN_MAX),
            };
        }
        self.rests_at = None;
        let work = self.go_on(&mut side, shared);
        self.head_seen = shared.borrow().head_lsn();
        work
    }

    fn go_on(&mut self, side: &mut CleanerSide<'_>, shared: &SharedLog) -> usize {
        let mut context = Context::from_waker(Waker::noop());
        let mut work = self.note_commands(side, &shared.borrow());
        loop {
            match &mut self.work {
                CleanerStep::Idle => {
                    let (done, more) = self.begin_work(side, shared);
                    work += done;
                    if !more {
                        return work;
                    }
                }
                CleanerStep::Loading(future) => match future.as_mut().poll(&mut context) {
                    Poll::Pending => return work,
                    Poll::Ready(loaded) => {
                        let is_loaded = self.loaded(loaded, side, &mut shared.borrow_mut());
                        work += 1;
                        if !is_loaded {
                            return work;
                        }
                    }
                },
                CleanerStep::Searching(search) => {
                    work += 1;
                    if !search.go_on(side.volumes) {
                        return work;
                    }
                    let found = search.take();
                    (self.found, self.work) = (found, CleanerStep::Idle);
                }
                CleanerStep::Reading(future) => match future.as_mut().poll(&mut context) {
                    Poll::Pending => return work,
                    Poll::Ready(batch) => {
                        self.work = CleanerStep::Fetching(Fetching::new(batch));
                        work += 1;
                    }
                },
                CleanerStep::Fetching(fetching) => {
                    if !fetching.go_on(side.archive.as_deref_mut(), &shared.borrow()) {
                        // Even for a store that does not answer, the wait is bounded.
                        return work + 1;
                    }
                    let mut batch = fetching.take();
                    // This separates the data of hosts that wrote in turns, so that it can be read
                    // in order in fewer pieces.
                    batch.sort_unstable_by_key(|(source, _)| (source.image, source.block));
                    self.work = CleanerStep::Appending(batch.into_iter());
                }
                CleanerStep::Resting(until_ns) => {
                    let log = shared.borrow();
                    if log.environment().clock.monotonic_ns() < *until_ns {
                        // Do not sleep while a host waits.
                        return work + usize::from(log.why_busy().waits_for_copies());
                    }
                    self.work = CleanerStep::Idle;
                }
                CleanerStep::Appending(_) => {
                    let (done, more) = self.append(side, &mut shared.borrow_mut());
                    work += done;
                    if more {
                        return work;
                    }
                    self.work = CleanerStep::Idle;
                }
            }
        }
    }

    /// Chooses what to do next. Returns how much was done, and whether to go on in this turn.
    fn begin_work(&mut self, side: &mut CleanerSide<'_>, shared: &SharedLog) -> (usize, bool) {
        let log = shared.borrow();
        if self.allowed(side, &log) == 0 {
            self.rests_at = Some((log.head_lsn(), log.written_lsn()));
            return (0, false);
        }
        let Some((victim, segment)) = log.victim() else { return (0, false) };
        // Blocks that are still in flight to the device cannot be read from it. With a short
        // working set the victim may be the segment before the current one.
        if segment.end_lsn > log.written_lsn() {
            return (0, false);
        }
        if self.victim == Some(victim) && !self.masks.is_empty() {
            drop(log);
            let (done, more) = self.carry_masks(side, victim, &mut shared.borrow_mut());
            return (done, !more);
        }
        if self.victim == Some(victim) && self.has_more() {
            let batch = self.next_batch(side, &log);
            drop(log);
            if !batch.is_empty() {
                self.work = CleanerStep::Reading(Box::pin(read(SharedLog::clone(shared), batch)));
            }
            return (0, true);
        }
        drop(log);
        self.begin_victim(victim, side, shared);
        (0, true)
    }

    /// Whether entries or blocks of the victim are still to be processed.
    fn has_more(&self) -> bool {
        self.next.0 < self.entries.len() || !self.found.is_empty()
    }

    /// Loads a victim. If a pass over it left live blocks, the next pass starts.
    fn begin_victim(&mut self, victim: SegmentSeq, side: &CleanerSide<'_>, shared: &SharedLog) {
        let is_again = self.victim == Some(victim);
        if !is_again || self.copied > 0 {
            (self.fruitless, self.has_rested) = (0, false);
        } else if !self.has_rested {
            self.fruitless += 1;
        }
        (self.victim, self.next, self.copied) = (Some(victim), (0, 0), 0);
        self.found.clear();
        // One pass uses its entries, another one the indexes; the blocks of a deleted volume are
        // live until they are counted.
        if self.fruitless > 1 && !std::mem::replace(&mut self.has_rested, true) {
            let mut log = shared.borrow_mut();
            if self.fruitless > FRUITLESS_TOLD && side.is_counted {
                let problem = "blocks of it count as live that no volume holds, and it cannot leave; please report this, and restart when the pool runs full";
                log.note_problem(victim, problem.to_owned());
            }
            self.work = CleanerStep::Resting(log.environment().clock.monotonic_ns() + REST_NS);
            return;
        }
        self.has_rested = false;
        let log = SharedLog::clone(shared);
        self.work = CleanerStep::Loading(Box::pin(async move { load_segment(&log, victim).await }));
    }

    /// Handles the victim's entries, or those that are readable; `false`: it must be tried again.
    fn loaded(
        &mut self,
        loaded: Result<SegmentEntries, ReadError>,
        side: &CleanerSide<'_>,
        log: &mut Log,
    ) -> bool {
        let victim = self.victim.unwrap_or_default();
        self.work = CleanerStep::Idle;
        self.entries = match loaded {
            Ok(entries) => entries,
            // Records that complete free memory.
            Err(ReadError::Memory(_)) => {
                self.victim = None;
                return false;
            }
            Err(error) => {
                let problem = format!("{error}; what is live in it is found through the indexes");
                log.note_problem(victim, problem);
                SegmentEntries::default()
            }
        };
        let (first, end, masks) = match log.table().get(victim) {
            Some(segment) => {
                (log.geometry().first_lsn(victim), segment.end_lsn, join_masks(side, &segment.masks))
            }
            None => return false,
        };
        self.masks = masks;
        if self.masks.is_empty() {
            log.masks_carried(victim);
        }
        // The indexes may show blocks that its entries do not.
        let unknown = if self.fruitless > 0 {
            vec![LsnRange { start: first, end }]
        } else {
            self.entries.holes(first.plus(1), end)
        };
        if !unknown.is_empty() {
            self.work = CleanerStep::Searching(Search::new(unknown));
        }
        true
    }

    /// While draining: determines whether hosts leave the device idle. Until that is known there is
    /// work, so that the reactor does not sleep.
    fn note_commands(&mut self, side: &CleanerSide<'_>, log: &Log) -> usize {
        if side.catalog.working_set_target.is_none() {
            return 0;
        }
        let now_ns = log.environment().clock.monotonic_ns();
        if self.newest_point != log.point_lsn() {
            self.newest_point = log.point_lsn();
            self.newest_point_ns = now_ns;
        }
        self.is_idle = now_ns - self.newest_point_ns >= IDLE_NS;
        usize::from(!self.is_idle)
    }

    /// Appends the blocks that were read, as far as pace and room allow. Returns how many copies
    /// were made, and whether some are left.
    fn append(&mut self, side: &mut CleanerSide<'_>, log: &mut Log) -> (usize, bool) {
        let mut done = 0;
        loop {
            let next = self.retry.take().or_else(|| match &mut self.work {
                CleanerStep::Appending(batch) => batch.next(),
                _ => None,
            });
            let Some((source, data)) = next else { return (done, false) };
            let Some(volume) = side.volumes.owner_of(source.image, source.block, source.mapping()) else {
                continue;
            };
            if done == self.per_turn {
                self.retry = Some((source, data));
                return (done, true);
            }
            let class = class_of(side, log, log.geometry().sequence_of(source.lsn));
            match log.reserve(class, 1, 1, false) {
                Ok(()) => {}
                // An older block has become live again, because of a clone, and must go first: the
                // room is kept for it.
                Err(AppendError::Busy) if class != AppendClass::Copy && log.must_copy_blocks() > 0 => {
                    self.victim = None;
                    return (done, false);
                }
                Err(AppendError::Busy) => {
                    self.retry = Some((source, data));
                    return (done, true);
                }
                Err(_) => return (done, false),
            }
            let copied = source.copied(
                data,
                side.volumes.is_uncertain(volume, source.lsn),
                side.zeroes.slice(0, BLOCK_BYTES),
            );
            if copied.bad && !source.bad {
                log.note_problem(
                    log.geometry().sequence_of(source.lsn),
                    "live blocks of it could not be had; they read as errors until they are written again. The device may be failing: replace it soon"
                        .to_owned(),
                );
            }
            let (block, bad) = (BlockNumber(source.block), copied.bad);
            let lsn = log.append_copied(source.image, block, copied.data, copied.crc, source.origin, bad);
            side.volumes.move_block(volume, source.block, Mapping::new(lsn, copied.crc));
            log.note_dead(source.lsn);
            log.note_live(lsn);
            self.pace.copied += 1;
            self.copied += 1;
            done += 1;
        }
    }

    /// Appends the victim's masks to the current segment. Returns how many, and whether some are
    /// left.
    fn carry_masks(&mut self, side: &CleanerSide<'_>, victim: SegmentSeq, log: &mut Log) -> (usize, bool) {
        let class = class_of(side, log, victim);
        let mut done = 0;
        while let Some(&(image, block, len_blocks)) = self.masks.last() {
            if done == self.per_turn || log.reserve(class, 1, 0, false).is_err() {
                return (done, true);
            }
            log.append_mask(image, BlockNumber(block), len_blocks);
            self.masks.pop();
            self.pace.copied += 1;
            done += 1;
        }
        log.masks_carried(victim);
        (done, false)
    }

    /// Live blocks of the victim, from where the last batch ended.
    fn next_batch(&mut self, side: &CleanerSide<'_>, log: &Log) -> Vec<Source> {
        let wanted = (self.allowed(side, log) as usize).clamp(1, BATCH_BLOCKS);
        let mut batch = Vec::new();
        while self.next.0 < self.entries.len() && batch.len() < wanted {
            let (line, entries) = self.entries.record(self.next.0);
            if self.next.1 == 0 {
                self.next_lsn = line.lsn();
            }
            let Some(entry) = entries.get(self.next.1) else {
                self.next = (self.next.0 + 1, 0);
                continue;
            };
            self.next.1 += 1;
            if entry.has_data() {
                self.next_lsn = self.next_lsn.plus(1);
            }
            if !matches!(entry.kind(), Some(EntryKind::Write | EntryKind::Copied)) {
                continue;
            }
            let placed = PlacedEntry { entry: *entry, lsn: self.next_lsn, time_ns: line.time_ns() };
            let mapping = Mapping::new(placed.lsn, entry.crc());
            for owner in side.volumes.owners_of(entry.image(), entry.block().0, mapping) {
                batch.push(Source::of_entry(&placed, owner));
            }
        }
        while batch.len() < wanted
            && let Some(source) = self.found.pop()
        {
            batch.push(source);
        }
        batch
    }

    /// How many blocks may be copied now. See the module's documentation on the pace.
    fn allowed(&mut self, side: &CleanerSide<'_>, log: &Log) -> u64 {
        let (used, room) = log.current_fill();
        if log.why_busy().waits_for_room() {
            return log.leaving_blocks(log.geometry().working_set - 1);
        }
        let must = log.must_copy_blocks().max(log.demand());
        if self.pace.sequence != log.current_sequence() {
            self.pace = Pace {
                sequence: log.current_sequence(),
                planned: must.max((share_ahead(log) * room as f64) as u64).min(room),
                drained_at_most: (must + room).min(2 * room) / 2,
                copied: 0,
            };
        }
        let copied = self.pace.copied;
        let draining = side.catalog.working_set_target.map_or(0, |target| log.leaving_blocks(target));
        if draining > 0 && self.is_idle {
            return draining;
        }
        let drained = (copied + draining).min(self.pace.drained_at_most);
        let planned = self.pace.planned.max((copied + must).min(room)).max(drained);
        // Hosts get the rest of the segment; its last tenth is the margin in which copies catch up.
        let hosts_room = (room - planned) as f64 * 0.9 + 1.0;
        let hosts_used = used.saturating_sub(copied + copied / 168);
        let share = (hosts_used as f64 / hosts_room + 0.02).min(1.0);
        // A command that does not fit into the rest of the segment waits for the next one, so
        // waiting for hosts is useless.
        let share = if log.why_busy().waits_for_copies() { 1.0 } else { share };
        ((planned as f64 * share).ceil() as u64).saturating_sub(copied)
    }
}

/// The class of a copy from a segment.
fn class_of(side: &CleanerSide<'_>, log: &Log, sequence: SegmentSeq) -> AppendClass {
    let drains = |target| log.leaves(sequence, target);
    if log.must_leave(sequence) {
        AppendClass::Copy
    } else if side.catalog.working_set_target.is_some_and(drains) {
        AppendClass::Drain
    } else {
        AppendClass::CopyAhead
    }
}

/// The share of the appended blocks that must be copies, from now on, so that every segment ahead
/// is empty when it leaves: the highest average of live blocks over all ranges of segments that
/// begin with the oldest. 0 while no range holds much more than the average of the working set.
fn share_ahead(log: &Log) -> f64 {
    let Some(current) = log.current_sequence() else { return 0.0 };
    let geometry = log.geometry();
    let room = geometry.record_blocks() as f64;
    let (mut sum, mut share) = (0.0, 0.0_f64);
    for (sequence, segment) in log.table().iter().take_while(|&(sequence, _)| sequence < current) {
        sum += segment.live as f64;
        // How many segments are still opened before this one must be empty, even if those before it
        // have left already: early copies have gained time.
        let ahead = (sequence.0 + geometry.working_set).saturating_sub(current.0);
        // `must` covers the segments that must leave now.
        if ahead > 0 {
            share = share.max(sum / ((ahead + 1) as f64 * room));
        }
    }
    let average = sum / (geometry.working_set as f64 * room);
    if share > average * AHEAD_FROM { share } else { 0.0 }
}

/// A segment's masks, adjacent ones joined, without those of deleted volumes. There are never more
/// than room was kept for: masks that a restart found to be hidden by newer ones are not among
/// them.
fn join_masks(side: &CleanerSide<'_>, masks: &[Mask]) -> Vec<(ImageId, u64, u64)> {
    let mut hidden: BTreeMap<u32, RangeSet> = BTreeMap::new();
    for mask in masks.iter().filter(|mask| side.volumes.inherits(mask.image)) {
        let (start, end) = (mask.block.0, mask.block.0.saturating_add(mask.len_blocks));
        hidden.entry(mask.image.0).or_default().insert(start, end);
    }
    let ranges = hidden.iter().flat_map(|(&image, ranges)| {
        ranges.iter().map(move |(start, end)| (ImageId(image), start, end - start))
    });
    ranges.collect()
}
