//! The commands of groups with the real program: a host writes to the volumes of a group in turn,
//! a search over all of them finds the write, connected hosts are respected, and every change is in
//! the journal.

use serde_json::{Value, json};
use varve_tests::appliance::rounds::{BLOCK_BYTES, connect};
use varve_tests::appliance::{Appliance, ApplianceConfig};

const VOLUMES: [&str; 3] = ["accounts", "orders", "journal.1"];
const WRITES: u64 = 300;
/// The write after which the files of the volumes contradict each other.
const CULPRIT: u64 = 211;

/// The first eight bytes of block 0 of a volume.
fn number_in(appliance: &Appliance, volume: &str) -> u64 {
    let (_controller, mut queue, _) = connect(appliance, volume);
    let mut data = vec![0; BLOCK_BYTES];
    queue.read(0, &mut data).expect("read");
    u64::from_le_bytes(data[..8].try_into().expect("eight bytes"))
}

/// What the volumes of a group, by their names, have after so many writes: each the last one that
/// went to it.
fn numbers_after(count: u64) -> Vec<u64> {
    let last = |place: u64| (1..=count).rev().find(|number| number % 3 == place).unwrap_or(0);
    (0..3).map(last).collect()
}

#[test]
fn the_volumes_of_a_group_are_searched_and_go_back_together() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = ApplianceConfig::with_arguments(&["--pool-size", "48MiB", "--volume-size", "1MiB"]);
    let appliance = Appliance::start(&config).expect("it starts");
    for volume in VOLUMES {
        appliance.run(&["volume", "create", volume, "1MiB", "--thin"]);
    }
    let said = appliance.run(&["group", "create", "shop", VOLUMES[0], VOLUMES[1]]);
    assert!(said.contains("accounts, orders"), "{said}");
    let said = appliance.run(&["group", "add", "shop", VOLUMES[2]]);
    assert!(said.contains("accounts, orders, journal.1"), "{said}");
    assert!(appliance.run(&["group", "show", "shop"]).contains("journal.1"));
    assert!(appliance.refused(&["volume", "create", "shop", "1MiB"]).contains("a group 'shop' exists"));

    // Each write goes to the next volume, after the last one was acknowledged.
    let mut lsns = Vec::new();
    let mut hosts: Vec<_> = VOLUMES.iter().map(|volume| connect(&appliance, volume)).collect();
    for number in 1..=WRITES {
        let mut data = vec![0; BLOCK_BYTES];
        data[..8].copy_from_slice(&number.to_le_bytes());
        hosts[(number % 3) as usize].1.write(0, &data).expect("written");
        lsns.push(appliance.newest_lsn());
    }
    appliance.run(&["synch", "create", "--label", "end", "--group", "shop"]);
    let synchs = appliance.run(&["synch", "list", "--group", "shop"]);
    assert!(synchs.contains("shop") && synchs.contains("end"), "{synchs}");
    assert!(appliance.run(&["point", "list", "shop", "--writes"]).contains("write journal.1"));
    assert!(appliance.run(&["restore", "plan", "shop", "--at", "synch:end"]).contains("orders"));
    let lsn = |number: u64| format!("lsn:{}", lsns[number as usize - 1]);
    let differs = appliance.run(&["diff", "shop", &lsn(3), &lsn(5)]);
    assert!(differs.contains("orders") && differs.contains("journal.1"), "{differs}");

    // The hosts are still connected.
    let in_use = appliance.refused(&["restore", "roll-back", "shop", "--at", &lsn(100)]);
    assert!(in_use.contains("is in use by"), "{in_use}");
    hosts.clear();

    // The search runs its check over files of all clones.
    appliance.run(&["restore", "open", "shop", "--at", "synch:end", "--name", "search"]);
    let check = folder.path().join("check.sh");
    let script = format!(
        "#!/bin/sh\nfor volume in $VARVE_VOLUMES; do\n  n=$(od -An -tu8 -N8 \"$VARVE_IMAGES/$volume\")\n  [ \"$n\" -lt {CULPRIT} ] || exit 1\ndone\n[ $(echo $VARVE_NQNS | wc -w) = 3 ] && [ -z \"$VARVE_IMAGE\" ]\n"
    );
    std::fs::write(&check, script).expect("written");
    let check = format!("sh {}", check.display());
    let (good, bad) = (lsn(10), lsn(WRITES));
    let said = appliance
        .run(&["restore", "bisect", "search", "--good", &good, "--bad", &bad, "--check", &check, "--json"]);
    let answer: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(answer["found"]["at"]["lsn"], lsns[CULPRIT as usize - 1], "{answer:#}");
    assert_eq!(answer["found"]["volume"], VOLUMES[(CULPRIT % 3) as usize]);
    assert!(answer["checks"].as_array().expect("a list").len() <= 9, "{answer:#}");
    appliance.run(&["restore", "step", "search", "--to", &lsn(CULPRIT - 1), "--discard-writes"]);
    let status = appliance.run(&["restore", "status", "search"]);
    assert!(status.contains("search-journal.1"), "{status}");
    assert!(appliance.refused(&["volume", "delete", "search-orders"]).contains("varve restore abort"));
    let kept = appliance.run(&["restore", "commit", "search", "--keep", "before"]);
    assert!(kept.contains("before-orders"), "{kept}");
    let there = numbers_after(CULPRIT - 1);
    for (volume, number) in VOLUMES.iter().zip(&there) {
        assert_eq!(number_in(&appliance, &format!("before-{volume}")), *number, "{volume}");
    }

    // The group goes back, forth again, and a clone of it is opened.
    let back = appliance.run(&["restore", "roll-back", "shop", "--at", &lsn(CULPRIT - 1)]);
    assert!(back.contains("before-roll-back-of-shop-1") && back.contains("orders"), "{back}");
    for (volume, number) in VOLUMES.iter().zip(&there) {
        assert_eq!(number_in(&appliance, volume), *number, "{volume}");
    }
    let undo = "snapshot:before-roll-back-of-shop-1";
    appliance.run(&["restore", "roll-back", "shop", "--at", undo]);
    for (volume, number) in VOLUMES.iter().zip(numbers_after(WRITES)) {
        assert_eq!(number_in(&appliance, volume), number, "{volume}");
    }
    let clone = appliance.run(&["group", "clone", "shop", "--at", &lsn(7), "--name", "old", "--read-only"]);
    assert!(clone.contains("old-accounts, old-orders, old-journal.1"), "{clone}");
    let there: Vec<u64> =
        VOLUMES.iter().map(|volume| number_in(&appliance, &format!("old-{volume}"))).collect();
    assert_eq!(there, numbers_after(7));

    // What is deleted leaves its groups, and groups leave their volumes.
    let gone = appliance.run(&["volume", "delete", "old-orders"]);
    assert!(gone.contains("no longer in group old"), "{gone}");
    appliance.run(&["group", "rename", "old", "older"]);
    appliance.run(&["group", "remove", "older", "old-accounts"]);
    assert!(appliance.run(&["group", "list"]).contains("older"));
    assert!(appliance.run(&["group", "delete", "older"]).contains("volumes stay"));
    assert!(appliance.run(&["volume", "list"]).contains("old-journal.1"));

    let audit = appliance.audit().join("\n");
    for method in ["group_create", "group_add", "group_clone", "group_rename", "group_remove", "group_delete"]
    {
        assert!(audit.contains(&format!("method=\"{method}\"")), "{method}: {audit}");
    }
    let answer = appliance.rpc("volume_delete", json!({"name": "old-journal.1"})).expect("deleted");
    assert_eq!(answer, json!(true), "it was in no group");
}
