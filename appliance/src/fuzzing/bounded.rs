//! The bounded run: every entry point with its seeds as they are, cut at each length, and changed.
//!
//! `VARVE_FUZZ_SEED` repeats a run that failed, and `VARVE_FUZZ_CASES` sets how many changed inputs
//! each entry point gets.

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use super::{TARGETS, Target};

/// Changed inputs for each entry point, unless the environment says otherwise.
const CASES: u64 = 20_000;
/// The most bytes that the inputs of one entry point have in all, so that large ones take no
/// longer.
const BYTES_MAX: u64 = 128 << 20;
/// Lengths at which a seed is cut.
const CUTS_MAX: usize = 600;

/// `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 for 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % (bound.max(1) as u64)) as usize
    }

    /// A stretch of `len` bytes, short ones more often.
    fn stretch(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let most = if self.below(4) == 0 { len } else { 16 };
        start..(start + self.below(most + 1)).min(len)
    }

    /// A number that parsers get wrong.
    fn number(&mut self) -> u64 {
        const EDGES: [u64; 12] =
            [0, 1, 2, 127, 128, 255, 256, 4095, 4096, 0xFFFF_FFFF, (1 << 48) - 1, u64::MAX];
        match self.below(3) {
            0 => self.next(),
            1 => EDGES[self.below(EDGES.len())],
            _ => EDGES[self.below(EDGES.len())].wrapping_sub(1),
        }
    }

    /// Changes bytes at one place; `other` is another valid encoding.
    fn change(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(bytes.len());
        match self.below(9) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            2 if !bytes.is_empty() => bytes[at] = self.next() as u8,
            3 | 4 => {
                // A number of 1, 2, 4 or 8 bytes, at a place that is a multiple of 4 more often.
                let number = self.number().to_le_bytes();
                let at = if self.below(2) == 0 { at & !3 } else { at };
                let number = number.iter().take(1 << self.below(4));
                bytes.iter_mut().skip(at).zip(number).for_each(|(byte, &new)| *byte = new);
            }
            5 => bytes.truncate(at),
            6 => {
                let stretch = self.stretch(bytes.len());
                let again = bytes[stretch].to_vec();
                bytes.splice(at..at, again);
            }
            7 => {
                let stretch = self.stretch(bytes.len());
                bytes.drain(stretch);
            }
            _ => {
                let new = other[self.stretch(other.len())].to_vec();
                let end = if self.below(2) == 0 { at } else { (at + new.len()).min(bytes.len()) };
                bytes.splice(at..end, new);
            }
        }
    }
}

/// Prints what repeats a run, if it fails.
struct Shown<'a> {
    target: &'a str,
    seed: u64,
    input: Vec<u8>,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let shown = &self.input[..self.input.len().min(4096)];
            eprintln!(
                "the entry point '{}' failed; VARVE_FUZZ_SEED={} repeats it; its input has {} bytes: {}",
                self.target,
                self.seed,
                self.input.len(),
                shown.escape_ascii(),
            );
        }
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Whether the parser accepted the input.
fn run_one(target: &Target, seed: u64, input: Vec<u8>) -> bool {
    let shown = Shown { target: target.name, seed, input };
    (target.run)(&shown.input)
}

#[test]
fn every_parser_survives_changed_encodings() {
    let seed = from_environment("VARVE_FUZZ_SEED").unwrap_or_else(|| RandomState::new().hash_one(0));
    let cases = from_environment("VARVE_FUZZ_CASES").unwrap_or(CASES);
    for target in TARGETS {
        let mut random = Random(seed);
        let seeds = (target.seeds)();
        assert!(!seeds.is_empty(), "{} starts from nothing", target.name);
        for whole in &seeds {
            assert!(run_one(target, seed, whole.clone()), "{} refuses what is valid", target.name);
            let step = (whole.len() / CUTS_MAX).max(1);
            for len in (0..whole.len()).step_by(step) {
                run_one(target, seed, whole[..len].to_vec());
            }
        }
        let mut bytes = 0;
        for _ in 0..cases {
            let mut input = seeds[random.below(seeds.len())].clone();
            for _ in 0..=random.below(4) {
                let other = &seeds[random.below(seeds.len())];
                random.change(&mut input, other);
            }
            bytes += input.len() as u64;
            run_one(target, seed, input);
            if bytes > BYTES_MAX * cases / CASES {
                break;
            }
        }
    }
}

/// Neither run knows a parser that the other does not.
#[test]
fn every_entry_point_has_its_libfuzzer_target() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("fuzz/Cargo.toml");
    let mut files: Vec<String> = std::fs::read_dir(folder.join("fuzz_targets"))
        .expect("fuzz/fuzz_targets")
        .map(|file| file.expect("a file").file_name().into_string().expect("a name"))
        .collect();
    files.sort();
    let mut expected: Vec<String> = TARGETS.iter().map(|target| format!("{}.rs", target.name)).collect();
    expected.sort();
    assert_eq!(files, expected);
    for target in TARGETS {
        let name = target.name;
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not declared");
        let text = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).expect("a target");
        assert!(text.contains(&format!("varve::fuzzing::run(\"{name}\", data)")), "{name} runs another one");
    }
}
