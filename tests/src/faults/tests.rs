//! Tests the injector on small programs: calls that proceed, fail, wait, or are cut short.
//!
//! This same test program, started again as a child, makes the reads and writes at offsets.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Faults, Operation, Rule};

/// Names the file that the child uses; without it the child's part does nothing.
const FILE_VARIABLE: &str = "VARVE_FAULTS_TEST_FILE";

fn faults() -> Faults {
    Faults::new().expect("system calls can be supervised")
}

fn spawn(faults: &Faults, command: &mut Command) -> Child {
    faults.spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).expect("it starts, supervised")
}

/// Runs the child's part of this test program, and returns its output.
fn run_child(faults: &Faults, file: &Path) -> String {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", "faults::tests::the_part_of_the_child", "--nocapture", "--test-threads=1"]);
    let output = spawn(faults, command.env(FILE_VARIABLE, file)).wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_part_of_the_child() {
    let Some(path) = std::env::var_os(FILE_VARIABLE) else { return };
    let file = File::options().read(true).write(true).open(path).expect("it opens");
    let mut buffer = [0; 8192];
    let text = |result: std::io::Result<usize>| match result {
        Ok(moved) => moved.to_string(),
        Err(error) => format!("error {}", error.raw_os_error().unwrap_or(0)),
    };
    for at in [0, 8192] {
        println!("read {at}: {} {}", text(file.read_at(&mut buffer, at)), buffer[0]);
    }
    println!("write: {}", text(file.write_at(&[7; 8192], 16_384)));
    println!("sync: {}", text(file.sync_all().map(|()| 0)));
    // A program that is already supervised cannot be supervised a second time.
    let refused = faults().spawn(&mut Command::new("true")).expect_err("it is refused");
    println!("supervised twice: {refused}");
}

#[test]
fn what_cannot_be_supervised_does_not_run() {
    let (folder, faults) = (tempfile::tempdir().expect("a folder"), faults());
    let said = run_child(&faults, &file_of(folder.path()));
    assert!(said.contains("supervised twice: true does not start under supervision"), "{said}");
}

fn file_of(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("data");
    std::fs::write(&path, [vec![1; 8192], vec![2; 16_384]].concat()).expect("written");
    path
}

#[test]
fn without_rules_a_program_runs_as_ever() {
    let (folder, faults) = (tempfile::tempdir().expect("a folder"), faults());
    let path = file_of(folder.path());
    let said = run_child(&faults, &path);
    for line in ["read 0: 8192 1", "read 8192: 8192 2", "write: 8192", "sync: 0"] {
        assert!(said.contains(line), "{said}");
    }
    assert!(faults.calls() > 10 && faults.events().is_empty());
    assert_eq!(std::fs::read(&path).expect("readable")[16_384..], [7; 8192]);
}

#[test]
fn what_a_rule_is_about_fails_and_nothing_else() {
    let (folder, faults) = (tempfile::tempdir().expect("a folder"), faults());
    let path = file_of(folder.path());
    let bad = faults.add(Rule::on("data", &[Operation::Read]).within(9000..9001).fail(Errno::IO));
    let full = faults.add(Rule::on("data", &[Operation::Write]).times(1).fail(Errno::NOSPC));
    let unsynced = faults.add(Rule::on("data", &[Operation::Sync]).fail(Errno::IO));
    let said = run_child(&faults, &path);
    for line in ["read 0: 8192 1", "read 8192: error 5", "write: error 28", "sync: error 5"] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!([bad, full, unsynced].map(|rule| faults.hits(rule)), [1; 3]);
    assert_eq!(std::fs::read(&path).expect("readable")[16_384..], [2; 8192], "nothing was written");
    let events = faults.events();
    assert_eq!(events.len(), 3);
    assert_eq!((events[0].rule, events[0].range.clone()), (bad, Some(8192..16_384)));
    assert!(events[0].path.ends_with("/data"), "{events:?}");
    faults.clear();
    assert!(run_child(&faults, &path).contains("sync: 0"), "another program, and no rules");
}

#[test]
fn transfers_are_cut_short() {
    let (folder, faults) = (tempfile::tempdir().expect("a folder"), faults());
    let path = file_of(folder.path());
    let cut = faults.add(Rule::on("data", &[Operation::Read, Operation::Write]).short(4096));
    let said = run_child(&faults, &path);
    for line in ["read 0: 4096 1", "read 8192: 4096 2", "write: 4096"] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(faults.hits(cut), 3);
    let content = std::fs::read(&path).expect("readable");
    assert_eq!((content[16_384 + 4095], content[16_384 + 4096]), (7, 2));
}

#[test]
fn calls_wait_and_are_held() {
    let (folder, faults) = (tempfile::tempdir().expect("a folder"), faults());
    let path = file_of(folder.path());
    let wait = Duration::from_millis(300);
    faults.add(Rule::on("data", &[Operation::Write]).delay(wait).fail(Errno::IO));
    let held = faults.add(Rule::on("data", &[Operation::Read]).within(0..1).hold());
    let begin = Instant::now();
    let other = faults.clone();
    let tester = std::thread::spawn(move || {
        assert!(other.wait_for_hits(held, 1, Duration::from_mins(1)));
        std::thread::sleep(wait);
        other.remove(held);
    });
    let said = run_child(&faults, &path);
    tester.join().expect("it waited");
    assert!(said.contains("read 0: 8192 1") && said.contains("write: error 5"), "{said}");
    assert!(begin.elapsed() >= 2 * wait, "{:?}", begin.elapsed());
}

#[test]
fn renames_unlinks_and_directories_fail_by_either_name() {
    let (folder, faults) = (tempfile::tempdir().expect("a folder"), faults());
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("a"), "x").expect("written");
    let rename = faults.add(Rule::on("/goal", &[Operation::Rename]).fail(Errno::IO));
    let output = spawn(&faults, Command::new("mv").arg(path("a")).arg(path("goal"))).wait_with_output();
    assert!(!output.expect("it ends").status.success() && path("a").exists() && !path("goal").exists());
    assert!(faults.hits(rename) > 0);
    let unlink = faults.add(Rule::on("/a", &[Operation::Unlink]).fail(Errno::ROFS));
    assert!(!spawn(&faults, Command::new("rm").arg(path("a"))).wait().expect("it ends").success());
    assert!(path("a").exists() && faults.hits(unlink) == 1);
    let make = faults.add(Rule::on("/new", &[Operation::MakeDirectory]).fail(Errno::NOSPC));
    assert!(!spawn(&faults, Command::new("mkdir").arg(path("new"))).wait().expect("it ends").success());
    assert!(!path("new").exists() && faults.hits(make) == 1);
}

#[test]
fn a_program_can_be_killed_at_a_call_and_while_it_waits() {
    let (folder, faults) = (tempfile::tempdir().expect("a folder"), faults());
    let path = file_of(folder.path());
    let kill = faults.add(Rule::on("/data", &[Operation::Unlink]).times(1).kill());
    let status = spawn(&faults, Command::new("rm").arg(&path)).wait().expect("it ends");
    assert_eq!((status.signal(), faults.hits(kill)), (Some(libc::SIGKILL), 1));
    assert!(path.exists());
    let held = faults.add(Rule::on("/data", &[Operation::Unlink]).hold());
    let mut child = spawn(&faults, Command::new("rm").arg(&path));
    assert!(faults.wait_for_hits(held, 1, Duration::from_mins(1)));
    child.kill().expect("it can be killed");
    assert_eq!(child.wait().expect("it ends").signal(), Some(libc::SIGKILL));
    faults.remove(held);
    assert!(path.exists());
}
