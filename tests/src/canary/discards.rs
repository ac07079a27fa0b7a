//! Hosts that discard: block by block on a clone, where each range is a separate entry for the
//! index, and a whole volume with one command, as `blkdiscard` does.

use std::time::Duration;

use serde_json::json;
use varve::nvmf::host::{HostError, Wait};

use super::Told;
use super::bed::{BLOCK_BYTES, Bed, Until};
use super::error::CanaryError;
use crate::sim::rng::Rng;

/// Ranges of one command, the maximum.
const RANGES: usize = 256;
/// Commands in flight.
const DEPTH: u16 = 32;
/// How long to wait for an answer before the time is checked again.
const LOOK: Duration = Duration::from_millis(100);

const ORIGIN: &str = "huge";
const CLONE: &str = "huge-clone";
const HUGE_BLOCKS: u64 = (4 << 40) / BLOCK_BYTES;

const WHOLE: &str = "whole";
const WHOLE_BLOCKS: u64 = (64 << 30) / BLOCK_BYTES;
/// Blocks of it that are mapped: 256 MiB, each in another part of the index.
const MAPPED: u64 = 65_536;
/// Discards of the whole volume before it is filled again.
const WHOLE_DISCARDS: u64 = 64;

/// 4 TiB with very little data, and their clone.
pub(super) fn prepare_clone(bed: &Bed) -> Result<(), CanaryError> {
    bed.make_volume(ORIGIN, "4TiB")?;
    let pieces = bed.scaled(4096);
    bed.fill(ORIGIN, pieces, 1, HUGE_BLOCKS / pieces)?;
    let lsn = bed.appliance.rpc("synch_create", json!({"label": "origin"}))?["lsn"].clone();
    let point = format!("lsn:{lsn}");
    bed.appliance.rpc("restore_clone", json!({"volume": ORIGIN, "at": point, "name": CLONE}))?;
    Ok(())
}

/// Discards single blocks of the clone, 256 with each command, until the time is over.
pub(super) fn attack_clone(bed: &Bed, until: Until) -> Told {
    let mut rng = Rng::new(5);
    let mut tally = Tally::default();
    let trimmed = trim(bed, CLONE, until, u64::MAX, &mut tally, || {
        (0..RANGES).map(|_| (rng.below(HUGE_BLOCKS), 1)).collect()
    });
    tally.note(trimmed);
    tally.told("")
}

/// 64 GiB with single blocks spread over all of it.
pub(super) fn prepare_whole(bed: &Bed) -> Result<(), CanaryError> {
    bed.make_volume(WHOLE, "64GiB")?;
    fill_whole(bed)
}

fn fill_whole(bed: &Bed) -> Result<(), CanaryError> {
    let mapped = bed.scaled(MAPPED);
    bed.fill(WHOLE, mapped, 1, WHOLE_BLOCKS / mapped)
}

/// Discards the whole volume with each command, and fills it again after every 64 discards.
pub(super) fn attack_whole(bed: &Bed, until: Until) -> Told {
    let blocks = WHOLE_BLOCKS / RANGES as u64;
    let whole: Vec<(u64, u32)> = (0..RANGES as u64).map(|index| (index * blocks, blocks as u32)).collect();
    let mut tally = Tally::default();
    let mut fills = 1;
    while !until.is_over() {
        let trimmed = trim(bed, WHOLE, until, WHOLE_DISCARDS, &mut tally, || whole.clone());
        let is_over = until.is_over() || trimmed.is_err();
        tally.note(trimmed);
        if is_over {
            break;
        }
        let filled = fill_whole(bed);
        tally.note(filled);
        fills += 1;
    }
    tally.told(&format!(" of all, {fills} times after {} blocks were mapped", bed.scaled(MAPPED)))
}

/// The results of discards.
#[derive(Debug, Default)]
struct Tally {
    done: u64,
    refused: u64,
    /// The reason why the last one failed.
    last: Option<String>,
}

impl Tally {
    fn note(&mut self, result: Result<(), CanaryError>) {
        if let Err(error) = result {
            self.last = Some(super::chain(&error));
        }
    }

    fn told(&self, of_what: &str) -> Told {
        let Tally { done, refused, last } = self;
        let last = last.as_ref().map(|last| format!(", last: {last}")).unwrap_or_default();
        let told = format!("{done} discards of {RANGES} ranges{of_what}, {refused} refused{last}");
        Told { told, is_harmless: *done == 0 }
    }
}

/// Sends discards in sequence until the time is over or `count` are done.
fn trim(
    bed: &Bed,
    volume: &str,
    until: Until,
    count: u64,
    tally: &mut Tally,
    mut ranges: impl FnMut() -> Vec<(u64, u32)>,
) -> Result<(), CanaryError> {
    let (_controller, mut queues) = bed.connect(volume, 1, BLOCK_BYTES as u32)?;
    let Some(queue) = queues.first_mut() else { return Ok(()) };
    let mut sent = 0;
    while !until.is_over() && (sent < count || queue.outstanding_count() > 0) {
        let mut step = || -> Result<usize, HostError> {
            while sent < count && queue.outstanding_count() < DEPTH {
                queue.submit_trim(&ranges(), sent)?;
                sent += 1;
            }
            queue.poll(Wait::Block(LOOK), |completion| {
                if completion.status.is_success() {
                    tally.done += 1;
                } else {
                    tally.refused += 1;
                    tally.last = Some(completion.status.to_string());
                }
            })
        };
        step().map_err(CanaryError::prepare("discards"))?;
    }
    Ok(())
}
