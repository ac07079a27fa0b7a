//! Loads over `NVMe`/TCP from end to end: several volumes, connections and threads, every kind of command, verified. No figure is judged.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use varve::serve::{Appliance, ApplianceConfig, Backing, FIRST_VOLUME_NAME};
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
