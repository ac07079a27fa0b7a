//! Tests of the emulated drive, its exact bytes, and the store on several cartridges.

use std::fs;

use uuid::Uuid;

use super::super::conformance::{Fixture, run};
use super::super::{Name, Store, StoreError, StoreErrorKind};
use super::*;

mod at_hand;
mod damage;

const STORE: Uuid = Uuid::from_u128(0xabc);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn put(store: &dyn Store, text: &str, bytes: &[u8]) -> Result<(), StoreError> {
    store.put(&name(text), bytes.len() as u64, &mut &bytes[..]).map(|_| ())
}

fn get(store: &dyn Store, text: &str) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    store.get(&name(text), &mut bytes).map(|_| bytes)
}

struct Rig {
    root: tempfile::TempDir,
    cartridges: usize,
    capacity_bytes: u64,
    early_warning_bytes: u64,
    block_bytes: usize,
    cache_bytes: u64,
}

impl Rig {
    fn new(cartridges: usize, capacity_bytes: u64, block_bytes: usize, cache_bytes: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let early_warning_bytes = 2 * block_bytes as u64 + 4096;
        Rig { root, cartridges, capacity_bytes, early_warning_bytes, block_bytes, cache_bytes }
    }

    fn library(&self) -> EmulatedLibrary {
        let root = self.root.path().join("library");
        let mut library = EmulatedLibrary::new(&root, self.capacity_bytes, self.early_warning_bytes);
        for index in 0..self.cartridges {
            // The cartridge exists already when the library is opened again.
            let _ = library.add_blank(&format!("VV{index:04}"));
        }
        library
    }

    fn options(&self) -> TapeOptions {
        TapeOptions {
            block_bytes: self.block_bytes,
            cache: self.root.path().join("cache"),
            cache_bytes: self.cache_bytes,
            ledger: self.root.path().join("library"),
        }
    }

    fn open(&self) -> TapeStore<EmulatedLibrary> {
        TapeStore::open(self.library(), STORE, self.options(), "tape").unwrap()
    }

    fn path(&self, index: usize) -> std::path::PathBuf {
        self.root.path().join(format!("library/VV{index:04}.tap"))
    }
}

/// Cartridges so small that the large object of the suite needs three.
struct Tapes(Rig, std::cell::RefCell<Option<Rig>>);

impl Fixture for Tapes {
    type Opened = TapeStore<EmulatedLibrary>;

    fn open(&self) -> Self::Opened {
        let store = self.0.open();
        assert_eq!(store.problems(), []);
        store
    }

    fn open_small(&self) -> Self::Opened {
        let rig = Rig::new(1, 1 << 20, 32 << 10, 1 << 20);
        let store = rig.open();
        self.1.replace(Some(rig));
        store
    }
}

#[test]
fn the_tape_store_conforms() {
    run(&Tapes(Rig::new(4, 30 << 20, 256 << 10, 80 << 20), std::cell::RefCell::default()));
}

#[test]
fn cartridges_are_exact_simh_files() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x.tap");
    fs::write(&path, b"").unwrap();
    {
        let mut drive = TapDrive::load(&path, 1 << 20, 100).unwrap();
        assert!(!drive.write_block(b"abc").unwrap().early_warning);
        drive.write_filemarks(1, true).unwrap();
        drive.write_block(b"defg").unwrap();
        drive.write_filemarks(2, false).unwrap();
    }
    let expected = b"\x03\0\0\0abc\0\x03\0\0\0\0\0\0\0\x04\0\0\0defg\x04\0\0\0\0\0\0\0\0\0\0\0";
    assert_eq!(fs::read(&path).unwrap(), expected);

    // Input as other tools write it: gaps, a block in error, an end mark followed by rubbish.
    let foreign =
        b"\xfe\xff\xff\xff\x01\0\0\0A\0\x01\0\0\0\x02\0\0\x80zz\x02\0\0\x80\0\0\0\0\xff\xff\xff\xffrubbish";
    fs::write(&path, foreign).unwrap();
    let mut drive = TapDrive::load(&path, 1 << 20, 100).unwrap();
    let mut buffer = [0; 10];
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Read::Block(1));
    assert_eq!(buffer[0], b'A');
    assert!(matches!(drive.read_block(&mut buffer), Err(DriveError::Medium(1))));
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Read::Filemark);
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Read::EndOfData);
}

#[test]
fn the_drive_moves_and_warns_as_a_drive_does() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("x.tap");
    fs::write(&path, b"").unwrap();
    let mut drive = TapDrive::load(&path, 1000, 300).unwrap();
    let mut buffer = [0; 100];
    for file in 0..3_u8 {
        drive.write_block(&[file; 100]).unwrap();
        drive.write_block(&[file + 100; 50]).unwrap();
        drive.write_filemarks(1, false).unwrap();
    }
    assert_eq!(drive.position().unwrap(), Position { object: 9, early_warning: false });
    drive.rewind().unwrap();
    assert_eq!(drive.space_filemarks(2).unwrap(), 2);
    assert_eq!(drive.position().unwrap().object, 6);
    assert_eq!(drive.space_filemarks(-1).unwrap(), 1);
    assert_eq!(drive.position().unwrap().object, 5);
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Read::Filemark);
    assert_eq!(drive.space_filemarks(-9).unwrap(), 2);
    assert_eq!(drive.position().unwrap().object, 0);
    drive.locate(4).unwrap();
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Read::Block(50));
    assert_eq!(buffer[0], 101);
    assert!(matches!(drive.locate(10), Err(DriveError::NoSuchPosition(10))));
    drive.locate(0).unwrap();
    assert!(matches!(drive.read_block(&mut buffer[..10]), Err(DriveError::BlockTooLarge(100))));
    assert_eq!(drive.position().unwrap().object, 1);
    assert_eq!(drive.space_filemarks(9).unwrap(), 3);
    // The end: early warning, more writes, then no room.
    drive.space_end_of_data().unwrap();
    assert!(!drive.write_block(&[1; 90]).unwrap().early_warning);
    assert!(drive.write_block(&[1; 90]).unwrap().early_warning);
    assert!(drive.write_block(&[1; 90]).unwrap().early_warning);
    assert!(drive.position().unwrap().early_warning);
    assert!(matches!(drive.write_block(&[1; 200]), Err(DriveError::EndOfMedium)));
    assert!(drive.write_filemarks(1, false).unwrap().early_warning);
    // A write in the middle makes this the end.
    drive.locate(1).unwrap();
    drive.write_block(&[9; 10]).unwrap();
    assert_eq!(drive.read_block(&mut buffer).unwrap(), Read::EndOfData);
    let mut again = TapDrive::load(&path, 1000, 300).unwrap();
    again.space_end_of_data().unwrap();
    assert_eq!(again.position().unwrap().object, 2);
}

#[test]
fn objects_go_over_several_cartridges_and_are_found_again() {
    let rig = Rig::new(5, 300_000, 32 << 10, 2 << 20);
    let large: Vec<u8> = (0..700_000_u32).map(|index| (index / 7) as u8).collect();
    {
        let store = rig.open();
        put(&store, "small", b"small").unwrap();
        put(&store, "large", &large).unwrap();
        assert_eq!(store.cartridges_of(&name("large")).unwrap(), ["VV0000", "VV0001", "VV0002", "VV0003"]);
        put(&store, "next", &large[..100_000]).unwrap();
        // Four and a half cartridges are full: this object does not fit, and no part of it stays.
        let error = put(&store, "over", &large).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::NoSpace);
        put(&store, "last", b"last").unwrap();
    }
    let store = rig.open();
    assert_eq!(store.problems(), []);
    assert!(get(&store, "large").unwrap() == large);
    assert_eq!(get(&store, "last").unwrap(), b"last");
    assert_eq!(get(&store, "next").unwrap(), &large[..100_000]);
    assert_eq!(store.list("", None, 9).unwrap().objects.len(), 4);
    // When a cartridge is taken out, its objects are away, and no others. A part of an object on
    // another cartridge stays there.
    drop(store);
    assert!(super::identify(&mut rig.library()).unwrap().iter().any(|(_, owner)| *owner == Some(STORE)));
    let away = rig.root.path().join("away.tap");
    fs::rename(rig.path(2), &away).unwrap();
    let rig = Rig { cartridges: 0, ..rig };
    {
        let store = rig.open();
        assert_eq!(store.problems(), [TapeProblem::Away { barcode: "VV0002".into(), number: 2, objects: 1 }]);
        assert_eq!(store.stat(&name("large")).unwrap().len_bytes, 700_000);
        let error = get(&store, "large").unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("VV0002"), "{error}");
        assert_eq!(get(&store, "small").unwrap(), b"small");
        put(&store, "meanwhile", &large[..300_000]).unwrap();
    }
    fs::rename(&away, rig.path(2)).unwrap();
    let store = rig.open();
    assert!(get(&store, "large").unwrap() == large);
    assert!(get(&store, "meanwhile").unwrap() == large[..300_000]);
}

#[test]
fn a_crash_at_every_byte_of_the_tape_keeps_what_was_committed() {
    let rig = Rig::new(1, 1 << 20, 1024, 1 << 20);
    let ledger = rig.root.path().join(format!("library/ledger-{STORE}"));
    // The lengths of the cartridge and of the ledger, and the objects that exist then.
    let mut ends = Vec::new();
    {
        let store = rig.open();
        let mut end = |names: &[&'static str]| {
            let len = |path: &std::path::Path| fs::metadata(path).unwrap().len() as usize;
            ends.push((len(&rig.path(0)), len(&ledger), names.to_vec()));
        };
        end(&[]);
        put(&store, "a", &[1; 3000]).unwrap();
        end(&["a"]);
        put(&store, "b", &[2; 10]).unwrap();
        end(&["a", "b"]);
        store.delete(&name("a")).unwrap();
        end(&["b"]);
    }
    let whole = fs::read(rig.path(0)).unwrap();
    let written = fs::read(&ledger).unwrap();
    let marks = (0..whole.len()).filter(|cut| cut % 97 == 0 || whole.len() - cut < 20);
    for cut in marks.chain(ends.iter().skip(1).flat_map(|(end, ..)| [*end - 1, *end])) {
        let (_, written_bytes, expected) = ends.iter().rev().find(|(end, ..)| *end <= cut).unwrap().clone();
        // With the ledger of that moment, and without one, as older versions left it.
        for has_ledger in [true, false] {
            fs::write(rig.path(0), &whole[..cut]).unwrap();
            let _ = fs::remove_file(&ledger);
            if has_ledger {
                fs::write(&ledger, &written[..written_bytes]).unwrap();
            }
            let what = format!("cut at {cut}, ledger {has_ledger}");
            let store = rig.open();
            assert_eq!(store.problems(), [], "{what}");
            let seen = store.list("", None, 9).unwrap();
            let seen: Vec<_> = seen.objects.iter().map(|stat| stat.name.as_str()).collect();
            assert_eq!(seen, expected, "{what}");
            put(&store, "after", b"after").unwrap();
            drop(store);
            let store = rig.open();
            assert_eq!(get(&store, "after").unwrap(), b"after", "{what}");
            for text in &expected {
                assert!(get(&store, text).is_ok(), "{what}");
            }
        }
    }
}

/// Linux ends the data being written with a filemark when a process dies.
#[test]
fn a_file_that_was_cut_off_and_has_a_filemark_is_written_over() {
    for blocks in 0..3_u64 {
        let rig = Rig::new(1, 1 << 20, 1024, 1 << 20);
        put(&rig.open(), "a", b"a").unwrap();
        let used_bytes = {
            let store = rig.open();
            let mut dead = store.put_start(&name("dead"), 1 << 20).unwrap();
            dead.write(&vec![7; 1024 * blocks as usize]).unwrap();
            std::mem::forget(dead);
            store.space().unwrap().used_bytes
        };
        let mut drive = TapDrive::load(&rig.path(0), 1 << 20, 4096).unwrap();
        drive.space_end_of_data().unwrap();
        // Label, FM, the file of `a`, then header and blocks.
        assert_eq!(drive.position().unwrap().object, 2 + 4 + 1 + blocks);
        drive.write_filemarks(1, false).unwrap();
        let store = rig.open();
        assert_eq!(store.problems(), []);
        assert_eq!(store.space().unwrap().used_bytes, used_bytes);
        put(&store, "b", b"b").unwrap();
        drop(store);
        drive = TapDrive::load(&rig.path(0), 1 << 20, 4096).unwrap();
        drive.space_end_of_data().unwrap();
        assert_eq!(drive.position().unwrap().object, 2 + 4 + 4, "nothing is left of what was cut off");
        assert_eq!(get(&rig.open(), "b").unwrap(), b"b");
    }
}

#[test]
fn damage_is_named_and_foreign_cartridges_are_left_alone() {
    let rig = Rig::new(1, 1 << 20, 1024, 1 << 20);
    {
        let store = rig.open();
        for text in ["a", "b", "c"] {
            put(&store, text, &[text.as_bytes()[0]; 2000]).unwrap();
        }
    }
    let rig = Rig { cartridges: 0, ..rig };
    // Label, FM, then files of header, two blocks, trailer, FM.
    let mut drive = TapDrive::load(&rig.path(0), 1 << 20, 4096).unwrap();
    drive.spoil(2 + 1).unwrap();
    drive.spoil(2 + 5).unwrap();
    drop(drive);
    let foreign = b"\x02\0\0\0hi\x02\0\0\0";
    fs::write(rig.path(1), foreign).unwrap();
    let store = rig.open();
    assert_eq!(
        store.problems(),
        [
            TapeProblem::Unreadable { barcode: "VV0000".into(), object: 7 },
            TapeProblem::Foreign { barcode: "VV0001".into() },
            TapeProblem::Lost { objects: 1, first: "b".into() },
        ]
    );
    assert!(matches!(get(&store, "a").unwrap_err().kind, StoreErrorKind::Corrupt(_)));
    assert!(matches!(get(&store, "b").unwrap_err().kind, StoreErrorKind::Corrupt(_)));
    assert_eq!(get(&store, "c").unwrap(), [b'c'; 2000]);
    // Nothing more is written to a damaged cartridge, or to one of another store.
    let error = put(&store, "d", b"d").unwrap_err();
    assert!(
        matches!(error.kind, StoreErrorKind::Refused(_)) && error.to_string().contains("VV0000"),
        "{error}"
    );
    // A blank cartridge is used as soon as it is in the library.
    fs::write(rig.path(2), b"").unwrap();
    put(&store, "d", b"d").unwrap();
    assert_eq!(store.cartridges_of(&name("d")).unwrap(), ["VV0002"]);
    drop(store);
    assert_eq!(fs::read(rig.path(1)).unwrap(), foreign);
    assert_eq!(get(&rig.open(), "d").unwrap(), b"d");
}

#[test]
fn the_cache_keeps_its_bound() {
    let rig = Rig::new(1, 1 << 20, 4096, 100_000);
    let store = rig.open();
    for index in 0..8_u8 {
        put(&store, &format!("o{index}"), &vec![index; 40_000]).unwrap();
    }
    let cache_bytes = || {
        let files = fs::read_dir(rig.root.path().join("cache")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum::<u64>()
    };
    for index in [0, 1, 0, 2, 3, 0, 7, 7_u8] {
        assert_eq!(get(&store, &format!("o{index}")).unwrap(), vec![index; 40_000]);
        assert!(cache_bytes() <= 100_000);
    }
    let error = put(&store, "large", &vec![0; 100_001]).unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Unsupported(_)));
    // While an object is written, staged objects can be read, and the others only later.
    let open = store.put_start(&name("open"), 10).unwrap();
    assert_eq!(get(&store, "o7").unwrap(), vec![7; 40_000]);
    assert!(get(&store, "o5").unwrap_err().is_retryable());
    drop(open);
    assert_eq!(get(&store, "o5").unwrap(), vec![5; 40_000]);
}
