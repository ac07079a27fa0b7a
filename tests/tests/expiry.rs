//! Expiry with the real program: what no rule keeps is deleted from the store, and what is kept can
//! be restored, also after a restart and without the primary.

use serde_json::{Value, json};
use varve_tests::appliance::rounds::{Host, archive_status, labels, wait_for};
use varve_tests::appliance::{Appliance, ApplianceConfig};

/// 14 slots of 1 MiB: two rounds of a volume of 4 MiB exceed the working set.
const SERVE: [&str; 8] =
    ["--pool-size", "15MiB", "--volume-size", "4MiB", "--seal-seconds", "1", "--expire-seconds", "0"];
const ROUNDS: u64 = 40;

fn clone_and_check(appliance: &Appliance, round: u64, name: &str) {
    let point = format!("synch:round-{round}");
    appliance
        .command(&["restore", "clone", "vol0", "--at", &point, "--name", name, "--read-only"])
        .expect("the point is kept");
    Host::connect(appliance, name).check_round(round);
}

fn objects(appliance: &Appliance) -> usize {
    appliance.rpc("archive_list", Value::Null).expect("a list").as_array().expect("a list").len()
}

#[test]
fn what_no_rule_keeps_goes_and_what_is_kept_restores() {
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&SERVE)).expect("it starts");
    let mut host = Host::connect(&appliance, "vol0");
    for round in 1..=ROUNDS {
        host.write_round(round);
        appliance.rpc("synch_create", json!({"label": format!("round-{round}")})).expect("a synch");
        match round {
            5 => drop(appliance.command(&["snapshot", "create", "named"]).expect("a snapshot")),
            // This clone lives on after everything else of its base is gone.
            12 => clone_and_check(&appliance, 9, "living"),
            _ => {}
        }
    }
    drop(host);
    appliance.command(&["archive", "seal"]).expect("it seals");
    let everything = objects(&appliance);
    let unruled = appliance.command(&["archive", "expire"]).expect("nothing to do");
    assert_eq!(objects(&appliance), everything, "without rules everything is kept: {unruled}");

    appliance.command(&["archive", "keep", "every-write 1s; synch round-2? keep 30d"]).expect("rules");
    let dry = appliance.rpc("archive_expire", json!({"dry_run": true})).expect("a plan");
    assert!(dry["expirable_objects"].as_u64() > Some(0) && dry["deleted_objects"] == 0, "{dry}");
    assert_eq!(objects(&appliance), everything, "a dry run deletes nothing");
    // Each call deletes a few objects, so that plans are made again in the middle.
    let one = appliance.rpc("archive_expire", json!({"objects_max": 3, "all": true})).expect("a part");
    assert!(one["deleted_objects"].as_u64() < dry["expirable_objects"].as_u64(), "{one}");
    // The rule for the writes of the last second keeps more than the rules for synchs do.
    wait_for("the last writes are older than a second", || {
        appliance.command(&["archive", "expire", "--all"]).expect("it expires");
        let explained = appliance.rpc("archive_explain", json!({"point": "synch:round-35"}));
        explained.is_err()
    });
    assert!(objects(&appliance) < everything * 3 / 4, "{} of {everything}", objects(&appliance));
    assert_eq!(archive_status(&appliance)["problem"], Value::Null);

    check_kept(&appliance, "");
    appliance.stop().expect("it stops cleanly");
    appliance.restart().expect("it starts again");
    check_kept(&appliance, "again-");
    appliance.stop().expect("it stops cleanly");

    // The primary is lost, and the local catalog with it.
    std::fs::remove_file(appliance.pool_folder().join("pool.varve")).expect("the primary");
    std::fs::remove_file(appliance.pool_folder().join("archive-catalog.redb")).expect("a cache");
    let archive = appliance.pool_folder().join("archive");
    let folder = appliance.pool_folder().display().to_string();
    let recovered = varve_tests::appliance::run(&[
        "pool",
        "recover",
        "--from",
        &archive.display().to_string(),
        "--dir",
        &folder,
        "--pool-size",
        "63MiB",
    ]);
    assert!(recovered.status.success(), "{}", String::from_utf8_lossy(&recovered.stderr));
    appliance.restart().expect("it starts again");
    check_kept(&appliance, "recovered-");
    wait_for("what was recovered is on the new primary", || {
        volumes(&appliance).iter().all(|volume| {
            volume["name"] != "vol0" || (volume["inherited_blocks"] == 0 && volume["parent"].is_null())
        })
    });
    let hydrated =
        appliance.command(&["volume", "hydrate", "recovered-named-then"]).expect("a clone is hydrated");
    assert!(hydrated.contains("neither its origin nor the archive"), "{hydrated}");
    let refused = appliance.command(&["volume", "hydrate", "vol0"]).expect_err("it is its own").to_string();
    assert!(refused.contains("inherits nothing"), "{refused}");
    // The volumes can be read even without the store's objects.
    std::fs::rename(&archive, archive.with_extension("away")).expect("away");
    Host::connect(&appliance, "vol0").check_round(ROUNDS);
    Host::connect(&appliance, "recovered-named-then").check_round(5);
}

fn volumes(appliance: &Appliance) -> Vec<Value> {
    let volumes = appliance.rpc("volume_list", Value::Null).expect("it answers");
    volumes.as_array().expect("a list").clone()
}

fn check_kept(appliance: &Appliance, prefix: &str) {
    for round in [20, 25, 29] {
        clone_and_check(appliance, round, &format!("{prefix}then-{round}"));
    }
    let name = format!("{prefix}named-then");
    appliance
        .command(&["restore", "clone", "vol0", "--at", "snapshot:named", "--name", &name])
        .expect("a snapshot is kept");
    Host::connect(appliance, &name).check_round(5);
    Host::connect(appliance, "living").check_round(9);
    Host::connect(appliance, "vol0").check_round(ROUNDS);
    let labels = labels(appliance);
    assert!(!labels.contains(&"round-1".to_owned()), "{labels:?}");
    assert!((20..30).all(|round| labels.contains(&format!("round-{round}"))), "{labels:?}");
    let refused = appliance
        .command(&["restore", "clone", "vol0", "--at", "lsn:2", "--name", "gone"])
        .expect_err("it has expired")
        .to_string();
    assert!(refused.contains("no longer kept"), "{refused}");
}
