//! Device writes and flushes that fail, and a full file system, injected into the real program.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use varve::nvmf::host::HostError;
use varve::nvmf::wire::feature::FeatureId;
use varve::nvmf::wire::log_page::{LogPageId, critical_warning};
use varve::nvmf::wire::status::Status;
use varve_tests::appliance::ApplianceError;
use varve_tests::faults::bed::{BLOCKS, Bed, Host, POOL_FILE, VOLUME, status_of, wait_for};
use varve_tests::faults::{Operation, Rule};

/// Reads, management and the past still work.
fn check_readable(bed: &Bed, point: &str) {
    bed.appliance.command(&["volume", "list"]).expect("management goes on");
    bed.appliance.command(&["restore", "resolve", point]).expect("points are found");
}

#[test]
fn a_write_error_stops_writes_and_nothing_else() {
    let mut bed = Bed::start(&[]);
    let mut host = bed.host();
    bed.write_many(&mut host, BLOCKS);
    host.flush().expect("flushed");
    let point = bed.mark("before");
    let broken = bed.faults.add(Rule::on(POOL_FILE, &[Operation::Write]).fail(Errno::IO));
    let status = status_of(bed.try_write(&mut host, 7));
    let refused = (7, bed.newest_stamp());
    assert_eq!(status.map(Status::code_only), Some(Status::WRITE_FAULT));
    assert!(bed.faults.hits(broken) > 0);
    assert_eq!(bed.pool()["state"], "failed");
    bed.check_told(&["writing a record failed"]);
    bed.check_either("after a write error", refused);
    check_readable(&bed, &point);
    // The failure persists after the device works again: what the device did with the write is
    // unknown.
    bed.faults.clear();
    assert_eq!(status_of(host.write(8, 1)).map(Status::code_only), Some(Status::WRITE_FAULT));
    assert!(
        matches!(bed.appliance.stop(), Err(ApplianceError::Ended { .. })),
        "the close is told to have failed"
    );
    bed.appliance.restart().expect("it starts");
    bed.check_either("after a restart", refused);
    let mut host = bed.host();
    bed.write(&mut host, 7);
    bed.check("writes go on");
}

/// A host that monitors its drives notices: by an event, and in the log page that the event names.
#[test]
fn a_failed_pool_raises_a_critical_warning() {
    let mut bed = Bed::start(&[]);
    let mut host = bed.host();
    bed.write_many(&mut host, 20);
    let smart = |host: &mut Host| {
        let page = host.controller().log_page(LogPageId::Smart.into(), u32::MAX, 512).expect("the page");
        page[0]
    };
    assert_eq!(smart(&mut host), 0);
    let warnings = u32::from(critical_warning::RELIABILITY | critical_warning::READ_ONLY);
    let feature = FeatureId::AsyncEventConfiguration.into();
    host.controller().set_feature(feature, 0, warnings, &[]).expect("the warnings are offered");
    bed.faults.add(Rule::on(POOL_FILE, &[Operation::Write]).fail(Errno::IO));
    assert!(bed.try_write(&mut host, 7).is_err());
    let event = host.controller().next_event(Duration::from_secs(5)).expect("the connection stands");
    let event = event.expect("an event");
    assert_eq!(event.log_page, u8::from(LogPageId::Smart), "{event:?}");
    assert_ne!(u32::from(smart(&mut host)) & warnings, 0, "writes are not taken");
}

#[test]
fn a_flush_that_fails_is_never_taken_for_done() {
    let mut bed = Bed::start(&[]);
    let mut host = bed.host();
    bed.write_many(&mut host, 100);
    host.flush().expect("flushed");
    let point = bed.mark("before");
    bed.write_many(&mut host, 50);
    let broken = bed.faults.add(Rule::on(POOL_FILE, &[Operation::Sync]).times(1).fail(Errno::IO));
    let status = status_of(host.flush());
    assert_eq!(status.map(Status::code_only), Some(Status::WRITE_FAULT));
    assert_eq!(bed.faults.hits(broken), 1);
    // The device reports success for the next flush; that does not restore what the first one lost.
    assert_eq!(status_of(host.flush()).map(Status::code_only), Some(Status::WRITE_FAULT));
    assert_eq!(bed.pool()["state"], "failed");
    bed.check_told(&["flushing the device failed"]);
    bed.check("after a flush that failed");
    check_readable(&bed, &point);
    bed.appliance.kill_9();
    bed.appliance.restart().expect("it starts");
    bed.check("after a restart");
}

/// Whether a write waits or fails; a failure must have a status that permits a retry.
fn waits_or_may_be_retried(result: Result<(), HostError>) -> bool {
    match result {
        Ok(()) => false,
        Err(HostError::Status { status, .. }) => {
            assert!(!status.is_do_not_retry(), "no room is not for ever: {status}");
            true
        }
        // The host's own timeout ended first: the write waits.
        Err(_) => true,
    }
}

/// No space for the pool's file for some time: writes wait or may be retried, everything else
/// works, and writes continue when there is space.
#[test]
fn no_room_is_not_a_broken_device() {
    let mut bed = Bed::start(&[]);
    let mut host = bed.host();
    bed.write_many(&mut host, BLOCKS);
    host.flush().expect("flushed");
    let point = bed.mark("before");
    let room = [Operation::Write, Operation::Allocate];
    let full = bed.faults.add(Rule::on(POOL_FILE, &room).fail(Errno::NOSPC));
    let mut impatient = Host::connect(bed.appliance.port(), VOLUME, Duration::from_secs(5));
    let waits = waits_or_may_be_retried(bed.try_write(&mut impatient, 7));
    let refused = (7, bed.newest_stamp());
    assert!(waits && bed.faults.hits(full) > 0, "nothing was written");
    assert_ne!(bed.pool()["state"], "failed");
    bed.check_told(&["room"]);
    bed.check_either("without room", refused);
    check_readable(&bed, &point);
    let hits = bed.faults.hits(full);
    let load = bed.idle_load(Duration::from_secs(1));
    assert!(load < 0.5 && bed.faults.hits(full) - hits < 200, "{load} of a core while it waits");
    bed.faults.clear();
    goes_on(&mut bed);
    bed.check("with room");
    bed.appliance.stop().expect("it stops");
    bed.appliance.restart().expect("it starts");
    bed.check("after a restart");
    assert_eq!(bed.problems(), [""; 0]);
}

/// Writes succeed again by themselves within 15 s.
fn goes_on(bed: &mut Bed) {
    let begin = Instant::now();
    loop {
        let mut host = Host::connect(bed.appliance.port(), VOLUME, Duration::from_secs(5));
        // The block finally holds the last write that was tried.
        match bed.try_write(&mut host, 7) {
            Ok(()) => break,
            Err(error) => {
                assert!(begin.elapsed() < Duration::from_secs(15), "{error:?}; {:?}", bed.problems());
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut host = bed.host();
    bed.write_many(&mut host, BLOCKS);
    host.flush().expect("flushed");
    wait_for("the problem is over", || {
        let pool = bed.pool();
        (
            pool["problems"].as_array().is_some_and(Vec::is_empty) && pool["state"] == "online",
            pool.to_string(),
        )
    });
}

/// A start without room, after a crash or a clean stop.
fn a_start_without_room_goes_on_with_room(crash: bool) {
    let mut bed = Bed::start(&[]);
    let mut host = bed.host();
    bed.write_many(&mut host, BLOCKS);
    host.flush().expect("flushed");
    let point = bed.mark("before");
    drop(host);
    if crash {
        bed.appliance.kill_9();
    } else {
        bed.appliance.stop().expect("it stops");
    }
    let room = [Operation::Write, Operation::Allocate];
    let full = bed.faults.add(Rule::on(POOL_FILE, &room).fail(Errno::NOSPC));
    bed.appliance.restart().expect("it starts without room");
    let mut impatient = Host::connect(bed.appliance.port(), VOLUME, Duration::from_secs(3));
    assert!(waits_or_may_be_retried(bed.try_write(&mut impatient, 7)));
    bed.check_either("a start without room", (7, bed.newest_stamp()));
    bed.check_told(&["room"]);
    check_readable(&bed, &point);
    assert!(bed.faults.hits(full) > 0);
    bed.faults.clear();
    goes_on(&mut bed);
    bed.check("with room");
}

// Two tests, so that one waits while the other waits.
#[test]
fn a_start_without_room_after_a_crash_serves_reads_and_goes_on_with_room() {
    a_start_without_room_goes_on_with_room(true);
}

#[test]
fn a_start_without_room_after_a_stop_serves_reads_and_goes_on_with_room() {
    a_start_without_room_goes_on_with_room(false);
}

/// A small separate file system, removed with the test.
struct SmallFileSystem(tempfile::TempDir);

impl SmallFileSystem {
    /// `None` where this test may not mount.
    fn mount(len_bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let options = std::ffi::CString::new(format!("size={len_bytes}")).expect("no zero byte");
        let flags = rustix::mount::MountFlags::empty();
        let mounted = rustix::mount::mount("tmpfs", folder.path(), "tmpfs", flags, Some(&*options));
        mounted.ok().map(|()| SmallFileSystem(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(self.path(), rustix::mount::UnmountFlags::DETACH);
    }
}

/// The same with a file system that is really full, with whichever engine is used. Mounting needs
/// root; for other users the two tests before this one inject the same error.
#[test]
fn a_full_file_system_is_waited_out() {
    let Some(small) = SmallFileSystem::mount(28 << 20) else {
        assert!(!rustix::process::geteuid().is_root(), "root may mount");
        varve::missing::say("a_full_file_system_is_waited_out", "only root may mount a file system");
        return;
    };
    // The archive stays where there is space; the pool's file moves and stays sparse.
    let archive = tempfile::tempdir().expect("a folder");
    let mut bed =
        Bed::start_without_faults(&["--archive", &archive.path().join("archive").to_string_lossy()]);
    let mut host = bed.host();
    bed.write_many(&mut host, 200);
    host.flush().expect("flushed");
    drop(host);
    bed.appliance.stop().expect("it stops");
    let moved = small.path().join(POOL_FILE);
    let status = std::process::Command::new("cp")
        .args(["--sparse=always".as_ref(), bed.pool_file().as_os_str(), moved.as_os_str()])
        .status();
    assert!(status.expect("cp runs").success());
    std::fs::remove_file(bed.pool_file()).expect("moved");
    std::os::unix::fs::symlink(&moved, bed.pool_file()).expect("a link");
    bed.appliance.restart().expect("it starts");
    let filler = fill(small.path());
    let mut refused = None;
    let mut host = Host::connect(bed.appliance.port(), VOLUME, Duration::from_secs(5));
    for index in 0..6 * BLOCKS {
        if waits_or_may_be_retried(bed.try_write(&mut host, index % BLOCKS)) {
            refused = Some((index % BLOCKS, bed.newest_stamp()));
            break;
        }
    }
    let refused = refused.expect("it has become full");
    bed.check_told(&["room"]);
    bed.check_either("full", refused);
    std::fs::remove_file(filler).expect("removed");
    // A write that waits may be executed later than other writes to its block, so the block has
    // either content.
    goes_on(&mut bed);
    bed.check_either("with room", refused);
    bed.appliance.kill_9();
    bed.appliance.restart().expect("it starts");
    bed.check_either("after a restart", refused);
}

/// Uses up all space.
fn fill(folder: &Path) -> PathBuf {
    let path = folder.join("other");
    let mut file = std::fs::File::create(&path).expect("made");
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    path
}
