//! The journal records who changed what, with the caller's identity from the kernel and the result
//! of the call, with the real program.

use serde_json::json;
use varve_tests::appliance::{Appliance, ApplianceConfig, run};

const SERVE: [&str; 6] = ["--pool-size", "16MiB", "--volume-size", "2MiB", "--seal-seconds", "0"];

/// The lines about a method.
fn of(lines: &[String], method: &str) -> Vec<String> {
    let wanted = format!("method=\"{method}\"");
    lines.iter().filter(|line| line.contains(&wanted)).cloned().collect()
}

#[test]
fn every_change_is_noted_with_its_caller_and_its_end() {
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&SERVE)).expect("it starts");
    assert_eq!(appliance.audit(), Vec::<String>::new(), "a start changes nothing");
    appliance.rpc("volume_create", json!({"name": "data", "size": "64KiB"})).expect("made");
    appliance.rpc("synch_create", json!({"label": "one\ntwo \u{1b}[31m"})).expect_err("a bad label");
    appliance.rpc("synch_create", json!({"label": "then"})).expect("a synch");
    appliance
        .rpc("restore_clone", json!({"volume": "data", "at": "synch:then", "name": "fork"}))
        .expect("made");
    appliance.rpc("snapshot_create", json!({"name": "s"})).expect("made");
    appliance.rpc("snapshot_delete", json!({"name": "s"})).expect("deleted");
    appliance.rpc("volume_delete", json!({"name": "fork"})).expect("deleted");
    appliance.rpc("volume_delete", json!({"name": "fork"})).expect_err("it is gone");
    appliance.rpc("archive_set_keep", json!({"rules": "synch 30d"})).expect("rules");
    appliance.rpc("archive_expire", json!({"all": true})).expect("nothing goes");
    appliance.rpc("pool_set_working_set", json!({"segments": 8})).expect("changed");
    appliance.rpc("volume_list", json!({})).expect("listed");
    appliance.rpc("archive_get_status", json!({})).expect("shown");

    let lines = appliance.audit();
    assert_eq!(lines.len(), 11, "one for each change, none for what only looks: {lines:#?}");
    let id = |text: &str| {
        std::fs::read_to_string("/proc/self/status")
            .expect("it is there")
            .lines()
            .find_map(|line| line.strip_prefix(text)?.split_whitespace().next().map(str::to_owned))
    };
    let caller = format!(
        "pid {}, uid {}, gid {}",
        std::process::id(),
        id("Uid:").expect("a user"),
        id("Gid:").expect("a group")
    );
    for line in &lines {
        assert!(line.contains(&caller), "{caller}: {line}");
    }
    let deleted = of(&lines, "volume_delete");
    assert!(deleted[0].contains("fork") && deleted[0].contains("done"), "{deleted:?}");
    assert!(deleted[1].contains("refused or failed") && deleted[1].contains("no volume"), "{deleted:?}");
    assert!(of(&lines, "restore_clone")[0].contains("synch:then"), "{lines:?}");
    assert!(of(&lines, "archive_set_keep")[0].contains("synch 30d"), "{lines:?}");
    assert!(of(&lines, "archive_expire")[0].contains("done"), "{lines:?}");
    // A caller's text starts no new line and moves no terminal's cursor.
    assert!(!lines.iter().any(|line| line.contains('\u{1b}')), "{lines:?}");
    assert!(of(&lines, "synch_create")[0].contains("one\\ntwo"), "{lines:?}");

    // A command is a different process.
    appliance.command(&["volume", "delete", "data"]).expect("deleted");
    let last = appliance.audit().pop().expect("it is noted");
    assert!(last.contains("volume_delete") && !last.contains(&caller), "{last}");

    // The program that makes a recovery records it.
    appliance.command(&["archive", "seal"]).expect("all is archived");
    appliance.kill_9();
    let folder = appliance.pool_folder();
    std::fs::remove_file(folder.join("pool.varve")).expect("the primary is lost");
    let (from, to) = (folder.join("archive"), folder.clone());
    let (from, to) = (from.to_str().expect("text"), to.to_str().expect("text"));
    let output = run(&["pool", "recover", "--from", from, "--dir", to, "--pool-size", "16MiB"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains(" INFO audit: ") && said.contains("pool_recover") && said.contains("done"),
        "{said}"
    );
    appliance.restart().expect("it serves what was recovered");
}
