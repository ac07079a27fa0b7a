//! 60 random conversations with a target; `connection_fuzz` runs more of them.

use varve_tests::connection_fuzz::{Counts, converse};

#[test]
fn conversations_in_any_state_are_answered_and_leave_nothing_behind() {
    let mut total = Counts::default();
    for seed in 0..60 {
        total += converse(seed);
    }
    assert!(total.successes > 100 && total.ended > 10 && total.innocent > 500, "{total:?}");
}
