//! Floors: the same bytes moved without the appliance, on the same machine, in the same run.

pub mod file;
pub mod fio;
pub mod limits;
pub mod memory;
pub mod tcp;

use serde::{Deserialize, Serialize};

use crate::latency::Latency;

/// The result of a floor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FloorResult {
    /// What was measured, in words.
    pub what: String,
    /// How long it took.
    pub seconds: f64,
    /// Operations per second.
    pub iops: f64,
    /// Payload per second, in MiB.
    pub mib_per_second: f64,
    /// Latencies of the operations.
    pub latency: Latency,
}

impl FloorResult {
    fn new(what: String, seconds: f64, payload_bytes: u64, latency: Latency) -> Self {
        let iops = latency.count as f64 / seconds.max(f64::MIN_POSITIVE);
        let mib_per_second = iops * payload_bytes as f64 / f64::from(1 << 20);
        FloorResult { what, seconds, iops, mib_per_second, latency }
    }
}
