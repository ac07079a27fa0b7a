//! Chooses what the next command does, and which block it addresses.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::zipf::Zipf;
use crate::rng::Rng;

/// What the commands do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Sequential reads; each connection has a part of the range.
    Read,
    /// Sequential writes; each connection has a part of the range.
    Write,
    /// Random reads.
    RandRead,
    /// Random writes.
    RandWrite,
    /// Random reads and writes, mixed.
    RandRw,
}

impl Pattern {
    /// The name that fio uses.
    pub fn name(self) -> &'static str {
        match self {
            Pattern::Read => "read",
            Pattern::Write => "write",
            Pattern::RandRead => "randread",
            Pattern::RandWrite => "randwrite",
            Pattern::RandRw => "randrw",
        }
    }

    fn is_random(self) -> bool {
        matches!(self, Pattern::RandRead | Pattern::RandWrite | Pattern::RandRw)
    }

    /// Whether its commands may change what is stored.
    pub fn writes(self) -> bool {
        !matches!(self, Pattern::Read | Pattern::RandRead)
    }
}

/// How random commands choose their blocks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Every block with the same probability.
    #[default]
    Uniform,
    /// By Zipf's law.
    Zipf {
        /// Its exponent: 0.99 is usual; the larger it is, the fewer blocks get most commands.
        theta: f64,
    },
}

/// What a command does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A trim.
    Trim,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Kind; 3] = [Kind::Read, Kind::Write, Kind::Trim];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Write => "write",
            Kind::Trim => "trim",
        }
    }
}

/// How commands are chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub(super) pattern: Pattern,
    pub(super) access: Access,
    pub(super) read_percent: u8,
    pub(super) trim_percent: u8,
}

/// The commands of one connection; positions are counted in commands.
pub(super) struct Aim {
    choice: Choice,
    part: Range<u64>,
    next: u64,
    zipf: Option<Zipf>,
}

impl Aim {
    /// Commands within `part`, which is not empty.
    pub(super) fn new(choice: Choice, part: Range<u64>) -> Self {
        let len = part.end - part.start;
        let zipf = match choice.access {
            Access::Zipf { theta } if choice.pattern.is_random() => Some(Zipf::new(len, theta)),
            _ => None,
        };
        Aim { choice, next: part.start, part, zipf }
    }

    /// Whether a pattern gives each connection its own part of the range.
    pub(super) fn is_divided(pattern: Pattern) -> bool {
        !pattern.is_random()
    }

    /// The next command.
    pub(super) fn next_command(&mut self, rng: &mut Rng) -> (Kind, u64) {
        let len = self.part.end - self.part.start;
        let place = if let Some(zipf) = &self.zipf {
            self.part.start + zipf.next_number(rng)
        } else if self.choice.pattern.is_random() {
            self.part.start + rng.below(len)
        } else {
            let place = self.next;
            self.next = if place + 1 == self.part.end { self.part.start } else { place + 1 };
            place
        };
        let reads = match self.choice.pattern {
            Pattern::Read | Pattern::RandRead => true,
            Pattern::Write | Pattern::RandWrite => false,
            Pattern::RandRw => rng.below(100) < u64::from(self.choice.read_percent),
        };
        // No number is drawn if nothing depends on it, so the same seed gives the same positions as
        // without trims.
        let kind = match self.choice.trim_percent {
            _ if reads => Kind::Read,
            0 => Kind::Write,
            percent if rng.below(100) < u64::from(percent) => Kind::Trim,
            _ => Kind::Write,
        };
        (kind, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(pattern: Pattern) -> Choice {
        Choice { pattern, access: Access::Uniform, read_percent: 70, trim_percent: 0 }
    }

    #[test]
    fn sequential_commands_wrap_in_their_part() {
        let mut aim = Aim::new(choice(Pattern::Write), 4..7);
        let mut rng = Rng::new(1);
        let places: Vec<_> = (0..7).map(|_| aim.next_command(&mut rng)).collect();
        assert_eq!(places, [4, 5, 6, 4, 5, 6, 4].map(|place| (Kind::Write, place)));
    }

    #[test]
    fn the_mix_is_as_asked() {
        let mixed = Choice { trim_percent: 50, ..choice(Pattern::RandRw) };
        let mut aim = Aim::new(mixed, 10..20);
        let mut rng = Rng::new(1);
        let mut counts = [0_u32; 3];
        for _ in 0..100_000 {
            let (kind, place) = aim.next_command(&mut rng);
            assert!((10..20).contains(&place));
            counts[kind as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([70_000, 15_000, 15_000]) {
            assert!(count.abs_diff(expected) < 1000, "{counts:?}");
        }
    }

    #[test]
    fn zipf_wants_few_blocks_most() {
        let skewed = Choice { access: Access::Zipf { theta: 1.2 }, ..choice(Pattern::RandRead) };
        let mut aim = Aim::new(skewed, 1000..11_000);
        let mut rng = Rng::new(1);
        let mut counts = vec![0_u32; 10_000];
        for _ in 0..100_000 {
            counts[aim.next_command(&mut rng).1 as usize - 1000] += 1;
        }
        counts.sort_unstable_by(|a, b| b.cmp(a));
        assert!(counts[..100].iter().sum::<u32>() > 70_000);
    }
}
