//! Damaged, truncated or missing cartridges with the real program: archived data is never
//! overwritten, and everything readable is served.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use varve_tests::appliance::rounds::{Host, archive_status as status, labels, wait_for};
use varve_tests::appliance::{Appliance, ApplianceConfig};

const ROUNDS: u64 = 6;

struct Rig {
    library: tempfile::TempDir,
    appliance: Appliance,
}

impl Rig {
    /// Six rounds of 16 MiB, more than the primary can hold, with a synch each, on more than one of
    /// four cartridges.
    fn start() -> Self {
        let library = tempfile::tempdir().expect("a folder");
        let spec = format!("tape:{},cartridges=4,size=32MiB", library.path().display());
        let arguments = ["--pool-size", "64MiB", "--volume-size", "16MiB", "--archive", &spec];
        let appliance = Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("it starts");
        let mut host = Host::connect(&appliance, "vol0");
        for round in 1..=ROUNDS {
            host.write_round(round);
            appliance.rpc("synch_create", json!({"label": format!("r{round}")})).expect("a synch");
        }
        appliance.command(&["archive", "seal"]).expect("it seals");
        Rig { library, appliance }
    }

    fn cartridge(&self, number: usize) -> PathBuf {
        self.library.path().join(format!("VARVE{number:03}.tap"))
    }

    fn objects(&self) -> usize {
        let objects = self.appliance.rpc("archive_list", Value::Null).expect("a list");
        objects.as_array().expect("a list").len()
    }

    /// Makes and reads a clone of each round; returns the rounds for which this fails.
    fn unreadable(&self) -> Vec<u64> {
        let readable = |round: &u64| {
            let (point, name) = (format!("synch:r{round}"), format!("then-{round}"));
            let made = self.appliance.command(&["restore", "clone", "vol0", "--at", &point, "--name", &name]);
            if made.is_err() {
                return false;
            }
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                Host::connect(&self.appliance, &name).check_round(*round);
            }));
            self.appliance.command(&["volume", "delete", &name]).expect("it goes");
            checked.is_ok()
        };
        (1..=ROUNDS).filter(|round| !readable(round)).collect()
    }

    /// Writes one more round and archives it.
    fn go_on(&self) {
        Host::connect(&self.appliance, "vol0").write_round(ROUNDS + 1);
        self.appliance.command(&["archive", "seal"]).expect("another cartridge takes it");
        assert_eq!(status(&self.appliance)["backlog_segments"], 0);
    }
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").len()
}

/// The place of a length field after a block of data, a third of the way through the cartridge's
/// large blocks.
fn middle(bytes: &[u8]) -> usize {
    let mut places = Vec::new();
    let mut offset = 0;
    while offset + 4 <= bytes.len() {
        let len = u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("four")) as usize;
        offset += 4;
        if len > 0 {
            offset += len.next_multiple_of(2);
            if len > 50_000 {
                places.push(offset);
            }
            offset += 4;
        }
    }
    places[places.len() / 3]
}

#[test]
fn a_damaged_cartridge_is_not_cut_off_and_another_one_is_written_to() {
    let mut rig = Rig::start();
    let objects = rig.objects();
    rig.appliance.stop().expect("it stops");
    let path = rig.cartridge(1);
    let whole = fs::read(&path).expect("readable");
    let place = middle(&whole);
    // A flipped bit in a length, and an end mark in place of the length before a block: neither
    // costs anything.
    for (what, at, bytes) in
        [("a bit", place, vec![whole[place] ^ 0x10]), ("a mark of the end", place + 4, vec![0xff; 4])]
    {
        let mut damaged = whole.clone();
        damaged[at..at + bytes.len()].copy_from_slice(&bytes);
        fs::write(&path, &damaged).expect("written");
        rig.appliance.restart().expect("it starts");
        assert!(rig.objects() >= objects, "{what}");
        assert_eq!(rig.unreadable(), [0; 0], "{what}");
        rig.go_on();
        rig.appliance.stop().expect("it stops");
        assert!(fs::read(&path).expect("readable") == damaged, "{what}: the cartridge was changed");
    }
}

#[test]
fn a_cartridge_that_lost_its_end_is_not_written_to_and_what_it_lost_is_named() {
    let mut rig = Rig::start();
    let objects = rig.objects();
    rig.appliance.stop().expect("it stops");
    let path = rig.cartridge(1);
    let short = len(&path) / 2;
    fs::File::options().write(true).open(&path).and_then(|file| file.set_len(short)).expect("cut");
    rig.appliance.restart().expect("it starts");
    // The lost data that the primary still has is archived again.
    wait_for("lost is not expired", || rig.objects() == objects);
    let unreadable = rig.unreadable();
    assert!((1..ROUNDS as usize).contains(&unreadable.len()), "{unreadable:?}");
    assert_eq!(labels(&rig.appliance).len() as u64, ROUNDS);
    rig.go_on();
    rig.appliance.stop().expect("it stops");
    assert_eq!(len(&path), short);
}

#[test]
fn a_library_without_its_first_cartridge_serves_what_is_on_the_others() {
    let mut rig = Rig::start();
    let objects = rig.objects();
    rig.appliance.stop().expect("it stops");
    assert!(len(&rig.cartridge(2)) > 1 << 20, "two cartridges are written");
    let away = rig.library.path().join("away");
    fs::rename(rig.cartridge(1), &away).expect("taken out");
    rig.appliance.restart().expect("it starts");
    assert_eq!(rig.objects(), objects, "away is not expired");
    assert_eq!(labels(&rig.appliance).len() as u64, ROUNDS);
    rig.go_on();
    rig.appliance.stop().expect("it stops");
    fs::rename(&away, rig.cartridge(1)).expect("put in");
    rig.appliance.restart().expect("it starts");
    assert!(rig.objects() > objects);
    assert_eq!(rig.unreadable(), [0; 0]);
}

/// The record of the archive's owner was written while the first cartridge was in use.
#[test]
fn who_owns_the_archive_is_known_without_the_cartridge_that_says_so_first() {
    let mut rig = Rig::start();
    rig.appliance.stop().expect("it stops");
    let away = rig.library.path().join("away");
    fs::rename(rig.cartridge(1), &away).expect("taken out");
    rig.appliance.restart().expect("it is the owner still");
    rig.appliance.stop().expect("it stops");

    // No file except the cartridges keeps any state.
    for entry in fs::read_dir(rig.library.path()).expect("a folder").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("ledger-") || name.starts_with("at-hand-") {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
    rig.appliance.restart().expect("the other cartridges say so too");
    rig.go_on();
    rig.appliance.stop().expect("it stops");
    fs::rename(&away, rig.cartridge(1)).expect("put in");
    rig.appliance.restart().expect("it starts");
    assert_eq!(rig.unreadable(), [0; 0]);
}
