//! Starts on a device with errors, injected into the real program: it starts, reports what it
//! found, and refuses no more than what the device lost.

use std::ops::Range;

use rustix::io::Errno;
use tempfile::TempDir;
use varve_tests::faults::bed::{BLOCKS, Bed, POOL_FILE, Segment};
use varve_tests::faults::{Operation, Rule};

fn bad_sector(bytes: Range<u64>) -> Rule {
    Rule::on(POOL_FILE, &[Operation::Read]).within(bytes).fail(Errno::IO)
}

/// One to four temporary errors in the segment that was written last: "cannot be read" is never
/// treated as "was never written".
#[test]
fn errors_that_pass_in_the_newest_segment_lose_nothing() {
    let mut bed = Bed::start(&[]);
    for times in 1..=4 {
        let mut host = bed.host();
        bed.write_many(&mut host, 300);
        host.flush().expect("flushed");
        let newest = bed.segments().pop().expect("the current segment");
        bed.appliance.kill_9();
        let passing = bed.faults.add(bad_sector(newest.bytes(0..256)).times(times));
        bed.appliance.restart().unwrap_or_else(|error| panic!("{times} errors: {error}"));
        assert_eq!(bed.faults.hits(passing), times, "they were met");
        bed.check(&format!("{times} errors in segment {}", newest.sequence));
        bed.faults.clear();
        let mut host = bed.host();
        bed.write(&mut host, 0);
        host.flush().expect("flushed");
        bed.appliance.stop().expect("it stops");
        bed.appliance.restart().expect("it starts");
        bed.check("after one more start");
    }
}

/// A pool with everything archived.
fn closed() -> Bed {
    let mut bed = Bed::start(&[]);
    let mut host = bed.host();
    bed.write_many(&mut host, 1500);
    host.flush().expect("flushed");
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    bed
}

/// A block in a segment, with its name.
type Place = (&'static str, fn(&Segment) -> u64);

/// One sector of the oldest segment, which contains no live blocks and is in the archive.
#[test]
fn a_bad_sector_in_an_old_segment_keeps_nobody_from_starting() {
    let mut bed = closed();
    let places: [Place; 5] = [
        ("the head of its trailer", Segment::trailer),
        ("the body of its trailer", |segment| segment.trailer() + 1),
        ("its header", |_| 0),
        ("a header or block of a record", |_| 100),
        ("the block after it", |_| 101),
    ];
    for (what, place) in places {
        let segment = bed.segments().remove(0);
        assert!(segment.archived && segment.state == "inactive", "{segment:?}");
        bed.appliance.stop().expect("it stops");
        let block = place(&segment);
        let bad = bed.faults.add(bad_sector(segment.bytes(block..block + 1)));
        bed.appliance.restart().unwrap_or_else(|error| panic!("{what}: {error}"));
        bed.check(what);
        if bed.faults.hits(bad) > 0 {
            bed.check_told(&[&format!("segment {}", segment.sequence)]);
        }
        let mut host = bed.host();
        bed.write_many(&mut host, 50);
        bed.check(&format!("{what}, after more writes"));
        bed.faults.clear();
    }
}

/// One sector of the newest data, which is stored nowhere else: the pool starts, and refuses what
/// was in that sector.
#[test]
fn a_bad_sector_in_the_newest_segment_costs_what_was_in_it() {
    let mut bed = Bed::start(&["--read-ahead", "0"]);
    let mut host = bed.host();
    bed.write_many(&mut host, 2 * BLOCKS);
    // The newest writes are those of the lowest blocks, all in one new segment.
    let begun = bed.segments().len();
    while bed.segments().len() == begun {
        bed.write(&mut host, BLOCKS - 1);
    }
    bed.write_many(&mut host, 40);
    host.flush().expect("flushed");
    let newest = bed.segments().pop().expect("the current segment");
    drop(host);
    bed.appliance.kill_9();
    let image = std::fs::read(bed.pool_file()).expect("the pool's file");
    let archive = bed.archive_image();
    // Each of these writes has its own record: a header, then the block.
    let place = |block: u64| (block, bed.place_of(block, bed.expected.0[block as usize]).start);
    let places: Vec<(u64, u64)> = [0, 10, 38, 39].map(place).into();
    let segment = newest.bytes(0..256);
    for (block, at) in &places {
        assert!(segment.contains(at), "block {block} is in the newest segment");
    }
    for (block, at) in places {
        let bad = bed.faults.add(bad_sector(at..at + 4096));
        bed.appliance.restart().unwrap_or_else(|error| panic!("the data of block {block}: {error}"));
        bed.check_but(&format!("the data of block {block}"), &[block]);
        assert!(bed.faults.hits(bad) > 0);
        bed.check_told(&[]);
        start_over(&mut bed, &image, &archive);

        // Without the header it is unknown which block followed: it may be any block that was not
        // written since.
        let uncertain: Vec<u64> = (0..BLOCKS).filter(|other| !(block + 1..40).contains(other)).collect();
        let bad = bed.faults.add(bad_sector(at - 4096..at));
        bed.appliance.restart().unwrap_or_else(|error| panic!("the header of block {block}: {error}"));
        bed.check_but(&format!("the header of block {block}"), &uncertain);
        assert!(bed.faults.hits(bad) > 0);
        bed.check_told(&[]);
        start_over(&mut bed, &image, &archive);
    }
    let header = bed.faults.add(bad_sector(segment.start..segment.start + 4096));
    bed.appliance.restart().unwrap_or_else(|error| panic!("the segment's header: {error}"));
    bed.check("the segment's header");
    assert!(bed.faults.hits(header) > 0);
    bed.check_told(&[&format!("segment {}", newest.sequence)]);
}

/// Removes all faults and restores the pool's file.
fn start_over(bed: &mut Bed, image: &[u8], archive: &TempDir) {
    bed.faults.clear();
    bed.appliance.kill_9();
    bed.put_archive_back(archive);
    std::fs::write(bed.pool_file(), image).expect("written");
}
