//! Who owns an archive: older copies of a pool, primaries that come back after a recovery, two
//! primaries that run at the same time, forks, and rehearsals. With the real program, over every
//! kind of store that two appliances can reach.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use varve_s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use varve_tests::appliance::rounds::{Host, archive_status, labels, wait_for};
use varve_tests::appliance::{Appliance, ApplianceConfig, refusal, run_in};

const SERVE: [&str; 6] = ["--pool-size", "64MiB", "--volume-size", "16MiB", "--seal-seconds", "1"];

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of plain letters")
}

/// An archive that several appliances reach.
struct Shared {
    spec: String,
    environment: Vec<(String, String)>,
    folder: tempfile::TempDir,
    _server: Option<S3Server>,
}

impl Shared {
    fn new(kind: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let spec = kind.replace("STORE", path(folder.path()));
        Shared { spec, environment: Vec::new(), folder, _server: None }
    }

    fn bucket() -> Self {
        let server = S3Server::start();
        let spec = format!("s3://{BUCKET}/pools/one?endpoint={}&allow_http=true", server.url());
        let credentials = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
        let environment = credentials.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let folder = tempfile::tempdir().expect("a folder");
        Shared { spec, environment, folder, _server: Some(server) }
    }

    fn config(&self, more: &[&str]) -> ApplianceConfig {
        let arguments: Vec<&str> =
            SERVE.iter().copied().chain(["--archive", &self.spec]).chain(more.iter().copied()).collect();
        ApplianceConfig {
            environment: self.environment.clone(),
            ..ApplianceConfig::with_arguments(&arguments)
        }
    }

    fn start(&self) -> Appliance {
        Appliance::start(&self.config(&[])).expect("it starts")
    }

    /// Recovers into a new folder; returns the report.
    fn recover(&self, name: &str, more: &[&str]) -> Result<(PathBuf, Value), String> {
        let dir = self.folder.path().join(name);
        let mut arguments = vec!["--json", "pool", "recover", "--from", &self.spec, "--dir", path(&dir)];
        arguments.extend(["--pool-size", "96MiB"]);
        arguments.extend(more);
        let output = run_in(&self.environment, &arguments);
        if !output.status.success() {
            return Err(refusal(&output));
        }
        Ok((dir.clone(), serde_json::from_slice(&output.stdout).expect("a report")))
    }

    /// Serves the pool in a folder.
    fn serve(&self, dir: &Path, more: &[&str]) -> Result<Appliance, String> {
        let mut config = self.config(more);
        config.arguments.retain(|argument| !matches!(argument.as_str(), "--pool-size" | "64MiB"));
        let appliance = Appliance::start_in(&config, dir);
        appliance.map_err(|error| error.to_string())
    }
}

/// Writes a round, and makes a synch for it.
fn write(appliance: &Appliance, round: u64) {
    let mut host = Host::connect(appliance, "vol0");
    host.write_round(round);
    appliance.rpc("synch_create", json!({"label": format!("round-{round}")})).expect("a synch");
    appliance.command(&["archive", "seal"]).expect("it seals");
}

/// Checks that a volume at a synch has the content of that round.
fn check_at(appliance: &Appliance, round: u64) {
    let (point, name) = (format!("synch:round-{round}"), format!("then-{round}"));
    appliance.command(&["restore", "clone", "vol0", "--at", &point, "--name", &name]).expect("a clone");
    Host::connect(appliance, &name).check_round(round);
    appliance.command(&["volume", "delete", &name]).expect("it goes");
}

fn objects(appliance: &Appliance) -> u64 {
    archive_status(appliance)["segments"].as_u64().expect("a count")
}

/// An older copy of the pool's file is started with an archive that has newer data.
fn an_older_copy_of_the_pool_is_refused(shared: &Shared) {
    let mut newest = shared.start();
    write(&newest, 1);
    newest.stop().expect("it stops");
    let copy = shared.folder.path().join("copy");
    std::fs::create_dir(&copy).expect("made");
    std::fs::copy(newest.pool_folder().join("pool.varve"), copy.join("pool.varve")).expect("copied");
    newest.restart().expect("it starts again");
    write(&newest, 2);
    newest.stop().expect("it stops");

    let before = std::fs::read(copy.join("pool.varve")).expect("readable");
    let told = shared.serve(&copy, &[]).map(|_| ()).expect_err("it is older than its archive");
    for way in ["older copy", "pool recover", "--fork", "--no-archive"] {
        assert!(told.contains(way), "{told}");
    }
    // The refused start changed only what every start changes; the data is unchanged.
    assert_eq!(before.len(), std::fs::read(copy.join("pool.varve")).expect("readable").len());
    newest.restart().expect("the newest is still the owner");
    check_at(&newest, 2);
    newest.stop().expect("it stops");

    // As a separate history it never reads the other one's data.
    let mut fork = shared.serve(&copy, &["--fork"]).expect("it goes on from where it is");
    assert_eq!(labels(&fork), ["round-1"]);
    write(&fork, 3);
    check_at(&fork, 1);
    check_at(&fork, 3);
    let point = json!({"point": "synch:round-2"});
    fork.rpc("restore_resolve", point).expect_err("round 2 is of the other history");
    fork.stop().expect("it stops");
    let fork = shared.serve(&copy, &[]).expect("it owns the archive now");
    check_at(&fork, 3);
    drop(fork);

    // The newest was overtaken; the fork can be recovered next to it.
    let told = newest.restart().expect_err("it was overtaken").to_string();
    let history = told.split("--history ").nth(1).is_some();
    assert!(told.contains("taken over") && history, "{told}");
    let (dir, report) = shared.recover("beside-none", &[]).expect("the fork is recovered");
    assert_eq!(report["left_out"], json!([]), "{report}");
    let again = shared.serve(&dir, &[]).expect("it is served");
    check_at(&again, 3);
}

#[test]
fn an_older_copy_of_the_pool_is_refused_or_forked_in_a_directory() {
    an_older_copy_of_the_pool_is_refused(&Shared::new("dir:STORE/archive"));
}

#[test]
fn an_older_copy_of_the_pool_is_refused_or_forked_on_a_device() {
    an_older_copy_of_the_pool_is_refused(&Shared::new("device:STORE/second,size=1GiB"));
}

#[test]
fn an_older_copy_of_the_pool_is_refused_or_forked_on_tape() {
    an_older_copy_of_the_pool_is_refused(&Shared::new("tape:STORE/library,cartridges=4,size=1GiB"));
}

#[test]
fn an_older_copy_of_the_pool_is_refused_or_forked_in_a_bucket() {
    an_older_copy_of_the_pool_is_refused(&Shared::bucket());
}

/// The primary that was given up comes back after a recovery. After the loss of the recovered one,
/// nothing is missing.
fn a_primary_that_comes_back_takes_nothing(shared: &Shared) {
    let mut old = shared.start();
    write(&old, 1);
    write(&old, 2);
    old.kill_9();
    let (dir, report) = shared.recover("new", &[]).expect("it is recovered");
    assert_eq!(report["left_out"], json!([]), "{report}");
    let mut new = shared.serve(&dir, &[]).expect("it is served");
    write(&new, 3);
    new.stop().expect("it stops");

    let told = old.restart().expect_err("it was given up").to_string();
    assert!(told.contains("taken over") && told.contains("older copy"), "{told}");

    // The new one is lost.
    std::fs::remove_dir_all(&dir).expect("lost");
    let (dir, _) = shared.recover("newer", &[]).expect("it is recovered once more");
    let newer = shared.serve(&dir, &[]).expect("it is served");
    assert_eq!(labels(&newer), ["round-1", "round-2", "round-3"]);
    for round in 1..=3 {
        check_at(&newer, round);
    }
    Host::connect(&newer, "vol0").check_round(3);
}

#[test]
fn a_primary_that_comes_back_takes_nothing_from_a_directory() {
    a_primary_that_comes_back_takes_nothing(&Shared::new("dir:STORE/archive"));
}

#[test]
fn a_primary_that_comes_back_takes_nothing_from_a_device() {
    a_primary_that_comes_back_takes_nothing(&Shared::new("device:STORE/second,size=1GiB"));
}

#[test]
fn a_primary_that_comes_back_takes_nothing_from_tape() {
    a_primary_that_comes_back_takes_nothing(&Shared::new("tape:STORE/library,cartridges=4,size=1GiB"));
}

#[test]
fn a_primary_that_comes_back_takes_nothing_from_a_bucket() {
    a_primary_that_comes_back_takes_nothing(&Shared::bucket());
}

/// Where only one process can have a store open, the second gets an error that says so.
fn a_second_owner_is_kept_out(shared: &Shared) {
    let living = shared.start();
    write(&living, 1);
    let told = shared.recover("second", &[]).expect_err("somebody has it open");
    assert!(told.contains("another process has"), "{told}");
    write(&living, 2);
    check_at(&living, 2);
}

#[test]
fn a_second_owner_is_kept_out_of_a_directory() {
    a_second_owner_is_kept_out(&Shared::new("dir:STORE/archive"));
}

#[test]
fn a_second_owner_is_kept_out_of_a_device() {
    a_second_owner_is_kept_out(&Shared::new("device:STORE/second,size=1GiB"));
}

#[test]
fn a_second_owner_is_kept_out_of_tape() {
    a_second_owner_is_kept_out(&Shared::new("tape:STORE/library,cartridges=4,size=1GiB"));
}

/// A bucket has no lock. The overtaken primary stops, deletes nothing, and reports it; its hosts'
/// writes fail.
#[test]
fn of_two_that_live_on_a_bucket_the_one_that_was_overtaken_stops() {
    let shared = Shared::bucket();
    let living = shared.start();
    write(&living, 1);
    let (dir, _) = shared.recover("taken", &[]).expect("it is recovered beside the living one");
    let taken = shared.serve(&dir, &[]).expect("it is served");
    write(&taken, 2);

    let mut host = Host::connect(&living, "vol0");
    // It notices during this round, or after it.
    drop(host.try_write_round(3));
    wait_for("the overtaken one stops", || {
        let pool = living.rpc("pool_list", Value::Null).expect("it answers")[0].clone();
        pool["problems"].to_string().contains("has taken over the archive")
    });
    host.try_write_round(3).expect_err("no write is taken any more");
    // Reads still work.
    Host::connect(&living, "vol0").digest();
    drop(living);

    check_at(&taken, 1);
    check_at(&taken, 2);
    write(&taken, 4);
    drop(taken);
    std::fs::remove_dir_all(&dir).expect("lost");
    let (dir, _) = shared.recover("again", &[]).expect("it is recovered");
    let again = shared.serve(&dir, &[]).expect("it is served");
    assert_eq!(labels(&again), ["round-1", "round-2", "round-4"]);
    check_at(&again, 2);
    Host::connect(&again, "vol0").check_round(4);
}

/// A rehearsal reads, and the owner is not affected.
fn a_rehearsal_leaves_the_owner_alone(shared: &Shared) {
    let mut living = shared.start();
    write(&living, 1);
    let (dir, _) = shared.recover("rehearsal", &["--rehearse"]).expect("it is rehearsed");
    let rehearsal = shared.serve(&dir, &[]).expect("it is served beside its owner");
    check_at(&rehearsal, 1);
    let mut host = Host::connect(&rehearsal, "vol0");
    host.check_round(1);
    // More than its primary holds: this does not wait for an archive.
    for round in 5..=12 {
        host.write_round(round);
    }
    host.check_round(12);
    let pools = rehearsal.rpc("pool_list", json!({})).expect("it is listed");
    let problems = pools.to_string();
    assert!(!problems.contains("does not work"), "it archives nothing, which is no problem: {problems}");
    let refused =
        rehearsal.rpc("archive_seal", json!({})).expect_err("nothing of it is archived").to_string();
    assert!(refused.contains("rehearsal"), "{refused}");
    drop(host);
    write(&living, 2);
    check_at(&living, 1);
    check_at(&living, 2);
    drop(rehearsal);
    living.stop().expect("it stops");
    living.restart().expect("it is still the owner");
    check_at(&living, 2);
    assert!(objects(&living) > 0);
    living.kill_9();
    let (dir, _) = shared.recover("real", &[]).expect("it is recovered");
    let real = shared.serve(&dir, &[]).expect("it is served");
    assert_eq!(labels(&real), ["round-1", "round-2"]);
    Host::connect(&real, "vol0").check_round(2);
}

#[test]
fn a_rehearsal_leaves_the_owner_of_a_directory_alone() {
    a_rehearsal_leaves_the_owner_alone(&Shared::new("dir:STORE/archive"));
}

#[test]
fn a_rehearsal_leaves_the_owner_of_a_bucket_alone() {
    a_rehearsal_leaves_the_owner_alone(&Shared::bucket());
}

/// The retention rules are restored after the loss of a primary.
#[test]
fn the_rules_of_retention_come_back_with_a_recovery() {
    let shared = Shared::new("dir:STORE/archive");
    let mut appliance = shared.start();
    write(&appliance, 1);
    appliance.command(&["archive", "keep", "synch 30d"]).expect("rules");
    appliance.kill_9();
    let (dir, _) = shared.recover("new", &[]).expect("it is recovered");
    let new = shared.serve(&dir, &[]).expect("it is served");
    let rules = new.command(&["archive", "keep"]).expect("it shows them");
    assert!(rules.contains("synch 30d"), "{rules}");
}
