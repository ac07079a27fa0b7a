//! Device reads that fail while the program runs, injected into the real program: hosts read right
//! data or an error, no more is refused than the device lost, the operator is informed, and nothing
//! hangs.

use std::time::{Duration, Instant};

use rustix::io::Errno;
use varve::nvmf::host::Wait;
use varve::nvmf::wire::status::Status;
use varve_tests::faults::bed::{BLOCKS, Bed, Expected, POOL_FILE, Segment, content, status_of};
use varve_tests::faults::{Operation, Rule, RuleId};

const READ: &[Operation] = &[Operation::Read];

/// Points of the past, and the volume's content then.
type Points = Vec<(String, Expected)>;

/// Checks that every point is right; nothing in it may be refused.
fn check_points(bed: &Bed, points: &Points, when: &str) {
    for (point, expected) in points {
        let tally = bed.tally_at(point, expected).unwrap_or_else(|error| panic!("{when}: {point}: {error}"));
        tally.check(&format!("{when}: {point}"), &[]);
    }
}

/// Makes reads of the current segment's trailer fail, `times` times or always.
fn a_trailer_will_fail(bed: &Bed, times: Option<u64>) -> (Segment, RuleId) {
    let segment = bed.segments().pop().expect("a segment");
    assert_eq!(segment.state, "current");
    let rule = Rule::on(POOL_FILE, READ).within(segment.bytes(segment.trailer()..segment.trailer() + 2));
    let rule = times.iter().fold(rule, |rule, &times| rule.times(times)).fail(Errno::IO);
    (segment, bed.faults.add(rule))
}

/// A sealed segment is archived while its trailer cannot be read. All data in the trailer is also
/// in the records, so every point stays right: while the primary holds the segment, after its slot
/// was used again, and after the loss of the primary.
fn a_trailer_fails_while_its_segment_is_archived(times: Option<u64>) {
    let mut bed = Bed::start(&[]);
    let mut host = bed.host();
    let away =
        bed.faults.add(Rule::on("archive/objects", &[Operation::Rename, Operation::Link]).fail(Errno::IO));
    let mut points = Points::new();
    // The rule exists before the segment is sealed, because the archivist prepares objects in
    // advance while a store is away.
    let mut failing = None;
    for round in 0..4 {
        bed.write_many(&mut host, BLOCKS / 2);
        let point = bed.mark(&format!("s{round}-half"));
        points.push((point, bed.expected.clone()));
        failing.get_or_insert_with(|| a_trailer_will_fail(&bed, times));
        for block in BLOCKS / 2..BLOCKS {
            bed.write(&mut host, block);
        }
        host.flush().expect("flushed");
        points.push((bed.mark(&format!("s{round}")), bed.expected.clone()));
    }
    assert!(bed.faults.hits(away) > 0, "the store was away");
    let (segment, bad) = failing.expect("rounds were written");
    assert!(!bed.segment(segment.sequence).archived);
    bed.faults.remove(away);
    bed.wait_until_archived();
    assert!(bed.faults.hits(bad) > 0, "the trailer was read");
    check_points(&bed, &points, "while the primary holds the segment");
    for _ in 0..10 {
        bed.write_many(&mut host, BLOCKS);
    }
    host.flush().expect("flushed");
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    let oldest = bed.segments()[0].sequence;
    assert!(oldest > segment.sequence, "the slot was used again: {oldest}");
    check_points(&bed, &points, "after the slot was used again");
    bed.appliance.command(&["archive", "verify"]).expect("the archive is whole");
    bed.check("the volume");
    bed.faults.clear();
    drop(host);
    recovered_is_right(bed, &points);
}

/// Checks the content after a recovery from the loss of the primary.
fn recovered_is_right(mut bed: Bed, points: &Points) {
    bed.appliance.stop().expect("it stops");
    let archive = bed.archive();
    std::fs::remove_file(bed.pool_file()).expect("the primary is lost");
    let folder = bed.appliance.pool_folder();
    let (from, to) = (archive.to_str().expect("text"), folder.to_str().expect("text"));
    let arguments = ["pool", "recover", "--from", from, "--dir", to, "--pool-size", "16MiB", "--json"];
    let output = varve_tests::appliance::run(&arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    bed.appliance.restart().expect("it starts");
    bed.check("after recovery from the archive");
    check_points(&bed, &points[points.len() - 2..].to_vec(), "after recovery from the archive");
}

#[test]
fn one_error_at_a_trailer_while_its_segment_is_archived_costs_nothing() {
    a_trailer_fails_while_its_segment_is_archived(Some(1));
}

#[test]
fn a_trailer_that_stays_unreadable_is_archived_by_looking_around_it() {
    a_trailer_fails_while_its_segment_is_archived(None);
}

/// A trailer cannot be read while the live blocks of its segment have to be copied forward.
fn a_lost_trailer_while_running(more: &[&str]) {
    let mut bed = Bed::start(more);
    let mut host = bed.host();
    // Cold blocks, which fill the first segments.
    for block in 0..300 {
        bed.write(&mut host, block);
    }
    let segment = bed.segment(0);
    let trailer = segment.bytes(segment.trailer()..segment.trailer() + 1);
    let bad = bed.faults.add(Rule::on(POOL_FILE, READ).within(trailer).fail(Errno::IO));
    let mut slowest = Duration::ZERO;
    for index in 0..4000 {
        let begin = Instant::now();
        bed.write(&mut host, 300 + index % 100);
        slowest = slowest.max(begin.elapsed());
    }
    assert!(slowest < Duration::from_secs(15), "a write took {slowest:?}");
    let hits = bed.faults.hits(bad);
    assert!((1..=200).contains(&hits), "the bad sector was read {hits} times");
    bed.check_told(&["segment 0"]);
    let load = bed.idle_load(Duration::from_secs(2));
    assert!(load < 0.5, "{load} of a core while nothing is to do");
    let after = bed.faults.hits(bad);
    assert!(after - hits < 100, "the bad sector is read on and on: {hits}, then {after}");
    bed.check("what was in the segment");
    bed.faults.clear();
    bed.write_many(&mut host, BLOCKS);
    let took = bed.appliance.stop().expect("it stops");
    assert!(took < Duration::from_secs(15), "a stop took {took:?}");
    bed.appliance.restart().expect("it starts");
    bed.check("after a restart");
}

#[test]
fn writes_go_on_while_a_trailer_stays_unreadable() {
    a_lost_trailer_while_running(&[]);
}

#[test]
fn writes_go_on_while_a_trailer_stays_unreadable_without_an_archive() {
    a_lost_trailer_while_running(&["--no-archive"]);
}

#[test]
fn a_read_that_fails_once_is_tried_again() {
    let mut bed = Bed::start(&["--read-ahead", "0"]);
    let mut host = bed.host();
    bed.write_many(&mut host, 64);
    host.flush().expect("flushed");
    for times in 1..=3 {
        let block = times * 10;
        let place = bed.place_of(block, bed.expected.0[block as usize]);
        let bad = bed.faults.add(Rule::on(POOL_FILE, READ).within(place).times(times).fail(Errno::IO));
        let read = host.read(block - 3, 8).unwrap_or_else(|error| panic!("{times} errors: {error:?}"));
        for (at, data) in (block - 3..).zip(read.chunks(4096)) {
            assert!(data == content(at, bed.expected.0[at as usize]), "block {at}");
        }
        assert_eq!(bed.faults.hits(bad), times);
    }
    bed.check("afterwards");
    assert_eq!(bed.pool()["state"], "online");
}

#[test]
fn a_lasting_bad_sector_costs_its_block_and_is_told() {
    let mut bed = Bed::start(&["--read-ahead", "0", "--no-archive"]);
    let mut host = bed.host();
    bed.write_many(&mut host, 64);
    host.flush().expect("flushed");
    let place = bed.place_of(20, bed.expected.0[20]);
    let bad = bed.faults.add(Rule::on(POOL_FILE, READ).within(place).fail(Errno::IO));
    bed.check_but("a bad sector", &[20]);
    assert_eq!(status_of(host.read(20, 1)).map(Status::code_only), Some(Status::UNRECOVERED_READ_ERROR));
    assert_eq!(status_of(host.read(16, 8)).map(Status::code_only), Some(Status::UNRECOVERED_READ_ERROR));
    let hits = bed.faults.hits(bad);
    assert!((2..100).contains(&hits), "{hits} reads of it for three commands");
    bed.check_told(&["vol0"]);
    assert_eq!(bed.pool()["state"], "online");
    bed.write(&mut host, 20);
    bed.check("a new write makes the block whole");
}

#[test]
fn a_lasting_bad_sector_is_read_from_the_archive() {
    let mut bed = Bed::start(&["--read-ahead", "0"]);
    let mut host = bed.host();
    bed.write_many(&mut host, 300);
    host.flush().expect("flushed");
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    let bad = bed.place_of(20, bed.expected.0[20]);
    let bad = bed.faults.add(Rule::on(POOL_FILE, READ).within(bad).fail(Errno::IO));
    bed.check("the archive has the block");
    assert!(bed.faults.hits(bad) > 0);
    // Blocks that are copied forward come from the archive too.
    for _ in 0..10 {
        for block in 300..BLOCKS {
            bed.write(&mut host, block);
        }
    }
    bed.check("copied forward");
}

/// A read of the device lasts until every slot was used again: the host gets the data that it
/// requested, or an error, and never the new content of the slot.
#[test]
fn a_read_that_outlasts_the_use_of_its_slot_is_never_wrong() {
    let mut bed = Bed::start(&["--read-ahead", "0"]);
    let (mut reader, mut writer) = (bed.host(), bed.host());
    bed.write_many(&mut writer, 8);
    writer.flush().expect("flushed");
    let stamps = [bed.expected.0[5]];
    let slow = bed.faults.add(Rule::on(POOL_FILE, READ).within(bed.place_of(5, stamps[0])).times(1).hold());
    reader.queue().submit_read(5, 1, 1).expect("submitted");
    reader.queue().send().expect("sent");
    assert!(bed.faults.wait_for_hits(slow, 1, Duration::from_secs(20)), "the device is asked");
    for index in 0..6000 {
        bed.write(&mut writer, 100 + index % 200);
    }
    bed.faults.remove(slow);
    let mut answer = None;
    let begin = Instant::now();
    while answer.is_none() && begin.elapsed() < Duration::from_secs(20) {
        let wait = Wait::Block(Duration::from_secs(1));
        let seen = |completion: varve::nvmf::host::Completion<'_>| {
            answer = Some((completion.status, completion.data.to_vec()));
        };
        reader.queue().poll(wait, seen).expect("the connection stands");
    }
    let (status, data) = answer.expect("it is answered");
    assert!(!status.is_success() || data == content(5, stamps[0]), "other bytes than were written: {status}");
    bed.check("afterwards");
}

#[test]
fn transfers_that_are_cut_short_are_finished() {
    let mut bed = Bed::start(&[]);
    let both = [Operation::Read, Operation::Write];
    let cut = bed.faults.add(Rule::on(POOL_FILE, &both).short(4096));
    let mut host = bed.host();
    bed.write_many(&mut host, 2 * BLOCKS);
    host.flush().expect("flushed");
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    bed.check("while running");
    bed.appliance.kill_9();
    bed.appliance.restart().expect("it starts");
    bed.check("after a restart");
    assert!(bed.faults.hits(cut) > 500);
}
