//! Chooses which blocks a load overwrites after all of them have been written.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::rng::Rng;

/// The percentage of hot blocks in a load whose cold blocks are never written again.
const HOT_PERCENT: u64 = 5;

/// An order of overwriting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overwrite {
    /// Every block as likely as every other.
    Uniform,
    /// One after the other, again and again.
    Sequential,
    /// Eighty of a hundred writes go to a fifth of the blocks, which lie scattered.
    EightyTwenty,
    /// Only the first twentieth of the blocks, at random: the rest was written once, lies together,
    /// and stays.
    HotCold,
}

/// An endless sequence of block numbers.
pub struct BlockNumbers {
    order: Overwrite,
    len_blocks: u64,
    next: u64,
    rng: Rng,
}

impl Overwrite {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Overwrite::Uniform => "uniform",
            Overwrite::Sequential => "sequential",
            Overwrite::EightyTwenty => "80/20",
            Overwrite::HotCold => "hot/cold",
        }
    }

    /// Numbers below `len_blocks`; the same seed gives the same numbers.
    pub fn blocks(self, len_blocks: u64, seed: u64) -> BlockNumbers {
        BlockNumbers { order: self, len_blocks: len_blocks.max(1), next: 0, rng: Rng::new(seed) }
    }
}

impl BlockNumbers {
    /// The next block to write.
    pub fn next_block(&mut self) -> u64 {
        let len_blocks = self.len_blocks;
        match self.order {
            Overwrite::Uniform => self.rng.below(len_blocks),
            Overwrite::Sequential => {
                self.next = (self.next + 1) % len_blocks;
                self.next
            }
            Overwrite::EightyTwenty => {
                let fifths = (len_blocks / 5).max(1);
                let is_hot = self.rng.below(100) < 80;
                let group = self.rng.below(fifths);
                let place = if is_hot { 0 } else { 1 + self.rng.below(4) };
                (group * 5 + place).min(len_blocks - 1)
            }
            Overwrite::HotCold => self.rng.below((len_blocks * HOT_PERCENT / 100).max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(order: Overwrite) -> Vec<u32> {
        let mut counts = vec![0; 1000];
        let mut blocks = order.blocks(1000, 3);
        for _ in 0..100_000 {
            counts[blocks.next_block() as usize] += 1;
        }
        counts
    }

    #[test]
    fn each_order_writes_what_it_says() {
        assert!(counts(Overwrite::Uniform).iter().all(|&count| (50..200).contains(&count)));
        assert!(counts(Overwrite::Sequential).iter().all(|&count| count == 100));
        let hot: u32 = counts(Overwrite::EightyTwenty).iter().step_by(5).sum();
        assert!((78_000..82_000).contains(&hot), "{hot}");
        let counts = counts(Overwrite::HotCold);
        assert!(counts[..50].iter().all(|&count| count > 1000));
        assert!(counts[50..].iter().all(|&count| count == 0));
    }
}
