//! `varve top`, latency histograms and the options of reactors, with the real program.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use varve::histogram::Histogram;
use varve::reactor::Cores;
use varve::rpc::HistogramReport;
use varve_tests::appliance::rounds::{BLOCK_BYTES, connect};
use varve_tests::appliance::{Appliance, ApplianceConfig};

const INTERVAL: [&str; 2] = ["--interval", "0.2"];

/// A host that writes until this is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    host: Option<JoinHandle<()>>,
}

impl Load {
    fn start(appliance: &Appliance) -> Self {
        let (controller, mut queue, _) = connect(appliance, "vol0");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let host = std::thread::spawn(move || {
            for block in 0.. {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                queue.write(block % 1024, &[7; BLOCK_BYTES]).expect("written");
            }
            drop(controller);
        });
        Load { stop, host: Some(host) }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(host) = self.host.take() {
            host.join().expect("it wrote well");
        }
    }
}

fn histogram(appliance: &Appliance) -> Histogram {
    let answer = appliance.rpc("bdev_get_histogram", json!({"name": "vol0"})).expect("it is enabled");
    let report: HistogramReport = serde_json::from_value(answer).expect("a histogram");
    report.read().expect("of this version")
}

#[test]
fn a_histogram_counts_every_request_from_enable_to_disable() {
    let mut appliance =
        Appliance::start(&ApplianceConfig::with_arguments(&["--memory", "128MiB"])).expect("it starts");
    let (_controller, mut queue, _) = connect(&appliance, "vol0");
    queue.write(0, &[1; BLOCK_BYTES]).expect("written");
    let refusal = appliance.command(&["volume", "histogram", "vol0"]).expect_err("it is off").to_string();
    assert!(refusal.contains("--enable"), "{refusal}");
    let said = appliance.command(&["volume", "histogram", "vol0", "--enable"]).expect("it is enabled");
    assert!(said.contains("vol0"), "{said}");
    for block in 0..50 {
        queue.write(block, &[2; BLOCK_BYTES]).expect("written");
    }
    let mut data = [0; BLOCK_BYTES];
    for block in 0..30 {
        queue.read(block, &mut data).expect("read");
    }
    queue.flush().expect("flushed");
    assert_eq!(histogram(&appliance).count(), 81);
    let text = appliance.command(&["volume", "histogram", "vol0"]).expect("it is on");
    assert!(text.contains("Requests:  81") && text.contains("p99.999") && text.contains('#'), "{text}");
    // Only one kind of request, counted from zero.
    appliance.command(&["volume", "histogram", "vol0", "--enable", "--only", "read"]).expect("it is enabled");
    queue.write(0, &[3; BLOCK_BYTES]).expect("written");
    queue.read(0, &mut data).expect("read");
    assert_eq!(histogram(&appliance).count(), 1);
    let unknown = appliance.command(&["volume", "histogram", "vol0", "--enable", "--only", "copy"]);
    assert!(unknown.expect_err("volumes have none").to_string().contains("write_zeroes"));
    let unknown = appliance.rpc("bdev_enable_histogram", json!({"name": "other", "enable": true}));
    assert!(unknown.expect_err("there is none").to_string().contains("other"));
    appliance.command(&["volume", "histogram", "vol0", "--disable"]).expect("it is disabled");
    appliance.rpc("bdev_get_histogram", json!({"name": "vol0"})).expect_err("it is off");
    drop(queue);
    appliance.stop().expect("it stops cleanly");
    assert_eq!(appliance.complaints(), "");
}

#[test]
fn top_shows_a_picture_of_an_appliance_at_work() {
    let appliance = Appliance::start(&ApplianceConfig::default()).expect("it starts");
    appliance.command(&["volume", "histogram", "vol0", "--enable"]).expect("it is enabled");
    let load = Load::start(&appliance);
    let text = appliance.command(&[&["top", "--once"], &INTERVAL[..]].concat()).expect("it answers");
    for part in
        ["Reactors", "reactor0", "Pool", "online", "Archive", "Volumes", "vol0", "Connections: 1 controllers"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    // The output is not a terminal: it is one picture even without --once.
    let json = appliance.command(&[&["top", "--json"], &INTERVAL[..]].concat()).expect("it answers");
    drop(load);
    let figures: Value = serde_json::from_str(&json).expect("JSON");
    let positive = |pointer: &str| {
        let value = figures.pointer(pointer).and_then(Value::as_f64);
        assert!(value.is_some_and(|value| value > 0.0), "{pointer}: {figures:#}");
    };
    positive("/volumes/0/writes_per_s");
    positive("/volumes/0/written_bytes_per_s");
    positive("/volumes/0/latency/mean_ns");
    positive("/volumes/0/latency/p99_ns");
    positive("/reactors/0/busy_percent");
    positive("/pools/0/working_set_segments");
    positive("/pools/0/written_bytes_per_s");
    positive("/target/commands_per_s");
    assert_eq!(figures["connections"][0]["volume"], "vol0");
    assert_eq!(figures["connections"][0]["io_queues"], 1);
    assert!(figures["archive"]["recovery_point_age_s"].is_number(), "{figures:#}");
}

#[test]
fn top_without_an_appliance_says_so() {
    let mut appliance =
        Appliance::start(&ApplianceConfig::with_arguments(&["--memory", "64MiB"])).expect("it starts");
    appliance.stop().expect("it stops cleanly");
    let error = appliance.command(&["top", "--once"]).expect_err("nobody answers").to_string();
    assert!(error.contains("no appliance answers"), "{error}");
}

#[test]
fn reactors_are_pinned_to_the_cores_that_are_named() {
    let available = Cores::available().to_string();
    let arguments = ["--memory", "64MiB", "--reactors", &available];
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("it starts");
    let answer = appliance.rpc("framework_get_reactors", Value::Null).expect("it answers");
    let reactors = answer["reactors"].as_array().expect("a list");
    assert_eq!(reactors.len(), 1 + Cores::available().rest().len());
    assert_eq!(reactors[0]["lcore"], Cores::available().first());
    for (number, reactor) in reactors.iter().enumerate() {
        assert_eq!(reactor["pinned"], true);
        assert_eq!(reactor["lw_threads"][0]["name"], format!("reactor{number}"));
    }
    let first = &reactors[0];
    assert_eq!(first["turn_ns"]["count"], first["busy_turns"], "{first:#}");
    let threads = appliance.rpc("thread_get_stats", Value::Null).expect("it answers");
    assert_eq!(threads["threads"].as_array().map(Vec::len), Some(reactors.len()));
    let text = appliance.command(&["framework", "get-reactors"]).expect("it answers");
    assert!(text.contains("Turns of reactor0 with work"), "{text}");
    appliance.stop().expect("it stops cleanly");
    assert_eq!(appliance.complaints(), "");
}
