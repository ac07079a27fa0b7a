//! Missing pools and archives: a start makes a new one only where there was none, or on request,
//! whatever is missing and wherever a creation or a recovery was interrupted.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use varve_tests::appliance::{Appliance, ApplianceConfig, program, refusal, run};
use varve_tests::faults::bed::copy_folder;

const SERVE: [&str; 4] = ["--pool-size", "32MiB", "--volume-size", "4MiB"];

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of text")
}

/// A stopped appliance that has archived something.
fn stopped(more: &[&str]) -> Appliance {
    let arguments: Vec<&str> = SERVE.iter().chain(more).copied().collect();
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("it starts");
    appliance.command(&["synch", "create", "--label", "first"]).expect("a synch");
    appliance.command(&["archive", "seal"]).expect("it seals");
    appliance.stop().expect("it stops");
    appliance
}

fn serve(folder: &Path, more: &[&str]) -> Output {
    let base = ["serve", "--dir", text(folder), "--listen", "127.0.0.1:0"];
    run(&base.iter().chain(&SERVE).chain(more).copied().collect::<Vec<_>>())
}

fn pool_uuid(appliance: &Appliance) -> String {
    let list = appliance.rpc("pool_list", serde_json::Value::Null).expect("a list");
    list[0]["uuid"].as_str().expect("a UUID").to_owned()
}

#[test]
fn a_pool_that_is_gone_or_blank_is_not_begun_anew() {
    let mut appliance = stopped(&[]);
    let folder = appliance.pool_folder();
    let pool = folder.join("pool.varve");
    let good = fs::read(&pool).expect("the pool");
    let objects = appliance.pool_folder().join("archive/objects");
    let kept_objects = tempfile::tempdir().expect("a folder");
    copy_folder(&objects, kept_objects.path());
    let zeroed = |bytes: usize| {
        let mut damaged = good.clone();
        damaged[..bytes].fill(0);
        Some(damaged)
    };
    let cases: [(&str, Option<Vec<u8>>); 4] = [
        ("missing", None),
        ("empty", Some(Vec::new())),
        ("blank", zeroed(good.len())),
        ("its first MiB zeroed", zeroed(1 << 20)),
    ];
    for (case, content) in cases {
        // Each piece of evidence is sufficient by itself.
        for hidden in [None, Some("pool.varve.id"), Some("archive-catalog.redb")] {
            fs::remove_file(&pool).expect("the file");
            if let Some(content) = &content {
                fs::write(&pool, content).expect("written");
            }
            let kept = hidden.map(|name| (folder.join(name), fs::read(folder.join(name)).expect("there")));
            if let Some((path, _)) = &kept {
                fs::remove_file(path).expect("there");
            }
            // A file whose end has a copy of the superblock may simply open.
            if case == "its first MiB zeroed" && appliance.restart().is_ok() {
                let volumes = appliance.command(&["volume", "list"]).expect("a list");
                assert!(volumes.contains("vol0"), "{volumes}");
                appliance.stop().expect("it stops");
            } else {
                let refused = refusal(&serve(&folder, &[]));
                assert!(
                    refused.contains("pool recover") && refused.contains("--new-pool"),
                    "{case}: {refused}"
                );
                let now = fs::read(&pool).ok();
                assert!(now == content, "{case}, without {hidden:?}: nothing was changed");
            }
            if let Some((path, bytes)) = kept {
                fs::write(path, bytes).expect("written");
            }
            fs::write(&pool, &good).expect("put back");
            // A pool that opened in between has claimed the archive, so the archive is restored
            // too.
            fs::remove_dir_all(&objects).expect("removed");
            copy_folder(&kept_objects.path().join("objects"), &objects);
        }
    }
    appliance.restart().expect("the good copy opens");
    let before = pool_uuid(&appliance);
    appliance.stop().expect("it stops");
    // `--new-pool` makes a new pool only where there is none.
    let mut asked = Appliance::start(&ApplianceConfig::with_arguments(
        &SERVE.iter().chain(&["--new-pool"]).copied().collect::<Vec<_>>(),
    ))
    .expect("it starts");
    let first = pool_uuid(&asked);
    asked.restart().expect("it starts again");
    assert_eq!(pool_uuid(&asked), first);
    asked.kill_9();
    fs::remove_file(asked.pool_folder().join("pool.varve")).expect("there");
    asked.restart().expect("a new one, as asked");
    assert_ne!(pool_uuid(&asked), first);
    assert_ne!(pool_uuid(&asked), before);
}

#[test]
fn an_archive_that_is_gone_is_not_begun_anew() {
    let store = tempfile::tempdir().expect("a folder");
    let place = store.path().join("mount");
    let mut appliance = stopped(&["--archive", text(&place)]);
    let folder = appliance.pool_folder();
    let (away, id) = (store.path().join("away"), folder.join("pool.varve.id"));
    fs::rename(&place, &away).expect("moved");
    for made in [false, true] {
        if made {
            fs::create_dir(&place).expect("the place of a mount");
        }
        let check_nothing_made = || {
            assert_eq!(place.exists(), made, "nothing was made");
            assert!(
                !made || fs::read_dir(&place).expect("a list").next().is_none(),
                "nothing was made in it"
            );
        };
        // The pool knows that its archive was there.
        appliance.restart().expect("it waits for its archive");
        let status = appliance.command(&["archive", "status"]).expect("a status");
        assert!(status.contains("--new-archive") && status.contains("mount"), "{status}");
        appliance.stop().expect("it stops");
        check_nothing_made();
        // The pool's archive was in another place.
        let refused = refusal(&serve(&folder, &["--archive", text(&store.path().join("elsewhere"))]));
        assert!(refused.contains("--new-archive") && refused.contains("elsewhere"), "{refused}");
        assert!(!store.path().join("elsewhere").exists(), "nothing was made");
        // Nothing records where it was.
        let known = fs::read(&id).expect("there");
        fs::remove_file(&id).expect("there");
        let refused = refusal(&serve(&folder, &["--archive", text(&place)]));
        assert!(refused.contains("--new-archive") && refused.contains("mount"), "{refused}");
        check_nothing_made();
        fs::write(&id, known).expect("written");
    }
    // Another archive is there.
    let other = stopped(&["--archive", text(&store.path().join("other"))]);
    drop(other);
    let refused = refusal(&serve(&folder, &["--archive", text(&store.path().join("other"))]));
    assert!(refused.contains("--new-archive"), "{refused}");
    // The place where it is now.
    fs::remove_dir(&place).and_then(|()| fs::rename(&away, &place)).expect("mounted again");
    appliance.restart().expect("it is back");
    assert!(appliance.command(&["archive", "status"]).is_ok());
}

#[test]
fn a_pool_of_an_earlier_version_opens_and_gets_its_identity() {
    let mut appliance = stopped(&[]);
    let id = appliance.pool_folder().join("pool.varve.id");
    let before = fs::read(&id).expect("it has one");
    fs::remove_file(&id).expect("as if it never had");
    fs::remove_file(appliance.pool_folder().join("archive/objects/varve-archive-id"))
        .expect("nor its archive");
    appliance.restart().expect("it opens");
    assert!(appliance.command(&["synch", "list"]).expect("a list").contains("first"));
    let now = fs::read_to_string(&id).expect("it has one");
    let pool = |text: &str| text.lines().find(|line| line.contains("\"pool\"")).map(str::to_owned);
    assert_eq!(pool(&now), pool(&String::from_utf8_lossy(&before)));
    assert!(now.contains("\"archive\": {"), "{now}");
    appliance.stop().expect("it stops");
}

fn begin(arguments: &[&str]) -> Child {
    let mut command = Command::new(program().expect("the program"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("it starts")
}

/// Kills a creation after increasing delays; whatever it leaves, the next start serves a pool with
/// its volume.
#[test]
fn a_creation_that_is_killed_is_begun_anew_by_itself() {
    let (mut before, mut after) = (0, 0);
    for step in 0..40_u64 {
        let folder = tempfile::tempdir().expect("a folder");
        let base = ["serve", "--dir", text(folder.path()), "--listen", "127.0.0.1:0"];
        let arguments: Vec<&str> = base.iter().chain(&SERVE).copied().collect();
        let mut child = begin(&arguments);
        std::thread::sleep(Duration::from_micros(step * step * 150));
        child.kill().and_then(|()| child.wait()).expect("it is killed");
        if folder.path().join("pool.varve.id").exists() {
            after += 1;
        } else {
            before += 1;
        }
        check_serves(&arguments, folder.path(), &format!("step {step}"));
    }
    assert!(before > 3 && after > 3, "{before} kills before the pool was complete, {after} after");
}

/// Starts the program, waits until its volume is listed, and stops it by SIGTERM.
fn check_serves(arguments: &[&str], folder: &Path, case: &str) {
    let mut child = begin(arguments);
    let socket = folder.join("rpc.sock");
    let begun = Instant::now();
    loop {
        let listed = run(&["volume", "list", "--rpc", text(&socket)]);
        if listed.status.success() && String::from_utf8_lossy(&listed.stdout).contains("vol0") {
            break;
        }
        let ended = child.try_wait().expect("its status");
        assert!(ended.is_none() && begun.elapsed() < Duration::from_secs(30), "{case}: {ended:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    terminate(&child);
    assert!(child.wait().expect("its status").success(), "{case}");
}

fn terminate(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw).expect("its number");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
}

/// Signals during a start end it at once with status 0. An interrupted recovery leaves nothing that
/// counts as a pool, and can be run again.
#[test]
fn starts_and_recoveries_can_be_stopped_at_any_time() {
    let appliance = stopped(&[]);
    let archive = appliance.pool_folder().join("archive");
    for step in 0..24_u64 {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path().join("new");
        let recover =
            ["pool", "recover", "--from", text(&archive), "--dir", text(&dir), "--pool-size", "32MiB"];
        let mut child = begin(&recover);
        std::thread::sleep(Duration::from_micros(step * step * 150));
        let is_killed = step % 2 == 0;
        if is_killed {
            child.kill().expect("it is killed");
        } else {
            terminate(&child);
        }
        let status = child.wait().expect("its status");
        let pool = dir.join("pool.varve");
        if !pool.exists() {
            assert!(!status.success());
            // A kill or an early signal may come before the program handles signals.
            assert!(is_killed || status.code() == Some(143) || status.code().is_none(), "{status}");
            let refused = serve(&dir, &["--archive", text(&archive)]);
            assert!(!refused.status.success() && !pool.exists(), "step {step}: nothing new is begun");
            let again = run(&recover);
            assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
        }
        assert!(pool.exists() && dir.join("pool.varve.id").exists(), "step {step}");
        assert!(!PathBuf::from(format!("{}.recovering", pool.display())).exists());
    }
    // The recoveries have taken over the archive, so this needs another pool.
    let appliance = stopped(&[]);
    for step in 0..12_u64 {
        let folder = appliance.pool_folder();
        let base = ["serve", "--dir", text(&folder), "--listen", "127.0.0.1:0"];
        let mut child = begin(&base.iter().chain(&SERVE).copied().collect::<Vec<_>>());
        std::thread::sleep(Duration::from_millis(4 + step * 4));
        let begun = Instant::now();
        terminate(&child);
        let status = child.wait().expect("its status");
        assert!(begun.elapsed() < Duration::from_secs(5), "step {step}");
        assert!(status.success() || status.code().is_none(), "step {step}: {status}");
    }
}

#[test]
fn a_file_with_anything_in_it_is_never_taken_for_blank() {
    let folder = tempfile::tempdir().expect("a folder");
    let pool = folder.path().join("pool.varve");
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&pool).expect("made");
    file.set_len(64 << 20).expect("sized");
    file.write_all_at(&[1], (48 << 20) + 5).expect("written");
    (&file).flush().expect("written");
    let refused = refusal(&serve(folder.path(), &["--new-pool"]));
    assert!(refused.contains("no varve pool") && refused.contains("Nothing was changed"), "{refused}");
}
