//! What a benchmark asks of the appliance under test, on the appliance's own reactor.

use std::time::Duration;

use varve::bdev::BLOCK_BYTES;
use varve::log::geometry::FIRST_SLOT_BLOCK;
use varve::serve::Appliance;

use super::SNAPSHOTS;
use crate::error::PerfError;

/// How long making the snapshots may take.
const SNAPSHOTS_TIMEOUT: Duration = Duration::from_mins(2);
/// How long the appliance may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What to do with all snapshots.
#[derive(Clone, Copy)]
pub(super) enum Snapshots {
    Create,
    Delete,
}

pub(super) fn manage_snapshots(appliance: &Appliance, what: Snapshots) -> Result<(), PerfError> {
    let made = appliance.handle().call(SNAPSHOTS_TIMEOUT, move |app, reply| {
        let pool = app.pool();
        let making = async move {
            let pool = pool.map_err(|error| error.to_string())?;
            for number in 0..SNAPSHOTS {
                let (pool, name) = (pool.clone(), format!("bench-{number}"));
                let done = match what {
                    Snapshots::Create => pool.create_snapshot(name).await.map(|_| ()),
                    Snapshots::Delete => pool.delete_snapshot(name).await,
                };
                done.map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        };
        app.local().spawn(async move { reply.send(making.await) });
    });
    let failed = |reason| PerfError::Snapshots { reason };
    made.map_err(|error| failed(error.to_string()))?.map_err(failed)
}

/// The offset on the device at which the log ends, in bytes, provided that it has not reused a
/// slot.
pub(super) fn written_bytes(appliance: &Appliance) -> Result<u64, PerfError> {
    let end = appliance.handle().call(ANSWER_TIMEOUT, |app, reply| {
        reply.send(app.pool().map(|pool| {
            let segment_blocks = pool.info().segment_bytes / BLOCK_BYTES as u64;
            let segments = pool.segments();
            let used = segments.iter().filter(|segment| segment.sequence.is_some());
            let ends = used.map(|segment| segment.slot * segment_blocks + segment.used_blocks);
            (FIRST_SLOT_BLOCK + ends.max().unwrap_or(0)) * BLOCK_BYTES as u64
        }));
    });
    let failed = |reason| PerfError::Log { reason };
    end.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}

/// Sets how many blocks are read ahead of a sequential reader.
pub(super) fn set_read_ahead(appliance: &Appliance, blocks: u64) -> Result<(), PerfError> {
    let done = appliance.handle().call(ANSWER_TIMEOUT, move |app, reply| {
        reply.send(app.pool().map(|pool| pool.set_read_ahead(blocks)));
    });
    let failed = |reason| PerfError::Log { reason };
    done.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
}
