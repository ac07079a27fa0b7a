//! The benchmark runs end to end with tiny sizes: no command fails, and the JSON has its shape. No
//! figure is judged.

use std::time::Duration;

use serde_json::Value;
use varve_perf::bar::{Bound, Judged};
use varve_perf::bench::{self, BenchConfig, BenchReport};
use varve_perf::{idle, table};

const STEP: Duration = Duration::from_millis(20);

fn config(directory: &std::path::Path) -> BenchConfig {
    BenchConfig {
        step: STEP,
        directory: directory.to_owned(),
        volume_bytes: 8 << 20,
        pool_bytes: 96 << 20,
        memory: true,
        file: true,
    }
}

#[test]
fn a_tiny_benchmark_has_every_step_and_no_failure() {
    let directory = tempfile::tempdir().unwrap();
    let report = bench::run(&config(directory.path()), |_| {}).unwrap();
    let json: Value = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
    let again: BenchReport = serde_json::from_value(json.clone()).unwrap();
    assert_eq!(again.steps.len(), report.steps.len());

    for key in ["version", "machine", "step_seconds", "volume_bytes", "pool_bytes", "steps"] {
        assert!(json.get(key).is_some(), "{key}");
    }
    let steps = json["steps"].as_array().unwrap();
    let names: Vec<String> = steps
        .iter()
        .map(|step| {
            format!(
                "{} {} {}",
                step["backing"].as_str().unwrap(),
                step["load"]["pattern"].as_str().unwrap(),
                step["load"]["queue_depth"]
            )
        })
        .collect();
    // The first round, the steps, and three rounds without and beside snapshots.
    let parts = [
        "write 8",
        "write 8",
        "read 8",
        "write 8",
        "read 8",
        "randwrite 1",
        "randwrite 32",
        "randread 1",
        "randread 32",
        "read 8",
        "randwrite 32",
        "randwrite 32",
        "randwrite 32",
        "randwrite 32",
        "randwrite 32",
        "randwrite 32",
        "randwrite 32",
    ];
    // Three rounds, adaptive and polling in each.
    let depth_1 = ["write 8", "randwrite 1", "randread 1"].map(|part| format!("memory {part}"));
    let policies = (0..6).flat_map(|_| depth_1.clone());
    let memory = parts.iter().map(|part| format!("memory {part}"));
    // Only a file has latency for read-ahead to hide.
    let read_ahead = (0..12).map(|_| "read 1");
    let file = parts[..10].iter().copied().chain(read_ahead).chain(parts[10..].iter().copied());
    let expected: Vec<String> =
        memory.chain(policies).chain(file.map(|part| format!("file {part}"))).collect();
    assert_eq!(names, expected);
    for (step, name) in steps.iter().zip(&names) {
        let load = &step["load"];
        assert_eq!(load["failures"], 0, "{name}: {}", load["first_failure"]);
        assert!(load["operations"].as_u64().unwrap() > 0, "{name}");
        for key in ["count", "mean_us", "p50_us", "p99_us", "p99_9_us", "p99_99_us", "max_us"] {
            assert!(load["latency"][key].as_f64().unwrap() > 0.0, "{name} {key}");
        }
        for floor in step["floors"].as_array().unwrap() {
            assert!(floor["ratio"].as_f64().unwrap() > 0.0, "{name}: {floor}");
            assert!(floor["floor"]["latency"]["count"].as_u64().unwrap() > 0, "{name}: {floor}");
        }
    }
    // Each random step stands beside at least one floor; on a file beside two.
    assert!(report.steps[5..9].iter().all(|step| step.floors.len() == 1));
    assert!(report.steps[40..44].iter().all(|step| step.floors.len() == 2));
    for what in [
        "memory: QD1 write, mean",
        "memory: QD1 read, p99.99",
        "memory: QD1 randwrite of an adaptive reactor, mean",
        "file: QD32 4 KiB random write",
        "file: QD32 4 KiB random write, on 4 connections",
        "file: QD32 4 KiB random write, as many bytes in flight",
        "file: QD32 write beside 100 snapshots",
        "file: QD32 4 KiB random read",
        "file: sequential 512 KiB read",
        "memory: QD1 randread of an adaptive reactor, mean",
        "file: sequential 128 KiB read after random writes",
        "file: QD1 4 KiB sequential read after random writes",
        "file: QD1 128 KiB sequential read after random writes",
    ] {
        let bar = report.bars.iter().find(|bar| bar.what == what).unwrap_or_else(|| panic!("{what}"));
        assert!(bar.ratio.is_some_and(|ratio| ratio > 0.0), "{bar:?}");
    }
    let judged = |what: &str| {
        let bar = report.bars.iter().find(|bar| bar.what == what).unwrap_or_else(|| panic!("{what}"));
        (bar.bound, bar.judged)
    };
    assert_eq!(judged("idle appliance, of a core"), (Some(Bound::AtMost(1.0)), Judged::Value));
    for pattern in ["randwrite", "randread"] {
        let what = format!("memory: QD1 {pattern} of an adaptive reactor, mean");
        assert_eq!(judged(&what), (Some(Bound::AtMost(1.1)), Judged::Ratio));
    }
    // Beside fio, or the reason why not.
    let fio = report.bars.iter().find(|bar| bar.what == "file: QD32 4 KiB random read, beside fio");
    let missing = report.missing.iter().any(|missing| missing.contains("fio"));
    assert_eq!(fio.is_none(), missing, "{:?}", report.missing);
    assert!(fio.is_none_or(|bar| bar.bound == Some(Bound::AtLeast(0.9)) && bar.ratio > Some(0.0)));
    assert!(table::bench(&report).contains("file randwrite 4 KiB QD32"));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "files are removed");
}

#[test]
fn idling_is_measured() {
    let result = idle::measure(Duration::from_millis(300)).unwrap();
    // How much is for a quiet machine to say.
    assert!(result.cpu_ms >= 0.0 && result.percent.is_finite());
}
