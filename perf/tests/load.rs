//! Loads over `NVMe`/TCP from end to end: several volumes, connections and threads, every kind of
//! command, verified. No figure is judged.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use varve::serve::{Appliance, ApplianceConfig, Backing, FIRST_VOLUME_NAME};
use varve::text::units::SizeBytes;
use varve_perf::compare_target;
use varve_perf::load::{self, Access, LoadConfig, LoadResult, Pattern};

#[test]
fn every_kind_of_command_on_connections_of_several_threads_reads_what_was_written() {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = ApplianceConfig::new(Backing::Memory { len_bytes: 256 << 20 }, listen);
    config.first_volume_bytes = Some(16 << 20);
    let appliance = Appliance::start(config).unwrap();
    let config = LoadConfig {
        access: Access::Zipf { theta: 0.99 },
        trim_percent: 20,
        compress_ratio: 3.0,
        queue_depth: 8,
        connections: 3,
        threads: 2,
        verify: true,
        bytes_max: Some(16 << 20),
        duration: Duration::from_mins(1),
        ..LoadConfig::new(appliance.address(), FIRST_VOLUME_NAME, Pattern::RandRw)
    };
    let mut intervals = 0;
    let finished = load::run_recorded(&config, |_| intervals += 1).unwrap();
    let result = &finished.result;
    assert!(result.is_good(), "{result:?}");
    assert_eq!((result.operations, result.threads), (4096, 2));
    let counts =
        [result.read_latency, result.write_latency, result.trim_latency].map(|one| one.unwrap().count);
    assert_eq!(counts.iter().sum::<u64>(), 4096);
    assert!(counts.iter().all(|&count| count > 300), "{counts:?}");
    assert!(result.verification.as_ref().unwrap().checked_blocks > counts[0]);
    assert_eq!(result.timeline.len(), intervals);
    let json = serde_json::to_string(result).unwrap();
    assert_eq!(&serde_json::from_str::<LoadResult>(&json).unwrap(), result);
    // Sequentially, open, and on more threads than there are connections.
    let config = LoadConfig {
        pattern: Pattern::Write,
        access: Access::Uniform,
        rate: Some(20_000.0),
        threads: 8,
        bytes_max: Some(2 << 20),
        ..config
    };
    let result = load::run(&config, |_| {}).unwrap();
    assert!(result.is_good() && result.threads == 3 && result.unsent == 0, "{result:?}");
    appliance.stop().unwrap();
}

/// Two appliances are driven in turn, the second by its NQN as any other target would be.
#[test]
fn two_targets_are_compared_round_by_round() {
    let start = || {
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut config = ApplianceConfig::new(Backing::Memory { len_bytes: 256 << 20 }, listen);
        config.first_volume_bytes = Some(16 << 20);
        Appliance::start(config).unwrap()
    };
    let (one, other) = (start(), start());
    let nqn = varve::nvmf::nqn::of_volume(FIRST_VOLUME_NAME);
    let options = compare_target::Options {
        a: format!("{}/{FIRST_VOLUME_NAME}", one.address()).parse().unwrap(),
        b: format!("{}/{nqn}", other.address()).parse().unwrap(),
        row: ["randread,4KiB,8", "write,64KiB,2"].map(|row| row.parse().unwrap()).to_vec(),
        seconds: 0.1,
        rounds: 2,
        connections: 1,
        core: None,
        range: SizeBytes(8 << 20),
        no_fill: false,
    };
    let report = compare_target::run(&options, |_| {}).unwrap();
    let rounds: Vec<_> = report.rows.iter().map(|row| (row.a.len(), row.b.len())).collect();
    assert_eq!(rounds, [(1, 1), (2, 2), (2, 2)], "the fill and two rows: {report:?}");
    assert!(report.rows.iter().all(|row| row.ratio > 0.0 && row.spread.0 <= row.ratio), "{report:?}");
    // A target that is gone is an error with its address, not a figure.
    let gone = other.address();
    other.stop().unwrap();
    let error = compare_target::run(&options, |_| {}).unwrap_err().to_string();
    assert!(error.contains(&gone.port().to_string()), "{error}");
    one.stop().unwrap();
}
