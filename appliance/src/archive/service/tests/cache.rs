//! Tests of the caches: what is stored, what is found, and the bound.

use super::*;

const NODE_BYTES: usize = 256;

fn id(sequence: u64) -> ObjectId {
    stretch(sequence, 2048, 3, 1000).job.id
}

fn blocks(first_lsn: Lsn, len_blocks: usize) -> Arc<ObjectBlocks> {
    Arc::new(ObjectBlocks {
        first_lsn,
        bytes: vec![first_lsn.0 as u8; len_blocks * BLOCK_BYTES],
        damaged: Vec::new(),
    })
}

#[test]
fn a_frame_is_found_by_each_of_its_blocks() {
    for frame_blocks in [16, 32, 64, 128, 256] {
        let mut cache = BlocksCache::new(64 << 20);
        let (one, other) = (id(1), id(2));
        for start in (0..997).step_by(frame_blocks) {
            let len_blocks = frame_blocks.min(997 - start);
            cache.insert(one, blocks(one.from_lsn.plus(start as u64), len_blocks));
        }
        for offset in 0..997 {
            let lsn = one.from_lsn.plus(offset);
            let first_lsn = one.from_lsn.plus(offset - offset % frame_blocks as u64);
            assert_eq!(cache.get(&one, lsn).unwrap().first_lsn, first_lsn);
            assert!(cache.get(&other, other.from_lsn.plus(offset)).is_none());
        }
        for lsn in [Lsn(one.from_lsn.0 - 1), one.to_lsn, Lsn(0), Lsn(u64::MAX)] {
            assert!(cache.get(&one, lsn).is_none());
        }
        let stats = cache.stats();
        assert_eq!((stats.hits, stats.misses), (997, 997 + 4));
        assert_eq!(stats.values, 997_usize.div_ceil(frame_blocks));
        assert_eq!(stats.used_bytes, 997 * BLOCK_BYTES + stats.values * NODE_BYTES);
        cache.clear();
        assert!(cache.get(&one, one.from_lsn).is_none());
        assert_eq!((cache.stats().used_bytes, cache.stats().values), (0, 0));
    }
}

#[test]
fn what_cannot_be_a_frame_or_is_too_large_is_not_kept() {
    let mut cache = BlocksCache::new(40 * BLOCK_BYTES);
    let one = id(1);
    cache.insert(one, blocks(one.from_lsn.plus(5), 16));
    cache.insert(one, blocks(Lsn(one.from_lsn.0 - 1), 16));
    cache.insert(one, blocks(one.from_lsn, 40));
    assert_eq!(cache.stats().values, 0);
    cache.insert(one, blocks(one.from_lsn, 16));
    assert_eq!(cache.stats().values, 1);
    // The same key with a value of another size replaces the first value.
    cache.insert(one, blocks(one.from_lsn, 32));
    let stats = cache.stats();
    assert_eq!((stats.values, stats.used_bytes), (1, 32 * BLOCK_BYTES + NODE_BYTES));
}

#[test]
fn entries_are_found_and_forgotten() {
    let root = tempfile::tempdir().unwrap();
    let store = directory(root.path());
    let stretch = stretch(2, 256, 0, 256);
    let options = options(VerifyPolicy::Stat);
    run(&stretch, &mut stretch.source(), &*store, &options).unwrap();
    let id = stretch.job.id;
    let entries = read_entries(&*store, &id, &mut Decompressor::new().unwrap(), &options).unwrap();
    let mut cache = EntriesCache::new(1 << 20);
    assert!(cache.get(&id).is_none());
    cache.insert(Arc::new(entries));
    assert_eq!(cache.get(&id).unwrap().units, *stretch.job.units);
    assert_eq!(cache.stats().used_bytes, stretch.job.units.len() * 24 + NODE_BYTES);
    cache.forget(&id);
    cache.forget(&id);
    assert!(cache.get(&id).is_none());
    assert_eq!(cache.stats().used_bytes, 0);
}

/// Compares the cache with a list that is searched linearly.
#[test]
fn the_least_recently_used_goes_first() {
    let frame = 16 * BLOCK_BYTES + NODE_BYTES;
    let budget_bytes = 20 * frame + 100;
    let mut cache = BlocksCache::new(budget_bytes);
    let one = id(1);
    // The newest is last.
    let mut model: Vec<(u64, usize)> = Vec::new();
    let mut state = 7;
    for _ in 0..20_000 {
        let start = noise(&mut state) % 60 * 16;
        let at = model.iter().position(|&(held, _)| held == start);
        if noise(&mut state).is_multiple_of(2) {
            let len_blocks = 1 + noise(&mut state) as usize % 16;
            cache.insert(one, blocks(one.from_lsn.plus(start), len_blocks));
            if let Some(at) = at {
                model.remove(at);
            }
            model.push((start, len_blocks * BLOCK_BYTES + NODE_BYTES));
            while model.iter().map(|(_, bytes)| bytes).sum::<usize>() > budget_bytes {
                model.remove(0);
            }
        } else {
            let found = cache.get(&one, one.from_lsn.plus(start));
            assert_eq!(found.is_some(), at.is_some());
            if let (Some(found), Some(at)) = (found, at) {
                assert_eq!(found.bytes.len() + NODE_BYTES, model[at].1);
                let held = model.remove(at);
                model.push(held);
            }
        }
        let stats = cache.stats();
        assert_eq!(stats.values, model.len());
        assert_eq!(stats.used_bytes, model.iter().map(|(_, bytes)| bytes).sum::<usize>());
        assert!(stats.used_bytes <= stats.budget_bytes);
    }
}
