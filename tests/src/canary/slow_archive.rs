//! A host that writes as much as it can, 4 queues of 127 writes of 128 KiB, over an archive that is
//! too slow for it: the primary fills, and the host is slowed down to the archive's rate.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use varve::nvmf::host::{HostError, Queue, Wait};

use super::Told;
use super::bed::{BLOCK_BYTES, Bed, Until};
use super::error::CanaryError;
use crate::faults::{Operation, Rule};
use crate::sim::rng::Rng;

const QUEUES: u16 = 4;
/// Blocks of a write: 128 KiB.
const WRITE_BLOCKS: u64 = 32;
const VOLUME_BLOCKS: u64 = (96 << 20) / BLOCK_BYTES;
const VOLUME: &str = "bulk";
/// The delay of each write, sync and rename of the archive.
const DELAY: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(100);
/// A part of the path of the archive's files.
const ARCHIVE: &str = "/archive/";

pub(super) fn prepare(bed: &Bed) -> Result<(), CanaryError> {
    bed.make_volume(VOLUME, "96MiB")
}

pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let slow = bed.faults.as_ref().map(|faults| {
        let rule = Rule::on(ARCHIVE, &[Operation::Write, Operation::Sync, Operation::Rename]).delay(DELAY);
        (faults, faults.add(rule))
    });
    let written = AtomicU64::new(0);
    let refused = AtomicU64::new(0);
    let result =
        bed.connect(VOLUME, QUEUES, (WRITE_BLOCKS * BLOCK_BYTES) as u32).map(|(_controller, queues)| {
            std::thread::scope(|scope| {
                let load = |queue: Queue| write_on(queue, until, &written, &refused);
                let writers: Vec<_> =
                    queues.into_iter().map(|queue| scope.spawn(move || load(queue))).collect();
                let ended = writers.into_iter().filter_map(|writer| writer.join().ok()?.err());
                ended.last().map(|error| super::chain(&error))
            })
        });
    let mut waits = 0;
    if let Some((faults, rule)) = slow {
        waits = faults.hits(rule);
        faults.remove(rule);
    }
    let last = result.unwrap_or_else(|error| Some(super::chain(&error)));
    let last = last.map(|last| format!(", last: {last}")).unwrap_or_default();
    let [written, refused] = [written, refused].map(AtomicU64::into_inner);
    let told = format!(
        "{} MiB written, {refused} writes refused, the archive waited {waits} times{last}",
        (written * WRITE_BLOCKS * BLOCK_BYTES) >> 20
    );
    Told { told, is_harmless: written == 0 }
}

/// Keeps one queue full until the end.
fn write_on(
    mut queue: Queue,
    until: Until,
    written: &AtomicU64,
    refused: &AtomicU64,
) -> Result<(), HostError> {
    let mut rng = Rng::new(u64::from(queue.queue_id()));
    let mut data = vec![0_u8; (WRITE_BLOCKS * BLOCK_BYTES) as usize];
    // Data that does not compress, so that the archive has work.
    for word in data.chunks_exact_mut(8) {
        word.copy_from_slice(&rng.next_u64().to_le_bytes());
    }
    while !until.is_over() {
        while queue.free_slots() > 0 {
            let lba = rng.below(VOLUME_BLOCKS / WRITE_BLOCKS) * WRITE_BLOCKS;
            data[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
            queue.submit_write(lba, &data, false, 0)?;
        }
        queue.poll(Wait::Block(LOOK), |completion| {
            let counter = if completion.status.is_success() { written } else { refused };
            counter.fetch_add(1, Ordering::Relaxed);
        })?;
    }
    Ok(())
}
