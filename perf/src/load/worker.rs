//! One thread of a load: keeps its connections busy, and times every command.
//!
//! **Phases:** the load; the drain, in which the commands in flight complete and an open load sends
//! what was meant to start before the end; with verification, the read-back of every place that was
//! written. The thread never sleeps, so what is timed is the loaded target alone.

use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use smallvec::SmallVec;

use super::aim::{Aim, Choice, Kind};
use super::pace::Pace;
use super::payload::Payload;
use super::port::{Command, Data, Done, Port};
use super::tally::{Interval, Recorders};
use super::verify::{Model, Ticket, content, stamp};
use crate::error::PerfError;
use crate::rng::Rng;

/// How long a poll spins on the only connection while it is idle.
const SPIN: Duration = Duration::from_millis(5);
/// How long commands may take after the end of the load.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// A thread ends early after this many failed commands.
const FAILURES_MAX: u64 = 1000;

/// Time since the start of the load.
pub(super) trait Clock {
    fn now(&self) -> Duration;
}

impl Clock for Instant {
    fn now(&self) -> Duration {
        self.elapsed()
    }
}

/// What a thread must do. Places and parts are counted in commands.
pub(super) struct Orders<'a> {
    pub(super) choice: Choice,
    pub(super) block_bytes: u32,
    pub(super) queue_depth: u16,
    pub(super) duration: Duration,
    pub(super) interval: Duration,
    pub(super) bytes_max: u64,
    pub(super) pace: Option<Pace>,
    pub(super) seed: u64,
    pub(super) payload: &'a Payload,
    /// The run's number, if it is verified.
    pub(super) run: Option<u64>,
}

/// A connection, and the part of its volume that it works on.
pub(super) struct Seat<P> {
    pub(super) port: P,
    pub(super) volume: usize,
    /// Bytes of a block of the volume.
    pub(super) volume_block_bytes: u32,
    pub(super) part: Range<u64>,
    /// The range that all seats of this thread on the volume may use.
    pub(super) verified: Range<u64>,
}

/// The result of a thread, without its intervals.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// From the start to the last completion of the load.
    pub(super) elapsed: Duration,
    /// Commands of an open load that were never sent.
    pub(super) unsent: u64,
    pub(super) failures: u64,
    pub(super) first_failure: Option<String>,
    pub(super) checked_blocks: u64,
    pub(super) violations: u64,
    pub(super) first_violation: Option<String>,
}

#[derive(Default)]
struct InFlight {
    due: Duration,
    kind: Option<Kind>,
    place: u64,
    sequence: u64,
    ticket: Option<Ticket>,
    /// Whether it belongs to the read-back, which is in no histogram.
    reads_back: bool,
}

struct Lane<P> {
    port: P,
    aim: Aim,
    volume: usize,
    command_blocks: u64,
    model: usize,
    in_flight: Vec<InFlight>,
    free: Vec<u32>,
    /// A command for which the port had no room.
    put_back: Option<(Kind, u64)>,
}

pub(super) struct Worker<'a, P, C> {
    orders: Orders<'a>,
    clock: C,
    lanes: Vec<Lane<P>>,
    /// For each volume that this thread verifies: its number, and what may be read.
    models: Vec<(usize, Model)>,
    rng: Rng,
    stamped: Vec<u8>,
    bytes_left: u64,
    recorders: Recorders,
    reported_failures: u64,
    outcome: Outcome,
}

impl<'a, P: Port, C: Clock> Worker<'a, P, C> {
    pub(super) fn new(orders: Orders<'a>, seats: Vec<Seat<P>>, clock: C) -> Self {
        let mut models: Vec<(usize, Model)> = Vec::new();
        let mut lanes = Vec::new();
        for seat in seats {
            let known = models.iter().position(|&(volume, _)| volume == seat.volume);
            let model = known.unwrap_or(models.len());
            if known.is_none() && orders.run.is_some() {
                let len = seat.verified.end - seat.verified.start;
                models.push((seat.volume, Model::new(seat.verified.start, len)));
            }
            let depth = u32::from(orders.queue_depth);
            lanes.push(Lane {
                port: seat.port,
                aim: Aim::new(orders.choice, seat.part),
                volume: seat.volume,
                command_blocks: u64::from(orders.block_bytes / seat.volume_block_bytes),
                model,
                in_flight: (0..depth).map(|_| InFlight::default()).collect(),
                free: (0..depth).collect(),
                put_back: None,
            });
        }
        Worker {
            rng: Rng::new(orders.seed),
            stamped: vec![0; orders.block_bytes as usize],
            bytes_left: orders.bytes_max,
            orders,
            clock,
            lanes,
            models,
            recorders: Recorders::default(),
            reported_failures: 0,
            outcome: Outcome::default(),
        }
    }

    /// Runs all phases; `report` receives each interval, the last of which is shorter.
    ///
    /// # Errors
    /// A connection is lost.
    pub(super) fn run(mut self, mut report: impl FnMut(Interval)) -> Result<Outcome, PerfError> {
        let spin = if self.lanes.len() == 1 && self.orders.pace.is_none() { SPIN } else { Duration::ZERO };
        let (duration, period) = (self.orders.duration, self.orders.interval.max(Duration::from_millis(1)));
        let (mut begun, mut index) = (Duration::ZERO, 0);
        let (mut idle_rounds, mut first) = (0, 0);
        loop {
            let now = self.clock.now();
            let is_late = now > duration + DRAIN_TIMEOUT;
            let submits = !is_late && self.has_more(now);
            let mut completed = 0;
            // Otherwise an open load at a low rate would use only the first connection.
            first = (first + 1) % self.lanes.len();
            for lane in (first..self.lanes.len()).chain(0..first) {
                if submits {
                    self.fill(lane, now)?;
                }
                completed += self.poll(lane, spin)?;
            }
            if is_late || (!submits && self.in_flight() == 0) {
                break;
            }
            rest(&mut idle_rounds, completed);
            // A delayed thread still ends every interval, because the intervals of all threads are
            // merged.
            while now >= begun + period {
                report(self.interval(index, begun, begun + period));
                begun += period;
                index += 1;
            }
        }
        let now = self.clock.now();
        report(self.interval(index, begun, now));
        self.outcome.elapsed = now;
        if let Some(pace) = &self.orders.pace
            && self.bytes_left > 0
        {
            self.outcome.unsent = pace.untaken(duration);
        }
        // Commands without an answer count as failed.
        let unanswered = self.in_flight() as u64;
        self.outcome.failures += unanswered;
        if unanswered == 0 && self.orders.run.is_some() {
            self.read_back()?;
        }
        Ok(self.outcome)
    }

    /// Whether there are commands left to submit.
    fn has_more(&self, now: Duration) -> bool {
        let duration = self.orders.duration;
        let in_time = match &self.orders.pace {
            None => now < duration,
            Some(pace) => pace.due() < duration,
        };
        in_time && self.bytes_left > 0 && self.outcome.failures < FAILURES_MAX
    }

    fn in_flight(&self) -> usize {
        self.lanes.iter().map(|lane| lane.port.in_flight()).sum()
    }

    fn interval(&mut self, index: u64, start: Duration, end: Duration) -> Interval {
        let failures = self.outcome.failures - self.reported_failures;
        self.reported_failures = self.outcome.failures;
        Interval { index, start, end, recorders: std::mem::take(&mut self.recorders), failures }
    }

    /// Submits until the lane is full, or no command is due.
    fn fill(&mut self, lane: usize, now: Duration) -> Result<(), PerfError> {
        while self.bytes_left > 0 && !self.lanes[lane].free.is_empty() {
            let due = match &self.orders.pace {
                None => self.clock.now(),
                Some(pace) if pace.due() <= now && pace.due() < self.orders.duration => pace.due(),
                Some(_) => break,
            };
            let Lane { aim, put_back, .. } = &mut self.lanes[lane];
            let (kind, place) = put_back.take().unwrap_or_else(|| aim.next_command(&mut self.rng));
            if !self.submit(lane, kind, place, due, false)? {
                self.lanes[lane].put_back = Some((kind, place));
                break;
            }
            if let Some(pace) = &mut self.orders.pace {
                pace.take();
            }
            self.bytes_left = self.bytes_left.saturating_sub(u64::from(self.orders.block_bytes));
        }
        Ok(())
    }

    /// Submits a command on a lane that has a free tag; `false` if the port has no room.
    fn submit(
        &mut self,
        lane: usize,
        kind: Kind,
        place: u64,
        due: Duration,
        reads_back: bool,
    ) -> Result<bool, PerfError> {
        let lane = &mut self.lanes[lane];
        let Some(&tag) = lane.free.last() else { return Ok(false) };
        let block = place * lane.command_blocks;
        let payload =
            if kind == Kind::Write { self.orders.payload.pick(&mut self.rng) } else { Bytes::new() };
        let mut data = Data::Shared(&payload);
        let mut command = InFlight { due, kind: Some(kind), place, reads_back, ..InFlight::default() };
        if let Some(run) = self.orders.run {
            let (volume, model) = &mut self.models[lane.model];
            match kind {
                Kind::Read => command.ticket = Some(model.begin_read(place)),
                Kind::Trim => command.sequence = model.submit(place, true),
                Kind::Write => {
                    command.sequence = model.submit(place, false);
                    self.stamped.copy_from_slice(&payload);
                    let block_bytes = self.stamped.len() / lane.command_blocks as usize;
                    for (bytes, block) in self.stamped.chunks_mut(block_bytes).zip(block..) {
                        stamp(bytes, run.wrapping_add(*volume as u64), block, command.sequence);
                    }
                    data = Data::Borrowed(&self.stamped);
                }
            }
        }
        let len_blocks = lane.command_blocks as u32;
        let taken = lane.port.submit(Command { tag, kind, block, len_blocks, data })?;
        if taken {
            lane.in_flight[tag as usize] = command;
            lane.free.pop();
        } else if let Some(ticket) = &command.ticket {
            // The read was not sent, so there is nothing to check.
            let _ = self.models[lane.model].1.end_read(ticket, std::iter::empty());
        } else if self.orders.run.is_some() {
            self.models[lane.model].1.withdraw(place, command.sequence);
        }
        Ok(taken)
    }

    fn poll(&mut self, lane: usize, spin: Duration) -> Result<usize, PerfError> {
        let Worker { lanes, models, clock, recorders, outcome, orders, .. } = self;
        let Lane { port, in_flight, free, volume, command_blocks, model, .. } = &mut lanes[lane];
        let mut now = None;
        port.poll(spin, &mut |done: Done<'_>| {
            // The clock is read once for all completions of one poll.
            let now = *now.get_or_insert_with(|| clock.now());
            let command = std::mem::take(&mut in_flight[done.tag as usize]);
            free.push(done.tag);
            let Some(kind) = command.kind else { return };
            match &done.result {
                Ok(_) if command.reads_back => {}
                Ok(_) => recorders.record(kind, now.saturating_sub(command.due)),
                Err(reason) => {
                    outcome.failures += 1;
                    outcome.first_failure.get_or_insert_with(|| format!("{}: {reason}", kind.name()));
                }
            }
            let Some(run) = orders.run else { return };
            let (_, model) = &mut models[*model];
            let first = command.place * *command_blocks;
            match (&command.ticket, &done.result) {
                (None, Ok(_)) => model.acknowledge(command.place, command.sequence),
                (None, Err(_)) => {}
                (Some(ticket), result) => {
                    let data = result.as_ref().map_or(&[][..], |data| data);
                    let block_bytes = orders.block_bytes as usize / *command_blocks as usize;
                    let run = run.wrapping_add(*volume as u64);
                    let contents: SmallVec<[_; 32]> = data
                        .chunks(block_bytes)
                        .zip(first..)
                        .map(|(bytes, block)| content(bytes, run, block))
                        .collect();
                    outcome.checked_blocks += contents.len() as u64;
                    if let Err((at, what)) = model.end_read(ticket, contents.into_iter()) {
                        outcome.violations += 1;
                        outcome
                            .first_violation
                            .get_or_insert_with(|| format!("block {} of volume {volume} {what}", first + at));
                    }
                }
            }
        })
    }

    /// Reads every changed place again.
    fn read_back(&mut self) -> Result<(), PerfError> {
        let mut idle_rounds = 0;
        loop {
            let mut completed = 0;
            let mut submitted = 0;
            for lane in 0..self.lanes.len() {
                while !self.lanes[lane].free.is_empty() && self.outcome.failures < FAILURES_MAX {
                    let back = self.lanes[lane].put_back.take().filter(|&(kind, _)| kind == Kind::Read);
                    let model = self.lanes[lane].model;
                    let place = back.map(|(_, place)| place).or_else(|| self.models[model].1.next_changed());
                    let Some(place) = place else { break };
                    if !self.submit(lane, Kind::Read, place, Duration::ZERO, true)? {
                        self.lanes[lane].put_back = Some((Kind::Read, place));
                        break;
                    }
                    submitted += 1;
                }
                completed += self.poll(lane, Duration::ZERO)?;
            }
            if submitted == 0 && self.in_flight() == 0 {
                return Ok(());
            }
            rest(&mut idle_rounds, completed);
        }
    }
}

/// If cores are shared, the loaded target may be waiting for this one.
fn rest(idle_rounds: &mut u32, completed: usize) {
    *idle_rounds = if completed == 0 { idle_rounds.saturating_add(1) } else { 0 };
    if *idle_rounds > 16 {
        std::thread::yield_now();
    }
}
