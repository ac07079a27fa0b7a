//! Failing devices. A write or flush that fails stops the log: writes fail, reads continue, the
//! pool reports the reason, and after reopening the state is a prefix that contains everything
//! acknowledged. A read that fails fails one request.

use std::rc::Rc;

use varve::dma::BLOCK_BYTES;
use varve::volume::{CreateVolume, IoCompletion, IoError, Point, Pool, Request, Sink, VolumeError, VolumeId};
use varve_tests::sim::disk::SimDisk;
use varve_tests::sim::model::{fill, is_filled};
use varve_tests::sim::world::{World, run, submit, wait};

struct Setup {
    world: World,
    disk: SimDisk,
    pool: Rc<Pool>,
    id: VolumeId,
}

fn setup(seed: u64, volatile_cache: bool) -> Setup {
    let world = World::new(seed);
    let disk = SimDisk::new(257 + 12 * 256, volatile_cache, seed);
    let pool = world.create(disk.open(), 256).expect("a pool");
    let request =
        CreateVolume { name: "v".to_owned(), size_bytes: 64 * BLOCK_BYTES as u64, uuid: None, thin: false };
    let id = wait(&pool, Rc::clone(&pool).create_volume(request)).expect("a volume").id;
    Setup { world, disk, pool, id }
}

fn write(setup: &Setup, block: u64, stamp: u64, force_unit_access: bool, sink: &Rc<Sink>) {
    let mut bytes = [0; BLOCK_BYTES];
    fill(stamp, block, &mut bytes);
    submit(&setup.pool, setup.id, &Request::Write { block, data: &[&bytes], force_unit_access }, stamp, sink);
}

fn drain(pool: &Pool, sink: &Rc<Sink>) -> Vec<IoCompletion> {
    for _ in 0..100_000 {
        if sink.outstanding() == 0 {
            break;
        }
        pool.poll();
    }
    assert_eq!(sink.outstanding(), 0, "every request ends");
    std::iter::from_fn(|| sink.pop()).collect()
}

fn read(pool: &Pool, id: VolumeId, block: u64) -> IoCompletion {
    run(pool, id, &Request::Read { block, len_blocks: 1 })
}

/// The device fails at the n-th write, for every n of a short run.
#[test]
fn a_failing_write_poisons_the_pool() {
    let (mut poisoned, mut unwritten) = (0, 0);
    for after in 0..24 {
        for volatile_cache in [false, true] {
            let setup = setup(after, volatile_cache);
            setup.disk.fail_writes_after(Some(setup.disk.writes() + after));
            let sink = Sink::new();
            // Each block is written once: block n holds stamp n + 1.
            for block in 0..20 {
                write(&setup, block, block + 1, false, &sink);
                if block % 3 == 0 {
                    setup.pool.poll();
                }
            }
            let completions = drain(&setup.pool, &sink);
            assert_eq!(completions.len(), 20);
            // Acknowledged in order: first successes, then failures.
            let good = completions.iter().take_while(|completion| completion.result.is_ok()).count() as u64;
            for (index, completion) in completions.iter().enumerate() {
                assert_eq!(completion.tag, index as u64 + 1);
                let expected = if (index as u64) < good { Ok(()) } else { Err(IoError::WriteFault) };
                assert_eq!(completion.result, expected);
            }
            let info = setup.pool.info();
            assert_eq!(good == 20, info.state == "online", "{info:?}");
            // Reads continue, also of blocks that never reached the device.
            let mut taken = 0;
            for block in 0..20 {
                let done = read(&setup.pool, setup.id, block);
                assert_eq!(done.result, Ok(()));
                if is_filled(block + 1, block, &done.data[0]) {
                    assert_eq!(taken, block, "what was taken is a prefix");
                    taken = block + 1;
                } else {
                    // Refused on arrival.
                    assert!(block >= good && is_filled(0, block, &done.data[0]), "block {block}");
                }
            }
            unwritten += taken - good;
            if good < 20 {
                poisoned += 1;
                assert!(
                    info.problems.iter().any(|problem| problem.contains("writing a record failed")),
                    "{info:?}"
                );
                check_poisoned(&setup);
            }
            reopen_finds_a_prefix(setup, good);
        }
    }
    assert!(poisoned > 10 && unwritten > 10, "{poisoned} pools, {unwritten} blocks that were never written");
}

/// Checks that everything that would write fails with the reason, and that everything else works.
fn check_poisoned(setup: &Setup) {
    let bytes = [1; BLOCK_BYTES];
    for force_unit_access in [false, true] {
        let request = Request::Write { block: 0, data: &[&bytes], force_unit_access };
        assert_eq!(run(&setup.pool, setup.id, &request).result, Err(IoError::WriteFault));
    }
    let trim = run(&setup.pool, setup.id, &Request::Trim { ranges: &[(0, 5)] });
    assert_eq!(trim.result, Err(IoError::WriteFault));
    assert_eq!(run(&setup.pool, setup.id, &Request::Flush).result, Err(IoError::WriteFault));
    assert!(is_filled(1, 0, &read(&setup.pool, setup.id, 0).data[0]), "a refused write changes nothing");
    let synch =
        wait(&setup.pool, Rc::clone(&setup.pool).create_synch("s".to_owned(), serde_json::Value::Null));
    assert!(matches!(synch, Err(VolumeError::Failed { .. })), "{synch:?}");
    let clone = Rc::clone(&setup.pool).clone_volume("v".to_owned(), Point::Ago(0), "c".to_owned(), false);
    assert!(matches!(wait(&setup.pool, clone), Err(VolumeError::Failed { .. })));
    assert_eq!(setup.pool.volumes().len(), 1);
    let close = wait(&setup.pool, Rc::clone(&setup.pool).close());
    assert!(matches!(close, Err(VolumeError::Failed { .. })), "{close:?}");
}

fn reopen_finds_a_prefix(setup: Setup, good: u64) {
    let Setup { world, disk, pool, .. } = setup;
    drop(pool);
    disk.fail_writes_after(None);
    let pool = world.open(disk.open()).expect("it opens");
    let id = pool.find_volume("v").expect("it was made").id;
    let mut end = 0;
    for block in 0..20 {
        let done = read(&pool, id, block);
        assert_eq!(done.result, Ok(()));
        if is_filled(block + 1, block, &done.data[0]) {
            assert_eq!(end, block, "what is there is a prefix");
            end = block + 1;
        } else {
            assert!(is_filled(0, block, &done.data[0]), "block {block} is neither written nor empty");
        }
    }
    assert!(end >= good, "{good} writes were acknowledged, {end} are there");
    assert_eq!(pool.info().state, "online");
}

/// A flush fails: nothing that waited for it is acknowledged, and the pool accepts no more writes.
#[test]
fn a_failing_flush_poisons_the_pool() {
    let setup = setup(5, true);
    setup.disk.fail_flushes(true);
    let sink = Sink::new();
    write(&setup, 0, 1, false, &sink);
    assert_eq!(drain(&setup.pool, &sink)[0].result, Ok(()), "a write that needs no flush");
    write(&setup, 1, 2, true, &sink);
    assert_eq!(drain(&setup.pool, &sink)[0].result, Err(IoError::WriteFault));
    let info = setup.pool.info();
    assert_eq!(info.state, "failed");
    assert!(info.problems.iter().any(|problem| problem.contains("flushing the device failed")), "{info:?}");
    for (block, stamp) in [(0, 1), (1, 2), (2, 0)] {
        assert!(is_filled(stamp, block, &read(&setup.pool, setup.id, block).data[0]));
    }
    check_poisoned(&setup);
}

/// A read that fails is a media error of that request; the pool stays intact.
#[test]
fn a_failing_read_fails_one_request() {
    let setup = setup(6, false);
    let sink = Sink::new();
    for block in 0..8 {
        write(&setup, block, block + 1, false, &sink);
        drain(&setup.pool, &sink);
    }
    // Finds the device block of block 3 by its content.
    let held = |&at: &u64| setup.disk.block(at).is_some_and(|bytes| is_filled(4, 3, &bytes));
    let device_block = setup.disk.written_blocks().into_iter().find(held).expect("it was written");
    setup.disk.fail_reads_of(&[device_block]);
    // The pool retries it for about 1 s.
    let patiently = |block, len_blocks| {
        let sink = Sink::new();
        submit(&setup.pool, setup.id, &Request::Read { block, len_blocks }, 0, &sink);
        for _ in 0..10_000 {
            if let Some(completion) = sink.pop() {
                return completion;
            }
            setup.world.clock.advance(1_000_000);
            setup.pool.poll();
        }
        panic!("a read does not end");
    };
    for block in 0..8 {
        let expected = if block == 3 { Err(IoError::ReadFault) } else { Ok(()) };
        assert_eq!(patiently(block, 1).result, expected);
    }
    let across = patiently(0, 8);
    assert_eq!((across.result, across.data.len()), (Err(IoError::ReadFault), 0));
    setup.disk.fail_reads_of(&[]);
    assert!(is_filled(4, 3, &read(&setup.pool, setup.id, 3).data[0]), "it is not remembered");
    write(&setup, 3, 99, true, &sink);
    assert_eq!(drain(&setup.pool, &sink)[0].result, Ok(()));
    assert_eq!(setup.pool.info().state, "online");
    assert_eq!(setup.pool.find_volume("v").expect("there").stats.errors, 2);
}
