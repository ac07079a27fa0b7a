//! Tests of crashes at every write, torn and reordered, and of damage.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;

const LABEL: &str = "memory";
const STORE: Uuid = Uuid::from_u128(99);

#[derive(Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Flush,
}

/// A medium in memory that records every operation.
struct Recorder {
    bytes: Mutex<Vec<u8>>,
    steps: Mutex<Vec<Step>>,
    fail_flush: std::sync::atomic::AtomicBool,
    // Blocks that cannot be read.
    unreadable: Mutex<Vec<u64>>,
}

impl Recorder {
    fn new(bytes: Vec<u8>) -> Self {
        Recorder {
            bytes: Mutex::new(bytes),
            steps: Mutex::default(),
            fail_flush: false.into(),
            unreadable: Mutex::default(),
        }
    }
}

impl Medium for &Recorder {
    fn len_bytes(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(4096) && buffer.len().is_multiple_of(4096), "aligned");
        let blocks = offset / 4096..(offset + buffer.len() as u64) / 4096;
        if self.unreadable.lock().unwrap().iter().any(|block| blocks.contains(block)) {
            return Err(io::Error::from_raw_os_error(5));
        }
        buffer.copy_from_slice(&self.bytes.lock().unwrap()[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(4096) && bytes.len().is_multiple_of(4096), "aligned");
        self.bytes.lock().unwrap()[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        self.steps.lock().unwrap().push(Step::Write(offset, bytes.to_vec()));
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        if self.fail_flush.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.steps.lock().unwrap().push(Step::Flush);
        Ok(())
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn put(store: &dyn Store, text: &str, bytes: &[u8], max_bytes: u64) -> Result<ObjectStat, StoreError> {
    store.put(&name(text), max_bytes, &mut &bytes[..])
}

fn all(store: &dyn Store) -> BTreeMap<String, Vec<u8>> {
    let page = store.list("", None, 1000).unwrap();
    let read = |stat: &ObjectStat| {
        let mut bytes = Vec::new();
        store.get(&stat.name, &mut bytes).unwrap();
        (stat.name.to_string(), bytes)
    };
    page.objects.iter().map(read).collect()
}

/// The states of a store, each with the step at which it became certain. A crash before that step
/// may leave this state or the one before.
type Expected = Vec<(usize, BTreeMap<String, Vec<u8>>)>;

/// Puts, aborts and deletes in a small store; returns the states, each with the step at which it
/// became certain.
fn history(medium: &Recorder) -> Expected {
    let store = DeviceStore::open(medium, LABEL).unwrap();
    let mut model = BTreeMap::new();
    let mut states = vec![(0, model.clone())];
    let mut seed = 7_u64;
    for round in 0..50_u8 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
        let key = format!("o{}", (seed >> 33) % 7);
        let len = (seed >> 40) as usize % 20_000;
        if round % 6 == 5 {
            // Aborted midway.
            if let Ok(mut aborted) = store.put_start(&name("aborted"), 30_000) {
                aborted.write(&vec![0xee; len]).unwrap();
            }
        } else if model.remove(&key).is_some() {
            store.delete(&name(&key)).unwrap();
        } else if put(&store, &key, &vec![round; len], 20_000).is_ok() {
            model.insert(key, vec![round; len]);
        }
        states.push((medium.steps.lock().unwrap().len(), model.clone()));
    }
    states
}

fn check_image(image: Vec<u8>, states: &Expected, steps_done: usize, what: &str) {
    let medium = Recorder::new(image);
    {
        let store = DeviceStore::open(&medium, LABEL).unwrap();
        assert!(store.problems().is_empty(), "{what}: {:?}", store.problems());
        let seen = all(&store);
        // The last certain state, or the next one.
        let certain = states.iter().rposition(|(step, _)| *step <= steps_done).unwrap();
        let next = states.get(certain + 1);
        assert!(
            seen == states[certain].1 || next.is_some_and(|(_, state)| seen == *state),
            "{what}: {:?} instead of {:?}",
            seen.keys(),
            states[certain].1.keys()
        );
        // It can be used as before.
        let _ = put(&store, "after", b"after", 5);
    }
    let store = DeviceStore::open(&medium, LABEL).unwrap();
    for key in all(&store).keys().cloned().collect::<Vec<_>>() {
        store.delete(&name(&key)).unwrap();
    }
    assert_eq!(store.table().extents.len(), 1, "{what}: everything is one free extent again");
}

#[test]
fn a_crash_at_every_write_keeps_what_was_committed() {
    let medium = Recorder::new(vec![0; 40 * 4096]);
    DeviceStore::format(&&medium, LABEL, STORE).unwrap();
    let blank = medium.bytes.lock().unwrap().clone();
    medium.steps.lock().unwrap().clear();
    let states = history(&medium);
    let steps = medium.steps.lock().unwrap().clone();
    assert!(steps.len() > 120 && states.iter().any(|(_, state)| state.len() >= 3));
    let mut stable = blank.clone();
    let mut pending: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut random = 1_u64;
    for (index, step) in steps.iter().enumerate() {
        let image = |writes: &[(u64, Vec<u8>)], choose: &mut dyn FnMut() -> usize| {
            let mut image = stable.clone();
            for (offset, bytes) in writes {
                let part = match choose() % 3 {
                    0 => bytes.len(),
                    1 => 0,
                    // Torn at a sector.
                    _ => (choose() % (bytes.len() / 512 + 1)) * 512,
                };
                image[*offset as usize..][..part].copy_from_slice(&bytes[..part]);
            }
            image
        };
        match step {
            Step::Write(offset, bytes) => {
                pending.push((*offset, bytes.clone()));
                // All writes so far; the last one torn at each of several sectors.
                check_image(image(&pending, &mut || 0), &states, index, &format!("after step {index}"));
                for sectors in [0, 1, 3, 7] {
                    let mut torn = image(&pending[..pending.len() - 1], &mut || 0);
                    let part = (sectors * 512).min(bytes.len());
                    torn[*offset as usize..][..part].copy_from_slice(&bytes[..part]);
                    check_image(torn, &states, index, &format!("step {index} torn after {sectors} sectors"));
                }
                // Any of the unflushed writes lost or torn.
                for _ in 0..4 {
                    let mut choose = || {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        (random >> 33) as usize
                    };
                    check_image(
                        image(&pending, &mut choose),
                        &states,
                        index,
                        &format!("step {index} shuffled"),
                    );
                }
            }
            Step::Flush => {
                for (offset, bytes) in pending.drain(..) {
                    stable[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
    }
}

#[test]
fn a_lost_header_is_told_and_the_others_are_served() {
    let medium = Recorder::new(vec![0; 64 * 4096]);
    DeviceStore::format(&&medium, LABEL, STORE).unwrap();
    {
        let store = DeviceStore::open(&medium, LABEL).unwrap();
        for text in ["a", "b", "c"] {
            put(&store, text, &[text.as_bytes()[0]; 5000], 5000).unwrap();
        }
    }
    // Both copies of the header of `b`; one copy of the header of `c`.
    medium.bytes.lock().unwrap()[6 * 4096..8 * 4096].fill(0xaa);
    medium.bytes.lock().unwrap()[10 * 4096 + 40] ^= 1;
    let store = DeviceStore::open(&medium, LABEL).unwrap();
    assert_eq!(store.problems(), [DeviceProblem { block: 6, len_blocks: 4 }]);
    let mut bytes = Vec::new();
    store.get(&name("a"), &mut bytes).unwrap();
    let c = store.get(&name("c"), &mut bytes);
    // The other copy has the same content.
    assert!(c.is_ok());
    // The checksum detects damaged data.
    medium.bytes.lock().unwrap()[4 * 4096 + 10] ^= 1;
    let error = store.get(&name("a"), &mut bytes).unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Corrupt(_)));
}

#[test]
fn a_device_that_is_no_store_or_fails_is_told() {
    let medium = Recorder::new(vec![0; 64 * 4096]);
    let kind = |result: Result<DeviceStore<&Recorder>, StoreError>| result.err().unwrap().kind;
    assert_eq!(kind(DeviceStore::open(&medium, LABEL)), StoreErrorKind::NotFound);
    DeviceStore::format(&&medium, LABEL, STORE).unwrap();
    medium.bytes.lock().unwrap()[..4096].fill(1);
    assert_eq!(DeviceStore::open(&medium, LABEL).unwrap().id(), STORE);
    medium.bytes.lock().unwrap().truncate(20 * 4096);
    assert!(matches!(kind(DeviceStore::open(&medium, LABEL)), StoreErrorKind::Corrupt(_)));
    let tiny = Recorder::new(vec![0; 4 * 4096]);
    let error = DeviceStore::format(&&tiny, LABEL, STORE).unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Unsupported(_)));

    let medium = Recorder::new(vec![0; 64 * 4096]);
    DeviceStore::format(&&medium, LABEL, STORE).unwrap();
    let store = DeviceStore::open(&medium, LABEL).unwrap();
    put(&store, "good", b"good", 4).unwrap();
    medium.fail_flush.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(put(&store, "bad", b"bad", 3).unwrap_err().is_retryable());
    assert!(store.delete(&name("good")).is_err());
    medium.fail_flush.store(false, std::sync::atomic::Ordering::Relaxed);
    // The state of the medium is unknown: only an open can determine it.
    assert!(put(&store, "bad", b"bad", 3).is_err());
    assert_eq!(all(&store).len(), 1);
    drop(store);
    let store = DeviceStore::open(&medium, LABEL).unwrap();
    put(&store, "new", b"new", 3).unwrap();
}

/// Three objects, each in an extent of two headers and two blocks, from block 2 on.
fn three() -> Recorder {
    let medium = Recorder::new(vec![0; 64 * 4096]);
    DeviceStore::format(&&medium, LABEL, STORE).unwrap();
    let store = DeviceStore::open(&medium, LABEL).unwrap();
    for text in ["a", "b", "c"] {
        // More is announced than written, so that each extent was first part of a larger free one.
        put(&store, text, &[text.as_bytes()[0]; 5000], 30_000).unwrap();
    }
    drop(store);
    medium
}

#[test]
fn one_damaged_copy_of_any_header_costs_nothing_and_is_mended() {
    for block in 2..15 {
        for way in ["bit", "zeroes", "unreadable"] {
            let medium = three();
            let is_header = (block - 2) % 4 < 2;
            let damage = |block: usize| match way {
                "bit" => medium.bytes.lock().unwrap()[block * 4096 + 56] ^= 4,
                "zeroes" => medium.bytes.lock().unwrap()[block * 4096..(block + 1) * 4096].fill(0),
                _ => medium.unreadable.lock().unwrap().push(block as u64),
            };
            if !is_header {
                continue;
            }
            damage(block);
            let store = DeviceStore::open(&medium, LABEL).unwrap();
            assert_eq!(store.problems(), [], "{way} in block {block}");
            assert_eq!(all(&store).len(), 3, "{way} in block {block}");
            put(&store, "d", &vec![b'd'; 30_000], 30_000).unwrap();
            drop(store);
            // The damaged copy is good again, so the other one may be damaged.
            medium.unreadable.lock().unwrap().clear();
            damage(block ^ 1);
            let store = DeviceStore::open(&medium, LABEL).unwrap();
            let seen = all(&store);
            assert_eq!(seen.len(), 4, "{way} in block {}", block ^ 1);
            assert!(seen.iter().all(|(name, bytes)| bytes.iter().all(|byte| *byte == name.as_bytes()[0])));
        }
    }
}

#[test]
fn what_is_behind_lost_headers_is_never_overwritten() {
    for lost in [vec![2, 3], vec![6, 7], vec![10, 11], vec![2, 3, 6, 7], vec![14, 15]] {
        let medium = three();
        medium.unreadable.lock().unwrap().extend(&lost[..1]);
        medium.bytes.lock().unwrap()[lost[1] as usize * 4096..][..4096].fill(7);
        for &block in &lost[2..] {
            medium.bytes.lock().unwrap()[block as usize * 4096..][..4096].fill(7);
        }
        let before = medium.bytes.lock().unwrap().clone();
        let store = DeviceStore::open(&medium, LABEL).unwrap();
        assert!(!store.problems().is_empty(), "{lost:?}");
        let gone = lost.iter().filter(|block| **block < 14).count() / 2;
        assert_eq!(all(&store).len(), 3 - gone, "{lost:?}");
        // Fills all free space, and nothing that was there is overwritten.
        for index in 0..20 {
            let _ = put(&store, &format!("new/{index}"), &[0xee; 9000], 9000);
        }
        let after = medium.bytes.lock().unwrap();
        for object in 0..3 {
            let data = (2 + 4 * object + 2) * 4096..(2 + 4 * object + 4) * 4096;
            assert!(after[data.clone()] == before[data], "{lost:?}: object {object} was overwritten");
        }
    }
}

/// As older versions wrote: the last change in one copy, the state before it in the other.
#[test]
fn media_of_older_versions_are_read_and_a_lost_copy_of_theirs_is_not_taken_for_free_space() {
    let rewrite = |medium: &Recorder, block: u64, free_blocks: u64| {
        let used = {
            let store = DeviceStore::open(medium, LABEL).unwrap();
            let table = store.table();
            table.extents[&block].clone()
        };
        let mut bytes = medium.bytes.lock().unwrap();
        let mut lay = |extent: &Extent| {
            let mut header = extent.encode(STORE);
            header[270] = 0;
            let crc = crate::log::checksum::crc32c(&header[..4092]);
            header[4092..].copy_from_slice(&crc.to_le_bytes());
            let copy = extent.block + extent.generation % COPIES;
            bytes[copy as usize * 4096..][..4096].copy_from_slice(&header);
        };
        lay(&used);
        lay(&Extent::free(block, free_blocks, used.generation - 1));
        used.block + used.generation % COPIES
    };
    let medium = three();
    rewrite(&medium, 6, 40);
    let store = DeviceStore::open(&medium, LABEL).unwrap();
    assert_eq!((store.problems().len(), all(&store).len()), (0, 3), "as it was");
    drop(store);
    // The copy with the object is damaged; in the other one `b` and `c` are free space.
    let medium = three();
    let newest = rewrite(&medium, 6, 40);
    medium.bytes.lock().unwrap()[newest as usize * 4096 + 60] ^= 1;
    let before = medium.bytes.lock().unwrap().clone();
    let store = DeviceStore::open(&medium, LABEL).unwrap();
    assert_eq!(store.problems(), [DeviceProblem { block: 6, len_blocks: 4 }]);
    assert_eq!(all(&store).keys().collect::<Vec<_>>(), ["a", "c"]);
    put(&store, "d", &vec![1; 100_000], 100_000).unwrap();
    assert!(medium.bytes.lock().unwrap()[6 * 4096..10 * 4096] == before[6 * 4096..10 * 4096]);
}
