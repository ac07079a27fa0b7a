//! The floor that everybody can repeat: what `fio` reaches on a file.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use super::FloorResult;
use crate::error::PerfError;
use crate::latency::Latency;

/// The I/O engines, in the order in which they are tried; the first that works counts.
const ENGINES: [&str; 2] = ["io_uring", "libaio"];
/// Bytes per command.
const BLOCK_BYTES: u64 = 4096;

/// What to read, and how.
#[derive(Debug, Clone, Copy)]
pub struct Reads<'a> {
    /// The file.
    pub path: &'a Path,
    /// Where the range to read begins, in bytes.
    pub first: u64,
    /// Where it ends, in bytes.
    pub end: u64,
    /// Commands in flight.
    pub depth: u16,
    /// How long to read.
    pub duration: Duration,
    /// The core to pin fio to.
    pub core: Option<usize>,
}

/// Reads blocks of 4 KiB at random, bypassing the page cache.
///
/// # Errors
/// `fio` is not installed, or fails.
pub fn random_read(reads: &Reads<'_>) -> Result<FloorResult, PerfError> {
    let mut result = Err(failed("no way to read was tried".to_owned()));
    for engine in ENGINES {
        result = run(reads, engine);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn run(reads: &Reads<'_>, engine: &str) -> Result<FloorResult, PerfError> {
    let Reads { path, first, end, depth, duration, core } = *reads;
    let mut fio = Command::new("fio");
    // fio would take an unescaped colon as a separator between two file names.
    let name = path.display().to_string().replace(':', "\\:");
    fio.args(["--name=floor", "--readonly", "--allow_file_create=0", "--rw=randread", "--bs=4k"])
        .args(["--direct=1", "--norandommap", "--time_based", "--thread", "--output-format=json"])
        .arg(format!("--filename={name}"))
        .arg(format!("--ioengine={engine}"))
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--offset={first}"))
        .arg(format!("--size={}", end.saturating_sub(first)))
        .arg(format!("--runtime={}ms", duration.as_millis().max(1)));
    if let Some(core) = core {
        fio.arg(format!("--cpus_allowed={core}"));
    }
    let output = fio.output().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => failed("it is not installed (apt-get install fio)".to_owned()),
        _ => failed(error.to_string()),
    })?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let said = format!("{text}{}", String::from_utf8_lossy(&output.stderr));
        let first_line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(failed(format!("{engine}: {}: {first_line}", output.status)));
    }
    let what = format!("fio on the same file ({engine}), random 4 KiB reads, QD{depth}");
    parse(&text, what)
}

fn failed(reason: String) -> PerfError {
    PerfError::Floor { what: "fio".to_owned(), reason }
}

/// The part of fio's JSON that is used. Times in `runtime` are in milliseconds, those in `lat_ns`
/// and `clat_ns` in nanoseconds.
#[derive(Deserialize)]
struct Output {
    jobs: Vec<Job>,
}

#[derive(Deserialize)]
struct Job {
    error: i64,
    read: Read,
}

#[derive(Deserialize)]
struct Read {
    total_ios: u64,
    runtime: f64,
    lat_ns: Spread,
    clat_ns: Spread,
}

#[derive(Deserialize)]
struct Spread {
    mean: f64,
    max: f64,
    #[serde(default)]
    percentile: std::collections::BTreeMap<String, f64>,
}

fn parse(text: &str, what: String) -> Result<FloorResult, PerfError> {
    // There may be messages before the JSON.
    let json = text.find('{').map_or("", |at| &text[at..]);
    let output: Output = serde_json::from_str(json)
        .map_err(|error| failed(format!("its output is not understood: {error}")))?;
    let job = output.jobs.first().ok_or_else(|| failed("it ran no job".to_owned()))?;
    if job.error != 0 || job.read.total_ios == 0 || job.read.runtime <= 0.0 {
        return Err(failed(format!("{} reads, error {}", job.read.total_ios, job.error)));
    }
    let read = &job.read;
    let at = |percent: &str| read.clat_ns.percentile.get(percent).copied().unwrap_or(0.0) / 1000.0;
    let latency = Latency {
        count: read.total_ios,
        mean_us: read.lat_ns.mean / 1000.0,
        p50_us: at("50.000000"),
        p99_us: at("99.000000"),
        p99_9_us: at("99.900000"),
        p99_99_us: at("99.990000"),
        // fio does not report it.
        p99_999_us: 0.0,
        max_us: read.lat_ns.max / 1000.0,
    };
    Ok(FloorResult::new(what, read.runtime / 1000.0, BLOCK_BYTES, latency))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = r#"note: something
{"fio version": "fio-3.39", "jobs": [{"jobname": "floor", "error": 0, "read": {
  "io_bytes": 40960000, "total_ios": 10000, "iops": 19000.0, "runtime": 500,
  "lat_ns": {"min": 1, "max": 900000, "mean": 1600000.0, "stddev": 1.0, "N": 10000},
  "clat_ns": {"min": 1, "max": 800000, "mean": 1500000.0, "stddev": 1.0, "N": 10000,
    "percentile": {"50.000000": 1400000, "99.000000": 2000000, "99.900000": 3000000, "99.990000": 4000000}}}}]}"#;

    #[test]
    fn its_output_is_understood_or_refused() {
        let result = parse(OUTPUT, "fio".to_owned()).unwrap();
        assert_eq!((result.latency.count, result.seconds, result.iops), (10_000, 0.5, 20_000.0));
        assert_eq!((result.latency.mean_us, result.latency.p50_us), (1600.0, 1400.0));
        assert_eq!((result.latency.p99_99_us, result.latency.max_us), (4000.0, 900.0));
        assert!((result.mib_per_second - 20_000.0 / 256.0).abs() < 1e-9);
        for bad in ["", "{}", r#"{"jobs": []}"#, &OUTPUT.replace(r#""error": 0"#, r#""error": 5"#)] {
            assert!(parse(bad, String::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn it_reads_a_file_or_says_why_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a:file");
        std::fs::write(&path, vec![7; 1 << 20]).unwrap();
        let short = Duration::from_millis(50);
        let reads = Reads { path: &path, first: 4096, end: 1 << 20, depth: 4, duration: short, core: None };
        match random_read(&reads) {
            Ok(result) => assert!(result.latency.count > 0 && result.what.contains("fio"), "{result:?}"),
            Err(error) => assert!(error.to_string().contains("'fio' failed"), "{error}"),
        }
        let none = directory.path().join("none");
        let reads = Reads { path: &none, first: 0, end: 4096, depth: 1, ..reads };
        let missing = random_read(&reads).unwrap_err();
        assert!(missing.to_string().contains("'fio' failed"), "{missing}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is made");
    }
}
