//! Archives that are away when the appliance starts, or for some time later, with the real program:
//! the appliance serves what the primary holds and reports one problem. What needed the archive
//! works again without a restart when the archive is back. Another store in its place is never used
//! as the archive.

use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::{Value, json};
use varve::nvmf::wire::status::Status;
use varve_s3_server::{ACCESS_KEY, BUCKET, Fault, Proxy, S3Server, SECRET_KEY, error};
use varve_tests::appliance::{Appliance, ApplianceConfig, rounds, run};
use varve_tests::faults::bed::{BLOCKS, Bed, Expected, Host, VOLUME, copy_folder, status_of, wait_for};
use varve_tests::faults::{Operation, Rule};

/// A volume that inherits, next to the one that hosts write.
const CLONE: &str = "old";

/// Makes a pool with a clone whose origin is only in the archive; returns the clone's content.
fn with_clone(bed: &mut Bed) -> Expected {
    let mut host = bed.host();
    bed.write_many(&mut host, BLOCKS);
    let then = bed.expected.clone();
    bed.mark("then");
    bed.write_many(&mut host, 12 * BLOCKS);
    host.flush().expect("flushed");
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    clone(bed, CLONE);
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    then
}

fn clone(bed: &Bed, name: &str) {
    bed.appliance
        .command(&["restore", "clone", VOLUME, "--at", "synch:then", "--name", name])
        .expect("a clone");
}

/// Checks the clone's content.
fn check_clone(bed: &Bed, name: &str, then: &Expected) {
    Host::connect(bed.appliance.port(), name, Duration::from_secs(30)).tally(then).check(name, &[]);
}

fn state_of(bed: &Bed, volume: &str) -> String {
    let volumes = bed.appliance.rpc("volume_list", json!({"name": volume})).expect("it answers");
    volumes[0]["state"].as_str().unwrap_or_default().to_owned()
}

fn wait_until_online(bed: &Bed, volume: &str) {
    wait_for("the volume has what it inherited", || {
        (state_of(bed, volume) == "online", format!("{:?}", bed.problems()))
    });
}

/// Checks that the appliance waits for the archive: the status reports it, and the pool's problems
/// list it once.
fn check_awaited(bed: &Bed) {
    let status = bed.archive_status();
    assert_eq!(status["state"], "away", "{status}");
    assert!(status["problem"].is_string(), "{status}");
    let problems = bed.problems();
    let told = problems.iter().filter(|problem| problem.contains("the archive does not work")).count();
    assert_eq!(told, 1, "{problems:?}");
}

fn wait_until_attached(bed: &Bed) {
    wait_for("the archive is attached", || {
        let status = bed.archive_status();
        (status["problem"].is_null() && status["state"] != "away", status.to_string())
    });
}

fn files(folder: &Path) -> Vec<String> {
    let output = std::process::Command::new("find").arg(folder).args(["-type", "f"]).output();
    let text = String::from_utf8(output.expect("find runs").stdout).expect("text");
    let mut files: Vec<String> = text.lines().map(str::to_owned).collect();
    files.sort();
    files
}

/// Nothing is mounted in the archive's place: hosts are served and management works; after the
/// mount everything is as before.
#[test]
fn an_archive_that_is_not_mounted_at_a_start_is_waited_for() {
    let mut bed = Bed::start_without_faults(&["--read-ahead", "0"]);
    let then = with_clone(&mut bed);
    bed.appliance.stop().expect("it stops");
    let (archive, aside) = (bed.archive(), bed.appliance.pool_folder().join("aside"));
    std::fs::rename(&archive, &aside).expect("moved");
    // A mount point without a mount is an empty directory.
    std::fs::create_dir(&archive).expect("made");
    bed.appliance.restart().expect("it starts without its archive");
    check_awaited(&bed);
    bed.check("what the primary holds");
    let mut host = bed.host();
    bed.write_many(&mut host, BLOCKS / 2);
    host.flush().expect("flushed");
    bed.check("writes go on");
    // What needs the archive is refused: reads with a status that permits a retry, operator
    // commands with the reason.
    wait_for("the clone is told of", || (state_of(&bed, CLONE) == "degraded", state_of(&bed, CLONE)));
    let mut old = Host::connect(bed.appliance.port(), CLONE, Duration::from_secs(30));
    let status = status_of(old.read(5, 1)).expect("it needs the archive");
    assert!(!status.is_do_not_retry(), "{status}");
    for words in [
        &["archive", "seal"][..],
        &["archive", "verify"],
        &["archive", "expire"],
        &["restore", "clone", VOLUME, "--at", "lsn:20", "--name", "x"],
        &["restore", "resolve", "synch:unknown"],
    ] {
        let error = bed.appliance.command(words).expect_err("nobody knows").to_string();
        assert!(error.contains("not reached since the start"), "{words:?}: {error}");
    }
    bed.appliance.command(&["volume", "create", "new", "64KiB"]).expect("management goes on");
    bed.mark("while-away");
    bed.appliance.command(&["archive", "verify-policy", "tail"]).expect("a policy");
    assert_eq!(std::fs::read_dir(&archive).expect("there").count(), 0, "no archive was made");

    std::fs::remove_dir(&archive).expect("removed");
    std::fs::rename(&aside, &archive).expect("mounted");
    wait_until_attached(&bed);
    wait_until_online(&bed, CLONE);
    assert_eq!(bed.problems(), Vec::<String>::new());
    check_clone(&bed, CLONE, &then);
    old.read(5, 1).expect("the same connection goes on");
    assert_eq!(bed.archive_status()["verify"], "tail", "what was set meanwhile is in force");
    bed.write_many(&mut host, BLOCKS);
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    bed.appliance.command(&["archive", "verify"]).expect("it is whole");
    let told = bed.appliance.complaints();
    assert!(told.contains("WARN") && told.contains("the archive is there"), "as loud as its absence: {told}");
    clone(&bed, "again");
    check_clone(&bed, "again", &then);
    bed.check("with its archive");
    drop((host, old));
    bed.appliance.stop().expect("it stops");
    bed.appliance.restart().expect("it starts");
    wait_until_online(&bed, CLONE);
    check_clone(&bed, CLONE, &then);
    bed.check("after another start");
    assert_eq!(bed.problems(), Vec::<String>::new());
}

/// The archive's place returns errors while the appliance starts: it waits for the archive too.
#[test]
fn an_archive_that_gives_errors_at_a_start_is_waited_for() {
    let mut bed = Bed::start(&["--read-ahead", "0"]);
    let then = with_clone(&mut bed);
    bed.appliance.stop().expect("it stops");
    let away = [Operation::Open, Operation::Rename, Operation::MakeDirectory, Operation::Sync];
    bed.faults.add(Rule::on("/archive/", &away).fail(Errno::IO));
    bed.appliance.restart().expect("it starts without its archive");
    check_awaited(&bed);
    bed.check("what the primary holds");
    bed.faults.clear();
    wait_until_attached(&bed);
    wait_until_online(&bed, CLONE);
    check_clone(&bed, CLONE, &then);
    bed.appliance.command(&["archive", "verify"]).expect("it is whole");
}

/// Another archive, or an empty one, is in the place of the pool's archive: the appliance reports
/// it, stores nothing there, and uses the right archive when it is back.
#[test]
fn what_is_there_instead_is_not_taken_for_the_archive_that_is_away() {
    let mut bed = Bed::start_without_faults(&[]);
    let then = with_clone(&mut bed);
    bed.appliance.stop().expect("it stops");
    let other = Bed::start_without_faults(&[]);
    other.appliance.command(&["archive", "seal"]).expect("all is archived");
    let (archive, aside) = (bed.archive(), bed.appliance.pool_folder().join("aside"));
    std::fs::rename(&archive, &aside).expect("moved");
    bed.appliance.restart().expect("it starts without its archive");
    check_awaited(&bed);
    copy_folder(&other.archive(), &archive);
    let before = files(&archive);
    let told = |words: &str| {
        wait_for("the other archive is told of", || {
            let problem = bed.archive_status()["problem"].to_string();
            (problem.contains(words), problem)
        });
    };
    told("holds nothing of the pool");
    check_awaited(&bed);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(files(&archive), before, "nothing was put into it");
    bed.check("what the primary holds");
    std::fs::remove_dir_all(&archive).expect("removed");
    // An empty directory in which a store was made.
    std::fs::create_dir_all(archive.join("objects")).expect("made");
    told("holds nothing of the pool");
    std::fs::remove_dir_all(&archive).expect("removed");
    std::fs::rename(&aside, &archive).expect("mounted");
    wait_until_attached(&bed);
    wait_until_online(&bed, CLONE);
    check_clone(&bed, CLONE, &then);
    bed.check("with its archive");
}

/// The store answers, but returns no objects for some time: the appliance loads the missing data
/// when it does.
#[test]
fn a_clone_that_was_not_looked_up_in_time_is_looked_up_when_the_archive_gives_it() {
    let mut bed = Bed::start(&["--read-ahead", "0"]);
    let then = with_clone(&mut bed);
    bed.appliance.stop().expect("it stops");
    let broken = bed.faults.add(Rule::on(".seg.zst", &[Operation::Read]).fail(Errno::IO));
    bed.appliance.restart().expect("it starts");
    wait_for("the clone is given up for now", || {
        (state_of(&bed, CLONE) == "degraded", state_of(&bed, CLONE))
    });
    bed.check_told(&[CLONE, "inherited", "tried again"]);
    bed.check("the others are served");
    assert!(bed.faults.hits(broken) > 0);
    bed.faults.clear();
    wait_until_online(&bed, CLONE);
    check_clone(&bed, CLONE, &then);
    assert_eq!(bed.problems(), Vec::<String>::new());
}

/// While the archive is away, the primary discards nothing that the archive does not have: writes
/// stop when the space is used up, and continue when the archive is back.
#[test]
fn writes_stop_before_unarchived_history_is_given_away() {
    let mut bed = Bed::start_without_faults(&[]);
    let then = with_clone(&mut bed);
    bed.appliance.stop().expect("it stops");
    let (archive, aside) = (bed.archive(), bed.appliance.pool_folder().join("aside"));
    std::fs::rename(&archive, &aside).expect("moved");
    bed.appliance.restart().expect("it starts without its archive");
    let mut host = bed.host();
    let mut written = 0;
    let status = loop {
        match status_of(bed.try_write(&mut host, written % BLOCKS)) {
            None => written += 1,
            Some(status) => break status,
        }
        assert!(written < 20_000, "unarchived segments were given away");
    };
    // The archive may come back, so the host may retry: the Do Not Retry bit is not set.
    assert_eq!(status, Status::CAPACITY_EXCEEDED, "{status}");
    // More than a segment fits: slots whose segments are verified in the archive are used again.
    assert!(written > 1000, "{written} blocks");
    let refused = (written % BLOCKS, bed.newest_stamp());
    bed.check_told(&["writes are refused", "tried again"]);
    assert_eq!(bed.archive_status()["gaps"], json!([]));
    std::fs::rename(&aside, &archive).expect("mounted");
    wait_until_attached(&bed);
    wait_for("writes go on", || {
        let status = status_of(bed.try_write(&mut host, 0));
        (status.is_none(), format!("{status:?}"))
    });
    if refused.0 == 0 {
        bed.check("with its archive");
    } else {
        bed.check_either("with its archive", refused);
    }
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    bed.appliance.command(&["archive", "verify"]).expect("it is whole");
    assert_eq!(bed.archive_status()["gaps"], json!([]));
    wait_until_online(&bed, CLONE);
    check_clone(&bed, CLONE, &then);
}

/// Where history may be given up, adjacent gaps are one gap and one problem. Management works, a
/// restart keeps the gaps, and the pool can be recovered.
#[test]
fn gaps_that_meet_are_one_and_outlive_a_restart() {
    let mut bed = Bed::start(&["--back-pressure", "degrade"]);
    let mut host = bed.host();
    bed.write_many(&mut host, BLOCKS);
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    bed.faults.add(Rule::on("/archive/objects", &[Operation::Rename]).fail(Errno::IO));
    let gaps = |bed: &Bed| bed.archive_status()["gaps"].as_array().expect("a list").clone();
    bed.write_many(&mut host, 40 * BLOCKS);
    host.flush().expect("flushed");
    wait_for("history has a gap", || (!gaps(&bed).is_empty(), bed.archive_status().to_string()));
    let told = |bed: &Bed| {
        let problems = bed.problems();
        problems.iter().filter(|problem| problem.contains("history has a gap")).count()
    };
    assert_eq!((gaps(&bed).len(), told(&bed)), (1, 1), "{:?}", bed.problems());
    bed.appliance.command(&["volume", "create", "x", "64KiB"]).expect("management goes on");
    bed.mark("in-the-middle");
    bed.appliance.command(&["snapshot", "create", "sn"]).expect("management goes on");
    bed.faults.clear();
    bed.appliance.command(&["archive", "seal"]).expect("it catches up");
    let known = gaps(&bed);
    drop(host);
    bed.appliance.stop().expect("it stops");
    bed.appliance.restart().expect("it starts");
    assert_eq!(gaps(&bed), known, "after a restart");
    bed.check("after a restart");
    // One working set after the gap, everything can be recovered again.
    let mut host = bed.host();
    bed.write_many(&mut host, 12 * BLOCKS);
    host.flush().expect("flushed");
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    let status = bed.archive_status();
    assert_eq!(status["archived_to_lsn"], status["stored_to_lsn"], "{status}");
    drop(host);
    bed.appliance.kill_9();
    std::fs::remove_file(bed.pool_file()).expect("the primary is lost");
    recover(&bed);
    bed.appliance.restart().expect("it serves what was recovered");
    bed.check("recovered");
    assert_eq!(gaps(&bed), known, "after a recovery");
    let names = bed.appliance.rpc("volume_list", Value::Null).expect("it answers");
    assert_eq!(names.as_array().expect("a list").len(), 2, "{names}");
}

/// All data of a recovered pool is in its archive at first: its volume waits for the archive, and
/// gets its blocks when that is back.
#[test]
fn a_recovered_pool_whose_archive_is_away_goes_on_when_it_is_back() {
    let mut bed = Bed::start_without_faults(&["--read-ahead", "0"]);
    bed.write_archived(3 * BLOCKS);
    bed.appliance.kill_9();
    std::fs::remove_file(bed.pool_file()).expect("the primary is lost");
    recover(&bed);
    let (archive, aside) = (bed.archive(), bed.appliance.pool_folder().join("aside"));
    std::fs::rename(&archive, &aside).expect("moved");
    bed.appliance.restart().expect("it starts without its archive");
    check_awaited(&bed);
    wait_for("the volume is told of", || (state_of(&bed, VOLUME) == "degraded", state_of(&bed, VOLUME)));
    let mut host = bed.host();
    let status = status_of(host.write(7, 1)).expect("nobody knows what it has");
    assert!(!status.is_do_not_retry(), "{status}");
    std::fs::rename(&aside, &archive).expect("mounted");
    wait_until_attached(&bed);
    wait_until_online(&bed, VOLUME);
    bed.write(&mut host, 7);
    bed.check("with its archive");
    wait_for("all of it is on the primary again", || {
        let volumes = bed.appliance.rpc("volume_list", json!({"name": VOLUME})).expect("it answers");
        (volumes[0]["inherited_blocks"] == 0 && volumes[0]["parent"].is_null(), volumes.to_string())
    });
    assert_eq!(bed.problems(), Vec::<String>::new());
    bed.check("hydrated");
}

/// Recovers the pool from its archive.
fn recover(bed: &Bed) {
    let (from, to) = (bed.archive(), bed.appliance.pool_folder());
    let (from, to) = (from.to_str().expect("text"), to.to_str().expect("text"));
    let arguments = ["pool", "recover", "--from", from, "--dir", to, "--pool-size", "16MiB"];
    let output = run(&arguments);
    assert!(output.status.success(), "{output:?}");
}

/// A bucket whose service answers "not now" while the appliance starts.
#[test]
fn a_bucket_that_does_not_answer_at_a_start_is_waited_for() {
    let server = S3Server::start();
    let proxy = Proxy::start(server.url());
    let spec = format!("s3://{BUCKET}/one?endpoint={}&allow_http=true", proxy.url());
    let credentials = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];
    let arguments =
        ["--pool-size", "16MiB", "--volume-size", "2MiB", "--seal-seconds", "0", "--archive", &spec];
    let config = ApplianceConfig {
        environment: credentials.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..ApplianceConfig::with_arguments(&arguments)
    };
    let mut appliance = Appliance::start(&config).expect("it starts");
    rounds::Host::connect(&appliance, "vol0").write_round(1);
    appliance.command(&["archive", "seal"]).expect("it seals");
    appliance.stop().expect("it stops");
    proxy.inject("", Fault::Answer(503, error("SlowDown")), usize::MAX);
    appliance.restart().expect("it starts without its archive");
    assert_eq!(rounds::archive_status(&appliance)["state"], "away");
    rounds::Host::connect(&appliance, "vol0").check_round(1);
    proxy.heal();
    rounds::wait_for("the archive is attached", || {
        let status = rounds::archive_status(&appliance);
        status["problem"].is_null() && status["state"] != "away"
    });
    appliance.command(&["archive", "verify"]).expect("it is whole");
}
