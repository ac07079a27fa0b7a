//! The process itself: signals while it starts or recovers on a slow device, and a crash at any
//! moment.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use varve_tests::appliance::{ApplianceError, program};
use varve_tests::faults::bed::{BLOCKS, Bed, POOL_FILE};
use varve_tests::faults::{Faults, Operation, Rule};

/// The delay of each call, as on a dying disk.
const SLOW: Duration = Duration::from_millis(400);
/// How long a program may take to end after a signal on such a device.
const END_LIMIT: Duration = Duration::from_secs(5);

/// Sends SIGTERM to the process that hit a rule, and returns the time.
fn terminate(faults: &Faults, rule: varve_tests::faults::RuleId) -> Instant {
    assert!(faults.wait_for_hits(rule, 3, Duration::from_secs(30)), "the device is asked");
    let event = faults.events().into_iter().rfind(|event| event.rule == rule).expect("a call");
    let process = Pid::from_raw(event.thread as i32).expect("a process");
    kill_process(process, Signal::TERM).expect("it runs");
    Instant::now()
}

#[test]
fn a_start_on_a_slow_device_can_be_ended() {
    let mut bed = Bed::start(&[]);
    let mut host = bed.host();
    bed.write_many(&mut host, 3 * BLOCKS);
    host.flush().expect("flushed");
    drop(host);
    bed.appliance.kill_9();
    let slow = bed.faults.add(Rule::on(POOL_FILE, &[Operation::Read]).delay(SLOW));
    let faults = bed.faults.clone();
    let signaller = std::thread::spawn(move || terminate(&faults, slow));
    let started = bed.appliance.restart();
    let ended = Instant::now();
    let told = signaller.join().expect("the signal was sent");
    match started {
        Err(ApplianceError::Ended { .. }) => {}
        other => panic!("the signal was not heeded: {other:?}"),
    }
    assert!(ended - told < END_LIMIT, "it ended after {:?}", ended - told);
    bed.faults.clear();
    bed.appliance.restart().expect("it starts");
    bed.check("after a start that was ended");
}

#[test]
fn a_recovery_can_be_ended_and_made_again() {
    let mut bed = Bed::start(&[]);
    bed.write_archived(3 * BLOCKS);
    bed.appliance.stop().expect("it stops");
    std::fs::remove_file(bed.pool_file()).expect("the primary is lost");
    let faults = Faults::new().expect("faults can be injected");
    let recover = || {
        let mut command = Command::new(program().expect("the program"));
        command.args(["pool", "recover", "--pool-size", "16MiB", "--from"]).arg(bed.archive());
        command.arg("--dir").arg(bed.appliance.pool_folder());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        faults.spawn(&mut command).expect("it starts")
    };
    let slow_store = Rule::on("/archive/", &[Operation::Open]).delay(SLOW);
    let slow_device = Rule::on("/pool/", &[Operation::Write, Operation::Sync]).skip(4).delay(SLOW);
    for (what, rule) in [("the store is slow", slow_store), ("the device is slow", slow_device)] {
        let slow = faults.add(rule);
        let child = recover();
        let told = terminate(&faults, slow);
        let output = child.wait_with_output().expect("it ends");
        assert!(told.elapsed() < END_LIMIT, "{what}: it ended after {:?}", told.elapsed());
        assert!(!output.status.success(), "{what}: {output:?}");
        assert!(!bed.pool_file().exists(), "{what}: something is left that could be taken for a pool");
        faults.clear();
    }
    let output = recover().wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    bed.appliance.restart().expect("it starts");
    bed.check("recovered");
}

/// The process is killed instead of a write, a flush or a rename at several places: everything that
/// was flushed or acknowledged remains.
#[test]
fn a_death_at_any_write_loses_nothing() {
    let mut bed = Bed::start(&[]);
    for (round, skip) in (0..).zip([0, 7, 30, 100, 250]) {
        let deadly = [Operation::Write, Operation::Sync, Operation::Rename];
        // Connects first: threads of the appliance write too, and may be the ones that hit the
        // rule.
        let mut host = bed.host();
        let kill = bed.faults.add(Rule::on("/pool/", &deadly).skip(skip).times(1).kill());
        let mut pending = None;
        for index in 0..BLOCKS {
            let flushed = if index % 32 == 0 { host.flush() } else { Ok(()) };
            if flushed.and_then(|()| bed.try_write(&mut host, index)).is_err() {
                pending = Some((index, bed.newest_stamp()));
                break;
            }
        }
        assert!(pending.is_some() && bed.faults.hits(kill) == 1, "round {round}: it died");
        drop(host);
        bed.faults.clear();
        bed.appliance.restart().expect("it starts");
        bed.check_either(&format!("round {round}"), pending.expect("it died"));
        assert_eq!(bed.problems(), [""; 0]);
        let mut host = bed.host();
        bed.write_many(&mut host, BLOCKS);
    }
}
