//! Tests that damage is never the end: nothing after a damaged place is overwritten, and everything
//! there is found again.

use super::*;

/// A library of two cartridges; the first one holds four objects.
fn rig() -> Rig {
    let rig = Rig::new(2, 1 << 20, 1024, 1 << 20);
    let store = rig.open();
    for (index, text) in OBJECTS.iter().enumerate() {
        put(&store, text, &content(index)).unwrap();
    }
    drop(store);
    rig
}

const OBJECTS: [&str; 4] = ["a", "b", "c", "d"];

fn content(index: usize) -> Vec<u8> {
    vec![index as u8 + 1; 2500 + 10 * index]
}

/// All words of the file's structure: their offsets from the beginning of the file, and their
/// values.
fn words(bytes: &[u8]) -> Vec<(usize, u32)> {
    let mut words = Vec::new();
    let mut offset = 0;
    while offset < bytes.len() {
        let word = u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
        words.push((offset, word));
        if word != 0 {
            offset += 4 + word.next_multiple_of(2) as usize;
            words.push((offset, word));
        }
        offset += 4;
    }
    words
}

/// Opens a library whose first cartridge was damaged. Nothing on it changes, writes go to the other
/// cartridge, at most `lost_max` objects cannot be read, and none is missing from the list.
fn check(rig: &Rig, lost_max: usize, what: &str) {
    let before = fs::read(rig.path(0)).unwrap();
    for round in 0..2 {
        let store = rig.open();
        assert_ne!(store.problems(), [], "{what}: it is told");
        let told = store.problems().iter().map(ToString::to_string).collect::<String>();
        assert!(told.contains("VV0000"), "{what}: {told}");
        let names: Vec<String> =
            store.list("", None, 99).unwrap().objects.iter().map(|stat| stat.name.to_string()).collect();
        for text in OBJECTS {
            assert!(names.iter().any(|name| name == text), "{what}: {text} is forgotten: {names:?}");
        }
        let mut lost = 0;
        for (index, text) in OBJECTS.iter().enumerate() {
            match get(&store, text) {
                Ok(bytes) => assert!(bytes == content(index), "{what}: {text} is another"),
                Err(error) => {
                    assert!(matches!(error.kind, StoreErrorKind::Corrupt(_)), "{what}: {error}");
                    lost += 1;
                }
            }
        }
        assert!(lost <= lost_max, "{what}: {lost} objects are lost");
        let text = format!("new/{round}");
        put(&store, &text, b"new").unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(store.cartridges_of(&name(&text)).unwrap(), ["VV0001"], "{what}");
        drop(store);
        assert!(fs::read(rig.path(0)).unwrap() == before, "{what}: the damaged cartridge was changed");
    }
    // For the next case.
    fs::write(rig.path(1), b"").unwrap();
}

/// The state of a library at the beginning of each case.
struct Saved {
    tape: Vec<u8>,
    ledger: Vec<u8>,
}

fn ledger_of(rig: &Rig) -> std::path::PathBuf {
    rig.root.path().join(format!("library/ledger-{STORE}"))
}

fn save(rig: &Rig) -> Saved {
    Saved { tape: fs::read(rig.path(0)).unwrap(), ledger: fs::read(ledger_of(rig)).unwrap() }
}

fn restore(rig: &Rig, saved: &Saved, tape: &[u8]) {
    fs::write(rig.path(0), tape).unwrap();
    fs::write(ledger_of(rig), &saved.ledger).unwrap();
}

#[test]
fn a_flipped_bit_in_any_word_of_the_structure_costs_at_most_one_object() {
    let rig = rig();
    let saved = save(&rig);
    for (offset, _) in words(&saved.tape) {
        for bit in [0, 4, 9, 20, 31] {
            let mut tape = saved.tape.clone();
            tape[offset + bit / 8] ^= 1 << (bit % 8);
            restore(&rig, &saved, &tape);
            check(&rig, 1, &format!("bit {bit} of the word at {offset}"));
        }
    }
}

#[test]
fn the_length_beside_a_damaged_one_is_enough() {
    let rig = rig();
    let saved = save(&rig);
    // The first lengths of data blocks, in the middle.
    for (offset, _) in words(&saved.tape).into_iter().filter(|&(_, word)| word == 1024) {
        let mut tape = saved.tape.clone();
        tape[offset + 1] ^= 0x10;
        restore(&rig, &saved, &tape);
        check(&rig, 0, &format!("the word at {offset}"));
    }
}

#[test]
fn marks_of_the_end_zeroes_and_rubbish_are_not_the_end() {
    let rig = rig();
    let saved = save(&rig);
    for (offset, _) in words(&saved.tape).into_iter().step_by(3) {
        for (what, with) in [
            ("a mark of the end", vec![0xff; 4]),
            ("a gap", vec![0xfe, 0xff, 0xff, 0xff]),
            ("zeroes", vec![0; 700]),
            ("rubbish", vec![0x5a; 700]),
        ] {
            let mut tape = saved.tape.clone();
            let end = tape.len().min(offset + with.len());
            if tape[offset..end] == with[..end - offset] {
                continue;
            }
            tape[offset..end].copy_from_slice(&with[..end - offset]);
            restore(&rig, &saved, &tape);
            check(&rig, 2, &format!("{what} at {offset}"));
        }
    }
}

#[test]
fn a_cartridge_that_lost_its_end_is_not_written_to() {
    let rig = rig();
    let saved = save(&rig);
    for cut in (0..saved.tape.len()).step_by(211).chain([saved.tape.len() - 1]) {
        restore(&rig, &saved, &saved.tape[..cut]);
        check(&rig, 4, &format!("cut at {cut}"));
    }
    // Zeroes in place of the end, as after a power loss.
    for cut in (600..saved.tape.len()).step_by(911) {
        let mut tape = saved.tape.clone();
        tape[cut..].fill(0);
        restore(&rig, &saved, &tape);
        check(&rig, 4, &format!("zeroes from {cut} on"));
    }
}

#[test]
fn without_a_ledger_what_follows_the_damage_is_found_as_well() {
    let rig = rig();
    let saved = save(&rig);
    let words = words(&saved.tape);
    for &(offset, _) in &words[..words.len() - 1] {
        let mut tape = saved.tape.clone();
        tape[offset + 1] ^= 0x10;
        restore(&rig, &saved, &tape);
        fs::remove_file(ledger_of(&rig)).unwrap();
        let store = rig.open();
        assert_ne!(store.problems(), [], "the word at {offset}");
        let read = OBJECTS.iter().filter(|text| get(&store, text).is_ok()).count();
        assert!(read >= 3, "the word at {offset}: {read} objects");
        put(&store, "new", b"new").unwrap();
        assert!(fs::read(rig.path(0)).unwrap() == tape, "the word at {offset}");
        drop(store);
        fs::write(rig.path(1), b"").unwrap();
    }
}

#[test]
fn a_library_without_its_first_cartridge_knows_what_is_on_it() {
    let rig = Rig::new(3, 300_000, 32 << 10, 2 << 20);
    {
        let store = rig.open();
        for index in 0..6 {
            put(&store, &format!("o{index}"), &vec![index; 100_000]).unwrap();
        }
        store.delete(&name("o1")).unwrap();
    }
    let away = rig.root.path().join("away.tap");
    fs::rename(rig.path(0), &away).unwrap();
    let rig = Rig { cartridges: 0, ..rig };
    let store = rig.open();
    let names: Vec<String> =
        store.list("", None, 99).unwrap().objects.iter().map(|stat| stat.name.to_string()).collect();
    assert_eq!(names, ["o0", "o2", "o3", "o4", "o5"], "away is not gone, and deleted is");
    assert!(matches!(store.problems(), [TapeProblem::Away { number: 0, objects: 2.., .. }]));
    let error = get(&store, "o0").unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("VV0000"), "{error}");
    assert_eq!(get(&store, "o5").unwrap(), vec![5; 100_000]);
    assert_eq!(kind_of(put(&store, "o0", b"other")), StoreErrorKind::Exists);
    store.delete(&name("o2")).unwrap();
    // Back in the library: readable without a restart, and complete after one.
    fs::rename(&away, rig.path(0)).unwrap();
    assert_eq!(get(&store, "o0").unwrap(), vec![0; 100_000]);
    drop(store);
    let store = rig.open();
    assert_eq!(store.problems(), []);
    assert_eq!(store.list("", None, 99).unwrap().objects.len(), 4);
    assert_eq!(get(&store, "o0").unwrap(), vec![0; 100_000]);
}

fn kind_of<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.err().expect("must fail").kind
}

#[test]
fn a_cartridge_that_was_exchanged_is_noticed_before_anything_is_written() {
    let rig = rig();
    let saved = save(&rig);
    let store = rig.open();
    put(&store, "e", b"e").unwrap();
    // An older copy of the cartridge replaces it: the files that it lacks must not be overwritten.
    fs::remove_file(rig.path(0)).unwrap();
    fs::write(rig.path(0), &saved.tape).unwrap();
    put(&store, "f", b"f").unwrap();
    assert_eq!(store.cartridges_of(&name("f")).unwrap(), ["VV0001"]);
    assert!(fs::read(rig.path(0)).unwrap() == saved.tape);
    assert_eq!(get(&store, "a").unwrap(), content(0));
    // The same with a cartridge of another owner.
    fs::remove_file(rig.path(1)).unwrap();
    fs::write(rig.path(1), b"\x02\0\0\0hi\x02\0\0\0").unwrap();
    assert!(put(&store, "g", b"g").is_err());
    assert_eq!(fs::read(rig.path(1)).unwrap(), b"\x02\0\0\0hi\x02\0\0\0");
    assert!(get(&store, "f").unwrap_err().is_retryable());
}

#[test]
fn a_copy_of_a_cartridge_in_the_same_library_is_left_alone() {
    let rig = rig();
    fs::copy(rig.path(0), rig.path(7)).unwrap();
    let store = rig.open();
    assert_eq!(store.problems(), [TapeProblem::Twin { barcode: "VV0007".into(), number: 0 }]);
    put(&store, "e", b"e").unwrap();
    assert_eq!(store.cartridges_of(&name("e")).unwrap(), ["VV0000"]);
}

#[test]
fn an_object_that_nobody_reported_is_made_durable_and_written_down() {
    let rig = rig();
    let saved = save(&rig);
    {
        let store = rig.open();
        put(&store, "e", b"e").unwrap();
    }
    // The process died between the filemark and the ledger.
    fs::write(ledger_of(&rig), &saved.ledger).unwrap();
    let store = rig.open();
    assert_eq!(store.problems(), []);
    assert_eq!(kind_of(put(&store, "e", b"e")), StoreErrorKind::Exists);
    store.make_durable(&name("e")).unwrap();
    assert_eq!(kind_of(store.make_durable(&name("nothing"))), StoreErrorKind::NotFound);
    drop(store);
    let tape = fs::read(rig.path(0)).unwrap();
    fs::write(rig.path(0), &tape[..tape.len() - 600]).unwrap();
    assert_ne!(rig.open().problems(), [], "the ledger knows that it was there");
}

/// A drive that cannot read a range of objects, and cannot move past it.
struct Faulty {
    inner: EmulatedLibrary,
    bad: std::ops::Range<u64>,
    no_end: bool,
}

struct FaultyDrive<'a> {
    inner: &'a mut dyn Drive,
    bad: std::ops::Range<u64>,
    no_end: bool,
}

impl Library for Faulty {
    fn cartridges(&mut self) -> Result<Vec<String>, DriveError> {
        self.inner.cartridges()
    }

    fn mount(&mut self, barcode: &str) -> Result<Mounted<'_>, DriveError> {
        let bad = if barcode == "VV0000" { self.bad.clone() } else { 0..0 };
        let no_end = self.no_end && barcode == "VV0000";
        let Mounted { drive, is_new } = self.inner.mount(barcode)?;
        // Leaks one for each call, which is harmless in a short test.
        Ok(Mounted { drive: Box::leak(Box::new(FaultyDrive { inner: drive, bad, no_end })), is_new })
    }
}

impl Drive for FaultyDrive<'_> {
    fn block_bytes_max(&self) -> usize {
        self.inner.block_bytes_max()
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Written, DriveError> {
        self.inner.write_block(block)
    }

    fn write_filemarks(&mut self, count: u32, immediate: bool) -> Result<Written, DriveError> {
        self.inner.write_filemarks(count, immediate)
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError> {
        let object = self.inner.position()?.object;
        if self.bad.contains(&object) {
            return Err(DriveError::Medium(object));
        }
        self.inner.read_block(buffer)
    }

    fn space_filemarks(&mut self, count: i64) -> Result<u64, DriveError> {
        let from = self.inner.position()?.object;
        let passed = self.inner.space_filemarks(count)?;
        let to = self.inner.position()?.object;
        if let Some(object) = (from..to).find(|object| self.bad.contains(object)) {
            self.inner.locate(object)?;
            return Err(DriveError::Medium(object));
        }
        Ok(passed)
    }

    fn space_end_of_data(&mut self) -> Result<(), DriveError> {
        if self.no_end {
            return Err(DriveError::Medium(self.inner.position()?.object));
        }
        self.inner.space_end_of_data()
    }

    fn locate(&mut self, object: u64) -> Result<(), DriveError> {
        self.inner.locate(object)
    }

    fn flush(&mut self) -> Result<(), DriveError> {
        self.inner.flush()
    }

    fn allow_writes(&mut self, from: u64) {
        self.inner.allow_writes(from);
    }

    fn position(&mut self) -> Result<Position, DriveError> {
        self.inner.position()
    }

    fn rewind(&mut self) -> Result<(), DriveError> {
        self.inner.rewind()
    }
}

#[test]
fn a_medium_error_while_spacing_is_not_the_end() {
    // Label, FM, then files of a header, three blocks, a trailer, and a filemark.
    for (bad, no_end, lost_max) in [
        (4..5, false, 1),
        (8..9, false, 1),
        (8..16, false, 2),
        (12..13, false, 1),
        (20..26, false, 1),
        (0..1, false, 0),
        (1..2, false, 0),
        (0..0, true, 4),
    ] {
        let rig = rig();
        let before = fs::read(rig.path(0)).unwrap();
        let what = format!("objects {bad:?}, no end {no_end}");
        let library = Faulty { inner: rig.library(), bad, no_end };
        let store = TapeStore::open(library, STORE, rig.options(), "tape").unwrap();
        assert_ne!(store.problems(), [], "{what}");
        assert_eq!(store.list("", None, 9).unwrap().objects.len(), 4, "{what}");
        let lost = OBJECTS.iter().filter(|text| get(&store, text).is_err()).count();
        assert!(lost <= lost_max, "{what}: {lost} lost, {:?}", store.problems());
        put(&store, "new", b"new").unwrap();
        assert_eq!(store.cartridges_of(&name("new")).unwrap(), ["VV0001"], "{what}");
        assert!(fs::read(rig.path(0)).unwrap() == before, "{what}");
    }
}
