//! Hosts that give back what they have: block by block on a clone, where each range is a thing of its
//! own for the index, and a whole volume with one command, as `blkdiscard` does.

use std::time::Duration;

use serde_json::json;
use varve::nvmf::host::{Queue, Wait};

use super::Told;
use super::bed::{BLOCK_BYTES, Bed, Until};
use super::error::CanaryError;
use crate::sim::rng::Rng;

/// Ranges of one command, the most there may be.
const RANGES: usize = 256;
/// Commands in flight.
const DEPTH: u16 = 32;
/// How long an answer is waited for before the time is looked at again.
const LOOK: Duration = Duration::from_millis(100);

const ORIGIN: &str = "huge";
const CLONE: &str = "huge-clone";
const HUGE_BLOCKS: u64 = (4 << 40) / BLOCK_BYTES;

const WHOLE: &str = "whole";
const WHOLE_BLOCKS: u64 = (64 << 30) / BLOCK_BYTES;
/// Blocks of it that are mapped: 256 MiB, each in another part of the index.
const MAPPED: u64 = 65_536;

/// 4 TiB that hardly hold anything, and their clone.
pub(super) fn prepare_clone(bed: &Bed) -> Result<(), CanaryError> {
    bed.make_volume(ORIGIN, "4TiB")?;
    let pieces = bed.scaled(4096);
    bed.fill(ORIGIN, pieces, 1, HUGE_BLOCKS / pieces)?;
    let lsn = bed.appliance.rpc("synch_create", json!({"label": "origin"}))?["lsn"].clone();
    let point = format!("lsn:{lsn}");
    bed.appliance.rpc("restore_clone", json!({"volume": ORIGIN, "at": point, "name": CLONE}))?;
    Ok(())
}

/// Single blocks of the clone, 256 with each command, for as long as it lasts.
pub(super) fn attack_clone(bed: &Bed, until: Until) -> Result<Told, CanaryError> {
    let mut rng = Rng::new(5);
    trim(bed, CLONE, until, u64::MAX, |_| (0..RANGES).map(|_| (rng.below(HUGE_BLOCKS), 1)).collect())
}

/// 64 GiB with some blocks everywhere.
pub(super) fn prepare_whole(bed: &Bed) -> Result<(), CanaryError> {
    bed.make_volume(WHOLE, "64GiB")?;
    fill_whole(bed)
}

fn fill_whole(bed: &Bed) -> Result<(), CanaryError> {
    let mapped = bed.scaled(MAPPED);
    bed.fill(WHOLE, mapped, 1, WHOLE_BLOCKS / mapped)
}

/// The whole volume with each command, and filled again in between.
pub(super) fn attack_whole(bed: &Bed, until: Until) -> Result<Told, CanaryError> {
    let blocks = WHOLE_BLOCKS / RANGES as u64;
    let whole: Vec<(u64, u32)> = (0..RANGES as u64).map(|index| (index * blocks, blocks as u32)).collect();
    let mut told = trim(bed, WHOLE, until, 64, |_| whole.clone())?;
    while !until.is_over() {
        fill_whole(bed)?;
        told = trim(bed, WHOLE, until, 64, |_| whole.clone())?;
    }
    Ok(told)
}

/// Sends discards one behind the other until the time is over or so many are done.
fn trim(
    bed: &Bed,
    volume: &str,
    until: Until,
    count: u64,
    mut ranges: impl FnMut(u64) -> Vec<(u64, u32)>,
) -> Result<Told, CanaryError> {
    let (_controller, mut queues) = bed.connect(volume, 1, BLOCK_BYTES as u32)?;
    let (mut sent, mut done, mut refused, mut last) = (0, 0_u64, 0_u64, None);
    let Some(queue) = queues.first_mut() else {
        return Ok(Told { told: "no queue".to_owned(), is_harmless: true });
    };
    while !until.is_over() && (sent < count || queue.outstanding_count() > 0) {
        let is_lost = step(queue, |queue| {
            while sent < count && queue.outstanding_count() < DEPTH {
                queue.submit_trim(&ranges(sent), sent)?;
                sent += 1;
            }
            queue.poll(Wait::Block(LOOK), |completion| {
                if completion.status.is_success() {
                    done += 1;
                } else {
                    refused += 1;
                    last = Some(completion.status.to_string());
                }
            })
        });
        if let Err(error) = is_lost {
            last = Some(error);
            break;
        }
    }
    let last = last.map(|last| format!(", last: {last}")).unwrap_or_default();
    Ok(Told {
        told: format!("{done} discards of {RANGES} ranges, {refused} refused{last}"),
        is_harmless: done == 0,
    })
}

fn step(
    queue: &mut Queue,
    mut with: impl FnMut(&mut Queue) -> Result<usize, varve::nvmf::host::HostError>,
) -> Result<usize, String> {
    with(queue).map_err(|error| super::chain(&error))
}
