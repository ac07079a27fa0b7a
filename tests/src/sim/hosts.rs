//! Hosts that compete for one pool: each has its own queue, and one of them takes the data that it
//! has read slowly. After the faults have stopped, every command must end within a bounded number
//! of turns, even while bad sectors remain.
//!
//! The slow host holds the memory of its read data until it takes it. The order in which hosts
//! submit rotates, and a host whose command the pool does not accept submits it again in the next
//! turn, as a connection does.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use varve::dma::BLOCK_BYTES;
use varve::volume::{IoCompletion, IoError, Request, Sink, Submitted, VolumeError, VolumeId};

use super::damage::problems;
use super::model::{Change, Stamp, fill, is_filled};
use super::shortage;
use super::workload::{InFlight, Run};
use super::world::{finish_command, note_turns, story, turn, wait};

/// The maximum number of turns for a command of a host that takes its answers.
const COMMAND_TURNS_MAX: u64 = 50_000;
/// The slow host takes one answer in this many turns.
const SLOW_TURNS: u64 = 40;
/// Blocks of a read of the slow host.
const SLOW_READ_BLOCKS: u64 = 64;
/// Blocks of memory that the hosts share when memory is short.
const SHORT_BLOCKS: usize = 2048;

enum Kind {
    Write { block: u64, stamps: Vec<Stamp>, force_unit_access: bool },
    Trim { block: u64, len_blocks: u64 },
    Read { block: u64, len_blocks: u64 },
    Flush,
}

/// A command that waits to be accepted, or was accepted.
struct Asked {
    kind: Kind,
    tag: u64,
    since: u64,
    /// What a read must return.
    expected: Vec<Stamp>,
}

struct Host {
    sink: Rc<Sink>,
    place: usize,
    id: VolumeId,
    size_blocks: u64,
    depth: usize,
    slow: bool,
    left: u64,
    next: Option<Asked>,
    asked: HashMap<u64, Asked>,
    arrived: VecDeque<IoCompletion>,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kind::Write { block, stamps, force_unit_access } => {
                write!(f, "a write of {block}+{}, FUA {force_unit_access}", stamps.len())
            }
            Kind::Trim { block, len_blocks } => write!(f, "a trim of {block}+{len_blocks}"),
            Kind::Read { block, len_blocks } => write!(f, "a read of {block}+{len_blocks}"),
            Kind::Flush => write!(f, "a flush"),
        }
    }
}

/// The present content of each volume, by its place in the model.
type Present = HashMap<usize, HashMap<u64, Stamp>>;

impl Run {
    /// Runs several hosts with `commands` commands each, and then one of each management operation.
    ///
    /// # Panics
    /// When a command does not end in time, or a guarantee is violated.
    pub fn compete(&mut self, commands: u64, short_of_memory: bool) {
        self.settle();
        let live = self.writable();
        if live.is_empty() {
            return;
        }
        let mut present = Present::new();
        for &(place, ..) in &live {
            let state = self.model.state_at(place, u64::MAX).expect("it is alive");
            present.insert(place, state.blocks);
        }
        let mut hosts: Vec<Host> = (0..4)
            .map(|number| {
                let (place, id, size_blocks) = live[number % live.len()];
                let slow = number == 3;
                Host {
                    sink: Sink::new(),
                    place,
                    id,
                    size_blocks,
                    depth: if slow { 32 } else { [1, 4, 16][number] },
                    slow,
                    left: if slow { commands / 4 } else { commands },
                    next: None,
                    asked: HashMap::new(),
                    arrived: VecDeque::new(),
                }
            })
            .collect();
        if short_of_memory {
            shortage::begin(&self.world.environment.dma, SHORT_BLOCKS, u64::MAX);
        }
        let mut now = 0;
        while hosts.iter().any(|host| host.left > 0 || host.next.is_some() || !host.asked.is_empty()) {
            now += 1;
            for number in 0..hosts.len() as u64 {
                let index = ((number + now) % hosts.len() as u64) as usize;
                self.ask(&mut hosts[index], &mut present, now);
            }
            self.world.clock.advance(1000);
            turn(&self.pool);
            for host in &mut hosts {
                self.take(host, now);
            }
        }
        shortage::end();
        self.trouble.counts.competitions.injected += 1;
        self.manage_once();
    }

    /// Lets a host submit as many commands as its queue holds.
    fn ask(&mut self, host: &mut Host, present: &mut Present, now: u64) {
        while host.asked.len() < host.depth {
            let asked = match host.next.take() {
                Some(asked) => asked,
                None if host.left == 0 => return,
                None => {
                    host.left -= 1;
                    self.choose(host, now)
                }
            };
            if let Some(asked) = self.try_ask(host, asked, present) {
                assert!(
                    now - asked.since < COMMAND_TURNS_MAX,
                    "seed {}: {} of a host waits for {} turns: {}",
                    self.seed,
                    asked.kind,
                    now - asked.since,
                    story(&self.pool)
                );
                host.next = Some(asked);
                return;
            }
        }
    }

    fn choose(&mut self, host: &Host, now: u64) -> Asked {
        let tag = self.next_tag;
        self.next_tag += 1;
        let rng = &mut self.rng;
        let mut place = |len_max: u64| {
            let len_blocks = (1 + rng.below(len_max)).min(host.size_blocks);
            (rng.below(host.size_blocks - len_blocks + 1), len_blocks)
        };
        let kind = if host.slow {
            let (block, len_blocks) = place(SLOW_READ_BLOCKS);
            Kind::Read { block, len_blocks }
        } else {
            let (block, len_blocks) = place(16);
            match self.rng.below(20) {
                0..10 => {
                    let stamps = (1..=len_blocks).map(|index| self.model.next_stamp + index).collect();
                    self.model.next_stamp += len_blocks;
                    Kind::Write { block, stamps, force_unit_access: self.rng.one_in(8) }
                }
                10..12 => Kind::Trim { block, len_blocks },
                12..19 => Kind::Read { block, len_blocks },
                _ => Kind::Flush,
            }
        };
        Asked { kind, tag, since: now, expected: Vec::new() }
    }

    /// Submits a command to the pool; returns it when the pool is busy.
    fn try_ask(&mut self, host: &mut Host, mut asked: Asked, present: &mut Present) -> Option<Asked> {
        let before = self.head();
        let taken = match &asked.kind {
            Kind::Write { block, stamps, force_unit_access } => {
                let mut bytes = vec![0; stamps.len() * BLOCK_BYTES];
                for (at, (chunk, &stamp)) in (*block..).zip(bytes.chunks_exact_mut(BLOCK_BYTES).zip(stamps)) {
                    fill(stamp, at, chunk);
                }
                let request =
                    Request::Write { block: *block, data: &[&bytes], force_unit_access: *force_unit_access };
                self.pool.submit(host.id, &request, asked.tag, &host.sink)
            }
            Kind::Trim { block, len_blocks } => {
                let request = Request::Trim { ranges: &[(*block, *len_blocks)] };
                self.pool.submit(host.id, &request, asked.tag, &host.sink)
            }
            Kind::Read { block, len_blocks } => {
                let request = Request::Read { block: *block, len_blocks: *len_blocks as u32 };
                self.pool.submit(host.id, &request, asked.tag, &host.sink)
            }
            Kind::Flush => self.pool.submit(host.id, &Request::Flush, asked.tag, &host.sink),
        };
        if taken == Submitted::Busy {
            return Some(asked);
        }
        finish_command(&self.pool);
        self.note_taken(host, &mut asked, before, present);
        host.asked.insert(asked.tag, asked);
        None
    }

    /// Records an accepted command in the model.
    fn note_taken(&mut self, host: &mut Host, asked: &mut Asked, before: u64, present: &mut Present) {
        let blocks = present.get_mut(&host.place).expect("it is alive");
        if let Kind::Read { block, len_blocks } = asked.kind {
            asked.expected =
                (block..block + len_blocks).map(|at| blocks.get(&at).copied().unwrap_or(0)).collect();
            return;
        }
        if let Kind::Flush = asked.kind {
            self.in_flight.insert(asked.tag, InFlight::Flush(self.head()));
            return;
        }
        host.arrived.extend(std::iter::from_fn(|| host.sink.pop()));
        let is_full =
            |result: &Result<(), IoError>| matches!(result, Err(IoError::CapacityExceeded | IoError::NoRoom));
        if host.arrived.iter().any(|arrived| arrived.tag == asked.tag && is_full(&arrived.result)) {
            return;
        }
        assert!(self.head() > before, "seed {}: a command moves the head", self.seed);
        let step = InFlight::Step(self.model.steps.len() as u64);
        match &asked.kind {
            Kind::Write { block, stamps, force_unit_access } => {
                blocks.extend((*block..).zip(stamps.iter().copied()));
                let change = Change::Write { volume: host.place, block: *block, stamps: stamps.clone() };
                self.push(change);
                let flush = InFlight::Flush(self.head());
                self.in_flight.insert(asked.tag, if *force_unit_access { flush } else { step });
            }
            Kind::Trim { block, len_blocks } => {
                let range = *block..*block + *len_blocks;
                blocks.retain(|at, _| !range.contains(at));
                self.push(Change::Trim { volume: host.place, ranges: vec![(*block, *len_blocks)] });
                self.in_flight.insert(asked.tag, step);
            }
            Kind::Read { .. } | Kind::Flush => {}
        }
    }

    /// Lets a host take its answers.
    fn take(&mut self, host: &mut Host, now: u64) {
        if !host.slow {
            host.arrived.extend(std::iter::from_fn(|| host.sink.pop()));
        } else if now.is_multiple_of(SLOW_TURNS) {
            host.arrived.extend(host.sink.pop());
        }
        while let Some(arrived) = host.arrived.pop_front() {
            let asked = host.asked.remove(&arrived.tag).expect("each command ends once");
            self.trouble.counts.competitions.hit += 1;
            if let Kind::Read { block, .. } = asked.kind {
                self.check_answer(block, &asked.expected, &arrived);
            } else {
                self.ended(arrived.tag, arrived.result);
            }
            if !host.slow {
                note_turns(now - asked.since);
            }
        }
        let is_late = |asked: &&Asked| !host.slow && now - asked.since >= COMMAND_TURNS_MAX;
        if let Some(late) = host.asked.values().find(is_late) {
            panic!("seed {}: {} does not end: {}", self.seed, late.kind, story(&self.pool));
        }
    }

    fn check_answer(&self, block: u64, expected: &[Stamp], answer: &IoCompletion) {
        let excused = &self.trouble.excused;
        if answer.result == Err(IoError::ReadFault)
            && (block..).zip(expected).any(|(at, &stamp)| excused.allows(at, stamp))
        {
            assert!(!problems(&self.pool).is_empty(), "seed {}: nobody was told of {block}", self.seed);
            return;
        }
        assert_eq!(answer.result, Ok(()), "seed {}: a read failed: {:?}", self.seed, problems(&self.pool));
        let blocks = answer.data.iter().flat_map(|piece| piece.chunks_exact(BLOCK_BYTES));
        let mut count = 0;
        for ((at, &stamp), bytes) in (block..).zip(expected).zip(blocks) {
            assert!(is_filled(stamp, at, bytes), "seed {}: block {at} is not stamp {stamp}", self.seed);
            count += 1;
        }
        assert_eq!(count, expected.len(), "seed {}: a read is as long as asked", self.seed);
    }

    /// Runs one of each management operation; each must end.
    fn manage_once(&mut self) {
        if self.world.options.recycling == varve::log::Recycling::Discard {
            return;
        }
        self.synch();
        self.snapshot();
        if self.pool.has_archive() {
            match wait(&self.pool, Rc::clone(&self.pool).seal_archive()) {
                Ok(_) | Err(VolumeError::Busy { .. }) => {}
                Err(error) => panic!("seed {}: {error}", self.seed),
            }
        }
        self.check_points(1);
        self.reap();
    }
}
