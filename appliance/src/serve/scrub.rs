//! The scrub of the primary device: a task of the pool's reactor reads every sealed segment back
//! once per pass.

use std::rc::Rc;
use std::time::Duration;

use crate::dma::BLOCK_BYTES;
use crate::manage::SCRUB_RATE_BYTES_PER_S;
use crate::reactor::Local;
use crate::rpc::App;
use crate::volume::{Pool, SCRUB_BATCH_BLOCKS};

/// The longest sleep, which bounds how long it takes to notice a stop, or that there is nothing
/// left to read.
const SLEEP_MAX: Duration = Duration::from_secs(5);

/// Reads every sealed segment back once per `pass`, until the appliance stops.
pub(super) async fn scrub_primary(pool: Rc<Pool>, local: Local, app: App, pass: Duration) {
    let batch_bytes = (SCRUB_BATCH_BLOCKS * BLOCK_BYTES) as u64;
    let batch_pause = Duration::from_nanos(batch_bytes * 1_000_000_000 / SCRUB_RATE_BYTES_PER_S);
    let mut begin = pool.scrub_begin();
    loop {
        let mut segments = pool.sealed_segments();
        let len = segments.len().max(1);
        segments.rotate_left((begin % len as u64) as usize % len);
        begin = 0;
        let each = pass / len as u32;
        if segments.is_empty() && !sleep(&local, &app, each.min(SLEEP_MAX)).await {
            return;
        }
        let is_pass = !segments.is_empty();
        for sequence in segments {
            if !sleep(&local, &app, each).await {
                return;
            }
            let pausing = local.clone();
            let scrubbed =
                Rc::clone(&pool).scrub_segment(sequence, async || pausing.sleep(batch_pause).await).await;
            if let Err(error) = scrubbed {
                tracing::warn!(segment = sequence.0, %error, "a segment could not be read back whole");
            }
        }
        if is_pass {
            pool.note_scrub_pass();
        }
    }
}

/// Sleeps. Returns `false` if the appliance stops.
async fn sleep(local: &Local, app: &App, time: Duration) -> bool {
    let mut left = time;
    while !left.is_zero() {
        let now = left.min(SLEEP_MAX);
        local.sleep(now).await;
        left -= now;
        if app.pool().is_err() {
            return false;
        }
    }
    app.pool().is_ok()
}
