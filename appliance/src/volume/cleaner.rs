//! Copy-forward: live blocks of the oldest segment are appended again, so that it can leave the
//! working set (R18).
//!
//! **States:** idle → loading the victim's entries → searching the indexes for what lies where entries are not known → (reading a batch of its live blocks → asking the archive for those that the device does not give → appending
//! it) until nothing in it is live → idle. The victim is the oldest segment that holds something live.
//!
//! **What cannot be read.** Nothing of it keeps a victim from being emptied, or writes would wait for ever. Where its entries cannot be had, the indexes say what is live there, looked through in pieces; such a block is checked with the
//! 16 bits that they keep, and its copy has all 32 again. A block that neither the device nor the archive gives is copied as an error. A victim that was gone through without finding what is live in it is searched as
//! a whole, and then left alone for a while between looks, which is told.
//!
//! **Invariants.** A copy is appended only if the index still points at its source at that moment; it carries the LSN of the first write; it is the end of no command, so no point falls between a copy and its
//! source. Trims of a clone hide what it inherited: they are carried on as masks. A block that cannot be read as it was written, or is not certain, goes on as an error (`copies`).
//!
//! **Pace.** What must leave before the next segment is opened is spread over the blocks that hosts append to the current one, so there is no storm: after a share of the room for hosts is used,
//! the same share of the copies is done. Cold data lies together, and when its turn comes whole segments of it are live; so the pace looks ahead: where a stretch of the oldest segments holds more than
//! the working set does on average, copies go at the rate that the worst such stretch needs. What is copied early has less time to die, so nothing is copied early otherwise: under any load that goes on as it
//! is, older segments hold less than younger ones, and only the oldest is copied.
//!
//! **Draining.** While the working set is to become shorter, what the target would put out is copied as well, oldest first. Under load that takes half of what hosts would have of each segment, at their pace, so they go on at no less than half
//! their speed; more is never needed to get there, as the oldest segments hold no more than the average and that is less than half of a segment's room at the usual over-provisioning, and with less the way is only longer. While
//! no command comes, it goes on at its own speed, and opens segments.
//!
//! **Order.** A batch is appended in the order of images and blocks. Over blocks that were written at random that changes little, because a batch holds few of each volume's; it takes apart what was written in turns.
//!
//! **Costs:** a copy is one read, merged with its neighbours, one CRC32C, 24 bytes of entry and its share of a record; its bytes are not copied in memory.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::dma::DmaBuf;
use crate::log::format::EntryKind;
use crate::log::load::load_segment;
use crate::log::reader::{LsnRange, PlacedEntry, ReadError, SegmentEntries};
use crate::log::table::Mask;
use crate::log::{
    AppendClass, AppendError, BlockNumber, ImageId, Log, Lsn, Recycling, SegmentSeq, SharedLog,
};

use super::copies::{Batch, Source, read};
use super::index::{Mapping, RangeSet};
use super::pool::State;
use fetching::Fetching;
use search::Search;

mod fetching;
mod search;

/// Blocks of one batch, read together.
const BATCH_BLOCKS: usize = 128;
/// Copies appended in one turn, so that hosts' commands do not wait for more.
const COPIES_PER_TURN_MAX: usize = 32;
/// Copies appended in a turn in which hosts append nothing; a lone write that comes meanwhile waits for no more than these.
const COPIES_PER_TURN_MIN: usize = 4;
/// For each block that hosts have appended since the last turn, so many copies: more than any load with room for its copies needs, so that the pace is kept.
const COPIES_PER_HOST_BLOCK: u64 = 8;
/// How long a victim is left alone in which nothing is found that could be copied.
const REST_NS: u64 = 100_000_000;
/// After so many times that is told.
const FRUITLESS_TOLD: u32 = 8;

/// Without a command for so long, draining goes on at its own speed.
const IDLE_NS: u64 = 1_000_000;

/// Copies go ahead of their time when a stretch holds more than the average times this; segments scatter.
const AHEAD_FROM: f64 = 1.1;

enum Work {
    Idle,
    Loading(Pin<Box<dyn Future<Output = Result<SegmentEntries, ReadError>>>>),
    Searching(Search),
    Reading(Pin<Box<dyn Future<Output = Batch>>>),
    Fetching(Fetching),
    Appending(std::vec::IntoIter<(Source, Option<DmaBuf>)>),
    /// Until a moment of the clock of spans.
    Resting(u64),
}

/// How much is to be copied into the current segment.
#[derive(Default)]
struct Pace {
    sequence: Option<SegmentSeq>,
    /// Copies planned for this segment.
    planned: u64,
    /// The most that are planned for the sake of a shorter working set: what must be copied anyway, and half of the rest.
    drained_at_most: u64,
    /// Of them, done.
    copied: u64,
}

/// The state of copy-forward. See the module's documentation.
pub(super) struct Cleaner {
    work: Work,
    victim: Option<SegmentSeq>,
    entries: SegmentEntries,
    /// Ranges of the victim that hide what clones inherited, to be carried on first.
    masks: Vec<(ImageId, u64, u64)>,
    /// The next record and entry of the victim to look at.
    next: (usize, usize),
    next_lsn: Lsn,
    /// Live blocks of which only the indexes tell, last one first.
    found: Vec<Source>,
    /// How often the victim was gone through in a row without a copy.
    fruitless: u32,
    /// Whether it was left alone since.
    has_rested: bool,
    /// Copies since the victim was loaded.
    copied: u64,
    pace: Pace,
    /// An append that found no room, to be tried again.
    retry: Option<(Source, Option<DmaBuf>)>,
    /// While draining: the newest point, since when it is, and whether that is long enough.
    newest_point: Lsn,
    newest_point_ns: u64,
    is_idle: bool,
    /// Copies of this turn, at most.
    per_turn: usize,
    /// Where the log ended after the last turn.
    head_seen: Lsn,
    /// Where the log ended, and how far it was written, when there was nothing to copy.
    rests_at: Option<(Lsn, Lsn)>,
    /// Blocks that could not be had and were copied as errors, since start.
    pub(super) bad_blocks: u64,
}

impl Default for Cleaner {
    fn default() -> Self {
        Cleaner {
            work: Work::Idle,
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
            bad_blocks: 0,
        }
    }
}

impl Cleaner {
    /// One turn. Returns how much was done.
    pub(super) fn poll(&mut self, state: &mut State, shared: &SharedLog) -> usize {
        {
            let log = shared.borrow();
            if log.recycling() == Recycling::Never || log.poisoned().is_some() {
                return 0;
            }
            // Only hosts have appended since; where somebody waits for copies, nobody is kept waiting by them.
            let of_hosts = log.head_lsn().0.saturating_sub(self.head_seen.0);
            // Nothing to copy at this length of the log is nothing to copy until it grows, or somebody waits.
            if self.rests_at == Some((log.head_lsn(), log.written_lsn()))
                && !log.why_busy().needs_copies()
                && state.catalog.working_set_target.is_none()
            {
                return 0;
            }
            self.per_turn = match (COPIES_PER_HOST_BLOCK * of_hosts) as usize {
                _ if log.why_busy().needs_copies() || self.is_idle => COPIES_PER_TURN_MAX,
                copies => copies.clamp(COPIES_PER_TURN_MIN, COPIES_PER_TURN_MAX),
            };
        }
        self.rests_at = None;
        let work = self.go_on(state, shared);
        self.head_seen = shared.borrow().head_lsn();
        work
    }

    fn go_on(&mut self, state: &mut State, shared: &SharedLog) -> usize {
        let mut context = Context::from_waker(Waker::noop());
        let mut work = self.note_commands(state, &shared.borrow());
        loop {
            match &mut self.work {
                Work::Idle => {
                    let log = shared.borrow();
                    if self.allowed(state, &log) == 0 {
                        self.rests_at = Some((log.head_lsn(), log.written_lsn()));
                        return work;
                    }
                    let Some((victim, segment)) = log.victim() else { return work };
                    // What is still on its way to the device is not there to be read; with a short working set the victim may be the segment before the current one.
                    if segment.end_lsn > log.written_lsn() {
                        return work;
                    }
                    if self.victim == Some(victim) && !self.masks.is_empty() {
                        drop(log);
                        let (done, more) = self.carry_masks(state, victim, &mut shared.borrow_mut());
                        work += done;
                        if more {
                            return work;
                        }
                        continue;
                    }
                    if self.victim == Some(victim) && self.has_more() {
                        let batch = self.next_batch(state, &log);
                        drop(log);
                        if !batch.is_empty() {
                            self.work = Work::Reading(Box::pin(read(SharedLog::clone(shared), batch)));
                        }
                        continue;
                    }
                    drop(log);
                    self.begin_victim(victim, state, shared);
                }
                Work::Loading(future) => match future.as_mut().poll(&mut context) {
                    Poll::Pending => return work,
                    Poll::Ready(loaded) => {
                        let is_loaded = self.loaded(loaded, state, &mut shared.borrow_mut());
                        work += 1;
                        if !is_loaded {
                            return work;
                        }
                    }
                },
                Work::Searching(search) => {
                    work += 1;
                    if !search.go_on(state) {
                        return work;
                    }
                    let found = search.take();
                    (self.found, self.work) = (found, Work::Idle);
                }
                Work::Reading(future) => match future.as_mut().poll(&mut context) {
                    Poll::Pending => return work,
                    Poll::Ready(batch) => {
                        self.work = Work::Fetching(Fetching::new(batch));
                        work += 1;
                    }
                },
                Work::Fetching(fetching) => {
                    if !fetching.go_on(state, &shared.borrow()) {
                        // Also a store that is silent is not waited for without end.
                        return work + 1;
                    }
                    let mut batch = fetching.take();
                    // What several hosts wrote in turns is apart from then on, and is read in order in fewer pieces.
                    batch.sort_unstable_by_key(|(source, _)| (source.image, source.block));
                    self.work = Work::Appending(batch.into_iter());
                }
                Work::Resting(until_ns) => {
                    let log = shared.borrow();
                    if log.environment().clock.monotonic_ns() < *until_ns {
                        // A host that waits is not left alone.
                        return work + usize::from(log.why_busy().waits_for_copies());
                    }
                    self.work = Work::Idle;
                }
                Work::Appending(_) => {
                    let (done, more) = self.append(state, &mut shared.borrow_mut());
                    work += done;
                    if more {
                        return work;
                    }
                    self.work = Work::Idle;
                }
            }
        }
    }

    /// Whether something of the victim is still to be looked at.
    fn has_more(&self) -> bool {
        self.next.0 < self.entries.len() || !self.found.is_empty()
    }

    /// Loads a victim. One that was gone through and still holds something live is gone through again.
    fn begin_victim(&mut self, victim: SegmentSeq, state: &State, shared: &SharedLog) {
        let is_again = self.victim == Some(victim);
        if !is_again || self.copied > 0 {
            (self.fruitless, self.has_rested) = (0, false);
        } else if !self.has_rested {
            self.fruitless += 1;
        }
        (self.victim, self.next, self.copied) = (Some(victim), (0, 0), 0);
        self.found.clear();
        // Once as its entries say, once as the indexes do; what a deleted volume held is live until that is counted.
        if self.fruitless > 1 && !std::mem::replace(&mut self.has_rested, true) {
            let mut log = shared.borrow_mut();
            if self.fruitless > FRUITLESS_TOLD && state.buried.is_empty() {
                let problem = "blocks of it count as live that no volume holds, and it cannot leave; please report this, and restart when the pool runs full";
                log.note_problem(victim, problem.to_owned());
            }
            self.work = Work::Resting(log.environment().clock.monotonic_ns() + REST_NS);
            return;
        }
        self.has_rested = false;
        let log = SharedLog::clone(shared);
        self.work = Work::Loading(Box::pin(async move { load_segment(&log, victim).await }));
    }

    /// The victim's entries came, or as many as can be had; `false`: it must be tried again.
    fn loaded(&mut self, loaded: Result<SegmentEntries, ReadError>, state: &State, log: &mut Log) -> bool {
        let victim = self.victim.unwrap_or_default();
        self.work = Work::Idle;
        self.entries = match loaded {
            Ok(entries) => entries,
            // Memory comes back as records complete.
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
                (log.geometry().first_lsn(victim), segment.end_lsn, join_masks(state, &segment.masks))
            }
            None => return false,
        };
        self.masks = masks;
        if self.masks.is_empty() {
            log.masks_carried(victim);
        }
        // What its entries do not tell of, the indexes may.
        let unknown = if self.fruitless > 0 {
            vec![LsnRange { start: first, end }]
        } else {
            self.entries.holes(first.plus(1), end)
        };
        if !unknown.is_empty() {
            self.work = Work::Searching(Search::new(unknown));
        }
        true
    }

    /// While draining: whether hosts leave the device alone. Until that is known there is work, so that the reactor does not go to sleep over it.
    fn note_commands(&mut self, state: &State, log: &Log) -> usize {
        if state.catalog.working_set_target.is_none() {
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

    /// Appends what was read, as far as pace and room allow. How many copies, and whether some are left.
    fn append(&mut self, state: &mut State, log: &mut Log) -> (usize, bool) {
        let mut done = 0;
        loop {
            let next = self.retry.take().or_else(|| match &mut self.work {
                Work::Appending(batch) => batch.next(),
                _ => None,
            });
            let Some((source, data)) = next else { return (done, false) };
            let Some(volume) = state.owner_of(source.image, source.block, source.mapping()) else { continue };
            if done == self.per_turn {
                self.retry = Some((source, data));
                return (done, true);
            }
            let class = class_of(state, log, log.geometry().sequence_of(source.lsn));
            match log.reserve(class, 1, 1, false) {
                Ok(()) => {}
                // Something older has come back to life, by a clone, and must go first: the room is kept for that.
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
            let copied = source.copied(data, state.is_uncertain(volume, source.lsn), state.zero_block());
            if copied.bad && !source.bad {
                self.bad_blocks += 1;
                log.note_problem(
                    log.geometry().sequence_of(source.lsn),
                    "live blocks of it could not be had; they read as errors until they are written again. The device may be failing: replace it soon"
                        .to_owned(),
                );
            }
            let (block, bad) = (BlockNumber(source.block), copied.bad);
            let lsn = log.append_copied(source.image, block, copied.data, copied.crc, source.origin, bad);
            state.move_block(volume, source.block, Mapping::new(lsn, copied.crc));
            log.note_dead(source.lsn);
            log.note_live(lsn);
            self.pace.copied += 1;
            self.copied += 1;
            done += 1;
        }
    }

    /// Appends the victim's masks to the current segment. How many, and whether some are left.
    fn carry_masks(&mut self, state: &State, victim: SegmentSeq, log: &mut Log) -> (usize, bool) {
        let class = class_of(state, log, victim);
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
    fn next_batch(&mut self, state: &State, log: &Log) -> Vec<Source> {
        let wanted = (self.allowed(state, log) as usize).clamp(1, BATCH_BLOCKS);
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
            for owner in state.owners_of(entry.image(), entry.block().0, mapping) {
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
    fn allowed(&mut self, state: &State, log: &Log) -> u64 {
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
        let draining = state.catalog.working_set_target.map_or(0, |target| log.leaving_blocks(target));
        if draining > 0 && self.is_idle {
            return draining;
        }
        let drained = (copied + draining).min(self.pace.drained_at_most);
        let planned = self.pace.planned.max((copied + must).min(room)).max(drained);
        // Hosts get the rest of the segment; the last tenth of it is the margin in which copies catch up.
        let hosts_room = (room - planned) as f64 * 0.9 + 1.0;
        let hosts_used = used.saturating_sub(copied + copied / 168);
        let share = (hosts_used as f64 / hosts_room + 0.02).min(1.0);
        // A command that does not fit into the rest of the segment waits for the next one: nothing is gained by waiting for hosts.
        let share = if log.why_busy().waits_for_copies() { 1.0 } else { share };
        ((planned as f64 * share).ceil() as u64).saturating_sub(copied)
    }
}

/// On whose behalf a block of a segment is copied.
fn class_of(state: &State, log: &Log, sequence: SegmentSeq) -> AppendClass {
    let drains = |target| log.leaves(sequence, target);
    if log.must_leave(sequence) {
        AppendClass::Copy
    } else if state.catalog.working_set_target.is_some_and(drains) {
        AppendClass::Drain
    } else {
        AppendClass::CopyAhead
    }
}

/// The share of the blocks appended that copies must have, from now on, so that every segment ahead is empty when it leaves: the greatest average of what is live over all stretches of
/// segments that begin with the oldest. 0 while no stretch holds much more than the working set does on average.
fn share_ahead(log: &Log) -> f64 {
    let Some(current) = log.current_sequence() else { return 0.0 };
    let geometry = log.geometry();
    let room = geometry.record_blocks() as f64;
    let (mut sum, mut share) = (0.0, 0.0_f64);
    for (sequence, segment) in log.table().iter().take_while(|&(sequence, _)| sequence < current) {
        sum += segment.live as f64;
        // So many segments are still opened before this one must be empty, also when those before it are gone already: what was copied early has gained time.
        let ahead = (sequence.0 + geometry.working_set).saturating_sub(current.0);
        // What must leave now is what `must` takes care of.
        if ahead > 0 {
            share = share.max(sum / ((ahead + 1) as f64 * room));
        }
    }
    let average = sum / (geometry.working_set as f64 * room);
    if share > average * AHEAD_FROM { share } else { 0.0 }
}

/// A segment's masks, those that meet joined; without those of volumes that are gone. Never more than room was kept for: what a restart found to be hidden by newer ones is not among them.
fn join_masks(state: &State, masks: &[Mask]) -> Vec<(ImageId, u64, u64)> {
    let mut hidden: BTreeMap<u32, RangeSet> = BTreeMap::new();
    for mask in masks.iter().filter(|mask| state.inherits(mask.image)) {
        let (start, end) = (mask.block.0, mask.block.0.saturating_add(mask.len_blocks));
        hidden.entry(mask.image.0).or_default().insert(start, end);
    }
    let ranges = hidden.iter().flat_map(|(&image, ranges)| {
        ranges.iter().map(move |(start, end)| (ImageId(image), start, end - start))
    });
    ranges.collect()
}
