//! The real program while the time of day jumps: nothing expires wrongly, what is written has a
//! right time as soon as the clock is right, and spans before now are the time that really passed.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use varve_tests::appliance::rounds::{Host, archive_status, labels};
use varve_tests::appliance::{Appliance, ApplianceConfig, WallClock};

const DAY_S: i64 = 86_400;
const RULES: &str = "every-write 48h; synch 30d; every 1d keep 1y";
const ROUNDS: u64 = 12;
/// The tolerance when two times must be equal: the machine may be busy.
const SAME_NS: u64 = 5_000_000_000;

/// An appliance with rules set, whose archive has much more history than the primary device holds.
fn with_history(clock: &WallClock, expire_seconds: &str) -> Appliance {
    let arguments = [
        "--pool-size",
        "15MiB",
        "--volume-size",
        "4MiB",
        "--seal-seconds",
        "1",
        "--expire-grace-seconds",
        "0",
        "--expire-seconds",
        expire_seconds,
    ];
    let mut config = ApplianceConfig::with_arguments(&arguments);
    config.environment = clock.environment();
    let appliance = Appliance::start(&config).expect("it starts");
    appliance.command(&["archive", "keep", RULES]).expect("rules");
    let mut host = Host::connect(&appliance, "vol0");
    for round in 1..=ROUNDS {
        host.write_round(round);
        synch(&appliance, &format!("round-{round}"));
    }
    appliance.command(&["archive", "seal"]).expect("it seals");
    appliance
}

/// Makes a synch; returns its time.
fn synch(appliance: &Appliance, label: &str) -> u64 {
    let synch = appliance.rpc("synch_create", json!({"label": label})).expect("a synch");
    synch["time_ns"].as_u64().expect("a time")
}

/// The whole segments in the archive.
fn segments(appliance: &Appliance) -> BTreeSet<u64> {
    let objects = appliance.rpc("archive_list", json!({"limit": 100_000})).expect("a list");
    let objects = objects.as_array().expect("a list").iter();
    objects
        .filter(|object| object["whole"] == true)
        .map(|object| object["sequence"].as_u64().expect("a number"))
        .collect()
}

/// The problem of the clock that the operator sees.
fn clock_problem(appliance: &Appliance) -> Option<String> {
    let pools = appliance.rpc("pool_list", Value::Null).expect("it answers");
    let problems = pools[0]["problems"].as_array().expect("a list");
    problems.iter().filter_map(Value::as_str).find(|text| text.contains("clocks disagree")).map(str::to_owned)
}

/// Checks that "two seconds ago" is the state before the last two seconds, by the monotonic clock.
fn check_spans(appliance: &Appliance, label: &str) {
    synch(appliance, label);
    std::thread::sleep(Duration::from_secs(4));
    synch(appliance, &format!("{label}-late"));
    let point = appliance.rpc("restore_resolve", json!({"point": "time:-2s"})).expect("it is known");
    assert_eq!(point["kind"]["synch"]["label"], label, "{point}");
    assert_eq!(point["counted_by"], "monotonic", "{point}");
}

#[test]
fn a_clock_that_leaps_ahead_takes_nothing_and_leaves_nothing_behind() {
    let mut clock = WallClock::new().expect("the shim");
    let mut appliance = with_history(&clock, "1");
    let (before, synchs) = (segments(&appliance), labels(&appliance));
    assert!(before.len() > 20 && clock_problem(&appliance).is_none());

    clock.set_ahead_s(400 * DAY_S);
    synch(&appliance, "leapt");
    std::thread::sleep(Duration::from_secs(4));
    let problem = clock_problem(&appliance).expect("it is told");
    assert!(problem.contains("400.0 days ahead of") && problem.contains("--clock-is-right"), "{problem}");
    assert!(archive_status(&appliance)["expiry_held"].is_string());
    let asked = appliance.command(&["archive", "expire", "--all"]).expect("it answers");
    assert!(asked.contains("clocks disagree"), "{asked}");
    assert!(segments(&appliance).is_superset(&before));
    assert!(synchs.iter().all(|label| labels(&appliance).contains(label)));
    check_spans(&appliance, "while-ahead");

    clock.set_ahead_s(0);
    assert!(synch(&appliance, "right-again").abs_diff(clock.now_ns()) < SAME_NS);
    assert_eq!(clock_problem(&appliance), None);
    check_spans(&appliance, "after");
    appliance.stop().expect("it stops cleanly");
    appliance.restart().expect("it starts again");
    assert!(synch(&appliance, "restarted").abs_diff(clock.now_ns()) < SAME_NS);
    assert!(segments(&appliance).is_superset(&before) && clock_problem(&appliance).is_none());
}

#[test]
fn a_clock_that_is_confirmed_lets_a_part_go_each_hour() {
    let mut clock = WallClock::new().expect("the shim");
    let appliance = with_history(&clock, "0");
    let before = segments(&appliance);
    clock.set_ahead_s(400 * DAY_S);
    synch(&appliance, "leapt");
    let said = appliance.command(&["archive", "expire", "--clock-is-right"]).expect("it expires");
    let gone = before.difference(&segments(&appliance)).count();
    assert!((1..=8).contains(&gone), "{gone} of {}: {said}", before.len());
    assert!(said.contains("--all"), "{said}");
    assert_eq!(clock_problem(&appliance), None);
    assert!(synch(&appliance, "confirmed").abs_diff(clock.now_ns()) < SAME_NS);
    let again = appliance.command(&["archive", "expire"]).expect("it answers");
    assert_eq!(before.difference(&segments(&appliance)).count(), gone, "{again}");
    appliance.command(&["archive", "expire", "--all"]).expect("it expires");
    assert!(segments(&appliance).len() < before.len() / 2 + 10);
    Host::connect(&appliance, "vol0").check_round(ROUNDS);
}

#[test]
fn a_clock_that_is_set_back_gives_the_right_past_or_none() {
    let mut clock = WallClock::new().expect("the shim");
    let mut appliance = with_history(&clock, "0");
    let right_ns = clock.now_ns();
    clock.set_ahead_s(-DAY_S);
    check_spans(&appliance, "while-behind");
    assert!(synch(&appliance, "behind").abs_diff(right_ns) < 60 * SAME_NS, "records do not go back");
    assert!(clock_problem(&appliance).expect("it is told").contains("24.0 hours behind"));

    // Now it is unknown how long the clock was off.
    appliance.stop().expect("it stops cleanly");
    appliance.restart().expect("it starts again");
    let refused = appliance.command(&["restore", "resolve", "time:-1h"]).expect_err("it is not known");
    let refused = refused.to_string();
    assert!(refused.contains("lsn:N") && refused.contains("--is-right"), "{refused}");
    check_spans(&appliance, "restarted");

    clock.set_ahead_s(0);
    assert_eq!(clock_problem(&appliance), None);
    let point = appliance.rpc("restore_resolve", json!({"point": "time:-1s"})).expect("it is known");
    assert_eq!(point["counted_by"], "monotonic", "{point}");
    assert!(synch(&appliance, "right").abs_diff(clock.now_ns()) < SAME_NS);
}
