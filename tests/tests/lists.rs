//! Lists that can grow without limit come in pages, so that no client blocks the others.

use serde_json::{Value, json};
use varve_tests::appliance::{Appliance, ApplianceConfig};

fn page(appliance: &Appliance, params: Value) -> Vec<Value> {
    page_of(appliance, "synch_list", params)
}

fn page_of(appliance: &Appliance, method: &str, params: Value) -> Vec<Value> {
    let answer = appliance.rpc(method, params).expect("it answers");
    answer.as_array().expect("a list").clone()
}

fn lsn(synch: &Value) -> u64 {
    synch["lsn"].as_u64().expect("a position")
}

#[test]
fn synchs_are_listed_in_pages_of_a_bounded_size() {
    let appliance = Appliance::start(&ApplianceConfig::with_arguments(&[])).expect("it starts");
    let text = "x".repeat(16_000);
    let labels: Vec<String> = (0..150).map(|number| format!("s{number}")).collect();
    for label in &labels {
        let synch = json!({"label": label, "details": {"text": text}});
        appliance.rpc("synch_create", synch).expect("a synch");
    }

    let two = page(&appliance, json!({"limit": 2}));
    assert_eq!([&two[0]["label"], &two[1]["label"]], ["s0", "s1"]);
    assert_eq!(page(&appliance, json!({"from": lsn(&two[1]), "limit": 1}))[0]["label"], "s1");

    // 2.4 MB of text need more than one page.
    let mut listed = Vec::new();
    let (mut from, mut pages) = (0, 0);
    loop {
        let page = page(&appliance, json!({"from": from}));
        let Some(last) = page.last() else { break };
        from = lsn(last) + 1;
        pages += 1;
        listed.extend(page.iter().map(|synch| synch["label"].as_str().expect("a label").to_owned()));
    }
    assert_eq!((listed, pages), (labels, 2));
    let shown = appliance.command(&["synch", "list", "--from", &from.to_string()]).expect("a list");
    assert!(!shown.contains("s149"), "{shown}");
    let shown = appliance.command(&["synch", "list", "--limit", "1"]).expect("a list");
    assert!(shown.contains("s0") && !shown.contains("s1"), "{shown}");
}

#[test]
fn snapshots_are_listed_in_pages_that_split_no_position() {
    let appliance = Appliance::start(&ApplianceConfig::with_arguments(&[])).expect("it starts");
    // Nothing was written between them, so neighbours have the same position.
    for number in 0..30 {
        appliance.rpc("snapshot_create", json!({"name": format!("s{number}")})).expect("a snapshot");
        if number % 3 == 2 {
            appliance.rpc("synch_create", json!({"label": "between"})).expect("a synch");
        }
    }
    let mut listed = Vec::new();
    let mut from = 0;
    loop {
        let page = page_of(&appliance, "snapshot_list", json!({"from": from, "limit": 2}));
        let Some(last) = page.last() else { break };
        from = lsn(last) + 1;
        listed.extend(page.iter().map(|snapshot| snapshot["name"].as_str().expect("a name").to_owned()));
    }
    let all = page_of(&appliance, "snapshot_list", json!({}));
    let all: Vec<&str> = all.iter().map(|snapshot| snapshot["name"].as_str().expect("a name")).collect();
    assert_eq!(listed, all);
    assert_eq!(all.len(), 30);
    let shown = appliance.command(&["snapshot", "list", "--from", &from.to_string()]).expect("a list");
    assert!(!shown.contains("s29"), "{shown}");
}
