//! The operator: one cheap call every 100 ms, each on its own connection like the command line's.
//! It also records how much memory the process uses and how long the turns of its reactor were.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use varve::cli::{Client, ClientError};

use super::bed::Bed;
use super::verdict::Times;

const BEAT: Duration = Duration::from_millis(100);
/// Much longer than a call may take.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// What the operator saw in one phase.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// How long the calls took.
    pub(super) times: Times,
    /// Calls that failed.
    pub(super) errors: u64,
    /// Why the first of them did.
    pub(super) first_error: Option<String>,
    /// The maximum memory of all indexes that the pool reported.
    pub(super) index_bytes_max: u64,
    /// The maximum DMA memory in use.
    pub(super) dma_bytes_max: u64,
    /// The limit of DMA memory.
    pub(super) dma_budget_bytes: u64,
    /// The maximum memory of the process at any time since its start.
    pub(super) resident_bytes_max: u64,
    /// How many turns the pool's reactor has made since its start, by the lower bound of their
    /// duration.
    pub(super) turns: BTreeMap<u64, u64>,
}

impl Watch {
    /// The lower bound of the longest turn since an earlier watch.
    pub(super) fn longest_turn_since(&self, before: &Watch) -> Duration {
        let is_new = |(least_ns, count): &(&u64, &u64)| before.turns.get(least_ns).unwrap_or(&0) < *count;
        let longest = self.turns.iter().rev().find(is_new);
        Duration::from_nanos(longest.map_or(0, |(&least_ns, _)| least_ns))
    }
}

/// Makes calls until `stop` is set.
pub(super) fn watch(bed: &Bed, stop: &AtomicBool) -> Watch {
    let mut watch = Watch::default();
    let socket = bed.rpc_socket();
    loop {
        let begin = Instant::now();
        let result = ask(&socket);
        watch.times.record(begin.elapsed());
        match result {
            Ok(stats) => {
                let figure = |name: &str| stats[name].as_u64().unwrap_or(0);
                watch.index_bytes_max = watch.index_bytes_max.max(figure("index_bytes"));
                watch.dma_bytes_max = watch.dma_bytes_max.max(figure("dma_in_use_bytes"));
                watch.dma_budget_bytes = figure("dma_budget_bytes");
            }
            Err(error) => {
                watch.errors += 1;
                watch.first_error.get_or_insert(super::chain(&error));
            }
        }
        if stop.load(Ordering::Relaxed) {
            watch.resident_bytes_max = resident_bytes(bed, "VmHWM:").unwrap_or(0);
            watch.turns = turns(&socket).unwrap_or_default();
            return watch;
        }
        std::thread::sleep(BEAT.saturating_sub(begin.elapsed()));
    }
}

fn ask(socket: &Path) -> Result<Value, ClientError> {
    Client::connect(socket, CALL_LIMIT)?.call("pool_stats", Map::new())
}

/// The turns of the pool's reactor, by the lower bound of their duration in nanoseconds.
fn turns(socket: &Path) -> Option<BTreeMap<u64, u64>> {
    let said = Client::connect(socket, CALL_LIMIT).ok()?.call("framework_get_reactors", Map::new()).ok()?;
    let ranges = said["reactors"][0]["turn_times"].as_array()?;
    ranges.iter().map(|range| Some((range["first"].as_u64()?, range["count"].as_u64()?))).collect()
}

/// A line of the kernel's report on the process's memory.
fn resident_bytes(bed: &Bed, line: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", bed.appliance.process_id()?)).ok()?;
    let text = status.lines().find_map(|found| found.strip_prefix(line))?;
    let kibibytes: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes << 10)
}
