//! The bar: `kill -9` of the appliance under load and a restart, 20 times in a row. The host
//! reconnects by itself and no acknowledged write is lost.

use varve_tests::soak::{SoakConfig, find_binary, run};

#[test]
fn twenty_kills_under_load_lose_nothing_that_was_acknowledged() {
    // In the build's directory and not in /tmp, which may be in memory.
    let directory = env!("CARGO_TARGET_TMPDIR");
    let config = SoakConfig::new(find_binary().unwrap(), directory);
    let report = run(&config, |_| {}).unwrap_or_else(|error| panic!("{error}"));
    println!("{report:?}");
    assert_eq!(report.kills, 20);
    assert!(report.counts.writes > 0 && report.counts.reads > 0, "{report:?}");
    assert!(report.counts.trims > 0 && report.counts.flushes > 0, "{report:?}");
    assert!(report.unanswered > 0, "the kills came under load: {report:?}");
}
