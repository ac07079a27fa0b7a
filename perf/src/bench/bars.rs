//! The bars of the benchmark: ratios of its steps to their floors and to each other.

use super::{BackingKind, Figures, FileFloor, TcpFloors};
use crate::bar::{Bar, Bound};
use crate::floor::FloorResult;
use crate::load::LoadResult;

/// The tail at depth 1: p99.99 over the median, at most.
const TAIL_MAX: f64 = 5.0;
/// Random writes over the sequential bandwidth of the backing, at least.
const LOG_EFFICIENCY_MIN: f64 = 0.8;
/// Random reads of a file-backed volume over those of the file itself, at least.
const FILE_READ_MIN: f64 = 0.9;
/// With snapshots over without, at least.
const SNAPSHOT_LOSS_MIN: f64 = 0.97;
/// The mean at depth 1 over that of the network alone, at most.
const NETWORK_MAX: f64 = 1.25;
/// Sequential bandwidth over the smaller of the network's and the device's, at least.
const SEQUENTIAL_MIN: f64 = 0.9;

/// The latency at depth 1 of a reactor that may sleep over that of one that never does, at most.
const ADAPTIVE_MAX: f64 = 1.1;

/// The bars of one backing.
pub(super) fn of(figures: &Figures, tcp: &TcpFloors, file: Option<&FileFloor>) -> Vec<Bar> {
    let backing = if figures.kind == BackingKind::Memory { "memory" } else { "file" };
    let [write_1, write, read_1, read] = &figures.random[..] else { return Vec::new() };
    let mut bars = Vec::new();
    for (name, load, floor) in [("write", write_1, &tcp.random[0]), ("read", read_1, &tcp.random[1])] {
        let beside_network = |what: &str, load_us: f64, floor_us: f64, bound: Option<Bound>| {
            Bar::over(format!("{backing}: QD1 {name}, {what}"), load_us, "us", &floor.what, floor_us, bound)
        };
        let bound = file.is_none().then_some(Bound::AtMost(NETWORK_MAX));
        bars.push(beside_network("mean", load.latency.mean_us, floor.latency.mean_us, bound));
        bars.push(beside_network("median", load.latency.p50_us, floor.latency.p50_us, None));
        bars.push(Bar::over(
            format!("{backing}: QD1 {name}, p99.99"),
            load.latency.p99_99_us,
            "us",
            "its median",
            load.latency.p50_us,
            file.is_none().then_some(Bound::AtMost(TAIL_MAX)),
        ));
        // The tail that the machine causes in both.
        let (tail_us, network_us) = (load.latency.p99_99_us, floor.latency.p99_99_us);
        bars.push(beside_network("p99.99 beside the network's", tail_us, network_us, None));
    }
    for (name, load, floor) in [("write", write, &tcp.random[2]), ("read", read, &tcp.random[3])] {
        bars.push(Bar::over(
            format!("{backing}: QD32 {name}"),
            load.iops,
            "IOPS",
            &floor.what,
            floor.iops,
            None,
        ));
    }
    if let Some(file) = file {
        let floor = &file.sequential_write;
        bars.push(Bar::over(
            "file: QD32 4 KiB random write",
            write.mib_per_second,
            "MiB/s",
            &floor.what,
            floor.mib_per_second,
            Some(Bound::AtLeast(LOG_EFFICIENCY_MIN)),
        ));
        bars.push(Bar::over(
            "file: QD32 4 KiB random write, on 4 connections",
            figures.many.mib_per_second,
            "MiB/s",
            &floor.what,
            floor.mib_per_second,
            Some(Bound::AtLeast(LOG_EFFICIENCY_MIN)),
        ));
        bars.push(Bar::over(
            "file: QD32 4 KiB random write, as many bytes in flight",
            write.mib_per_second,
            "MiB/s",
            &file.loaded_write.what,
            file.loaded_write.mib_per_second,
            None,
        ));
        bars.push(Bar::over(
            "file: QD32 4 KiB random read",
            read.iops,
            "IOPS",
            &file.read_loaded.what,
            file.read_loaded.iops,
            Some(Bound::AtLeast(FILE_READ_MIN)),
        ));
    }
    if let Some(fio) = &figures.fio {
        bars.push(Bar::over(
            "file: QD32 4 KiB random read, beside fio",
            read.iops,
            "IOPS",
            &fio.what,
            fio.iops,
            Some(Bound::AtLeast(FILE_READ_MIN)),
        ));
    }
    bars.extend(middle(figures.beside.iter().map(|(before, after)| {
        Bar::over(
            format!("{backing}: QD32 write beside 100 snapshots"),
            after.iops,
            "IOPS",
            "without them",
            before.iops,
            Some(Bound::AtLeast(SNAPSHOT_LOSS_MIN)),
        )
    })));
    let sequential = [
        ("128 KiB write", &figures.write, &tcp.sequential[0], file.map(|file| &file.sequential_write)),
        ("128 KiB read", &figures.read, &tcp.sequential[1], file.map(|file| &file.sequential_read)),
        ("512 KiB write", &figures.large_write, &tcp.sequential[2], file.map(|file| &file.large_write)),
        ("512 KiB read", &figures.large_read, &tcp.sequential[3], file.map(|file| &file.large_read)),
    ];
    for (name, load, tcp, file) in sequential {
        let floor = smaller(tcp, file);
        bars.push(Bar::over(
            format!("{backing}: sequential {name}"),
            load.mib_per_second,
            "MiB/s",
            &floor.what,
            floor.mib_per_second,
            Some(Bound::AtLeast(SEQUENTIAL_MIN)),
        ));
    }
    bars.push(Bar::over(
        format!("{backing}: sequential 128 KiB read after random writes"),
        figures.scattered.mib_per_second,
        "MiB/s",
        "after sequential writes",
        figures.read.mib_per_second,
        None,
    ));
    for blocks in super::READ_AHEAD_COMMANDS {
        let block_bytes = blocks * super::COMMAND_BYTES;
        let rounds = figures.in_order.iter().filter(|(_, with)| with.block_bytes == block_bytes);
        bars.extend(middle(rounds.map(|(without, with)| {
            Bar::over(
                format!("{backing}: QD1 {} KiB sequential read after random writes", block_bytes / 1024),
                with.mib_per_second,
                "MiB/s",
                "nothing read ahead",
                without.mib_per_second,
                None,
            )
        })));
    }
    bars
}

/// The cost of sleeping when idle, at depth 1. Of the pairs of one appliance that may sleep and one
/// that never does, the pair with the median ratio counts; `None` without pairs.
pub(super) fn adaptive<'a>(pairs: impl Iterator<Item = (&'a LoadResult, &'a LoadResult)>) -> Option<Bar> {
    middle(pairs.map(|(adaptive, polling)| {
        Bar::over(
            format!("memory: QD1 {} of an adaptive reactor, mean", adaptive.pattern.name()),
            adaptive.latency.mean_us,
            "us",
            "a reactor that never sleeps",
            polling.latency.mean_us,
            Some(Bound::AtMost(ADAPTIVE_MAX)),
        )
    }))
}

/// Of several rounds, the one with the median ratio.
fn middle(rounds: impl Iterator<Item = Bar>) -> Option<Bar> {
    let mut bars: Vec<Bar> = rounds.collect();
    bars.sort_by(|one, other| one.ratio.unwrap_or(0.0).total_cmp(&other.ratio.unwrap_or(0.0)));
    (!bars.is_empty()).then(|| bars.swap_remove(bars.len() / 2))
}

fn smaller<'a>(tcp: &'a FloorResult, file: Option<&'a FloorResult>) -> &'a FloorResult {
    file.filter(|file| file.mib_per_second < tcp.mib_per_second).unwrap_or(tcp)
}
