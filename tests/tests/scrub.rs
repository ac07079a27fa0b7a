//! Damaged or lost data that has another copy is found although nobody reads it, repaired from the
//! other copy, and reported, with the real program.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use varve_tests::faults::bed::{BLOCKS, Bed, wait_for};

/// One pass takes about 4 s.
const QUICK: [&str; 4] = ["--scrub-days", "0.00005", "--read-ahead", "0"];

fn objects(bed: &Bed) -> Vec<PathBuf> {
    let output = std::process::Command::new("find")
        .arg(bed.archive().join("objects"))
        .args(["-type", "f", "-name", "*.seg.zst"])
        .output();
    let text = String::from_utf8(output.expect("find runs").stdout).expect("text");
    let mut objects: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    objects.sort_by_key(|path| path.file_name().map(std::ffi::OsStr::to_owned));
    objects
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("it opens");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ 1], at).expect("written");
}

fn scrub(bed: &Bed) -> Value {
    bed.archive_status()["scrub"].clone()
}

fn wait_for_pass(bed: &Bed, what: &str, is_so: impl Fn(&Value) -> bool) {
    let before = scrub(bed)["last_pass_ns"].clone();
    wait_for(what, || {
        let scrub = scrub(bed);
        (scrub["last_pass_ns"] != before && is_so(&scrub), scrub.to_string())
    });
}

/// In the archive, one object is damaged and one is lost, and the primary still has their segments:
/// both are archived again. A damaged object that has no other copy stays damaged, and is reported.
#[test]
fn damage_in_the_archive_is_mended_from_the_primary() {
    let mut bed = Bed::start_without_faults(&QUICK);
    bed.write_archived(12 * BLOCKS);
    wait_for_pass(&bed, "a whole pass", |scrub| scrub["last_pass_bad_objects"] == 0);
    let here: Vec<u64> = bed.segments().iter().map(|segment| segment.sequence).collect();
    let all = objects(&bed);
    let sequence = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        u64::from_str_radix(name.split('-').next().expect("a sequence"), 16).expect("a number")
    };
    let on_primary: Vec<&PathBuf> = all.iter().filter(|path| here.contains(&sequence(path))).collect();
    let gone: Vec<&PathBuf> = all.iter().filter(|path| !here.contains(&sequence(path))).collect();
    let (damaged, lost, only) = (on_primary[1], on_primary[2], gone[0]);
    let good = std::fs::read(damaged).expect("readable");
    flip(damaged, good.len() as u64 / 2);
    std::fs::remove_file(lost).expect("removed");
    let only_len = std::fs::metadata(only).expect("there").len();
    flip(only, only_len / 2);
    wait_for("the damage is found", || {
        let text = scrub(&bed)["found"].to_string();
        let names =
            [damaged, only].map(|path| path.file_name().expect("a name").to_string_lossy().into_owned());
        (names.iter().all(|name| text.contains(name.as_str())), text)
    });
    wait_for("it is archived again", || {
        let is_mended = lost.exists()
            && std::fs::read(damaged)
                .is_ok_and(|bytes| bytes.len() == good.len() && bytes != Vec::<u8>::new());
        let verified = bed.appliance.command(&["archive", "verify"]);
        let text = format!("{verified:?}");
        (is_mended && text.contains("1 objects of the archive are damaged"), text)
    });
    let text = bed.appliance.command(&["archive", "status"]).expect("it answers");
    assert!(text.contains("Read back") && text.contains("Found"), "{text}");
    bed.check("what is live");
    // It continues at its old position.
    bed.appliance.stop().expect("it stops");
    assert!(bed.appliance.pool_folder().join("archive-scrub").exists());
    bed.appliance.restart().expect("it starts");
    wait_for_pass(&bed, "another pass", |scrub| scrub["last_pass_bad_objects"] == 1);
}

/// On the primary, a live archived block is damaged: it is copied forward from the archive, so that
/// the archive is not needed for it any more.
#[test]
fn damage_on_the_primary_is_mended_from_the_archive() {
    let mut bed = Bed::start_without_faults(&QUICK);
    bed.write_archived(2 * BLOCKS);
    bed.appliance.stop().expect("it stops");
    // In a sealed segment, so among the older half of the writes.
    let block = 3;
    let place = bed.place_of(block, bed.expected.0[block as usize]);
    flip(&bed.pool_file(), place.start + 100);
    bed.appliance.restart().expect("it starts");
    wait_for("it is mended", || {
        let status = bed.archive_status()["primary_scrub"].clone();
        (status["repaired_blocks"] == 1 && status["passes"].as_u64() > Some(0), status.to_string())
    });
    let status = bed.archive_status()["primary_scrub"].clone();
    assert_eq!(
        (&status["lost_blocks"], status["blocks"].as_u64() > Some(BLOCKS)),
        (&0.into(), true),
        "{status}"
    );
    bed.check_told(&["damaged on the device", "1 were copied forward from the archive"]);
    let mut host = bed.host();
    host.flush().expect("flushed");
    bed.write(&mut host, 0);
    drop(host);
    bed.check("mended");
    bed.appliance.stop().expect("it stops");
    let (archive, aside) = (bed.archive(), bed.appliance.pool_folder().join("aside"));
    std::fs::rename(&archive, &aside).expect("moved");
    bed.appliance.restart().expect("it starts without its archive");
    bed.check("the primary has all of it again");
}

/// Without a schedule nothing is read back.
#[test]
fn a_scrub_can_be_turned_off() {
    let mut bed = Bed::start_without_faults(&["--scrub-days", "0"]);
    let mut host = bed.host();
    bed.write_many(&mut host, 2 * BLOCKS);
    bed.appliance.command(&["archive", "seal"]).expect("all is archived");
    std::thread::sleep(std::time::Duration::from_secs(2));
    let status = bed.archive_status();
    assert_eq!(
        (&status["scrub"]["objects"], &status["primary_scrub"]["blocks"]),
        (&0.into(), &0.into()),
        "{status}"
    );
}
