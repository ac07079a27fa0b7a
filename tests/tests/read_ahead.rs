//! Read-ahead along the index: hosts that read in order get what the index specifies, whatever was
//! read ahead, over a device that completes in any order and fails.

use std::collections::HashMap;
use std::rc::Rc;

use varve::dma::BLOCK_BYTES;
use varve::log::Recycling;
use varve::volume::{CreateVolume, IoCompletion, PoolOptions, Request, Sink, Submitted, VolumeId};
use varve_tests::sim::rng::Rng;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world;

const BLOCKS: u64 = 600;

fn run(seed: u64, read_ahead_blocks: Option<u64>) -> (Run, VolumeId) {
    let shape = Shape {
        device_blocks: 257 + 60 * 256,
        segment_blocks: 256,
        volatile_cache: false,
        volume_blocks: BLOCKS,
    };
    let run = Run::with_options(seed, shape, PoolOptions { read_ahead_blocks, ..PoolOptions::default() });
    let id = run.pool.find_volume("v0").expect("a run begins with it").id;
    (run, id)
}

/// The contents of a block with a stamp.
fn filled(stamp: u64) -> Vec<u8> {
    stamp.to_le_bytes().repeat(BLOCK_BYTES / 8)
}

fn bytes_of(completion: &IoCompletion) -> Vec<u8> {
    completion.data.iter().flat_map(|piece| piece.to_vec()).collect()
}

fn write(run: &Run, id: VolumeId, block: u64, stamp: u64) {
    let request = Request::Write { block, data: &[&filled(stamp)], force_unit_access: false };
    assert_eq!(world::run(&run.pool, id, &request).result, Ok(()));
}

/// Writes every block once, in random order; its stamp is its number plus one.
fn scatter(run: &Run, id: VolumeId, rng: &mut Rng) {
    let mut order: Vec<u64> = (0..BLOCKS).collect();
    for place in (1..order.len()).rev() {
        order.swap(place, rng.below(place as u64 + 1) as usize);
    }
    for block in order {
        write(run, id, block, block + 1);
    }
    assert_eq!(world::run(&run.pool, id, &Request::Flush).result, Ok(()));
}

#[test]
fn a_host_that_reads_in_order_finds_the_next_blocks_there() {
    for (read_ahead_blocks, len_blocks) in [(None, 1), (None, 4), (Some(16), 1), (Some(0), 1)] {
        let (run, id) = run(1, read_ahead_blocks);
        scatter(&run, id, &mut Rng::new(1));
        let mut at_once = 0;
        for block in (0..BLOCKS).step_by(len_blocks as usize) {
            let sink = Sink::new();
            world::submit(&run.pool, id, &Request::Read { block, len_blocks }, 0, &sink);
            at_once += u64::from(len_blocks) * u64::from(!sink.is_empty());
            while sink.is_empty() {
                run.pool.poll();
            }
            let completion = sink.pop().expect("it ended");
            assert_eq!(completion.result, Ok(()));
            let data = bytes_of(&completion);
            let wanted: Vec<u8> =
                (block..block + u64::from(len_blocks)).flat_map(|at| filled(at + 1)).collect();
            assert!(data == wanted, "block {block}");
        }
        let stats = run.pool.stats();
        if read_ahead_blocks == Some(0) {
            assert_eq!((stats.read_ahead_blocks, stats.read_ahead_used_blocks, at_once), (0, 0, 0));
            continue;
        }
        // All blocks except those of the reads that establish the order; each block once.
        let first = 3 * u64::from(len_blocks);
        assert_eq!((stats.read_ahead_blocks, stats.read_ahead_used_blocks), (BLOCKS - first, BLOCKS - first));
        assert!(at_once > BLOCKS / 4, "{at_once}");
    }
}

/// Two hosts read the same blocks side by side: read-ahead follows one of them, whichever comes
/// first.
#[test]
fn two_hosts_that_read_the_same_do_not_hide_from_each_other() {
    let (run, id) = run(2, None);
    scatter(&run, id, &mut Rng::new(2));
    for block in 0..BLOCKS {
        for _ in 0..2 {
            let read = world::run(&run.pool, id, &Request::Read { block, len_blocks: 1 });
            assert_eq!(read.result, Ok(()));
            assert!(bytes_of(&read) == filled(block + 1), "block {block}");
        }
    }
    let stats = run.pool.stats();
    assert_eq!((stats.read_ahead_blocks, stats.read_ahead_used_blocks), (BLOCKS - 3, BLOCKS - 3));
}

/// More readers than read-ahead follows, each with several reads in flight, while blocks are
/// written and trimmed: each read returns the content at its submission.
#[test]
fn what_is_read_ahead_is_never_older_than_the_index() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (run, id) = run(seed, if seed % 4 == 3 { Some(24) } else { None });
        scatter(&run, id, &mut rng);
        let mut stamps: Vec<u64> = (1..=BLOCKS).collect();
        let mut next_stamp = BLOCKS + 1;
        let sink = Sink::new();
        let mut under_way: HashMap<u64, Vec<u64>> = HashMap::new();
        let mut readers: Vec<u64> = (0..2 + rng.below(11)).map(|_| rng.below(BLOCKS)).collect();
        for tag in 0..4000 {
            if rng.one_in(6) {
                let (block, len) = (rng.below(BLOCKS - 8), 1 + rng.below(8));
                if rng.one_in(4) {
                    let trim = Request::Trim { ranges: &[(block, len)] };
                    assert_eq!(world::run(&run.pool, id, &trim).result, Ok(()));
                    stamps[block as usize..(block + len) as usize].fill(0);
                } else {
                    write(&run, id, block, next_stamp);
                    stamps[block as usize] = next_stamp;
                    next_stamp += 1;
                }
            }
            let reader = rng.below(readers.len() as u64) as usize;
            let block = readers[reader];
            let len_blocks = (1 + rng.below(5)).min(BLOCKS - block);
            let goes_on = block + len_blocks < BLOCKS && !rng.one_in(200);
            readers[reader] = if goes_on { block + len_blocks } else { rng.below(BLOCKS) };
            let request = Request::Read { block, len_blocks: len_blocks as u32 };
            if run.pool.submit(id, &request, tag, &sink) == Submitted::Queued {
                under_way.insert(tag, stamps[block as usize..(block + len_blocks) as usize].to_vec());
            }
            if rng.one_in(3) {
                run.pool.poll();
            }
            while under_way.len() > 16 {
                run.pool.poll();
                reap(&sink, &mut under_way, seed);
            }
            reap(&sink, &mut under_way, seed);
        }
        while !under_way.is_empty() {
            run.pool.poll();
            reap(&sink, &mut under_way, seed);
        }
        let stats = run.pool.stats();
        assert!(stats.read_ahead_used_blocks > 500, "seed {seed}: {stats:?}");
    }
}

fn reap(sink: &Rc<Sink>, under_way: &mut HashMap<u64, Vec<u64>>, seed: u64) {
    while let Some(completion) = sink.pop() {
        let wanted = under_way.remove(&completion.tag).expect("each read ends once");
        assert_eq!(completion.result, Ok(()), "seed {seed}");
        let wanted: Vec<u8> = wanted.into_iter().flat_map(filled).collect();
        assert!(bytes_of(&completion) == wanted, "seed {seed}: read {}", completion.tag);
    }
}

/// Two hosts write in turns, so their blocks alternate in the log. After copy-forward, each host's
/// blocks are adjacent, and are read in fewer pieces.
#[test]
fn what_two_hosts_wrote_in_turns_is_apart_once_it_was_copied_forward() {
    const EACH: u64 = 100;
    let shape = Shape {
        device_blocks: 257 + 24 * 256,
        segment_blocks: 256,
        volatile_cache: false,
        volume_blocks: EACH,
    };
    let options =
        PoolOptions { recycling: Recycling::Discard, read_ahead_blocks: Some(0), ..PoolOptions::default() };
    let run = Run::with_options(3, shape, options);
    let create = CreateVolume {
        name: "other".to_owned(),
        size_bytes: EACH * BLOCK_BYTES as u64,
        uuid: None,
        thin: false,
    };
    world::wait(&run.pool, Rc::clone(&run.pool).create_volume(create)).expect("there is room");
    let id = |name: &str| run.pool.find_volume(name).expect("it exists").id;
    let hosts = [id("v0"), id("other")];
    let sink = Sink::new();
    for block in 0..EACH {
        for (host, stamp) in hosts.into_iter().zip([block + 1, EACH + block + 1]) {
            let request = Request::Write { block, data: &[&filled(stamp)], force_unit_access: false };
            assert_eq!(run.pool.submit(host, &request, 0, &sink), Submitted::Queued);
        }
    }
    while sink.outstanding() > 0 {
        run.pool.poll();
        while sink.pop().is_some() {}
    }
    let read_all = || {
        let before = run.disk.reads();
        for (host, first) in hosts.into_iter().zip([1, EACH + 1]) {
            let read = world::run(&run.pool, host, &Request::Read { block: 0, len_blocks: EACH as u32 });
            let wanted: Vec<u8> = (first..first + EACH).flat_map(filled).collect();
            assert!(bytes_of(&read) == wanted);
        }
        run.disk.reads() - before
    };
    let before = read_all();
    assert!(before >= 2 * EACH - 20, "they alternate: {before}");
    // A shorter working set excludes their segment, and nobody else writes: most of it is copied in
    // whole batches.
    let working_set = run.pool.info().working_set_segments;
    for block in 0..(working_set - 3) * 300 {
        write(&run, hosts[0], EACH - 1, block + 1000);
    }
    write(&run, hosts[0], EACH - 1, EACH);
    world::wait(&run.pool, Rc::clone(&run.pool).set_working_set(4)).expect("it is possible");
    for _ in 0..100_000 {
        run.world.clock.advance(100_000);
        run.pool.poll();
    }
    assert_eq!(run.pool.info().working_set_segments, 4);
    let reads = read_all();
    assert!(reads < before / 2, "{reads} of {before}");
}

/// An unreadable block and a damaged one are in the read-ahead range, in extents with their
/// neighbours: reads of them fail, and no others.
#[test]
fn what_cannot_be_read_ahead_fails_for_who_asks_for_it_alone() {
    for seed in 0..10 {
        let mut rng = Rng::new(seed);
        let (run, id) = run(seed, None);
        if seed % 2 == 0 {
            scatter(&run, id, &mut rng);
        } else {
            // Neighbours are adjacent, and form one extent.
            for block in 0..BLOCKS {
                write(&run, id, block, block + 1);
            }
        }
        let bad = [40 + rng.below(100), 200 + rng.below(300)];
        let device_block = |block: u64| {
            let is_it = |at: &u64| run.disk.block(*at).is_some_and(|bytes| bytes == filled(block + 1));
            run.disk.written_blocks().into_iter().find(is_it).expect("it was written")
        };
        run.disk.fail_reads_of(&[device_block(bad[0])]);
        assert!(run.disk.flip_bit(device_block(bad[1]), rng.below(8 * BLOCK_BYTES as u64)));
        let depth = 1 + seed as usize % 3;
        let sink = Sink::new();
        let mut blocks = 0..BLOCKS;
        let mut under_way = 0;
        loop {
            while under_way < depth
                && let Some(block) = blocks.next()
            {
                world::submit(&run.pool, id, &Request::Read { block, len_blocks: 1 }, block, &sink);
                under_way += 1;
            }
            if under_way == 0 {
                break;
            }
            // The pool retries what cannot be read for about 1 s.
            run.world.clock.advance(1_000_000);
            run.pool.poll();
            while let Some(completion) = sink.pop() {
                under_way -= 1;
                let block = completion.tag;
                assert_eq!(completion.result.is_err(), bad.contains(&block), "seed {seed}: block {block}");
                if completion.result.is_ok() {
                    assert!(bytes_of(&completion) == filled(block + 1), "seed {seed}: block {block}");
                }
            }
        }
        assert!(run.pool.stats().checksum_errors > 0);
    }
}
