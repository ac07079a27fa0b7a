//! Options of `varve serve` that no other test of the whole program uses: each test starts the
//! program with one of them, and compares its visible effect with a start without it.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use serde_json::{Value, json};
use varve_tests::appliance::rounds::{archive_status, connect};
use varve_tests::appliance::{Appliance, ApplianceConfig, ApplianceError, WallClock, program};

/// A small pool without an archive, started with these further options.
fn start(options: &[&str]) -> Appliance {
    start_with(options, Vec::new())
}

fn start_with(options: &[&str], environment: Vec<(String, String)>) -> Appliance {
    let usual = ["--pool-size", "64MiB", "--volume-size", "8MiB", "--no-archive"];
    let mut config = ApplianceConfig::with_arguments(&[&usual, options].concat());
    config.environment = environment;
    Appliance::start(&config).expect("it starts")
}

fn call(appliance: &Appliance, method: &str) -> Value {
    appliance.rpc(method, Value::Null).expect("it answers")
}

fn process_folder(appliance: &Appliance) -> PathBuf {
    PathBuf::from(format!("/proc/{}", appliance.process_id().expect("it runs")))
}

/// The threads: ID and name.
fn threads(appliance: &Appliance) -> Vec<(i32, String)> {
    let folder = process_folder(appliance).join("task");
    let entries = std::fs::read_dir(folder).expect("its threads").map(|entry| entry.expect("a thread"));
    let thread = |entry: std::fs::DirEntry| {
        let number = entry.file_name().to_string_lossy().parse().expect("a number");
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        (number, name.trim().to_owned())
    };
    entries.map(thread).collect()
}

#[test]
fn io_engine_chooses_how_the_pool_is_read_and_written() {
    let kind = |appliance: &Appliance| call(appliance, "pool_list")[0]["device_kind"].clone();
    let has_workers =
        |appliance: &Appliance| threads(appliance).iter().any(|(_, name)| name.starts_with("bdev-"));
    let by_threads = start(&["--io-engine", "threads"]);
    assert_eq!((kind(&by_threads), has_workers(&by_threads)), (json!("threads"), true));
    drop(by_threads);
    let folder = tempfile::tempdir().expect("a folder");
    let options = ["--io-engine", "uring", "--pool-size", "64MiB", "--volume-size", "8MiB", "--no-archive"];
    match Appliance::start_in(&ApplianceConfig::with_arguments(&options), &folder.path().join("pool")) {
        Ok(by_uring) => assert_eq!((kind(&by_uring), has_workers(&by_uring)), (json!("uring"), false)),
        // An error, not the other engine: this is the purpose of the option.
        Err(ApplianceError::Ended { output, .. }) => {
            assert!(output.contains("the I/O engine for"), "{output}");
            varve::missing::say("io_engine_chooses", "the kernel refuses io_uring");
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn poll_never_sleeps() {
    let sleeps = |appliance: &Appliance| {
        call(appliance, "framework_get_reactors")["reactors"][0]["sleeps"].as_u64().expect("a count")
    };
    let polling = start(&["--poll"]);
    let usual = start(&[]);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sleeps(&polling), 0);
    assert!(sleeps(&usual) > 0);
}

#[test]
fn busy_poll_is_set_on_each_connection_or_its_refusal_is_told() {
    let polled_us = |appliance: &Appliance| {
        let _host = connect(appliance, "vol0");
        let values: BTreeSet<i32> = sockets(appliance).iter().map(busy_poll_us).collect();
        values
    };
    let usual = start(&[]);
    assert!(!polled_us(&usual).contains(&77));
    let polling = start(&["--busy-poll", "77"]);
    let refused = polling.complaints().contains("the kernel does not poll the network device");
    assert!(!refused, "nobody is connected yet");
    let is_set = polled_us(&polling).contains(&77);
    let refused = polling.complaints().contains("the kernel does not poll the network device");
    assert!(is_set != refused, "set: {is_set}, refused: {refused}");
}

/// Copies of the program's sockets.
fn sockets(appliance: &Appliance) -> Vec<OwnedFd> {
    let number = appliance.process_id().expect("it runs") as i32;
    let process = pidfd_open(Pid::from_raw(number).expect("not zero"), PidfdFlags::empty()).expect("it runs");
    let entries = std::fs::read_dir(process_folder(appliance).join("fd")).expect("its descriptors");
    let paths = entries.map(|entry| entry.expect("a descriptor").path());
    let is_socket = |path: &PathBuf| {
        std::fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let numbers = paths.filter(is_socket).filter_map(|path| path.file_name()?.to_str()?.parse().ok());
    numbers.filter_map(|number| pidfd_getfd(&process, number, PidfdGetfdFlags::empty()).ok()).collect()
}

/// The option's value in µs, for how long the kernel polls for a socket; -1 for a socket without
/// this option.
fn busy_poll_us(socket: &OwnedFd) -> i32 {
    let mut found: libc::c_int = -1;
    let mut len_bytes = size_of_val(&found) as libc::socklen_t;
    // SAFETY: the value and its length are valid until the call returns, and the length is the
    // value's.
    unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BUSY_POLL,
            (&raw mut found).cast(),
            &raw mut len_bytes,
        );
    }
    found
}

#[test]
fn overprovisioning_sets_capacity_aside() {
    let capacity =
        |appliance: &Appliance| call(appliance, "pool_stats")["capacity_blocks"].as_u64().expect("a count");
    let [little, usual, much] =
        [&["--overprovisioning", "50"][..], &[], &["--overprovisioning", "300"]].map(|options| {
            let appliance = start(options);
            capacity(&appliance)
        });
    // With p spare blocks for each 100 live ones, 100 / (100 + p) of the blocks can be live.
    assert!(little > usual && usual > much && much > 0, "{little}, {usual}, {much}");
    let ratio = usual as f64 / much as f64;
    assert!((1.6..2.4).contains(&ratio), "half against a quarter: {usual}, {much}");
}

/// Whether the operator sees a problem of the clock.
fn clocks_disagree(appliance: &Appliance) -> bool {
    let pools = call(appliance, "pool_list");
    let mut problems = pools[0]["problems"].as_array().expect("a list").iter().filter_map(Value::as_str);
    problems.any(|text| text.contains("clocks disagree"))
}

#[test]
fn clock_ahead_seconds_is_how_far_the_clock_is_believed() {
    for (options, disagrees) in [(&["--clock-ahead-seconds", "60"][..], true), (&[], false)] {
        let mut clock = WallClock::new().expect("the shim");
        let appliance = start_with(options, clock.environment());
        assert!(!clocks_disagree(&appliance));
        clock.set_ahead_s(600);
        appliance.rpc("synch_create", json!({"label": "ahead"})).expect("a synch");
        assert_eq!(clocks_disagree(&appliance), disagrees, "{options:?}");
    }
}

#[test]
fn clock_ahead_start_hours_is_how_far_the_clock_is_believed_after_a_start() {
    for (options, disagrees) in [(&["--clock-ahead-start-hours", "1"][..], true), (&[], false)] {
        let mut clock = WallClock::new().expect("the shim");
        let mut appliance = start_with(options, clock.environment());
        appliance.rpc("synch_create", json!({"label": "before"})).expect("a synch");
        appliance.stop().expect("it stops cleanly");
        clock.set_ahead_s(5 * 3600);
        appliance.restart().expect("it starts again");
        appliance.rpc("synch_create", json!({"label": "after"})).expect("a synch");
        assert_eq!(clocks_disagree(&appliance), disagrees, "{options:?}");
    }
}

/// An appliance whose archive contains compressible data.
fn with_text(options: &[&str]) -> Appliance {
    let usual = ["--pool-size", "64MiB", "--volume-size", "8MiB"];
    let appliance =
        Appliance::start(&ApplianceConfig::with_arguments(&[&usual, options].concat())).expect("it starts");
    let (_controller, mut queue, _) = connect(&appliance, "vol0");
    // Words in an order with a very long period: a higher level compresses them better.
    let words = ["alpha ", "beta ", "gamma, ", "delta; ", "epsilon ", "zeta. ", "eta ", "theta\n"];
    let mut state = 1_u64;
    let mut text = Vec::new();
    while text.len() < 2 << 20 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.extend_from_slice(words[(state >> 61) as usize].as_bytes());
    }
    text.truncate(2 << 20);
    for (number, part) in (0..).zip(text.chunks(128 << 10)) {
        queue.write(number * 32, part).expect("written");
    }
    appliance.command(&["archive", "seal"]).expect("it seals");
    appliance
}

#[test]
fn archive_level_is_how_hard_it_compresses() {
    let object_bytes =
        |appliance: &Appliance| archive_status(appliance)["object_bytes"].as_u64().expect("a count");
    let [fast, small] =
        ["1", "19"].map(|level| object_bytes(&with_text(&["--archive-level", level, "--seal-seconds", "0"])));
    assert!(small < fast * 95 / 100, "{small} bytes at level 19, {fast} at level 1");
}

#[test]
fn archive_verify_chooses_what_is_read_back() {
    let verify = |appliance: &Appliance| archive_status(appliance)["verify"].clone();
    let tail = with_text(&["--archive-verify", "tail"]);
    assert_eq!(verify(&tail), json!("tail"));
    assert_eq!(verify(&with_text(&[])), json!("digest"));
    // It is verified in this case too: a segment counts as archived only then.
    let status = archive_status(&tail);
    assert_eq!(status["archived_to_lsn"], status["head_lsn"], "{status}");
}

#[test]
fn turn_limit_ends_a_process_whose_reactor_stands_still() {
    // Without a limit it waits for the thread as long as needed.
    let mut patient = start(&["--poll", "--turn-limit", "0"]);
    let stopped = Stopped::new(reactor_of(&patient));
    std::thread::sleep(Duration::from_secs(3));
    drop(stopped);
    assert_eq!(call(&patient, "pool_list")[0]["state"], "online");
    patient.stop().expect("it stops cleanly");

    let mut limited = start(&["--poll", "--turn-limit", "1"]);
    // A thread that is stopped between two turns is not inside a long turn; then it is stopped
    // again.
    let has_ended = (0..10).any(|_| {
        let _stopped = Stopped::new(reactor_of(&limited));
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_secs(4) {
            if limited.complaints().contains("has lasted more than 1 s (--turn-limit)") {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    });
    assert!(has_ended, "{}", limited.complaints());
    assert!(matches!(limited.stop(), Err(ApplianceError::Ended { .. })), "it has ended");
    limited.restart().expect("its supervisor starts it again");
    assert_eq!(call(&limited, "pool_list")[0]["state"], "online");
}

fn reactor_of(appliance: &Appliance) -> i32 {
    let threads = threads(appliance);
    threads.iter().find(|(_, name)| name == "reactor0").expect("the reactor").0
}

/// One thread of another process, which is stopped until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn new(thread: i32) -> Self {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: seizing and interrupting a thread do not access this process's memory.
        let results = unsafe {
            [
                libc::ptrace(libc::PTRACE_SEIZE, thread, nothing, nothing),
                libc::ptrace(libc::PTRACE_INTERRUPT, thread, nothing, nothing),
            ]
        };
        assert_eq!(results, [0, 0], "{}", std::io::Error::last_os_error());
        let mut status = 0;
        // SAFETY: the status is valid until the call returns.
        let waited = unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) };
        assert_eq!(waited, thread, "{}", std::io::Error::last_os_error());
        Stopped(thread)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let nothing = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: detaching a thread does not access this process's memory.
        if unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, nothing, nothing) } == 0 {
            return;
        }
        // It has died with its process, which counts as ended only after this wait.
        let mut status = 0;
        // SAFETY: the status is valid until the call returns.
        unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
    }
}

#[test]
fn timeout_is_how_long_a_command_waits() {
    let appliance = start(&["--poll", "--turn-limit", "0"]);
    let stopped = Stopped::new(reactor_of(&appliance));
    let begin = Instant::now();
    let refused = appliance.command(&["pool", "list", "--timeout", "1"]).expect_err("nobody answers");
    assert!((1..20).contains(&begin.elapsed().as_secs()), "{:?}: {refused}", begin.elapsed());
    drop(stopped);
    appliance.command(&["pool", "list", "--timeout", "1"]).expect("it answers");
}

#[test]
fn thin_makes_a_volume_that_takes_room_as_it_is_written() {
    let thin = |appliance: &Appliance| call(appliance, "volume_list")[0]["thin"].clone();
    assert_eq!([thin(&start(&["--thin"])), thin(&start(&[]))], [json!(true), json!(false)]);
}

/// Checks that a test of the whole program uses each option of the command line.
#[test]
fn every_option_of_serve_is_in_a_test() {
    let help = std::process::Command::new(program().expect("the program")).args(["serve", "--help"]).output();
    let help = String::from_utf8(help.expect("it runs").stdout).expect("text");
    let options: BTreeSet<&str> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--").or(line.trim_start().strip_prefix("-")))
        .filter_map(|line| line.split("--").last()?.split([' ', '=', '[', ',']).next())
        .filter(|option| option.len() > 1 && !["help", "version"].contains(option))
        .collect();
    assert!(options.len() > 25, "{options:?}");
    let folders = ["tests", "src", "src/appliance", "src/canary", "src/faults", "src/soak", "src/tape"];
    let folders = folders.map(|folder| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).expect("the tests"));
    let paths = files.map(|file| file.expect("a file").path());
    let sources: String = paths
        .filter(|path| path.extension().is_some_and(|name| name == "rs"))
        .map(|path| std::fs::read_to_string(path).expect("UTF-8"))
        .collect();
    let missing: Vec<_> = options
        .iter()
        .filter(|option| {
            let named = format!("--{option}");
            !sources.match_indices(&named).any(|(at, _)| {
                let next = sources[at + named.len()..].chars().next();
                next.is_none_or(|next| !next.is_ascii_alphanumeric() && next != '-')
            })
        })
        .collect();
    assert!(missing.is_empty(), "no test uses {missing:?}");
}
