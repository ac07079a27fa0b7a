//! Bad hosts, at a small scale and for 2.5 s each: the innocent host next to them sees no error and
//! no wrong byte, and no command takes longer than 5 s. `canary` measures the figures and takes
//! minutes.

use std::time::Duration;

use varve_tests::canary::{ADVERSARIES, CanaryConfig, RotationConfig, rotate, run, table};

/// The limit of one command here, on top of the machine's own delays: much more than on an idle
/// machine, and much less than a host's timeout.
const LONGEST_MS: f64 = 5000.0;

const CONFIG: CanaryConfig =
    CanaryConfig { before: Duration::from_millis(300), beside: Duration::from_millis(2500), scale: 0.05 };

#[test]
fn an_innocent_host_beside_bad_ones_sees_no_error_and_waits_for_nothing_for_long() {
    for adversary in &ADVERSARIES {
        let verdict = run(adversary, CONFIG).expect("a verdict");
        let text = table(std::slice::from_ref(&verdict));
        assert_eq!(verdict.errors + verdict.wrong_blocks + verdict.call_errors, 0, "{text}");
        let longest_ms = verdict.beside.max_ms.max(verdict.calls.max_ms);
        assert!(longest_ms < LONGEST_MS + verdict.lateness.max_ms, "{text}");
    }
}

#[test]
fn in_rotation_and_with_kills_between_nothing_is_lost() {
    let config = RotationConfig {
        span: Duration::from_secs(15),
        turn: Duration::from_secs(1),
        scale: 0.02,
        kill_odds: 2,
        seed: 1,
    };
    let report = rotate(config, |_, _| {}).expect("it can be run");
    assert_eq!(report.wrong, Vec::<String>::new());
    assert!(report.turns >= 6 && report.kills > 0 && report.verified_blocks > 0, "{report:?}");
}
