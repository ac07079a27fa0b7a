//! The pool's shape, changed with the real program while a real host writes: a shorter and a longer
//! working set, and a larger file.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use varve_tests::appliance::rounds::Host;
use varve_tests::appliance::{Appliance, ApplianceConfig};

/// How long the appliance may take for its background work.
const PATIENCE: Duration = Duration::from_mins(2);

fn pool(appliance: &Appliance) -> Value {
    appliance.rpc("pool_list", Value::Null).expect("it answers")[0].clone()
}

#[test]
fn the_shape_changes_while_a_host_writes() {
    let arguments = ["--pool-size", "40MiB", "--volume-size", "8MiB", "--no-archive"];
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("it starts");
    let mut host = Host::connect(&appliance, "vol0");
    for round in 1..=6 {
        host.write_round(round);
    }
    let before = pool(&appliance);
    let (slots, longest) = (before["slots"].as_u64(), before["working_set_segments"].as_u64());
    let (slots, longest) = (slots.expect("a count"), longest.expect("a length"));
    assert_eq!((before["device_slots"].as_u64(), longest), (Some(slots), slots - 4), "{before}");

    let refused = appliance.command(&["pool", "set-working-set", "3"]).expect_err("vol0 does not fit");
    assert!(refused.to_string().contains("need 8 MiB"), "{refused}");
    let refused = appliance.command(&["pool", "grow"]).expect_err("the file has the old size");
    assert!(refused.to_string().contains("enlarge the device"), "{refused}");

    let shorter = longest - 8;
    appliance.rpc("pool_set_working_set", json!({"segments": shorter})).expect("it drains");
    let began = Instant::now();
    let mut round = 6;
    while pool(&appliance)["working_set_segments"] != shorter {
        round = 7 + round % 200;
        host.write_round(round);
        assert!(began.elapsed() < PATIENCE, "{}", pool(&appliance));
    }
    host.check_round(round);
    drop(host);

    appliance.stop().expect("it stops cleanly");
    let file = std::fs::OpenOptions::new().write(true).open(appliance.pool_folder().join("pool.varve"));
    let file = file.expect("the pool's file");
    let len_bytes = file.metadata().expect("its length").len();
    file.set_len(len_bytes + (20 << 20)).expect("it becomes larger");
    appliance.restart().expect("it starts again");
    let now = pool(&appliance);
    assert_eq!(
        (now["working_set_segments"].as_u64(), now["slots"].as_u64(), now["device_slots"].as_u64()),
        (Some(shorter), Some(slots), Some(slots + 20)),
        "{now}"
    );
    let shown = appliance.command(&["pool", "info"]).expect("it is shown");
    assert!(shown.contains(&format!("room for {}", slots + 20)), "{shown}");
    let grown = appliance.command(&["pool", "grow"]).expect("it grows");
    assert!(grown.contains(&format!("{} slots", slots + 20)), "{grown}");
    let longer = longest + 16;
    let shown =
        appliance.command(&["pool", "set-working-set", &longer.to_string()]).expect("it becomes longer");
    assert!(shown.contains(&format!("{longer} segments")), "{shown}");
    let mut host = Host::connect(&appliance, "vol0");
    host.check_round(round);
    for round in 1..=9 {
        host.write_round(round);
    }
    drop(host);
    appliance.kill_9();
    appliance.restart().expect("it starts again");
    let now = pool(&appliance);
    assert_eq!(
        (now["working_set_segments"].as_u64(), now["slots"].as_u64()),
        (Some(longer), Some(slots + 20))
    );
    let mut host = Host::connect(&appliance, "vol0");
    host.check_round(9);
    appliance.stop().expect("it stops cleanly");
}
