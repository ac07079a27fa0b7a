//! Data: every way that bytes travel, in every combination of digests, errors, and waits for room.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{BLOCK, BLOCKS, LIMIT, Served, pattern};
use crate::nvmf::host::{ConnectOptions, HostError, Payload, Queue, Wait};
use crate::nvmf::server::TargetConfig;
use crate::nvmf::server::memory::Behavior;
use crate::nvmf::wire::command::{NSID_ALL, Rw, Sqe};
use crate::nvmf::wire::opcode::IoOpcode;
use crate::nvmf::wire::status::Status;
use crate::volume::IoError;

fn options() -> ConnectOptions {
    ConnectOptions { transfer_bytes_max: 512 * 1024, ..ConnectOptions::default() }
}

/// Waits for one completion.
fn one(queue: &mut Queue) -> (u64, Status) {
    let mut answer = None;
    while answer.is_none() {
        let count = queue.poll(Wait::Block(LIMIT), |completion| {
            answer = Some((completion.tag, completion.status));
        });
        assert!(count.expect("the connection lives") > 0, "no completion");
    }
    answer.expect("there is one")
}

fn execute(queue: &mut Queue, sqe: Sqe, payload: Payload<'_>) -> Status {
    queue.execute_with(sqe, payload, &mut [], |_| {}).expect("the connection lives").0
}

#[test]
fn every_size_travels_under_every_choice_of_digests() {
    let served = Served::start();
    for (header_digest, data_digest) in [(false, false), (true, false), (false, true), (true, true)] {
        let (controller, mut queue) = served.open(ConnectOptions { header_digest, data_digest, ..options() });
        // In the capsule up to 4 blocks, by R2T above.
        for (seed, blocks) in [1, 2, 4, 5, 8, 33, 128].into_iter().enumerate() {
            let data = pattern(seed as u64, blocks * BLOCK);
            let lba = seed as u64 * 200;
            // From a copy, and from shared memory.
            if seed % 2 == 0 {
                queue.write(lba, &data).expect("it is written");
            } else {
                let shared = Bytes::from(data.clone());
                queue.submit_write_shared(lba, &shared, false, 7).expect("room");
                assert_eq!(one(&mut queue), (7, Status::SUCCESS));
            }
            let mut read = vec![0; data.len()];
            queue.read(lba, &mut read).expect("it is read");
            assert!(read == data, "{blocks} blocks, digests {header_digest} {data_digest}");
        }
        queue.flush().expect("it is flushed");
        drop(queue);
        controller.shutdown().expect("it shuts down");
    }
    served.finish();
}

#[test]
fn many_commands_at_once_late_and_out_of_order() {
    let served = Served::start();
    let deep = ConnectOptions { queue_depth: 64, ..options() };
    let (controller, mut queue) = served.open(deep);
    served.behave(Behavior { delay_polls: 3, reverse: true, busy: 2, busy_of: 5, ..Behavior::default() });
    let sizes = [1_usize, 8, 3, 64, 2, 128, 4, 16];
    let mut lba = 0;
    let mut written = Vec::new();
    for round in 0..64_u64 {
        let data = pattern(round, sizes[round as usize % sizes.len()] * BLOCK);
        if lba + 128 > BLOCKS {
            lba = 0;
            written.clear();
        }
        while queue.free_slots() == 0 {
            assert_eq!(one(&mut queue).1, Status::SUCCESS);
        }
        if round % 2 == 0 {
            queue.submit_write(lba, &data, false, round).expect("room");
        } else {
            queue.submit_write_shared(lba, &data.clone().into(), false, round).expect("room");
        }
        written.push((lba, data.len()));
        lba += (data.len() / BLOCK) as u64;
    }
    while queue.outstanding_count() > 0 {
        assert_eq!(one(&mut queue).1, Status::SUCCESS);
    }
    for (tag, (lba, len_bytes)) in written.iter().enumerate().rev() {
        queue.submit_read(*lba, (*len_bytes / BLOCK) as u32, tag as u64).expect("room");
        if queue.free_slots() == 0 || tag == 0 {
            while queue.outstanding_count() > 0 {
                let mut checked = 0;
                queue
                    .poll(Wait::Block(LIMIT), |completion| {
                        assert_eq!(completion.status, Status::SUCCESS);
                        let round = completion.tag + 64 - written.len() as u64;
                        assert!(completion.data == pattern(round, written[completion.tag as usize].1));
                        checked += 1;
                    })
                    .expect("the connection lives");
                assert!(checked > 0);
            }
        }
    }
    assert!(served.with(|state| state.target.stats().storage_busy) > 0);
    drop((queue, controller));
    served.finish();
}

#[test]
fn commands_of_a_storage_that_stays_busy_end_before_their_host_resets() {
    let config = TargetConfig { busy_timeout: Duration::from_millis(200), ..TargetConfig::default() };
    let served = Served::with_config(config, 64 << 20);
    let (controller, mut queue) = served.open(options());
    served.behave(Behavior { busy: 1, busy_of: 1, ..Behavior::default() });
    let start = Instant::now();
    // In a capsule, by R2T, without data.
    queue.submit_write_shared(0, &pattern(1, BLOCK).into(), false, 1).expect("room");
    queue.submit_write_shared(8, &pattern(2, 100 * BLOCK).into(), false, 2).expect("room");
    queue.submit_read(0, 1, 3).expect("room");
    let mut ended = 0;
    while ended < 3 {
        let polled = queue.poll(Wait::Block(LIMIT), |completion| {
            assert_eq!(completion.status, Status::COMMAND_INTERRUPTED);
            ended += 1;
        });
        polled.expect("the connection lives");
        assert!(start.elapsed() < LIMIT, "{ended} of 3 ended");
    }
    let waited = start.elapsed();
    assert!((Duration::from_millis(200)..LIMIT).contains(&waited), "{waited:?}");
    assert!(served.with(|state| state.target.stats().commands_ended_busy) >= 3);
    // Everything continues as soon as the storage does.
    served.behave(Behavior::default());
    queue.submit_write_shared(0, &pattern(1, BLOCK).into(), false, 4).expect("room");
    assert_eq!(one(&mut queue), (4, Status::SUCCESS));
    drop((queue, controller));
    served.finish();
}

#[test]
fn little_staging_memory_makes_writes_wait_but_not_fail() {
    let config = TargetConfig { staging_bytes_per_connection_max: 512 * 1024, ..TargetConfig::default() };
    let served = Served::with_config(config, 1 << 20);
    let (controller, mut queue) = served.open(options());
    let data: Vec<Vec<u8>> = (0..16).map(|seed| pattern(seed, 100 * BLOCK)).collect();
    for (tag, data) in data.iter().enumerate() {
        queue.submit_write(tag as u64 * 128, data, false, tag as u64).expect("room");
    }
    while queue.outstanding_count() > 0 {
        assert_eq!(one(&mut queue).1, Status::SUCCESS);
    }
    for (tag, data) in data.iter().enumerate() {
        let mut read = vec![0; data.len()];
        queue.read(tag as u64 * 128, &mut read).expect("it is read");
        assert!(&read == data);
    }
    assert!(served.with(|state| state.target.stats().staging_waits) > 0);
    drop((queue, controller));
    served.finish();
}

#[test]
fn zeroes_trims_compares_and_verifies() {
    let served = Served::start();
    let (controller, mut queue) = served.open(options());
    let data = pattern(7, 16 * BLOCK);
    queue.write(100, &data).expect("it is written");

    // Compare in the capsule and by R2T, equal and not.
    for blocks in [1, 16] {
        queue.submit_compare(100, &data[..blocks * BLOCK], 1).expect("room");
        assert_eq!(one(&mut queue).1, Status::SUCCESS);
        let mut other = data[..blocks * BLOCK].to_vec();
        other[blocks * BLOCK - 1] ^= 1;
        queue.submit_compare(100, &other, 1).expect("room");
        assert_eq!(one(&mut queue).1, Status::COMPARE_FAILURE);
    }
    assert_eq!(
        execute(&mut queue, Rw::new(IoOpcode::Verify, 1, 100, 16).into(), Payload::None),
        Status::SUCCESS
    );

    queue.submit_write_zeroes(100, 2, false, 1).expect("room");
    assert_eq!(one(&mut queue).1, Status::SUCCESS);
    queue.submit_trim(&[(104, 1), (110, 2)], 1).expect("room");
    assert_eq!(one(&mut queue).1, Status::SUCCESS);
    let mut expected = data;
    for block in [0, 1, 4, 10, 11] {
        expected[block * BLOCK..][..BLOCK].fill(0);
    }
    let mut read = vec![0; 16 * BLOCK];
    queue.read(100, &mut read).expect("it is read");
    assert!(read == expected);

    // All 256 ranges, and a whole volume of zeroes.
    let ranges: Vec<(u64, u32)> = (0..256).map(|range| (range * 2, 1)).collect();
    queue.submit_trim(&ranges, 1).expect("room");
    assert_eq!(one(&mut queue).1, Status::SUCCESS);
    queue.submit_write_zeroes(0, BLOCKS as u32, false, 1).expect("room");
    assert_eq!(one(&mut queue).1, Status::SUCCESS);
    drop((queue, controller));
    served.finish();
}

#[test]
fn what_is_wrong_gets_its_status_and_the_queue_goes_on() {
    let served = Served::start();
    let (controller, mut queue) = served.open(options());
    let block = vec![0; BLOCK];
    let mut rw = |opcode, nsid, lba, blocks, payload: Payload<'_>| {
        execute(&mut queue, Rw::new(opcode, nsid, lba, blocks).into(), payload).code_only()
    };
    let read = |blocks: u32| Payload::Read(blocks * BLOCK as u32);
    assert_eq!(rw(IoOpcode::Read, 1, BLOCKS, 1, read(1)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(rw(IoOpcode::Read, 1, BLOCKS - 1, 2, read(2)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(rw(IoOpcode::Read, 1, u64::MAX, 2, read(2)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(rw(IoOpcode::Write, 1, BLOCKS, 1, Payload::Write(&block)), Status::LBA_OUT_OF_RANGE);
    assert_eq!(rw(IoOpcode::Read, 2, 0, 1, read(1)), Status::INVALID_NAMESPACE);
    assert_eq!(rw(IoOpcode::Read, NSID_ALL, 0, 1, read(1)), Status::INVALID_NAMESPACE);
    assert_eq!(rw(IoOpcode::Read, 1, 0, 129, read(128)), Status::INVALID_FIELD);
    assert_eq!(rw(IoOpcode::Read, 1, 0, 2, read(1)), Status::INVALID_DATA_SGL_LENGTH);
    assert_eq!(rw(IoOpcode::Write, 1, 0, 2, Payload::Write(&block)), Status::INVALID_DATA_SGL_LENGTH);
    assert_eq!(rw(IoOpcode::WriteUncorrectable, 1, 0, 1, Payload::None), Status::INVALID_OPCODE);
    assert_eq!(rw(IoOpcode::ReservationReport, 1, 0, 1, read(1)), Status::INVALID_OPCODE);
    // Fused commands are not supported.
    let mut fused: Sqe = Rw::new(IoOpcode::Compare, 1, 0, 1).into();
    fused.flags |= 1;
    assert_eq!(execute(&mut queue, fused, Payload::Write(&block)).code_only(), Status::INVALID_FIELD);
    // A flush of all namespaces is supported.
    let flush = Sqe::new(IoOpcode::Flush.into(), NSID_ALL);
    assert_eq!(execute(&mut queue, flush, Payload::None), Status::SUCCESS);

    for (error, status) in [
        (IoError::OutOfRange, Status::LBA_OUT_OF_RANGE),
        (IoError::InvalidLength, Status::INVALID_FIELD),
        (IoError::CapacityExceeded, Status::CAPACITY_EXCEEDED),
        (IoError::ReadFault, Status::UNRECOVERED_READ_ERROR),
        (IoError::WriteFault, Status::WRITE_FAULT),
        (IoError::ReadOnly, Status::NAMESPACE_WRITE_PROTECTED),
        (IoError::Gone, Status::INVALID_NAMESPACE),
    ] {
        served.behave(Behavior { error: Some(error), ..Behavior::default() });
        let write = execute(&mut queue, Rw::new(IoOpcode::Write, 1, 0, 1).into(), Payload::Write(&block));
        assert_eq!(write.code_only(), status);
        assert!(write.is_do_not_retry());
    }
    // Lack of space is temporary.
    served.behave(Behavior { error: Some(IoError::NoRoom), ..Behavior::default() });
    let write = execute(&mut queue, Rw::new(IoOpcode::Write, 1, 0, 1).into(), Payload::Write(&block));
    assert_eq!((write.code_only(), write.is_do_not_retry()), (Status::CAPACITY_EXCEEDED, false));
    // The host must retry what may succeed later.
    served.behave(Behavior { error: Some(IoError::NotNow), ..Behavior::default() });
    let write = execute(&mut queue, Rw::new(IoOpcode::Write, 1, 0, 1).into(), Payload::Write(&block));
    assert_eq!(write, Status::COMMAND_INTERRUPTED);
    served.behave(Behavior::default());
    queue.write(0, &block).expect("the queue goes on");
    drop((queue, controller));
    served.finish();
}

#[test]
fn a_read_only_volume_refuses_writes() {
    let served = Served::start();
    let nqn = crate::nvmf::nqn::of_volume("fixed");
    let mut controller =
        crate::nvmf::host::Controller::connect(served.address, &nqn, options()).expect("the target answers");
    let namespace = controller.namespaces().expect("it lists").remove(0);
    assert_eq!(namespace.identify.attributes & 1, 1);
    let mut queue = controller.take_queues().remove(0);
    queue.set_geometry(namespace.geometry());
    let refused = queue.write(0, &vec![0; BLOCK]).expect_err("it is read-only");
    assert!(
        matches!(refused, HostError::Status { status, .. } if status.code_only() == Status::NAMESPACE_WRITE_PROTECTED)
    );
    queue.read(0, &mut vec![0; BLOCK]).expect("it is read");
    drop((queue, controller));
    served.finish();
}

#[test]
fn a_host_that_does_not_read_holds_up_nobody_else() {
    let served = Served::start();
    let deep = ConnectOptions { queue_depth: 64, ..options() };
    let (slow_controller, mut slow) = served.open(deep);
    for tag in 0..64 {
        slow.submit_read(0, 128, tag).expect("room");
    }
    slow.send().expect("the connection lives");
    let (controller, mut queue) = served.open(options());
    for round in 0..50 {
        let data = pattern(round, 8 * BLOCK);
        queue.write(round, &data).expect("it is written");
    }
    // It gets everything once it reads.
    std::thread::sleep(Duration::from_millis(200));
    while slow.outstanding_count() > 0 {
        assert_eq!(one(&mut slow).1, Status::SUCCESS);
    }
    drop((queue, controller, slow, slow_controller));
    served.finish();
}
