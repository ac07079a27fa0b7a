//! The conformance suite: what every kind of store must do, run against each of them. A violation
//! panics with a message about what was expected.
//!
//! It is part of the library's own tests, and with the feature `conformance` of the library itself,
//! for stores that need another machine: a real tape drive.

// These are tests, wherever they are compiled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test fails by panic"
)]

use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

use super::{
    Check, CheckOutcome, Name, ObjectStat, PAGE_OBJECTS_MAX, Store, StoreError, StoreErrorKind, probe,
};

#[cfg(test)]
mod tests;

/// A kind of store under test, which can be opened repeatedly, and once with little room.
pub trait Fixture {
    /// The store.
    type Opened: Store;

    /// Opens the same place again; the previous store has been dropped.
    fn open(&self) -> Self::Opened;

    /// Another place, empty and with room for about 1 MiB.
    fn open_small(&self) -> Self::Opened;

    /// The size of the large object in bytes: at least 2 MiB, and more than any store writes in one
    /// piece.
    fn big_bytes(&self) -> usize {
        64 << 20
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn content(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u64::from(seed) + 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

fn put(store: &dyn Store, text: &str, bytes: &[u8]) -> Result<ObjectStat, StoreError> {
    store.put(&name(text), bytes.len() as u64, &mut &bytes[..])
}

fn get(store: &dyn Store, text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    assert_eq!(store.get(&name(text), &mut bytes).unwrap(), bytes.len() as u64);
    bytes
}

fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    let page = store.list(prefix, None, PAGE_OBJECTS_MAX).unwrap();
    assert!(!page.more);
    page.objects.iter().map(|stat| stat.name.to_string()).collect()
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    let error = result.err().expect("must fail");
    assert!(!error.store.is_empty() && !error.operation.is_empty(), "errors say where");
    error.kind
}

/// Runs the whole suite.
pub fn run(fixture: &impl Fixture) {
    sizes_and_ranges(fixture);
    no_overwrite(fixture);
    lists(fixture);
    deletes(fixture);
    durable(fixture);
    crash_in_put(fixture);
    announced_bytes(fixture);
    concurrent_list(fixture);
    full(fixture);
    probes(fixture);
}

fn sizes_and_ranges(fixture: &impl Fixture) {
    let big = content(fixture.big_bytes(), 1);
    {
        let store = fixture.open();
        let stat = put(&store, "big", &big).unwrap();
        assert_eq!((stat.len_bytes, stat.name), (big.len() as u64, name("big")));
        put(&store, "empty", &[]).unwrap();
        for len in [1, 4095, 4096, 4097, 300_000] {
            put(&store, &format!("size/{len}"), &content(len, 2)).unwrap();
        }
        store.sync().unwrap();
        assert!(store.space().unwrap().used_bytes >= big.len() as u64);
    }
    // The whole content, also after a reopen.
    for _ in 0..2 {
        let store = fixture.open();
        assert!(get(&store, "big") == big);
        assert!(get(&store, "empty").is_empty());
        assert_eq!(store.stat(&name("big")).unwrap().len_bytes, big.len() as u64);
        for len in [1, 4095, 4096, 4097, 300_000] {
            assert!(get(&store, &format!("size/{len}")) == content(len, 2));
        }
        for (offset, len) in [
            (0, 0),
            (0, 1),
            (4095, 2),
            (1, 4096),
            (262_143, 2),
            (1_048_575, big.len() - 1_048_575 - 7),
            (big.len() - 1, 1),
            (big.len(), 0),
        ] {
            let mut range = vec![0; len];
            store.get_range(&name("big"), offset as u64, &mut range).unwrap();
            assert!(range == big[offset..offset + len], "{offset} {len}");
        }
        for (object, offset, len) in [
            ("big", big.len() as u64, 1),
            ("big", big.len() as u64 - 1, 2),
            ("empty", 0, 1),
            ("big", u64::MAX, 9),
        ] {
            let result = store.get_range(&name(object), offset, &mut vec![0; len]);
            assert_eq!(kind(result), StoreErrorKind::OutOfRange);
        }
        store.get_range(&name("empty"), 0, &mut []).unwrap();
        assert_eq!(kind(store.stat(&name("nothing"))), StoreErrorKind::NotFound);
        assert_eq!(kind(store.stat(&name("big/inside"))), StoreErrorKind::NotFound);
        assert_eq!(kind(store.get_range(&name("nothing"), 0, &mut [0])), StoreErrorKind::NotFound);
        assert_eq!(kind(store.get(&name("nothing"), &mut Vec::new())), StoreErrorKind::NotFound);
        assert_eq!(kind(store.delete(&name("nothing"))), StoreErrorKind::NotFound);
    }
    fixture.open().delete(&name("big")).unwrap();
}

fn no_overwrite(fixture: &impl Fixture) {
    let store = fixture.open();
    put(&store, "once", b"first").unwrap();
    assert_eq!(kind(put(&store, "once", b"second")), StoreErrorKind::Exists);
    assert_eq!(get(&store, "once"), b"first");
    if store.capabilities().sequential_only {
        let _open = store.put_start(&name("alone"), 10).unwrap();
        let second = store.put_start(&name("second"), 10).err().unwrap();
        assert!(second.is_retryable());
    } else {
        // Two concurrent puts: the one that commits first wins.
        let twin = name("twin");
        let mut one = store.put_start(&twin, 10).unwrap();
        let mut other = store.put_start(&twin, 10).unwrap();
        one.write(b"one").unwrap();
        other.write(b"other").unwrap();
        other.commit().unwrap();
        assert_eq!(kind(one.commit()), StoreErrorKind::Exists);
        assert_eq!(get(&store, "twin"), b"other");
    }
}

fn lists(fixture: &impl Fixture) {
    let mut expected: Vec<String> = (0..25)
        .map(|index| format!("list/a{}/{:x}", index % 3, index * 7919))
        .chain(["list/a", "list/a-b/c", "list/a.b", "list/z"].map(String::from))
        .collect();
    {
        let store = fixture.open();
        for text in &expected {
            put(&store, text, text.as_bytes()).unwrap();
        }
        put(&store, "lisu", b"").unwrap();
    }
    expected.sort();
    let store = fixture.open();
    assert_eq!(names(&store, "list/"), expected);
    assert!(names(&store, "").len() > expected.len());
    assert!(names(&store, "lis").len() == expected.len() + 1);
    let inner: Vec<String> = expected.iter().filter(|text| text.starts_with("list/a1/")).cloned().collect();
    assert_eq!(names(&store, "list/a1/"), inner);
    assert!(names(&store, "list/nothing").is_empty());
    for limit in [1, 4, 28, 29, 30] {
        let mut paged = Vec::new();
        let mut after = None;
        loop {
            let page = store.list("list/", after.as_ref(), limit).unwrap();
            assert!(page.objects.len() <= limit);
            for stat in &page.objects {
                assert_eq!(stat.len_bytes, stat.name.as_str().len() as u64);
            }
            paged.extend(page.objects.iter().map(|stat| stat.name.to_string()));
            after = page.objects.last().map(|stat| stat.name.clone());
            if !page.more {
                break;
            }
        }
        assert_eq!(paged, expected, "pages of {limit}");
    }
    // A cursor need not be an object, or have the prefix.
    assert_eq!(store.list("list/", Some(&name("a")), 1).unwrap().objects[0].name.as_str(), expected[0]);
    assert!(store.list("list/", Some(&name("m")), 9).unwrap().objects.is_empty());
}

fn deletes(fixture: &impl Fixture) {
    {
        let store = fixture.open();
        put(&store, "gone/1", b"1").unwrap();
        put(&store, "gone/2", b"2").unwrap();
        store.delete(&name("gone/1")).unwrap();
        assert_eq!(kind(store.stat(&name("gone/1"))), StoreErrorKind::NotFound);
        assert_eq!(kind(store.delete(&name("gone/1"))), StoreErrorKind::NotFound);
    }
    let store = fixture.open();
    assert_eq!(names(&store, "gone/"), ["gone/2"]);
    put(&store, "gone/1", b"again").unwrap();
    assert_eq!(get(&store, "gone/1"), b"again");
    drop(store);
    assert_eq!(get(&fixture.open(), "gone/1"), b"again");
}

fn durable(fixture: &impl Fixture) {
    let store = fixture.open();
    put(&store, "stays/here/1", b"1").unwrap();
    drop(store);
    // Found by the next process, which does not know how far the earlier one came.
    let store = fixture.open();
    assert_eq!(kind(put(&store, "stays/here/1", b"2")), StoreErrorKind::Exists);
    for _ in 0..2 {
        store.make_durable(&name("stays/here/1")).unwrap();
    }
    assert_eq!(kind(store.make_durable(&name("stays/here/2"))), StoreErrorKind::NotFound);
    assert_eq!(get(&store, "stays/here/1"), b"1");
    // Repeatedly, and after a reopen: a deleted object stays deleted.
    store.delete(&name("stays/here/1")).unwrap();
    assert_eq!(kind(store.make_durable(&name("stays/here/1"))), StoreErrorKind::NotFound);
    for _ in 0..2 {
        assert_eq!(kind(store.delete(&name("stays/here/1"))), StoreErrorKind::NotFound);
    }
    drop(store);
    assert_eq!(kind(fixture.open().delete(&name("stays/here/1"))), StoreErrorKind::NotFound);
}

fn crash_in_put(fixture: &impl Fixture) {
    let used_before = {
        let store = fixture.open();
        let used_before = store.space().unwrap().used_bytes;
        // Dropped: as if it had never existed.
        let mut dropped = store.put_start(&name("crash"), 1 << 20).unwrap();
        dropped.write(&content(700_000, 3)).unwrap();
        drop(dropped);
        assert_eq!(store.space().unwrap().used_bytes, used_before);
        // Forgotten: simulates that the process has died.
        let mut dead = store.put_start(&name("crash"), 1 << 20).unwrap();
        dead.write(&content(700_000, 4)).unwrap();
        assert_eq!(kind(store.stat(&name("crash"))), StoreErrorKind::NotFound);
        std::mem::forget(dead);
        used_before
    };
    let store = fixture.open();
    assert_eq!(store.space().unwrap().used_bytes, used_before, "what a crash left is cleaned up");
    assert!(names(&store, "crash").is_empty());
    put(&store, "crash", b"now").unwrap();
    assert_eq!(get(&store, "crash"), b"now");
    assert_eq!(get(&store, "once"), b"first");
}

fn announced_bytes(fixture: &impl Fixture) {
    let store = fixture.open();
    let mut put = store.put_start(&name("announced"), 10).unwrap();
    put.write(b"12345").unwrap();
    assert_eq!(kind(put.write(b"678901")), StoreErrorKind::OutOfRange);
    drop(put);
    // Fewer bytes than announced are allowed.
    let mut put = store.put_start(&name("announced"), 5 << 20).unwrap();
    put.write(b"12345").unwrap();
    put.write(b"").unwrap();
    put.write(b"678").unwrap();
    assert_eq!(put.commit().unwrap().len_bytes, 8);
    assert_eq!(get(&store, "announced"), b"12345678");
}

fn concurrent_list(fixture: &impl Fixture) {
    let store = fixture.open();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Acquire) {
                let page = store.list("live/", None, 1000).unwrap();
                assert!(page.objects.len() >= last, "nothing that was committed goes missing");
                assert!(page.objects.iter().all(|stat| stat.len_bytes == 50_000), "whole or not at all");
                last = page.objects.len();
            }
        });
        for index in 0..40 {
            put(&store, &format!("live/{index:02}"), &content(50_000, index)).unwrap();
        }
        done.store(true, Ordering::Release);
    });
    assert_eq!(names(&store, "live/").len(), 40);
}

fn full(fixture: &impl Fixture) {
    let store = fixture.open_small();
    let mut stored = 0;
    let error = loop {
        match put(&store, &format!("fill/{stored:03}"), &content(50_000, stored)) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 100, "the store must have an end");
    };
    assert_eq!(error.kind, StoreErrorKind::NoSpace);
    assert!(stored >= 8, "only {stored} objects of 50,000 bytes fit");
    assert_eq!(names(&store, "fill/").len(), usize::from(stored));
    for index in 0..stored {
        assert!(get(&store, &format!("fill/{index:03}")) == content(50_000, index));
    }
    if store.capabilities().reclaims_space {
        // Freed space is used again, many times.
        for round in 0..20 {
            let slot = format!("fill/{:03}", round % stored);
            store.delete(&name(&slot)).unwrap();
            put(&store, &slot, &content(50_000, round % stored)).unwrap();
        }
        for index in 0..stored {
            store.delete(&name(&format!("fill/{index:03}"))).unwrap();
        }
        let most = content(50_000 * usize::from(stored), 9);
        put(&store, "fill/all", &most).unwrap();
        assert!(get(&store, "fill/all") == most, "free neighbours are one space again");
    }
}

fn probes(fixture: &impl Fixture) {
    let store = fixture.open();
    let report = probe(&store, Uuid::from_u128(77));
    assert!(report.passed(), "{report:?}");
    assert_eq!(report.checks.len(), 7);
    assert!(matches!(report.outcome(Check::RefusesOverwrite), Some(CheckOutcome::Passed)));
    assert!(names(&store, "probe/").is_empty());
}
