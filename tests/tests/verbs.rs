//! Campaigns with every verb of going back: crashes between the pieces of each, faults, hosts that
//! write elsewhere. `simulate` runs the same over any number of seeds.

use varve_tests::sim::campaign::campaign_of;
use varve_tests::sim::endless::endless_campaign_going_back;
use varve_tests::sim::faults::Faults;
use varve_tests::sim::going_back::VerbCounts;

/// The verbs that a campaign must have done.
const VERBS: [&str; 19] = [
    "block restore",
    "clone",
    "clone promote",
    "clone reset",
    "commit --keep",
    "commit --roll-back",
    "delete",
    "diff",
    "increment",
    "rename",
    "rename to a name that exists",
    "roll-back",
    "session abort",
    "session bisect",
    "session judge",
    "session open",
    "session step",
    "snapshot --at",
    "synch delete",
];

fn check(counts: &VerbCounts) {
    println!("{counts}");
    for verb in VERBS {
        let count = counts.of(verb);
        let is_refused = verb == "rename to a name that exists";
        assert!(if is_refused { count.refused > 0 } else { count.done > 0 }, "{verb}: {count:?}");
    }
    let crashes = |verb: &str| counts.of(verb).cut;
    assert!(VERBS.iter().map(|verb| crashes(verb)).sum::<u64>() > 20, "{counts}");
    let behind: u64 = VERBS.iter().map(|verb| counts.of(verb).cut_behind).sum();
    assert!(behind > 5, "{counts}");
}

/// Pools that keep everything on the device, until they are full.
#[test]
fn verbs_keep_every_promise_in_a_pool_without_an_archive() {
    let mut counts = VerbCounts::default();
    for seed in (40_000..40_040).step_by(2) {
        let faults = if seed % 4 == 0 { Faults::ALL } else { Faults::NONE };
        counts += &campaign_of(seed, faults, true).verbs;
    }
    check(&counts);
}

/// Pools with an archive: most points are only there; some expire, some primaries are lost.
#[test]
fn verbs_keep_every_promise_in_a_pool_with_an_archive() {
    let mut counts = VerbCounts::default();
    for seed in (40_001..40_041).step_by(2) {
        let faults = if seed % 4 == 1 { Faults::ALL } else { Faults::NONE };
        counts += &endless_campaign_going_back(seed, faults).verbs;
    }
    check(&counts);
}
