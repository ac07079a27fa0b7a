//! The archive of a served pool, with the real program and a real host: the past outlives the
//! primary and a restart, a store may fail and recover, and one line reports a store that cannot be
//! used.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use varve::archive::catalog::ArchiveCatalog;
use varve_s3_server::{ACCESS_KEY, BUCKET, S3Server, SECRET_KEY};
use varve_tests::appliance::rounds::{BLOCK_BYTES, Host, archive_status as status, labels, wait_for};
use varve_tests::appliance::{Appliance, ApplianceConfig, refusal, run, run_in};

const PRIMARY_BYTES: u64 = 64 << 20;
const VOLUME_BLOCKS: u64 = (16 << 20) / BLOCK_BYTES as u64;

const SERVE: [&str; 6] = ["--pool-size", "64MiB", "--volume-size", "16MiB", "--seal-seconds", "1"];

/// Checks that the catalog is up to date: the next start reads nothing from the store.
fn check_catalog(appliance: &Appliance, store: &str, pool: &str, synchs: usize) {
    let path = appliance.pool_folder().join("archive-catalog.redb");
    let pool = pool.parse().expect("a UUID");
    let (catalog, state) = ArchiveCatalog::open(&path, pool, store).expect("the catalog");
    assert!(!state.must_rebuild && state.replaced.is_none(), "{state:?}");
    assert_eq!(catalog.missing_details(None, 1000).expect("readable"), []);
    let known = catalog.synchs().expect("readable");
    assert_eq!(known.iter().filter(|synch| !synch.text.is_empty()).count(), synchs);
}

/// The primary is overwritten several times. Every synch is listed after a restart, and the first,
/// which is only in the archive, can be read.
fn the_past_outlives_the_primary(archive: &[&str], times: u64) {
    let arguments: Vec<&str> = SERVE.iter().chain(archive).copied().collect();
    let mut appliance =
        Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("it starts with an archive");
    let rounds = times * PRIMARY_BYTES / (VOLUME_BLOCKS * BLOCK_BYTES as u64);
    let mut expected = Vec::new();
    let mut host = Host::connect(&appliance, "vol0");
    for round in 1..=rounds {
        host.write_round(round);
        if round % 4 == 1 {
            let label = format!("round-{round}");
            appliance.rpc("synch_create", json!({"label": label})).expect("a synch");
            expected.push(label);
        }
    }
    let sealed = appliance.command(&["archive", "seal"]).expect("it seals");
    assert!(sealed.contains("is in the archive"), "{sealed}");
    let now = status(&appliance);
    assert_eq!(now["backlog_segments"], 0, "{now}");
    assert_eq!(now["problem"], Value::Null, "{now}");
    assert_eq!(now["gaps"], json!([]), "{now}");
    let info = appliance.rpc("pool_list", Value::Null).expect("it answers");
    // The additional block is the superblock at the tail.
    let device_bytes = PRIMARY_BYTES + BLOCK_BYTES as u64;
    assert_eq!(info[0]["device_bytes"], device_bytes, "the primary has not grown");
    drop(host);

    appliance.stop().expect("it stops cleanly");
    let (store, pool) = (now["store"].as_str().expect("a label"), info[0]["uuid"].as_str().expect("a UUID"));
    check_catalog(&appliance, store, pool, expected.len());
    appliance.restart().expect("it starts again");
    assert_eq!(labels(&appliance), expected, "after a stop");
    appliance.kill_9();
    std::fs::remove_file(appliance.pool_folder().join("archive-catalog.redb")).expect("a cache");
    appliance.restart().expect("it starts again");
    assert_eq!(labels(&appliance), expected, "after a crash and without the catalog");

    let oldest_lsn = appliance.rpc("pool_segments", Value::Null).expect("it answers")[0]["first_lsn"].clone();
    let first = appliance.rpc("restore_resolve", json!({"point": "synch:round-1"})).expect("a point");
    assert!(
        first["lsn"].as_u64() < oldest_lsn.as_u64(),
        "the primary has nothing of it: {first} {oldest_lsn}"
    );
    for round in [1, rounds / 8 * 4 + 1] {
        let (point, name) = (format!("synch:round-{round}"), format!("then-{round}"));
        appliance
            .command(&["restore", "clone", "vol0", "--at", &point, "--name", &name, "--read-only"])
            .expect("a clone of what is only in the archive");
        Host::connect(&appliance, &name).check_round(round);
    }
    Host::connect(&appliance, "vol0").check_round(rounds);

    let objects = appliance.rpc("archive_list", Value::Null).expect("a list");
    let objects = objects.as_array().expect("a list").clone();
    assert!(objects.len() as u64 > times * 60 && objects[0]["sequence"] == 0, "{} objects", objects.len());
    let verified = appliance.command(&["archive", "verify", "--to", "40"]).expect("nothing is damaged");
    assert!(verified.contains("41 of 41"), "{verified}");
    let explained = appliance.rpc("archive_explain", json!({"point": "synch:round-1"})).expect("explained");
    assert_eq!(explained["explanation"]["restorable"], true, "{explained}");
    assert_eq!(explained["explanation"]["until"], "forever", "{explained}");
    appliance.command(&["archive", "keep", "synch 30d"]).expect("rules");
    assert_eq!(status(&appliance)["verify"], "digest");
    appliance.command(&["archive", "verify-policy", "tail"]).expect("a policy");
    assert_eq!(status(&appliance)["verify"], "tail");
    let saved = appliance.command(&["config", "save"]).expect("saved");
    assert!(saved.contains("archive_set_verify") && saved.contains("tail"), "{saved}");
    appliance.command(&["archive", "verify-policy", "digest"]).expect("a policy");
    appliance.stop().expect("it stops cleanly");
    appliance.restart().expect("it starts again");
    assert_eq!(appliance.command(&["archive", "keep"]).expect("rules").trim(), "synch 30d");
    let saved = appliance.command(&["config", "save"]).expect("saved");
    assert!(saved.contains("archive_set_keep") && saved.contains("synch 30d"), "{saved}");
    assert!(!saved.contains("archive_set_verify"), "the default needs no call: {saved}");
    assert_eq!(appliance.complaints(), "");
}

#[test]
fn the_past_outlives_the_primary_in_the_default_directory() {
    the_past_outlives_the_primary(&[], 20);
}

#[test]
fn the_past_outlives_the_primary_on_a_second_device() {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = format!("device:{},size=8GiB", folder.path().join("second").display());
    // A device waits for its disk ten times for each object; how many objects there are matters in
    // the directory.
    the_past_outlives_the_primary(&["--archive", &spec], 6);
}

#[test]
fn a_store_that_fails_stops_no_write_and_is_mended_by_itself() {
    // So small that the primary has space for everything written while the store fails.
    let arguments = ["--pool-size", "64MiB", "--volume-size", "4MiB", "--seal-seconds", "1"];
    let mut appliance =
        Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("it starts with an archive");
    let mut host = Host::connect(&appliance, "vol0");
    host.write_round(1);
    appliance.command(&["archive", "seal"]).expect("it seals");
    // The folder for new objects becomes a file: not even root can store anything there.
    let folder = appliance.pool_folder().join("archive/tmp");
    let aside = appliance.pool_folder().join("archive/aside");
    std::fs::rename(&folder, &aside).expect("moved");
    std::fs::write(&folder, b"").expect("a file");
    host.write_round(2);
    wait_for("the failure is told", || status(&appliance)["problem"].is_string());
    host.write_round(3);
    host.check_round(3);
    let now = status(&appliance);
    assert_eq!(now["state"], "waiting", "{now}");
    assert!(now["backlog_bytes"].as_u64() > Some(0) && now["failures"].as_u64() > Some(0), "{now}");
    let listed = appliance.command(&["pool", "list"]).expect("it answers");
    assert_eq!(listed.matches("the archive does not work").count(), 1, "{listed}");
    assert!(appliance.complaints().contains("the archive has a problem"), "{}", appliance.complaints());

    std::fs::remove_file(&folder).expect("the file");
    std::fs::rename(&aside, &folder).expect("back");
    wait_for("the archive works again", || status(&appliance)["problem"].is_null());
    appliance.command(&["archive", "seal"]).expect("it seals");
    assert_eq!(status(&appliance)["backlog_segments"], 0);
    appliance.stop().expect("it stops cleanly");
    appliance.restart().expect("it starts again");
    Host::connect(&appliance, "vol0").check_round(3);
}

#[test]
fn without_an_archive_the_past_goes_and_that_is_said() {
    let arguments = ["--pool-size", "64MiB", "--volume-size", "16MiB", "--no-archive"];
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("it starts");
    let mut host = Host::connect(&appliance, "vol0");
    host.write_round(1);
    appliance.rpc("synch_create", json!({"label": "first"})).expect("a synch");
    for round in 2..20 {
        host.write_round(round);
    }
    host.check_round(19);
    let error = appliance.command(&["archive", "status"]).expect_err("there is none").to_string();
    assert!(error.contains("--archive DIRECTORY"), "{error}");
    assert!(!appliance.pool_folder().join("archive").exists());
    let error = appliance
        .command(&["restore", "clone", "vol0", "--at", "synch:first", "--name", "then"])
        .expect_err("it is gone")
        .to_string();
    assert!(error.contains("no longer kept"), "{error}");
    appliance.stop().expect("it stops cleanly");
}

/// The files below a directory whose names end with `end`.
fn files_below(directory: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_below(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

#[test]
fn damage_in_the_archive_is_found_and_named() {
    let appliance = Appliance::start(&ApplianceConfig::with_arguments(&SERVE)).expect("it starts");
    Host::connect(&appliance, "vol0").write_round(1);
    appliance.command(&["archive", "seal"]).expect("it seals");
    let whole = appliance.command(&["archive", "verify"]).expect("nothing is damaged");
    assert!(whole.contains("Damaged:") && !whole.contains("Damage:"), "{whole}");
    let object = files_below(&appliance.pool_folder().join("archive/objects"), ".seg.zst").remove(0);
    let mut bytes = std::fs::read(&object).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&object, &bytes).expect("written");
    let error = appliance.command(&["archive", "verify"]).expect_err("a bit is wrong").to_string();
    let name = object.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(error.contains(&name) && error.contains("1 objects of the archive are damaged"), "{error}");
}

/// The archive's losses in all four places that report them: the segments listed as lost, the
/// number of lost stretches in the status, and whether the pool and a verification report them.
fn lost(appliance: &Appliance) -> (Vec<u64>, usize, bool, Result<String, String>) {
    let listed = appliance.rpc("archive_list", Value::Null).expect("a list");
    let listed = listed.as_array().expect("a list").clone();
    let segments = listed.iter().filter(|object| object["lost"] == true);
    let segments = segments.map(|object| object["sequence"].as_u64().expect("a number")).collect();
    let stretches = status(appliance)["lost"].as_array().expect("a list").len();
    let told = appliance.command(&["pool", "list"]).expect("it answers").contains("the archive has lost");
    let verified = appliance.command(&["archive", "verify"]).map_err(|error| error.to_string());
    (segments, stretches, told, verified)
}

/// Objects vanish from the store; the primary still has some of their segments. Every report agrees
/// and names what is missing, also after a restart. What the primary has is archived again.
#[test]
fn objects_that_vanish_from_the_store_are_named_everywhere_until_they_are_back() {
    let arguments = ["--pool-size", "64MiB", "--volume-size", "16MiB", "--seal-seconds", "0"];
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("it starts");
    let mut host = Host::connect(&appliance, "vol0");
    for round in 1..=12 {
        host.write_round(round);
        appliance.rpc("synch_create", json!({"label": format!("round-{round}")})).expect("a synch");
    }
    appliance.command(&["archive", "seal"]).expect("it seals");
    let before = lost(&appliance);
    assert_eq!((&before.0[..], before.1, before.2), (&[][..], 0, false));
    assert!(before.3.is_ok(), "{before:?}");
    let on_primary = appliance.rpc("pool_segments", Value::Null).expect("it answers");
    let oldest = on_primary[0]["sequence"].as_u64().expect("a number");
    assert!(oldest > 8, "the primary has given segments away: {oldest}");
    let objects = appliance.pool_folder().join("archive/objects");
    let mut files = files_below(&objects, ".seg.zst");
    files.sort();
    let aside = appliance.pool_folder().join("aside");
    std::fs::create_dir(&aside).expect("a folder");
    let vanish = |sequence: u64| {
        let file = &files[sequence as usize];
        assert!(file.to_string_lossy().contains(&format!("{sequence:016x}-")), "{}", file.display());
        let place = aside.join(file.file_name().expect("a name"));
        std::fs::rename(file, &place).expect("moved");
        (place, file.clone())
    };
    let gone: Vec<_> = [3, 4].map(vanish).into();
    let here = oldest + 1;
    vanish(here);

    for attempt in ["while it runs", "after a restart"] {
        wait_for("what the primary has is archived again", || lost(&appliance).0 == [3, 4]);
        let (_, stretches, told, verified) = lost(&appliance);
        assert_eq!((stretches, told), (2, true), "{attempt}");
        let error = verified.expect_err("something is missing");
        assert!(error.contains("2 objects of the archive are missing"), "{attempt}: {error}");
        assert!(error.contains("segment 3 (LSN") && error.contains("segment 4 (LSN"), "{attempt}: {error}");
        assert!(error.contains("cannot be opened") && error.contains("synch 'round-"), "{attempt}: {error}");
        appliance.command(&["archive", "seal"]).expect("what can be sealed is");
        assert!(files[here as usize].exists(), "{attempt}");
        assert_eq!(labels(&appliance).len(), 12, "{attempt}: a point that is lost is not forgotten");
        let point = error.split("synch '").nth(1).and_then(|rest| rest.split('\'').next()).expect("a label");
        let at = format!("synch:{point}");
        let refused = appliance
            .command(&["restore", "clone", "vol0", "--at", &at, "--name", "then"])
            .expect_err("it is lost")
            .to_string();
        assert!(refused.contains("the archive has lost segment"), "{attempt}: {refused}");
        if attempt == "while it runs" {
            appliance.kill_9();
            appliance.restart().expect("it starts again");
        }
    }
    for (place, file) in gone {
        std::fs::rename(place, file).expect("back");
    }
    let after = lost(&appliance);
    assert_eq!((&after.0[..], after.2), (&[][..], false), "{after:?}");
    assert!(after.3.is_ok(), "{after:?}");
    let point = ["restore", "clone", "vol0", "--at", "synch:round-2", "--name", "then", "--read-only"];
    appliance.command(&point).expect("it is back");
    Host::connect(&appliance, "then").check_round(2);
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

#[test]
fn a_store_that_cannot_be_used_is_one_line_and_makes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("data");
    let occupied = folder.path().join("occupied");
    std::fs::write(&occupied, vec![0x5a; 4 << 20]).expect("written");
    let below_a_file = occupied.join("archive");
    let device = format!("device:{}", path(&occupied));
    let missing = format!("device:{}/nothing", path(folder.path()));
    for (spec, words) in [
        ("floppy:/a", "no kind 'floppy'"),
        ("tape:t,cartridges=many", "cartridges=many"),
        (path(&below_a_file), "occupied/archive"),
        (device.as_str(), "no varve archive"),
        (missing.as_str(), "size=SIZE"),
        // Nothing listens there.
        ("s3://bucket/prefix?endpoint=http://127.0.0.1:9&allow_http=true", "s3 bucket/prefix"),
    ] {
        let text = refusal(&run(&[
            "serve",
            "--dir",
            path(&directory),
            "--listen",
            "127.0.0.1:0",
            "--archive",
            spec,
        ]));
        assert!(text.contains(words), "{spec}: {text}");
        assert!(!directory.join("pool.varve").exists(), "{spec}: no pool was made");
    }
    assert!(std::fs::read(&occupied).expect("readable") == vec![0x5a; 4 << 20], "nothing was changed");
}

#[test]
fn a_store_that_fails_its_probe_leaves_the_pool_alone() {
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&SERVE)).expect("it starts");
    appliance.stop().expect("it stops cleanly");
    let folder = appliance.pool_folder();
    let before = std::fs::read(folder.join("pool.varve")).expect("readable");
    // Objects can be listed but not stored.
    let probe = folder.join("archive/objects/probe");
    std::fs::remove_dir(&probe).expect("where the probe's object was");
    std::fs::write(&probe, b"in the way").expect("written");
    let text = refusal(&run(&["serve", "--dir", path(&folder), "--listen", "127.0.0.1:0"]));
    assert!(text.contains("failed the probe") && text.contains("--no-archive"), "{text}");
    assert!(std::fs::read(folder.join("pool.varve")).expect("readable") == before, "nothing was changed");
    std::fs::remove_file(&probe).expect("removed");
    appliance.restart().expect("it starts again");
}

#[test]
fn recovering_needs_a_pool_and_an_empty_directory() {
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&SERVE)).expect("it starts");
    appliance.command(&["archive", "seal"]).expect("it seals");
    appliance.stop().expect("it stops cleanly");
    let (folder, other) = (appliance.pool_folder(), tempfile::tempdir().expect("a folder"));
    let archive = folder.join("archive");
    let recover = |from: &Path, dir: &Path, more: &[&str]| {
        let arguments = ["pool", "recover", "--from", path(from), "--dir", path(dir)];
        refusal(&run(&arguments.iter().chain(more).copied().collect::<Vec<_>>()))
    };
    let text = recover(&archive, &folder, &[]);
    assert!(text.contains("pool.varve exists"), "{text}");
    let text = recover(&other.path().join("nothing"), other.path(), &[]);
    assert!(text.contains("nothing does not exist"), "{text}");
    assert!(!other.path().join("nothing").exists());
    let empty = other.path().join("empty");
    std::fs::create_dir(&empty).expect("made");
    let text = recover(&empty, other.path(), &[]);
    assert!(text.contains("holds no pool"), "{text}");
    let text = recover(&archive, other.path(), &["--pool", "00000000-0000-4000-8000-000000000001"]);
    assert!(text.contains("holds nothing of pool"), "{text}");
    assert!(!other.path().join("pool.varve").exists());
}

/// The primary is lost: the pool is recovered from its archive alone, with every synch, and serves.
/// Then it is lost and recovered once more.
fn a_lost_primary_is_recovered(archive: &str) {
    a_lost_primary_is_recovered_in(&[], archive);
}

/// The same, with more variables in the program's environment.
fn a_lost_primary_is_recovered_in(environment: &[(String, String)], archive: &str) {
    let store = tempfile::tempdir().expect("a folder");
    let spec = archive.replace("STORE", path(store.path()));
    let arguments: Vec<&str> = SERVE.iter().copied().chain(["--archive", &spec]).collect();
    let config =
        ApplianceConfig { environment: environment.to_vec(), ..ApplianceConfig::with_arguments(&arguments) };
    let mut appliance = Appliance::start(&config).expect("it starts");
    let (mut expected, mut digests) = (Vec::new(), Vec::new());
    let mut host = Host::connect(&appliance, "vol0");
    for round in 1..=6 {
        host.write_round(round);
        digests.push(host.digest());
        let label = format!("round-{round}");
        appliance.rpc("synch_create", json!({"label": label})).expect("a synch");
        expected.push(label);
    }
    appliance.command(&["archive", "seal"]).expect("it seals");
    drop(host);
    appliance.kill_9();
    std::fs::remove_file(appliance.pool_folder().join("pool.varve")).expect("the primary is lost");

    for loss in 1..=2_u64 {
        let folder = appliance.pool_folder();
        let recovered = run_in(
            environment,
            &["pool", "recover", "--from", &spec, "--dir", path(&folder), "--pool-size", "96MiB"],
        );
        let said = String::from_utf8_lossy(&recovered.stdout).into_owned();
        assert!(recovered.status.success(), "{said}{}", String::from_utf8_lossy(&recovered.stderr));
        assert!(said.contains("recovery point"), "{said}");
        appliance.restart().expect("it serves what was recovered");
        assert_eq!(labels(&appliance), expected, "after loss {loss}");
        let latest = 5 + loss;
        Host::connect(&appliance, "vol0").check_round(latest);
        for (label, digest) in expected.iter().zip(&digests) {
            let (point, name) = (format!("synch:{label}"), format!("then-{label}"));
            appliance
                .command(&["restore", "clone", "vol0", "--at", &point, "--name", &name])
                .expect("a clone of what was before the loss");
            assert_eq!(Host::connect(&appliance, &name).digest(), *digest, "{label} after loss {loss}");
            appliance.command(&["volume", "delete", &name]).expect("it goes");
        }
        let mut host = Host::connect(&appliance, "vol0");
        host.write_round(latest + 1);
        digests.push(host.digest());
        drop(host);
        let label = format!("again-{loss}");
        appliance.rpc("synch_create", json!({"label": label})).expect("a synch");
        expected.push(label);
        appliance.command(&["archive", "seal"]).expect("it seals");
        appliance.kill_9();
        std::fs::remove_file(appliance.pool_folder().join("pool.varve")).expect("the primary is lost");
    }
}

/// The archive is a prefix in a bucket of a server in this process. The program finds the
/// credentials in its environment, as it always does.
#[test]
fn a_lost_primary_is_recovered_from_a_bucket() {
    let server = S3Server::start();
    let spec = format!("s3://{BUCKET}/pools/one?endpoint={}&allow_http=true", server.url());
    let credentials = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    let environment = credentials.map(|(name, value)| (name.to_owned(), value.to_owned()));
    a_lost_primary_is_recovered_in(&environment, &spec);
}

#[test]
fn a_lost_primary_is_recovered_from_a_directory() {
    a_lost_primary_is_recovered("dir:STORE/archive");
}

#[test]
fn a_lost_primary_is_recovered_from_a_second_device() {
    a_lost_primary_is_recovered("device:STORE/second,size=4GiB");
}

#[test]
fn a_lost_primary_is_recovered_from_tape() {
    a_lost_primary_is_recovered("tape:STORE/library,cartridges=4,size=2GiB");
}

/// An object that the last state needs is damaged when the primary is lost: the recovery names what
/// only that object held and returns read errors for it, everything newer is recovered, and no
/// block is wrong.
#[test]
fn a_recovery_over_a_damaged_object_names_what_is_lost_and_gives_no_wrong_block() {
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&SERVE)).expect("it starts");
    let mut host = Host::connect(&appliance, "vol0");
    for round in 1..=3 {
        host.write_round(round);
    }
    appliance.command(&["archive", "seal"]).expect("it seals");
    drop(host);
    appliance.kill_9();
    let folder = appliance.pool_folder();
    std::fs::remove_file(folder.join("pool.varve")).expect("the primary is lost");
    let mut files = files_below(&folder.join("archive/objects"), ".seg.zst");
    files.sort();
    // About 13 of its segments hold the data that was written last.
    let damaged = &files[files.len() - 6];
    let mut bytes = std::fs::read(damaged).expect("readable");
    bytes[140] ^= 1;
    std::fs::write(damaged, bytes).expect("written");
    let archive = folder.join("archive");
    let recovered = run(&[
        "pool",
        "recover",
        "--from",
        path(&archive),
        "--dir",
        path(&folder),
        "--pool-size",
        "96MiB",
        "--json",
    ]);
    let words = String::from_utf8_lossy(&recovered.stderr).into_owned();
    let report: Value = serde_json::from_slice(&recovered.stdout).unwrap_or_else(|_| panic!("{words}"));
    let told = report["damaged_objects"].to_string();
    assert!(told.contains(damaged.file_name().and_then(|name| name.to_str()).expect("a name")), "{report}");
    assert_eq!(report["damaged_objects"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(report["lost"].as_array().map(Vec::len), Some(1), "{report}");
    let (lost, points) = (&report["lost"][0], &report["uncertain_points"][0]);
    assert!(points["start"] == lost["start"] && points["end"].as_u64() > lost["end"].as_u64(), "{report}");
    appliance.restart().expect("it serves what was recovered");
    let (right, errors) = Host::connect(&appliance, "vol0").count_round(3);
    assert_eq!(right + errors, VOLUME_BLOCKS);
    assert!(right > 4 * 200 && errors > 200, "{right} right, {errors} errors");
}
