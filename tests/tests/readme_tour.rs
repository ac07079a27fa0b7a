//! The README's tour, executed: every indented command of README.md is run, in its order, against an appliance of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use varve::nvmf::host::{ConnectOptions, Controller};
use varve_tests::appliance::{Appliance, ApplianceConfig};

const PROGRAM: &str = "target/release/varve ";
const CONNECT: &str = "nvme connect -t tcp -a 127.0.0.1 -s 4420 -n ";

/// The commands of a Markdown text: what is indented by four spaces, outside of fenced blocks.
fn commands(text: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.starts_with("```") {
            fenced = !fenced;
        } else if let Some(command) = line.strip_prefix("    ").filter(|_| !fenced) {
            found.push(command.trim());
        }
    }
    found
}

/// Splits a command line as a shell would: at spaces, with single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// A point like `time:-5s` must lie within the pool's life: waits until it does.
fn wait_for_the_past(words: &[String]) {
    let seconds =
        words.iter().find_map(|word| word.strip_prefix("time:-")?.strip_suffix('s')?.parse::<u64>().ok());
    if let Some(seconds) = seconds {
        std::thread::sleep(Duration::from_secs(seconds + 1));
    }
}

#[test]
fn every_command_of_the_readme_works() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let text = std::fs::read_to_string(root.join("README.md")).expect("the README");
    let commands = commands(&text);
    assert_eq!(
        commands[..2],
        ["cargo run --release -- serve", "scripts/test"],
        "the two commands come first"
    );
    assert!(root.join("scripts/test").exists());
    assert_eq!(commands[2], "target/release/varve serve", "the tour begins with the appliance");
    let mut appliance =
        Appliance::start(&ApplianceConfig::default()).expect("it starts without configuration");
    let address: SocketAddr = ([127, 0, 0, 1], appliance.port()).into();
    let mut run = 0;
    for line in &commands[3..] {
        run += 1;
        if let Some(nqn) = line.strip_prefix(CONNECT) {
            let controller =
                Controller::connect(address, nqn, ConnectOptions::default()).expect("a host connects");
            controller.shutdown().expect("it disconnects");
            continue;
        }
        let words = words(
            line.strip_prefix(PROGRAM).unwrap_or_else(|| panic!("'{line}' is not executed by this test")),
        );
        wait_for_the_past(&words);
        let mut words: Vec<&str> = words.iter().map(String::as_str).collect();
        let file = appliance.pool_folder().join("pool.varve").display().to_string();
        if words[0] == "inspect" {
            appliance.stop().expect("it stops cleanly");
            words[1] = &file;
        }
        let output = appliance.command(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(!output.is_empty(), "{line}: it says nothing");
    }
    assert!(run >= 10, "the tour has commands: {run}");
    let restarted = appliance.restart();
    assert!(restarted.is_ok(), "a second start finds the data again: {restarted:?}");
    let volumes = appliance.command(&["volume", "list"]).expect("it answers");
    let (kept, deleted) = (volumes.contains("accounts-before"), volumes.contains("accounts-recently"));
    assert!(kept && !deleted, "{volumes}");
    assert_eq!(appliance.complaints(), "");
}
