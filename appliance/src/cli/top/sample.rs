//! One sample: what a running appliance reports about itself at one moment.
//!
//! **Bounds:** a sample is seven calls and one more for each volume whose latencies are measured.
//! While hosts are connected there are more: one for the list of subsystems, and one for each of
//! the first [`SUBSYSTEMS_MAX`].

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::super::client::ClientError;
use super::super::render_latency::ReactorView;
use crate::histogram::Histogram;
use crate::manage::ArchiveReport;
use crate::rpc::HistogramReport;
use crate::volume::{PoolInfo, PoolStats, VolumeInfo};

/// The most subsystems whose connections are requested.
const SUBSYSTEMS_MAX: usize = 64;

/// The error code of a method that cannot be called in the appliance's state: without an archive
/// there is no archive status.
const WRONG_STATE: i64 = -1;

/// Makes a call.
pub(super) type Call<'a> = &'a mut dyn FnMut(&str, Map<String, Value>) -> Result<Value, ClientError>;

/// Why there is no sample.
#[derive(Debug, thiserror::Error)]
pub(super) enum SampleError {
    /// A call failed.
    #[error(transparent)]
    Call(#[from] ClientError),
    /// An answer has a shape that this version does not know.
    #[error(
        "{method} answers what this version does not know ({reason}); use the varve of the appliance's version"
    )]
    Shape {
        /// The method.
        method: &'static str,
        /// What is missing.
        reason: serde_json::Error,
    },
}

/// The target's counters, as `nvmf_get_stats` shows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub(super) struct TargetCounters {
    pub(super) current_admin_qpairs: u64,
    pub(super) current_io_qpairs: u64,
    pub(super) pending_bdev_io: u64,
    pub(super) completed_nvme_io: u64,
    #[serde(default)]
    pub(super) host_memory_bytes: u64,
    #[serde(default)]
    pub(super) host_memory_bytes_max: u64,
    #[serde(default)]
    pub(super) waiting_for_memory: u64,
}

/// A host's controller: one admin connection and those of its I/O queues.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) volume: String,
    pub(super) host: String,
    pub(super) controller_id: u64,
    pub(super) address: String,
    pub(super) io_queues: u64,
}

/// One moment.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    pub(super) version: String,
    pub(super) reactors: Vec<ReactorView>,
    pub(super) pools: Vec<(PoolInfo, PoolStats)>,
    pub(super) volumes: Vec<VolumeInfo>,
    /// By the volume's name.
    pub(super) histograms: BTreeMap<String, Histogram>,
    pub(super) target: TargetCounters,
    pub(super) connections: Vec<Connection>,
    /// `None`: there is none.
    pub(super) archive: Option<ArchiveReport>,
}

/// Makes a call and converts its answer to a type.
fn ask<T: DeserializeOwned>(call: Call<'_>, method: &'static str, params: Value) -> Result<T, SampleError> {
    let params = if let Value::Object(params) = params { params } else { Map::new() };
    serde_json::from_value(call(method, params)?).map_err(|reason| SampleError::Shape { method, reason })
}

/// Turns a refusal because of the appliance's state into `None`.
fn unless_in_state<T>(result: Result<T, SampleError>) -> Result<Option<T>, SampleError> {
    match result {
        Err(SampleError::Call(ClientError::Refused { error, .. })) if error.code == WRONG_STATE => Ok(None),
        other => other.map(Some),
    }
}

impl Sample {
    /// Asks for everything.
    pub(super) fn take(call: Call<'_>) -> Result<Self, SampleError> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }
        #[derive(Deserialize)]
        struct Reactors {
            reactors: Vec<ReactorView>,
        }
        #[derive(Deserialize)]
        struct Stats {
            poll_groups: Vec<TargetCounters>,
        }
        let Version { version } = ask(call, "spdk_get_version", Value::Null)?;
        let at = Instant::now();
        let Reactors { reactors } = ask(call, "framework_get_reactors", Value::Null)?;
        let volumes: Vec<VolumeInfo> = ask(call, "volume_list", Value::Null)?;
        let infos: Vec<PoolInfo> = ask(call, "pool_list", Value::Null)?;
        // There is one pool, and its statistics are requested without a name.
        let stats: PoolStats = ask(call, "pool_stats", Value::Null)?;
        let pools = infos.into_iter().take(1).map(|info| (info, stats.clone())).collect();
        let histograms = histograms(call, &volumes)?;
        let target = unless_in_state(ask::<Stats>(call, "nvmf_get_stats", Value::Null))?;
        let target = target.and_then(|stats| stats.poll_groups.first().copied()).unwrap_or_default();
        let connections = if target.current_admin_qpairs == 0 { Vec::new() } else { connections(call)? };
        let archive = unless_in_state(ask(call, "archive_get_status", Value::Null))?;
        Ok(Sample { at, version, reactors, pools, volumes, histograms, target, connections, archive })
    }
}

fn histograms(call: Call<'_>, volumes: &[VolumeInfo]) -> Result<BTreeMap<String, Histogram>, SampleError> {
    let mut histograms = BTreeMap::new();
    for volume in volumes.iter().filter(|volume| volume.histogram) {
        let report = ask::<HistogramReport>(call, "bdev_get_histogram", json!({"name": volume.name}));
        // The measurement may be off, or the volume gone, by now.
        if let Some(histogram) = unless_gone(report)?.and_then(|report| report.read().ok()) {
            histograms.insert(volume.name.clone(), histogram);
        }
    }
    Ok(histograms)
}

/// Turns any refusal into `None`: what was just listed may be gone.
fn unless_gone<T>(result: Result<T, SampleError>) -> Result<Option<T>, SampleError> {
    match result {
        Err(SampleError::Call(ClientError::Refused { .. })) => Ok(None),
        other => other.map(Some),
    }
}

#[derive(Deserialize)]
struct Subsystem {
    nqn: String,
    #[serde(default)]
    namespaces: Vec<Namespace>,
}

#[derive(Deserialize)]
struct Namespace {
    bdev_name: String,
}

#[derive(Deserialize)]
struct QueuePair {
    cntlid: u64,
    qid: u64,
    hostnqn: String,
    peer_address: Option<Address>,
}

#[derive(Deserialize)]
struct Address {
    traddr: String,
}

fn connections(call: Call<'_>) -> Result<Vec<Connection>, SampleError> {
    let subsystems: Vec<Subsystem> = ask(call, "nvmf_get_subsystems", Value::Null)?;
    let mut connections = Vec::new();
    for subsystem in subsystems.into_iter().take(SUBSYSTEMS_MAX) {
        let params = json!({"nqn": subsystem.nqn});
        let pairs = unless_gone(ask::<Vec<QueuePair>>(call, "nvmf_subsystem_get_qpairs", params))?;
        let volume =
            subsystem.namespaces.first().map_or("discovery", |namespace| namespace.bdev_name.as_str());
        let mut controllers: BTreeMap<u64, Connection> = BTreeMap::new();
        for pair in pairs.into_iter().flatten() {
            let connection = controllers.entry(pair.cntlid).or_default();
            connection.volume.replace_range(.., volume);
            connection.host = pair.hostnqn;
            connection.controller_id = pair.cntlid;
            connection.address = pair.peer_address.map(|address| address.traddr).unwrap_or_default();
            connection.io_queues += u64::from(pair.qid > 0);
        }
        connections.extend(controllers.into_values());
    }
    Ok(connections)
}
