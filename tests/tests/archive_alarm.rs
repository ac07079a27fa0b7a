//! Tests the alarm of a recovery point that is too old, with the real program.

use std::time::Duration;

use rustix::io::Errno;
use varve_tests::faults::bed::{BLOCKS, Bed, wait_for};
use varve_tests::faults::{Operation, Rule};

/// The alarm begins when writes have been outside the archive for longer than the policy allows. It
/// is one problem and one log line while it lasts, and ends by itself.
#[test]
fn a_recovery_point_that_is_too_old_is_told_until_it_is_young_again() {
    let mut bed = Bed::start(&["--seal-seconds", "1", "--rpo-alarm-seconds", "3"]);
    let mut host = bed.host();
    bed.write_many(&mut host, BLOCKS);
    host.flush().expect("flushed");
    std::thread::sleep(Duration::from_secs(5));
    let status = bed.archive_status();
    assert_eq!((&status["rpo_alarm"], &status["rpo_alarm_s"]), (&false.into(), &3.0.into()), "{status}");
    assert_eq!(bed.problems(), Vec::<String>::new(), "what is archived in time raises none");
    bed.faults.add(Rule::on("/archive/objects", &[Operation::Rename]).fail(Errno::IO));
    bed.write_many(&mut host, 10);
    host.flush().expect("flushed");
    wait_for("the alarm", || {
        let status = bed.archive_status();
        (status["rpo_alarm"] == true, status.to_string())
    });
    let age_s = bed.archive_status()["recovery_point_age_s"].as_f64().expect("an age");
    assert!((3.0..20.0).contains(&age_s), "{age_s}");
    std::thread::sleep(Duration::from_secs(3));
    let told = |words: &str| bed.problems().iter().filter(|problem| problem.contains(words)).count();
    assert_eq!(told("writes have not been in the archive"), 1, "{:?}", bed.problems());
    let lines = |words: &str| bed.appliance.complaints().matches(words).count();
    assert_eq!((lines("the alarm begins"), lines("the alarm ends")), (1, 0));
    bed.faults.clear();
    wait_for("the end of the alarm", || {
        let status = bed.archive_status();
        (status["rpo_alarm"] == false && status["problem"].is_null(), status.to_string())
    });
    assert_eq!(bed.problems(), Vec::<String>::new());
    assert_eq!((lines("the alarm begins"), lines("the alarm ends")), (1, 1));
    bed.check("all along");
}
