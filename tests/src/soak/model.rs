//! The content that each block may have, after overlapping commands took effect in any order, and
//! after a crash.
//!
//! Time is a counter; a command's sequence is the time of its submission. A version of a block is
//! excluded after a write or trim is acknowledged that was submitted after that version's
//! acknowledgement. A read may return any of the remaining versions.
//!
//! A crash leaves commands without an answer. Each took effect completely or not at all. If one of
//! its blocks shows it, it took effect, and then it counts as acknowledged for its other blocks
//! too.

use std::collections::HashMap;

use smallvec::{SmallVec, smallvec};

use super::stamp::Content;

/// The time of acknowledgement of a command that has none.
const NEVER: u64 = u64::MAX;

/// A violation of the guarantee.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("block {block} holds {found:?}, where only {allowed} may be; {when}")]
pub struct Violation {
    /// The block.
    pub block: u64,
    /// What it holds.
    pub found: Content,
    /// What it may hold.
    pub allowed: String,
    /// When it was found.
    pub when: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    sequence: u64,
    acknowledged: u64,
    zero: bool,
}

impl Version {
    fn shows(&self, content: Content) -> bool {
        match content {
            Content::Zero => self.zero,
            Content::Written(sequence) => !self.zero && self.sequence == sequence,
            Content::Bad(_) => false,
        }
    }
}

type Versions = SmallVec<[Version; 2]>;

#[derive(Debug, Clone, Copy)]
struct InFlight {
    first: u64,
    len_blocks: u64,
}

/// The commands that a crash left without an answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settled {
    /// They took effect.
    pub applied: u64,
    /// No block shows them: they did not take effect, or others overwrote them.
    pub unseen: u64,
}

/// What a submitted read may return.
#[derive(Debug)]
pub struct ReadTicket {
    started: u64,
    first: u64,
    allowed: Vec<Versions>,
}

impl ReadTicket {
    /// The block number of the read's block `index`.
    pub fn block(&self, index: usize) -> u64 {
        self.first + index as u64
    }
}

/// All blocks of the volume, each zero at first. Memory: about 80 bytes per block.
#[derive(Debug)]
pub struct Model {
    clock: u64,
    blocks: Vec<Versions>,
    /// The last zeroing command submitted to each block.
    last_zero: Vec<u64>,
    in_flight: HashMap<u64, InFlight>,
}

impl Model {
    /// A new volume.
    pub fn new(len_blocks: u64) -> Self {
        let zero = Version { sequence: 0, acknowledged: 0, zero: true };
        Model {
            clock: 0,
            blocks: vec![smallvec![zero]; len_blocks as usize],
            last_zero: vec![0; len_blocks as usize],
            in_flight: HashMap::new(),
        }
    }

    /// Blocks of the volume.
    pub fn len_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Records the submission of a write, or with `zero` of a trim. Returns its sequence.
    pub fn submit(&mut self, first: u64, len_blocks: u64, zero: bool) -> u64 {
        let sequence = self.tick();
        for block in first..first + len_blocks {
            self.blocks[block as usize].push(Version { sequence, acknowledged: NEVER, zero });
            if zero {
                self.last_zero[block as usize] = sequence;
            }
        }
        self.in_flight.insert(sequence, InFlight { first, len_blocks });
        sequence
    }

    /// Records the acknowledgement of a command.
    pub fn acknowledge(&mut self, sequence: u64) {
        let now = self.tick();
        if let Some(command) = self.in_flight.remove(&sequence) {
            self.take_effect(sequence, command, now);
        }
    }

    fn take_effect(&mut self, sequence: u64, command: InFlight, now: u64) {
        for block in command.first..command.first + command.len_blocks {
            let versions = &mut self.blocks[block as usize];
            for version in versions.iter_mut().filter(|version| version.sequence == sequence) {
                version.acknowledged = now;
            }
            versions.retain(|version| version.acknowledged >= sequence);
        }
    }

    /// Records the submission of a read.
    pub fn begin_read(&mut self, first: u64, len_blocks: u64) -> ReadTicket {
        let range = first as usize..(first + len_blocks) as usize;
        ReadTicket { started: self.tick(), first, allowed: self.blocks[range].to_vec() }
    }

    /// Checks the content that a read returned in its block `index`.
    ///
    /// # Errors
    /// A content that it must not have.
    pub fn check_read(&self, ticket: &ReadTicket, index: usize, found: Content) -> Result<(), Violation> {
        let block = ticket.block(index);
        let allowed = &ticket.allowed[index];
        let since = match found {
            Content::Written(sequence) => sequence > ticket.started && sequence <= self.clock,
            Content::Zero => self.last_zero[block as usize] > ticket.started,
            Content::Bad(_) => false,
        };
        if since || allowed.iter().any(|version| version.shows(found)) {
            return Ok(());
        }
        Err(violation(block, found, allowed, "a read under load"))
    }

    /// After a crash and restart: `found` is the content of every block. It settles the commands in
    /// flight, and is what the blocks hold from then on.
    ///
    /// # Errors
    /// The first block with a content that it must not have: an acknowledged write is lost, a
    /// command took effect in part, or worse.
    pub fn settle(&mut self, found: &[Content], when: &'static str) -> Result<Settled, Violation> {
        let now = self.tick();
        let mut settled = Settled::default();
        for (sequence, command) in std::mem::take(&mut self.in_flight) {
            let range = command.first..command.first + command.len_blocks;
            let seen = range.into_iter().any(|block| {
                let content = found[block as usize];
                // All zeroes look the same: only where exactly one command explains a zero is it
                // known which one it was.
                let mut ways = self.blocks[block as usize].iter().filter(|version| version.shows(content));
                matches!((ways.next(), ways.next()), (Some(way), None) if way.sequence == sequence)
            });
            if seen {
                settled.applied += 1;
                self.take_effect(sequence, command, now);
            } else {
                settled.unseen += 1;
            }
        }
        for (block, (versions, &content)) in self.blocks.iter_mut().zip(found).enumerate() {
            let Some(version) = versions.iter().rev().find(|version| version.shows(content)).copied() else {
                return Err(violation(block as u64, content, versions, when));
            };
            *versions = smallvec![Version { acknowledged: now, ..version }];
        }
        Ok(settled)
    }
}

fn violation(block: u64, found: Content, allowed: &Versions, when: &'static str) -> Violation {
    let names: Vec<String> = allowed
        .iter()
        .map(|version| {
            let what = if version.zero { "zeroes of" } else { "write" };
            let state = if version.acknowledged == NEVER { " (not acknowledged)" } else { "" };
            format!("{what} {}{state}", version.sequence)
        })
        .collect();
    Violation { block, found, allowed: names.join(" or "), when }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: Content = Content::Zero;

    fn written(sequence: u64) -> Content {
        Content::Written(sequence)
    }

    #[test]
    fn an_acknowledged_write_must_be_there() {
        let mut model = Model::new(2);
        let write = model.submit(0, 1, false);
        model.acknowledge(write);
        assert!(model.settle(&[ZERO, ZERO], "").is_err());
        let mut model = Model::new(2);
        let write = model.submit(0, 1, false);
        model.acknowledge(write);
        assert_eq!(model.settle(&[written(write), ZERO], ""), Ok(Settled::default()));
    }

    #[test]
    fn a_write_without_an_answer_may_be_there_or_not_but_stays_as_found() {
        for applied in [false, true] {
            let mut model = Model::new(1);
            let write = model.submit(0, 1, false);
            let content = if applied { written(write) } else { ZERO };
            assert_eq!(model.settle(&[content], "").unwrap().applied, u64::from(applied));
            assert_eq!(model.settle(&[content], ""), Ok(Settled::default()));
            let other = if applied { ZERO } else { written(write) };
            assert!(model.settle(&[other], "").is_err());
        }
    }

    #[test]
    fn a_torn_command_is_found() {
        let mut model = Model::new(3);
        let write = model.submit(0, 3, false);
        assert!(model.settle(&[written(write), ZERO, written(write)], "").is_err());
        let mut model = Model::new(3);
        let old = model.submit(0, 3, false);
        model.acknowledge(old);
        let trim = model.submit(0, 3, true);
        assert!(trim > old);
        assert!(model.settle(&[ZERO, written(old), ZERO], "").is_err());
    }

    #[test]
    fn overlapping_commands_may_take_effect_in_any_order() {
        let mut model = Model::new(2);
        let one = model.submit(0, 2, false);
        let two = model.submit(1, 1, false);
        model.acknowledge(two);
        model.acknowledge(one);
        for last in [one, two] {
            let found = [written(one), written(last)];
            assert!(
                Model {
                    clock: model.clock,
                    blocks: model.blocks.clone(),
                    last_zero: vec![0; 2],
                    in_flight: HashMap::new()
                }
                .settle(&found, "")
                .is_ok()
            );
        }
        // A command that was submitted after both were answered supersedes both.
        let three = model.submit(1, 1, false);
        model.acknowledge(three);
        assert!(model.settle(&[written(one), written(two)], "").is_err());
    }

    #[test]
    fn reads_see_what_was_there_or_what_came_since() {
        let mut model = Model::new(1);
        let old = model.submit(0, 1, false);
        model.acknowledge(old);
        let ticket = model.begin_read(0, 1);
        let new = model.submit(0, 1, false);
        model.acknowledge(new);
        for content in [written(old), written(new)] {
            assert_eq!(model.check_read(&ticket, 0, content), Ok(()));
        }
        assert!(model.check_read(&ticket, 0, ZERO).is_err());
        let ticket = model.begin_read(0, 1);
        assert!(model.check_read(&ticket, 0, written(old)).is_err());
        assert!(model.check_read(&ticket, 0, Content::Bad("x")).is_err());
        model.submit(0, 1, true);
        assert_eq!(model.check_read(&ticket, 0, ZERO), Ok(()));
    }
}
