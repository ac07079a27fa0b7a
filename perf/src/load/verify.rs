//! Verification: every written block carries a stamp, and a read must return the last acknowledged
//! write or one in flight.
//!
//! A block holds (little endian):
//!
//! | bytes      | what                                               |
//! |------------|----------------------------------------------------|
//! | 0-7        | magic                                              |
//! | 8-15       | the run and its volume, so that no other run's data passes |
//! | 16-23      | block number                                       |
//! | 24-31      | sequence of the command that wrote it              |
//! | to the end | payload, and in the last 4 bytes the CRC32C of all before |
//!
//! All commands have the same size and are aligned to it. So what may be read is known per place:
//! the blocks of one command together. Time is a counter; a command's sequence is the time of its
//! submission. A version can no longer be read once a write or trim that was submitted after that
//! version's acknowledgement is itself acknowledged. What a place held before the run is not known
//! and may be anything but a stamp of this run.
//!
//! **Cost:** 8 bytes for each place, and about 150 bytes for each place with commands in flight.

use std::collections::HashMap;

use smallvec::{SmallVec, smallvec};
use varve::log::checksum::crc32c;

const MAGIC: u64 = 0x706d_6174_7365_7676;
const HEAD_BYTES: usize = 32;
const CRC_BYTES: usize = 4;
/// The acknowledgement time of a command that is not acknowledged.
const NEVER: u64 = u64::MAX;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Nothing but zeroes.
    Zero,
    /// The write with this sequence.
    Written(u64),
    /// Something that this run did not write.
    Foreign,
    /// Something that this run wrote, damaged or in the wrong place; says what is wrong.
    Bad(&'static str),
}

/// Writes the stamp of one block; the bytes between header and checksum stay.
pub fn stamp(into: &mut [u8], run: u64, block: u64, sequence: u64) {
    for (field, value) in into.chunks_exact_mut(8).zip([MAGIC, run, block, sequence]) {
        field.copy_from_slice(&value.to_le_bytes());
    }
    let crc_at = into.len() - CRC_BYTES;
    let crc = crc32c(&into[..crc_at]);
    into[crc_at..].copy_from_slice(&crc.to_le_bytes());
}

/// What a block that was read as block number `block` holds.
pub fn content(bytes: &[u8], run: u64, block: u64) -> Content {
    let field = |at: usize| {
        bytes.get(at * 8..at * 8 + 8).and_then(|field| field.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    if bytes.iter().all(|&byte| byte == 0) {
        return Content::Zero;
    }
    if bytes.len() < HEAD_BYTES + CRC_BYTES || field(0) != MAGIC || field(1) != run {
        return Content::Foreign;
    }
    let (covered, crc) = bytes.split_at(bytes.len() - CRC_BYTES);
    if crc32c(covered).to_le_bytes() != crc {
        return Content::Bad("a stamp of this run with a wrong checksum");
    }
    if field(2) != block {
        return Content::Bad("the stamp of another block");
    }
    Content::Written(field(3))
}

/// What a read of one version of a place returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// Whatever the place held before the run.
    Before,
    Zero,
    Written,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    sequence: u64,
    acknowledged: u64,
    shows: Shows,
}

impl Version {
    fn allows(&self, content: Content) -> bool {
        match content {
            Content::Zero => self.shows != Shows::Written,
            Content::Written(sequence) => self.shows == Shows::Written && self.sequence == sequence,
            Content::Foreign => self.shows == Shows::Before,
            Content::Bad(_) => false,
        }
    }
}

type Versions = SmallVec<[Version; 2]>;

/// A place with commands in flight, or with more than one version.
#[derive(Debug)]
struct Open {
    versions: Versions,
    reads: u32,
    last_zero: u64,
}

/// What a submitted read may return.
#[derive(Debug)]
pub struct Ticket {
    place: u64,
    started: u64,
    allowed: Versions,
}

/// What may be read, for one volume or a part of it.
#[derive(Debug)]
pub struct Model {
    clock: u64,
    first: u64,
    /// For each place its only version, as `sequence << 1 | zero`; 0: what it held before the run.
    settled: Vec<u64>,
    open: HashMap<u64, Open>,
    next_check: u64,
}

impl Model {
    /// `len` places from `first` on, whose contents are unknown.
    pub fn new(first: u64, len: u64) -> Self {
        Model { clock: 0, first, settled: vec![0; len as usize], open: HashMap::new(), next_check: 0 }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn settled_version(&self, place: u64) -> Version {
        let value = self.settled[(place - self.first) as usize];
        let shows = match (value, value & 1) {
            (0, _) => Shows::Before,
            (_, 1) => Shows::Zero,
            _ => Shows::Written,
        };
        Version { sequence: value >> 1, acknowledged: value >> 1, shows }
    }

    fn open(&mut self, place: u64) -> &mut Open {
        let settled = self.settled_version(place);
        self.open.entry(place).or_insert_with(|| Open {
            versions: smallvec![settled],
            reads: 0,
            last_zero: 0,
        })
    }

    fn close(&mut self, place: u64) {
        let Some(open) = self.open.get(&place) else { return };
        if let [version] = open.versions[..]
            && open.reads == 0
            && version.acknowledged != NEVER
        {
            self.settled[(place - self.first) as usize] = match version.shows {
                Shows::Before => 0,
                Shows::Zero => version.sequence << 1 | 1,
                Shows::Written => version.sequence << 1,
            };
            self.open.remove(&place);
        }
    }

    /// Notes that a write, or with `zero` a trim, is being submitted. Returns its sequence.
    pub fn submit(&mut self, place: u64, zero: bool) -> u64 {
        let sequence = self.tick();
        let open = self.open(place);
        let shows = if zero { Shows::Zero } else { Shows::Written };
        open.versions.push(Version { sequence, acknowledged: NEVER, shows });
        if zero {
            open.last_zero = sequence;
        }
        sequence
    }

    /// Notes that the command was not sent.
    pub fn withdraw(&mut self, place: u64, sequence: u64) {
        self.open(place).versions.retain(|version| version.sequence != sequence);
        self.close(place);
    }

    /// Notes that the command was acknowledged. A failed command is never acknowledged: it may have
    /// taken effect or not.
    pub fn acknowledge(&mut self, place: u64, sequence: u64) {
        let now = self.tick();
        let versions = &mut self.open(place).versions;
        for version in versions.iter_mut().filter(|version| version.sequence == sequence) {
            version.acknowledged = now;
        }
        versions.retain(|version| version.acknowledged >= sequence);
        // A settled place keeps only the sequence, which is before the acknowledgement: later
        // commands supersede it in any case.
        self.close(place);
    }

    /// Notes that a read is being submitted.
    pub fn begin_read(&mut self, place: u64) -> Ticket {
        let started = self.tick();
        let open = self.open(place);
        open.reads += 1;
        Ticket { place, started, allowed: open.versions.clone() }
    }

    /// Checks what a read returned, after it ended well or not.
    ///
    /// # Errors
    /// The number of the first wrong block within the command, and what is wrong, in words.
    pub fn end_read(
        &mut self,
        ticket: &Ticket,
        contents: impl Iterator<Item = Content>,
    ) -> Result<(), (u64, String)> {
        let clock = self.clock;
        let open = self.open(ticket.place);
        open.reads -= 1;
        let wrong = contents.zip(0..).find(|&(found, _)| {
            let since = match found {
                Content::Written(sequence) => sequence > ticket.started && sequence <= clock,
                Content::Zero => open.last_zero > ticket.started,
                Content::Foreign | Content::Bad(_) => false,
            };
            !since && !ticket.allowed.iter().any(|version| version.allows(found))
        });
        self.close(ticket.place);
        match wrong {
            None => Ok(()),
            Some((found, index)) => Err((index, describe(found, &ticket.allowed))),
        }
    }

    /// The next place that this run changed, for reading everything back at the end; `None` after
    /// the last one.
    pub fn next_changed(&mut self) -> Option<u64> {
        while let Some(&value) = self.settled.get(self.next_check as usize) {
            let place = self.first + self.next_check;
            self.next_check += 1;
            if value != 0 || self.open.contains_key(&place) {
                return Some(place);
            }
        }
        None
    }
}

fn describe(found: Content, allowed: &Versions) -> String {
    let found = match found {
        Content::Zero => "zeroes".to_owned(),
        Content::Written(sequence) => format!("write {sequence}"),
        Content::Foreign => "something that this run did not write".to_owned(),
        Content::Bad(what) => what.to_owned(),
    };
    let allowed: Vec<String> = allowed
        .iter()
        .map(|version| {
            let state = if version.acknowledged == NEVER { " (not acknowledged)" } else { "" };
            match version.shows {
                Shows::Before => "what stood there before".to_owned(),
                Shows::Zero => format!("zeroes of trim {}{state}", version.sequence),
                Shows::Written => format!("write {}{state}", version.sequence),
            }
        })
        .collect();
    format!("holds {found}, where only {} may be", allowed.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(model: &mut Model, ticket: &Ticket, found: Content) -> bool {
        model.end_read(ticket, std::iter::once(found)).is_ok()
    }

    fn see(model: &mut Model, found: Content) -> bool {
        let ticket = model.begin_read(7);
        check(model, &ticket, found)
    }

    #[test]
    fn a_stamp_says_what_was_written_and_nothing_else_passes() {
        let mut bytes = vec![0; 512];
        assert_eq!(content(&bytes, 1, 2), Content::Zero);
        bytes[100] = 9;
        assert_eq!(content(&bytes, 1, 2), Content::Foreign);
        stamp(&mut bytes, 1, 2, 3);
        assert_eq!(content(&bytes, 1, 2), Content::Written(3));
        assert_eq!(content(&bytes, 9, 2), Content::Foreign);
        assert_eq!(content(&bytes, 1, 9), Content::Bad("the stamp of another block"));
        for at in [16, 31, 32, 300, 508, 511] {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(matches!(content(&bad, 1, 2), Content::Bad(_)), "{at}");
        }
    }

    #[test]
    fn what_stood_there_before_passes_until_it_is_written() {
        let mut model = Model::new(7, 1);
        assert!(see(&mut model, Content::Foreign) && see(&mut model, Content::Zero));
        assert!(!see(&mut model, Content::Written(1)) && !see(&mut model, Content::Bad("x")));
        let write = model.submit(7, false);
        assert!(see(&mut model, Content::Foreign) && see(&mut model, Content::Written(write)));
        model.acknowledge(7, write);
        assert!(!see(&mut model, Content::Foreign) && !see(&mut model, Content::Zero));
        assert!(see(&mut model, Content::Written(write)));
        assert!(model.open.is_empty(), "what is settled takes no room");
    }

    #[test]
    fn an_older_version_is_stale_once_a_newer_is_acknowledged() {
        let mut model = Model::new(7, 1);
        let old = model.submit(7, false);
        model.acknowledge(7, old);
        let ticket = model.begin_read(7);
        let new = model.submit(7, false);
        model.acknowledge(7, new);
        for found in [old, new] {
            // A read that began before the acknowledgement may return either.
            let again = Ticket { allowed: ticket.allowed.clone(), ..ticket };
            model.open(7).reads += 1;
            assert!(check(&mut model, &again, Content::Written(found)));
        }
        assert!(check(&mut model, &ticket, Content::Written(old)));
        assert!(!see(&mut model, Content::Written(old)));
        assert!(see(&mut model, Content::Written(new)));
    }

    #[test]
    fn overlapping_writes_may_take_effect_in_any_order() {
        let mut model = Model::new(7, 1);
        let (one, two) = (model.submit(7, false), model.submit(7, false));
        model.acknowledge(7, two);
        model.acknowledge(7, one);
        assert!(see(&mut model, Content::Written(one)) && see(&mut model, Content::Written(two)));
        let three = model.submit(7, false);
        model.acknowledge(7, three);
        assert!(!see(&mut model, Content::Written(one)) && see(&mut model, Content::Written(three)));
    }

    #[test]
    fn a_trim_that_came_and_went_during_a_read_may_be_seen() {
        let mut model = Model::new(7, 1);
        let ticket = model.begin_read(7);
        let trim = model.submit(7, true);
        model.acknowledge(7, trim);
        let write = model.submit(7, false);
        model.acknowledge(7, write);
        assert!(check(&mut model, &ticket, Content::Zero));
        assert!(!see(&mut model, Content::Zero));
        assert_eq!((model.next_changed(), model.next_changed()), (Some(7), None));
    }
}
