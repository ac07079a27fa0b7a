//! Several owners of one archive, simulated; `simulate --owners A..B` runs any number of seeds.

use varve_tests::sim::owners::{OwnerCounts, owners_campaign};

#[test]
fn every_archived_moment_of_every_history_opens() {
    let mut total = OwnerCounts::default();
    for seed in 0..40 {
        total += owners_campaign(seed);
    }
    println!("{total:?}");
    assert!(total.losses > 50 && total.refused > 10 && total.forks > 5 && total.overtaken > 5, "{total:?}");
    assert!(total.moments > 1000 && total.histories > 50 && total.store_faults > 100, "{total:?}");
}
