//! Computes the figures of one picture from two samples: rates over the time between them.
//!
//! A counter that has fallen, because the appliance restarted between the samples, has no rate.
//! Nothing has a rate while there is only one sample.

use serde::Serialize;

use super::super::render_latency::ReactorView;
use super::sample::{Connection, Sample};
use crate::dma::BLOCK_BYTES;
use crate::volume::{PoolInfo, PoolStats, VolumeInfo, VolumeState};

/// The figures of one picture. Rates are per second; `None`: unknown.
#[derive(Debug, Serialize)]
pub(super) struct Figures {
    pub(super) version: String,
    /// The time between the samples; 0: there is only one.
    pub(super) seconds: f64,
    pub(super) reactors: Vec<ReactorFigures>,
    pub(super) pools: Vec<PoolFigures>,
    pub(super) volumes: Vec<VolumeFigures>,
    pub(super) target: TargetFigures,
    pub(super) connections: Vec<ConnectionFigures>,
    pub(super) archive: Option<ArchiveFigures>,
}

/// A reactor.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ReactorFigures {
    pub(super) name: String,
    pub(super) core: String,
    pub(super) busy_percent: Option<f64>,
    pub(super) turns_per_s: Option<f64>,
    pub(super) sleeps_per_s: Option<f64>,
    /// Of turns that did work, since start.
    pub(super) turn_mean_ns: f64,
    pub(super) turn_p99_ns: u64,
    pub(super) long_turns: u64,
}

/// A pool.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct PoolFigures {
    pub(super) state: String,
    pub(super) device: String,
    /// How much may be live, and how much of that is taken; 0: the pool is full when its log is.
    pub(super) capacity_bytes: u64,
    pub(super) taken_bytes: u64,
    pub(super) log_capacity_bytes: u64,
    pub(super) log_used_bytes: u64,
    pub(super) working_set_segments: u64,
    pub(super) segments_in_use: u64,
    pub(super) segments_recycle: u64,
    /// Since start; 0 before the first write.
    pub(super) write_amplification: f64,
    /// Over the time between the samples.
    pub(super) write_amplification_now: Option<f64>,
    pub(super) written_bytes_per_s: Option<f64>,
    pub(super) device_bytes_per_s: Option<f64>,
    pub(super) problems: Vec<String>,
}

/// A volume.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct VolumeFigures {
    pub(super) name: String,
    pub(super) state: VolumeState,
    pub(super) size_bytes: u64,
    pub(super) mapped_bytes: u64,
    pub(super) reads_per_s: Option<f64>,
    pub(super) writes_per_s: Option<f64>,
    pub(super) read_bytes_per_s: Option<f64>,
    pub(super) written_bytes_per_s: Option<f64>,
    /// Where latency is measured; over the time between the samples. `None` if no request ended in
    /// that time.
    pub(super) latency: Option<LatencyFigures>,
    pub(super) measured: bool,
    pub(super) errors: u64,
}

/// Latencies.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct LatencyFigures {
    pub(super) mean_ns: f64,
    pub(super) p99_ns: u64,
}

/// The target.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct TargetFigures {
    pub(super) controllers: u64,
    pub(super) io_queues: u64,
    pub(super) under_way: u64,
    pub(super) commands_per_s: Option<f64>,
    /// Memory for data of hosts; a bound of 0: the appliance does not report it.
    pub(super) host_memory_bytes: u64,
    pub(super) host_memory_bytes_max: u64,
    /// Connections that wait for their share of this memory.
    pub(super) waiting_for_memory: u64,
}

/// A host's controller.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct ConnectionFigures {
    pub(super) host: String,
    pub(super) volume: String,
    pub(super) controller_id: u64,
    pub(super) address: String,
    pub(super) io_queues: u64,
}

/// The archive.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct ArchiveFigures {
    pub(super) store: String,
    pub(super) state: String,
    pub(super) backlog_segments: u64,
    pub(super) backlog_bytes: u64,
    pub(super) recovery_point_age_s: f64,
    /// For how many milliseconds of each second a host's write was held back for the archive.
    pub(super) throttled_ms_per_s: f64,
    /// Bytes archived between the samples, before compression.
    pub(super) archived_bytes_per_s: Option<f64>,
    /// Per second of the archivist's working time since start; 0 before the first object.
    pub(super) throughput_bytes_per_s: f64,
    pub(super) compression_ratio: f64,
    pub(super) failures: u64,
    pub(super) problem: Option<String>,
}

/// How fast a counter grows.
fn rate(before: Option<u64>, now: u64, seconds: f64) -> Option<f64> {
    let grown = now.checked_sub(before?)?;
    (seconds > 0.0).then(|| grown as f64 / seconds)
}

impl Figures {
    /// The figures of `now`; `before` is an older sample of the same appliance.
    pub(super) fn new(before: Option<&Sample>, now: &Sample) -> Self {
        let seconds = before.map_or(0.0, |before| now.at.saturating_duration_since(before.at).as_secs_f64());
        let reactors = now.reactors.iter().map(|reactor| {
            let same = |other: &&ReactorView| other.name() == reactor.name();
            let before = before.and_then(|before| before.reactors.iter().find(same));
            reactor_figures(before, reactor)
        });
        let pools = now.pools.iter().map(|(info, stats)| {
            let before =
                before.and_then(|before| before.pools.iter().find(|(other, _)| other.uuid == info.uuid));
            pool_figures(before.map(|(_, stats)| stats), info, stats, seconds)
        });
        let volumes = now.volumes.iter().map(|volume| volume_figures(before, now, volume, seconds));
        let target = TargetFigures {
            controllers: now.target.current_admin_qpairs,
            io_queues: now.target.current_io_qpairs,
            under_way: now.target.pending_bdev_io,
            host_memory_bytes: now.target.host_memory_bytes,
            host_memory_bytes_max: now.target.host_memory_bytes_max,
            waiting_for_memory: now.target.waiting_for_memory,
            commands_per_s: rate(
                before.map(|before| before.target.completed_nvme_io),
                now.target.completed_nvme_io,
                seconds,
            ),
        };
        Figures {
            version: now.version.clone(),
            seconds,
            reactors: reactors.collect(),
            pools: pools.collect(),
            volumes: volumes.collect(),
            target,
            connections: now.connections.iter().map(ConnectionFigures::from).collect(),
            archive: archive_figures(before, now, seconds),
        }
    }
}

fn reactor_figures(before: Option<&ReactorView>, now: &ReactorView) -> ReactorFigures {
    // The reactor's own clock, so that the duration of the call does not count.
    let span_ns = before.and_then(|before| now.elapsed_ns().checked_sub(before.elapsed_ns()));
    let seconds = span_ns.unwrap_or(0) as f64 / 1e9;
    let busy_ns_per_s = rate(before.map(|before| before.busy), now.busy, seconds);
    ReactorFigures {
        name: now.name().to_owned(),
        core: now.core(),
        // A turn that began before the first sample may be counted in full.
        busy_percent: busy_ns_per_s.map(|busy| (busy / 1e7).min(100.0)),
        turns_per_s: rate(before.map(|before| before.turns), now.turns, seconds),
        sleeps_per_s: rate(before.map(|before| before.sleeps), now.sleeps, seconds),
        turn_mean_ns: now.turn_ns.mean,
        turn_p99_ns: now.turn_ns.p99,
        long_turns: now.long_turns,
    }
}

fn pool_figures(before: Option<&PoolStats>, info: &PoolInfo, now: &PoolStats, seconds: f64) -> PoolFigures {
    let bytes = |blocks: u64| blocks.saturating_mul(BLOCK_BYTES as u64);
    let bytes_rate = |counter: fn(&PoolStats) -> u64| {
        rate(before.map(counter), counter(now), seconds).map(|blocks| blocks * BLOCK_BYTES as f64)
    };
    let written = bytes_rate(|stats| stats.host_written_blocks);
    // As in the amplification since start: blocks that a volume hydrates are not copies of what
    // hosts wrote.
    let copied = bytes_rate(|stats| stats.copied_blocks.saturating_sub(stats.hydrated_blocks));
    let amplification = |written: f64, copied: f64| (written > 0.0).then(|| (written + copied) / written);
    PoolFigures {
        state: info.state.clone(),
        device: info.device.clone(),
        capacity_bytes: bytes(now.capacity_blocks),
        taken_bytes: bytes(now.reserved_blocks + now.thin_blocks + now.masks),
        log_capacity_bytes: bytes(now.log_capacity_blocks),
        log_used_bytes: bytes(now.log_used_blocks),
        working_set_segments: info.working_set_segments,
        segments_in_use: now.segments_in_use,
        segments_recycle: now.segments_recycle,
        write_amplification: now.write_amplification,
        write_amplification_now: written
            .zip(copied)
            .and_then(|(written, copied)| amplification(written, copied)),
        written_bytes_per_s: written,
        device_bytes_per_s: bytes_rate(|stats| stats.device_written_blocks),
        problems: info.problems.clone(),
    }
}

fn volume_figures(before: Option<&Sample>, now: &Sample, volume: &VolumeInfo, seconds: f64) -> VolumeFigures {
    let same = |other: &&VolumeInfo| other.uuid == volume.uuid;
    let earlier = before.and_then(|before| before.volumes.iter().find(same)).map(|volume| volume.stats);
    let stats = volume.stats;
    let histogram = now.histograms.get(&volume.name);
    let between = histogram.map(|histogram| {
        // A histogram that was enabled or reset after the earlier sample holds only newer values.
        let earlier = before.and_then(|before| before.histograms.get(&volume.name));
        earlier.and_then(|earlier| histogram.since(earlier)).unwrap_or_else(|| histogram.clone())
    });
    let latency = between
        .filter(|between| between.count() > 0)
        .map(|between| LatencyFigures { mean_ns: between.mean(), p99_ns: between.percentile(99.0) });
    VolumeFigures {
        name: volume.name.clone(),
        state: volume.state,
        size_bytes: volume.size_bytes,
        mapped_bytes: volume.mapped_blocks.saturating_mul(BLOCK_BYTES as u64),
        reads_per_s: rate(earlier.map(|stats| stats.reads), stats.reads, seconds),
        writes_per_s: rate(earlier.map(|stats| stats.writes), stats.writes, seconds),
        read_bytes_per_s: rate(earlier.map(|stats| stats.read_bytes), stats.read_bytes, seconds),
        written_bytes_per_s: rate(earlier.map(|stats| stats.written_bytes), stats.written_bytes, seconds),
        latency,
        measured: histogram.is_some(),
        errors: stats.errors,
    }
}

impl From<&Connection> for ConnectionFigures {
    fn from(connection: &Connection) -> Self {
        let Connection { volume, host, controller_id, address, io_queues } = connection.clone();
        ConnectionFigures { host, volume, controller_id, address, io_queues }
    }
}

fn archive_figures(before: Option<&Sample>, now: &Sample, seconds: f64) -> Option<ArchiveFigures> {
    let status = &now.archive.as_ref()?.status;
    let before = before.and_then(|before| before.archive.as_ref()).map(|report| report.status.content_bytes);
    Some(ArchiveFigures {
        store: status.store.clone(),
        state: status.state.clone(),
        backlog_segments: status.backlog_segments,
        backlog_bytes: status.backlog_bytes,
        recovery_point_age_s: status.recovery_point_age_s,
        throttled_ms_per_s: status.throttled_ms_per_s,
        archived_bytes_per_s: rate(before, status.content_bytes, seconds),
        throughput_bytes_per_s: status.throughput_bytes_per_s,
        compression_ratio: status.compression_ratio,
        failures: status.failures,
        problem: status.problem.clone(),
    })
}
