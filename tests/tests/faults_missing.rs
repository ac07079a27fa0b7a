//! Files that are missing or replaced between runs of the real program, with the I/O engine that
//! the environment names. A new pool or archive is made only where there was none. A refusal names
//! the remedies and changes nothing.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use varve::serve::CATALOG_FILE_NAME;
use varve_tests::appliance::{ApplianceError, program};
use varve_tests::faults::bed::{BLOCKS, Bed, POOL_FILE, copy_folder};
use varve_tests::faults::{Faults, Operation, Rule};

/// A closed pool with everything archived.
fn closed() -> Bed {
    let mut bed = Bed::start_without_faults(&["--read-ahead", "0"]);
    let mut host = bed.host();
    bed.write_many(&mut host, 3 * BLOCKS);
    host.flush().expect("flushed");
    bed.mark("point");
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    drop(host);
    bed.appliance.stop().expect("it stops");
    bed
}

/// The start is refused with one line that contains each of these words, and nothing was made or
/// changed.
fn check_refused(bed: &mut Bed, what: &str, words: &[&str]) {
    let before = listing(&bed.appliance.pool_folder());
    let text = match bed.appliance.restart() {
        Err(ApplianceError::Ended { output, .. }) => output,
        Err(error) => panic!("{what}: {error}"),
        Ok(_) => panic!("{what}: it starts, as if nothing were missing: {:?}", bed.problems()),
    };
    let text = text.rsplit("varve: ").next().unwrap_or_default().to_owned();
    for word in words {
        assert!(text.contains(word), "{what}: {word:?} is not in: {text}");
    }
    assert_eq!(listing(&bed.appliance.pool_folder()), before, "{what}: something was made or changed");
}

/// The pool's file and the archive's objects in a folder, each with its size.
fn listing(folder: &Path) -> Vec<(String, u64)> {
    let output = Command::new("find").arg(folder).args(["-type", "f", "-printf", "%P %s\n"]).output();
    let text = String::from_utf8(output.expect("find runs").stdout).expect("text");
    let files = text.lines().filter_map(|line| {
        let (name, len) = line.rsplit_once(' ')?;
        Some((name.to_owned(), len.parse().ok()?))
    });
    let is_data = |name: &str| name == POOL_FILE || name.starts_with("archive/objects");
    let mut files: Vec<(String, u64)> = files.filter(|(name, _)| is_data(name)).collect();
    files.sort();
    files
}

#[test]
fn a_missing_pool_file_is_not_made_anew() {
    let mut bed = closed();
    let (file, aside) = (bed.pool_file(), bed.appliance.pool_folder().join("aside"));
    std::fs::rename(&file, &aside).expect("moved");
    check_refused(&mut bed, "the pool's file is missing", &["pool.varve", "pool recover"]);
    std::fs::File::create(&file).expect("made");
    check_refused(&mut bed, "the pool's file is empty", &["pool.varve"]);
    std::fs::rename(&aside, &file).expect("moved back");
    bed.appliance.restart().expect("it starts");
    bed.check("the file is back");
}

/// The pool opens with the right content and reports what it found, or it is refused with the
/// remedies and nothing was changed. A new pool is never made.
fn check_opens_or_refuses(bed: &mut Bed, what: &str) {
    let before = std::fs::read(bed.pool_file()).expect("the pool's file");
    match bed.appliance.restart() {
        Ok(_) => {
            bed.check(what);
            bed.check_told(&["superblock"]);
            bed.appliance.command(&["restore", "resolve", "synch:point"]).expect("the past is there");
            bed.appliance.stop().expect("it stops");
        }
        Err(ApplianceError::Ended { output, .. }) => {
            assert!(output.contains("pool recover"), "{what}: no way out in: {output}");
            let after = std::fs::read(bed.pool_file()).expect("the pool's file");
            assert!(after == before, "{what}: the file was changed");
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn a_pool_file_whose_beginning_is_gone_is_not_made_anew() {
    let mut bed = closed();
    let image = std::fs::read(bed.pool_file()).expect("the pool's file");
    let archive = bed.archive_image();
    for (what, len) in [("both superblocks", 8192), ("the first MiB", 1 << 20)] {
        let file = std::fs::File::options().write(true).open(bed.pool_file()).expect("it opens");
        file.write_all_at(&vec![0; len], 0).expect("zeroed");
        check_opens_or_refuses(&mut bed, what);
        std::fs::write(bed.pool_file(), &image).expect("written");
        bed.put_archive_back(&archive);
    }
    let one = std::fs::File::options().write(true).open(bed.pool_file()).expect("it opens");
    one.write_all_at(&[0; 4096], 0).expect("zeroed");
    bed.appliance.restart().expect("the other copies do");
    bed.check("one superblock");
    bed.check_told(&["superblock"]);
}

#[test]
fn a_pool_file_that_was_cut_is_refused_unchanged() {
    let mut bed = closed();
    let len = std::fs::metadata(bed.pool_file()).expect("there").len();
    let file = std::fs::File::options().write(true).open(bed.pool_file()).expect("it opens");
    file.set_len(len - (1 << 20)).expect("cut");
    check_refused(&mut bed, "the pool's file was cut", &["pool.varve"]);
}

/// Damage of every kind at random places: served data is right, and refused data is reported.
#[test]
fn damage_at_random_is_never_served() {
    let mut bed = closed();
    let image = std::fs::read(bed.pool_file()).expect("the pool's file");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize % below
    };
    let mut told = 0;
    let archive = bed.archive_image();
    for round in 0..16 {
        let mut damaged = image.clone();
        for _ in 0..=random(4) {
            let at = random(damaged.len() / 4096) * 4096;
            match random(4) {
                0 => damaged[at..at + 4096].fill(0),
                1 => damaged[at..at + 4096].iter_mut().for_each(|byte| *byte = random(256) as u8),
                2 => damaged[at + random(4096)] ^= 1 << random(8),
                _ => {
                    let from = random(image.len() / 4096) * 4096;
                    damaged[at..at + 4096].copy_from_slice(&image[from..from + 4096]);
                }
            }
        }
        std::fs::write(bed.pool_file(), &damaged).expect("written");
        bed.put_archive_back(&archive);
        bed.appliance.restart().unwrap_or_else(|error| panic!("round {round}: {error}"));
        let tally = bed.host().tally(&bed.expected);
        let problems = bed.problems();
        let refused: Vec<u64> = tally.refused.iter().map(|&(block, _)| block).collect();
        tally.check(&format!("round {round}; {problems:?}"), &refused);
        assert!(
            refused.is_empty() || !problems.is_empty(),
            "round {round}: {refused:?} are refused and nobody is told"
        );
        told += u32::from(!problems.is_empty());
        bed.appliance.kill_9();
    }
    assert!(told > 0, "the damage was never met");
}

/// A new archive is never made where an archive was. The appliance waits for the archive if the
/// pool's identity records that it existed, and refuses the start if nothing records it.
#[test]
fn a_missing_archive_is_not_made_anew() {
    let mut bed = closed();
    let (archive, aside) = (bed.archive(), bed.appliance.pool_folder().join("aside"));
    let identity = bed.appliance.pool_folder().join("pool.varve.id");
    std::fs::rename(&archive, &aside).expect("moved");
    bed.appliance.restart().expect("it waits for the archive that it knows");
    bed.check("without its archive");
    bed.check_told(&["archive", "--no-archive"]);
    bed.appliance.stop().expect("it stops");
    assert!(!archive.exists(), "no archive was made");
    let known = std::fs::read(&identity).expect("the identity");
    std::fs::remove_file(&identity).expect("removed");
    check_refused(&mut bed, "the archive's directory is missing", &["archive", "--no-archive"]);
    assert!(!archive.join("objects").exists(), "no archive was made");
    // A mount point without a mount is an empty directory.
    std::fs::create_dir_all(&archive).expect("made");
    check_refused(&mut bed, "the archive's directory is empty", &["archive", "--no-archive"]);
    assert_eq!(std::fs::read_dir(&archive).expect("there").count(), 0, "no archive was made");
    std::fs::remove_dir(&archive).expect("removed");
    std::fs::rename(&aside, &archive).expect("moved back");
    std::fs::write(&identity, known).expect("written");
    bed.appliance.restart().expect("it starts");
    bed.check("the archive is back");
    bed.appliance.command(&["archive", "verify"]).expect("it is whole");
}

/// The archive has lost every object: all reports about it say so, and name what is missing.
#[test]
fn an_archive_without_its_objects_is_told_by_all() {
    let mut bed = closed();
    for running in [true, false] {
        bed.appliance.restart().expect("it starts");
        // The oldest segments have no slot any more: what is lost of them is lost permanently.
        let mut host = bed.host();
        for _ in 0..6 {
            bed.write_many(&mut host, BLOCKS);
        }
        bed.appliance.command(&["archive", "seal"]).expect("all is archived");
        let oldest = bed.segments()[0].sequence;
        assert!(oldest > 1, "{oldest}");
        drop(host);
        let keep = tempfile::tempdir().expect("a folder");
        if !running {
            bed.appliance.stop().expect("it stops");
        }
        copy_folder(&bed.archive().join("objects"), keep.path());
        Command::new("find")
            .arg(bed.archive().join("objects"))
            // The file that identifies the store stays: a store without it is a different one,
            // which is another case.
            .args(["-type", "f", "!", "-name", "varve-archive-id", "-delete"])
            .status()
            .expect("find runs");
        if !running {
            bed.appliance.restart().expect("a start goes on with what the primary has");
        }
        let verified = bed.appliance.command(&["archive", "verify"]);
        let text = verified.expect_err("all is gone").to_string();
        assert!(text.contains("segment 0") || text.contains("segments 0"), "what is gone is named: {text}");
        let status = bed.archive_status();
        assert!(status["problem"].is_string(), "running {running}: {status}");
        bed.check_told(&["archive"]);
        bed.check("the primary has what is live");
        let past = bed.appliance.command(&["restore", "clone", "vol0", "--at", "lsn:20", "--name", "past"]);
        let reason = past.err().map(|error| error.to_string());
        assert!(reason.is_some_and(|reason| reason.contains("segment") || reason.contains("archive")));
        // What was lost can be put back.
        bed.appliance.kill_9();
        std::fs::remove_dir_all(bed.archive().join("objects")).expect("removed");
        copy_folder(&keep.path().join("objects"), &bed.archive());
    }
}

/// The file of the newest part in the archive.
fn newest_object(bed: &Bed) -> PathBuf {
    let output = Command::new("find")
        .arg(bed.archive().join("objects/v1"))
        .args(["-type", "f", "-printf", "%T@ %p\\n"])
        .output();
    let text = String::from_utf8(output.expect("find runs").stdout).expect("text");
    let mut objects: Vec<&str> = text.lines().filter(|line| line.contains("/seg/")).collect();
    objects.sort_unstable();
    PathBuf::from(objects.pop().and_then(|line| line.split_once(' ')).expect("an object").1)
}

/// A pool that is killed after everything is archived. The expected content is the state before its
/// newest object; returns that object's file and name.
fn killed_with_a_newest_object() -> (Bed, PathBuf, String) {
    let mut bed = closed();
    bed.appliance.restart().expect("it starts");
    let before = bed.expected.clone();
    bed.write_archived(20);
    bed.appliance.kill_9();
    bed.expected = before;
    let newest = newest_object(&bed);
    let name = newest.file_name().expect("a name").to_string_lossy().into_owned();
    (bed, newest, name)
}

/// The command that recovers the pool to its old place.
fn recovery(bed: &Bed) -> Command {
    let mut command = Command::new(program().expect("the program"));
    command.args(["pool", "recover", "--pool-size", "16MiB", "--from"]).arg(bed.archive());
    command.arg("--dir").arg(bed.appliance.pool_folder()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The newest object is damaged, cut or empty: the pool is recovered exactly up to the object
/// before it, and the recovery names what it left out.
#[test]
fn a_damaged_newest_object_costs_what_was_in_it() {
    let (mut bed, newest, name) = killed_with_a_newest_object();
    let good = std::fs::read(&newest).expect("readable");
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let damages = [
        ("its first byte", flipped(0)),
        ("a byte of its header", flipped(40)),
        ("half of it", good[..good.len() / 2].to_vec()),
        ("nothing left", Vec::new()),
    ];
    let whole = bed.archive_image();
    for (what, bytes) in damages {
        // Each recovery takes over the archive.
        bed.put_archive_back(&whole);
        std::fs::write(&newest, bytes).expect("written");
        std::fs::remove_file(bed.pool_file()).expect("the primary is lost");
        let output = recovery(&bed).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{what}: {output:?}");
        assert!(said.contains(&name), "{what}: the object is not named: {said}");
        if what == "nothing left" {
            bed.appliance.restart().expect("it serves what was recovered");
            bed.check(what);
            bed.appliance.command(&["restore", "resolve", "synch:point"]).expect("the past is there");
        }
    }
}

/// The store never returns the newest object. A recovery is refused, because the fault may be
/// temporary, and names the option that helps; with this option it recovers what is before the
/// object. An object that is returned at last is not left out.
#[test]
fn an_object_that_the_store_never_gives_is_left_out_when_that_is_asked_for() {
    let (mut bed, _, name) = killed_with_a_newest_object();
    let whole = bed.archive_image();
    std::fs::remove_file(bed.pool_file()).expect("the primary is lost");
    let recover = |bed: &Bed, more: &[&str], times: Option<u64>| {
        let faults = Faults::new().expect("faults can be injected");
        let mut rule = Rule::on(&name, &[Operation::Read]).fail(Errno::IO);
        if let Some(times) = times {
            rule = rule.times(times);
        }
        let rule = faults.add(rule);
        let mut command = recovery(bed);
        let output =
            faults.spawn(command.args(more)).expect("it starts").wait_with_output().expect("it ends");
        (output, faults.hits(rule))
    };
    let (refused, hits) = recover(&bed, &[], None);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("--leave-out-unreadable"), "{text}");
    assert!(!bed.pool_file().exists() && hits > 0);
    // The number of reads after which the object counts as lost.
    let (late, all_hits) = recover(&bed, &["--leave-out-unreadable"], None);
    assert!(late.status.success(), "{late:?}");
    assert!(String::from_utf8_lossy(&late.stdout).contains(&name), "{late:?}");
    bed.appliance.restart().expect("it serves what was recovered");
    bed.check("without the newest object");
    bed.appliance.kill_9();
    std::fs::remove_file(bed.pool_file()).expect("the primary is lost again");
    bed.put_archive_back(&whole);
    let (given, _) = recover(&bed, &["--leave-out-unreadable"], Some(all_hits - 1));
    let text = String::from_utf8_lossy(&given.stderr);
    assert!(!given.status.success() && text.contains("run it again"), "{given:?}");
    assert!(!bed.pool_file().exists());
}

/// One object cannot be read at a start, and the catalog does not know it: everything else in the
/// archive is available, and archiving continues.
#[test]
fn an_object_that_cannot_be_read_at_a_start_costs_only_what_it_tells() {
    let mut bed = Bed::start(&["--read-ahead", "0"]);
    bed.write_archived(20);
    bed.mark("first");
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    let name = newest_object(&bed).file_name().expect("a name").to_string_lossy().into_owned();
    bed.write_archived(20);
    bed.mark("second");
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    bed.appliance.stop().expect("it stops");
    std::fs::remove_file(bed.appliance.pool_folder().join(CATALOG_FILE_NAME)).expect("there is one");
    let bad = bed.faults.add(Rule::on(&name, &[Operation::Read]).fail(Errno::IO));
    bed.appliance.restart().expect("it starts");
    assert!(bed.faults.hits(bad) > 0);
    let told = bed.appliance.said();
    assert!(told.contains(&name), "{told}");
    bed.check("with an object that cannot be read");
    bed.appliance.command(&["restore", "resolve", "synch:second"]).expect("the other object tells it");
    bed.appliance.command(&["archive", "list"]).expect("it lists what there is");
    bed.write_archived(20);
    bed.appliance.command(&["archive", "seal"]).expect("it goes on");
    bed.faults.clear();
    bed.appliance.restart().expect("it starts");
    bed.check("when it can be read");
    bed.appliance.command(&["archive", "verify"]).expect("it is whole");
}

/// A recovery that is killed at any point leaves nothing that a start takes for a pool, and can be
/// repeated.
#[test]
fn a_recovery_that_was_killed_is_not_served() {
    let mut bed = closed();
    std::fs::remove_file(bed.pool_file()).expect("the primary is lost");
    // Later and later, until a recovery ends before the kill.
    for (kills, skip) in (0..16).map(|power| (power, (1_u64 << power) - 1)) {
        let faults = Faults::new().expect("faults can be injected");
        let changes = [
            Operation::Write,
            Operation::Sync,
            Operation::Truncate,
            Operation::Allocate,
            Operation::Rename,
            Operation::Link,
        ];
        let kill = faults.add(Rule::on("/pool/", &changes).skip(skip).times(1).kill());
        let output =
            faults.spawn(&mut recovery(&bed)).expect("it starts").wait_with_output().expect("it ends");
        let what = format!("killed after {skip} changes");
        assert_eq!(output.status.success(), faults.hits(kill) == 0, "{what}: {output:?}");
        if bed.pool_file().exists() {
            assert!(kills >= 3, "{what}: it was done early");
            break;
        }
        check_refused(&mut bed, &what, &["pool recover"]);
    }
    bed.appliance.restart().expect("it starts");
    bed.check("recovered");
    bed.appliance.command(&["archive", "verify"]).expect("the archive is whole");
}

/// The store fails while the appliance starts: it starts, serves what the primary holds, and
/// reports the failure; nothing is changed.
#[test]
fn a_store_that_fails_at_a_start_is_told() {
    let mut bed = Bed::start(&[]);
    bed.write_archived(2 * BLOCKS);
    bed.appliance.stop().expect("it stops");
    let away = [Operation::Open, Operation::Rename, Operation::MakeDirectory, Operation::Sync];
    let broken = bed.faults.add(Rule::on("/archive/", &away).fail(Errno::IO));
    bed.appliance.restart().expect("it starts without its store");
    bed.check("without its store");
    bed.check_told(&["archive"]);
    assert!(bed.faults.hits(broken) > 0);
    bed.faults.clear();
    bed.appliance.restart().expect("it starts");
    bed.check("with its store");
    bed.appliance.command(&["archive", "verify"]).expect("it is whole");
}
