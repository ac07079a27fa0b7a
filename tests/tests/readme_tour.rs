//! Executes the README's tour as a reader would paste it: a shell gets every indented line of
//! README.md, in order and unchanged, in a directory that looks like the repository, with an
//! appliance that runs there.
//!
//! Two kinds of lines are not passed to the shell. The first two commands build and run all tests.
//! Lines that need root ([`AS_ROOT`]) are done by our own host instead.

use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use varve::nvmf::host::{ConnectOptions, Controller};
use varve_tests::appliance::{Appliance, ApplianceConfig, program};

/// The command that connects a Linux host, before its NQN.
const CONNECT: &str = "nvme connect -t tcp -a 127.0.0.1 -s 4420 -n ";
/// The beginnings of lines that need root.
const AS_ROOT: [&str; 2] = ["modprobe nvme-tcp", CONNECT];
/// The line for which the appliance must be stopped.
const OFFLINE: &str = "target/release/varve inspect varve-data/pool.varve";

/// The commands of a Markdown text: lines that are indented by four spaces, outside of fenced
/// blocks.
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

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    root.canonicalize().expect("the workspace")
}

/// A directory that looks like the repository's, with the program built.
fn repository() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["README.md", "LICENSE", "scripts"] {
        symlink(root().join(name), folder.path().join(name)).expect("a link");
    }
    std::fs::create_dir_all(folder.path().join("target/release")).expect("made");
    let program = program().expect("the program is built").canonicalize().expect("it is there");
    symlink(program, folder.path().join("target/release/varve")).expect("a link");
    folder
}

/// Runs a line in a shell; returns its output.
fn paste(line: &str, directory: &Path) -> String {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let output = Command::new("sh")
        .args(["-c", line])
        .current_dir(directory)
        // Installs the stock client once, not once for each test.
        .env("CARGO_TARGET_DIR", target)
        .env_remove("VARVE_RPC")
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{line}: {said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn every_command_of_the_readme_works() {
    let text = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let commands = commands(&text);
    assert_eq!(
        commands[..2],
        ["cargo run --release -- serve", "scripts/test"],
        "the two commands come first"
    );
    assert!(root().join("scripts/test").exists());
    let repository = repository();
    let data = repository.path().join("varve-data");
    let mut appliance =
        Appliance::start_in(&ApplianceConfig::default(), &data).expect("it starts without configuration");
    let address: SocketAddr = ([127, 0, 0, 1], appliance.port()).into();
    symlink(appliance.rpc_socket(), data.join("rpc.sock")).expect("a link");
    let mut run = 0;
    for &line in &commands[2..] {
        run += 1;
        if let Some(nqn) = line.strip_prefix(CONNECT) {
            let controller =
                Controller::connect(address, nqn, ConnectOptions::default()).expect("a host connects");
            controller.shutdown().expect("it disconnects");
        }
        if AS_ROOT.iter().any(|start| line.starts_with(start)) {
            continue;
        }
        if line == OFFLINE {
            appliance.stop().expect("it stops cleanly");
        }
        let said = paste(line, repository.path());
        assert!(!said.is_empty() || line.starts_with("sleep "), "{line}: it says nothing");
        if line.starts_with("head ") {
            assert_eq!(said, "# varve\n", "what was overwritten is found again");
        }
    }
    assert!(run >= 20, "the tour has commands: {run}");
    for line in AS_ROOT.into_iter().chain([OFFLINE]) {
        assert!(commands.iter().any(|command| command.starts_with(line)), "the tour has '{line}'");
    }
    std::fs::remove_file(data.join("rpc.sock")).expect("the link");
    let restarted = appliance.restart();
    assert!(restarted.is_ok(), "a second start finds the data again: {restarted:?}");
    let volumes = appliance.command(&["volume", "list"]).expect("it answers");
    let (kept, deleted) = (volumes.contains("accounts-before"), volumes.contains("accounts-recently"));
    assert!(kept && !deleted, "{volumes}");
    assert!(!volumes.contains("export-"), "what an export makes is deleted: {volumes}");
    // The tour rolls two volumes back, which is worth a warning each.
    let complaints = appliance.complaints();
    let (rolled_back, others): (Vec<&str>, Vec<&str>) =
        complaints.lines().partition(|line| line.contains("the volume was rolled back; the snapshot"));
    assert_eq!((rolled_back.len(), others.len()), (2, 0), "{complaints}");
}

#[test]
fn the_readme_names_what_it_takes_to_build() {
    let read = |name: &str| std::fs::read_to_string(root().join(name)).expect("readable");
    let (readme, workspace) = (read("README.md"), read("Cargo.toml"));
    let version = workspace.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let version = version.expect("the workspace has one").trim_matches('"');
    let before_tour = readme.split("## Five minutes").next().expect("a beginning");
    for part in [&format!("Rust {version}"), "C compiler", "target/release/varve", "varve-data/"] {
        assert!(before_tour.contains(part), "the README names {part} before the tour");
    }
}

#[test]
fn the_test_script_explains_itself() {
    let run = |option: &str| {
        Command::new(root().join("scripts/test")).arg(option).stdin(Stdio::null()).output().expect("it runs")
    };
    let help = run("--help");
    let said = String::from_utf8_lossy(&help.stdout).into_owned();
    assert!(help.status.success(), "{said}");
    for part in ["--quick", "--help", "45 minutes", "VARVE_IO_ENGINE"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let unknown = run("--quik");
    assert_eq!(unknown.status.code(), Some(2), "a slip does not start 45 minutes of tests");
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no option '--quik'"));
}
