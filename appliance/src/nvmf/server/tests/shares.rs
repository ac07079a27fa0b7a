//! Memory for host data is shared: hosts that never read, never send the requested data, or request
//! more than there is, beside hosts that only want their answers.

use std::time::{Duration, Instant};

use zerocopy::IntoBytes;

use super::malformed::RawAssociation;
use super::{BLOCK, LIMIT, Served, pattern};
use crate::nvmf::host::{ConnectOptions, Controller, Queue, RawConnection, Wait};
use crate::nvmf::nqn;
use crate::nvmf::server::TargetConfig;
use crate::nvmf::server::memory::Behavior;
use crate::nvmf::wire::command::{GetLogPage, Rw};
use crate::nvmf::wire::fabrics::{CONTROLLER_ID_DYNAMIC, Connect, ConnectData};
use crate::nvmf::wire::log_page::LogPageId;
use crate::nvmf::wire::opcode::IoOpcode;
use crate::nvmf::wire::pdu::{CapsuleResp, Digests, PduType, flags};
use crate::nvmf::wire::sgl::SglDescriptor;
use crate::nvmf::wire::status::Status;

/// The longest that a command of a well-behaved host may take.
const PATIENCE: Duration = Duration::from_secs(2);
const TRANSFER_BLOCKS: u32 = 128;
const TRANSFER: usize = TRANSFER_BLOCKS as usize * BLOCK;
/// Commands that a raw queue of 32 entries accepts.
const DEPTH: u16 = 31;
const DMA_BYTES: usize = 16 << 20;

fn none() -> Digests {
    Digests::default()
}

/// A target with little memory.
fn small(config: TargetConfig) -> Served {
    Served::with_config(config, DMA_BYTES)
}

fn options() -> ConnectOptions {
    ConnectOptions { transfer_bytes_max: TRANSFER as u32, ..ConnectOptions::default() }
}

/// Commands that move 512 KiB each, as many as the queue accepts.
fn ask_for_all(raw: &mut RawConnection, opcode: IoOpcode) {
    for command_id in 1..=DEPTH {
        let mut command = Rw::new(opcode, 1, u64::from(command_id) * 128 % 3968, TRANSFER_BLOCKS);
        command.command_id.set(command_id);
        command.sgl = SglDescriptor::transport(TRANSFER as u32);
        raw.send_command(command.into(), &[], none()).expect("sent");
    }
}

/// Reads and writes of one block and of 16 blocks, one after another, each in time.
fn is_served(queue: &mut Queue, rounds: u64) {
    for round in 0..rounds {
        for blocks in [1, 16] {
            let start = Instant::now();
            let data = pattern(round, blocks * BLOCK);
            queue.write(4000, &data).expect("it is written");
            let mut read = vec![0; data.len()];
            queue.read(4000, &mut read).expect("it is read");
            assert!(read == data);
            assert!(start.elapsed() < PATIENCE, "round {round}: {:?}", start.elapsed());
        }
    }
}

fn is_full(served: &Served) {
    served.await_that("others wait", |state| state.target.stats().waiting_for_memory > 0);
}

#[test]
fn readers_that_never_read_keep_nobody_from_its_answers() {
    let served = small(TargetConfig::default());
    let (first, mut early) = served.open(options());
    let (admin, mut never) = RawAssociation::with_queues(&served, none(), 12);
    for raw in &mut never {
        ask_for_all(raw, IoOpcode::Read);
    }
    is_full(&served);
    is_served(&mut early, 20);
    // A host that comes later is served too.
    let (second, mut late) = served.open(options());
    is_served(&mut late, 20);
    let stats = served.with(|state| state.target.stats());
    assert!(stats.host_memory_bytes <= DMA_BYTES as u64, "{stats:?}");
    drop((first, early, second, late, admin, never));
    served.finish();
}

#[test]
fn queues_that_send_no_data_keep_nobody_from_writing() {
    let served = small(TargetConfig::default());
    let (admin, mut silent) = RawAssociation::with_queues(&served, none(), 5);
    for raw in &mut silent {
        ask_for_all(raw, IoOpcode::Write);
    }
    is_full(&served);
    let (controller, mut queue) = served.open(options());
    is_served(&mut queue, 20);
    assert!(served.with(|state| state.target.stats().staging_waits) > 0);
    drop((controller, queue, admin, silent));
    served.finish();
}

#[test]
fn who_is_too_slow_for_those_who_wait_is_ended_and_counted() {
    let config = TargetConfig { peer_rate_span: Duration::from_millis(500), ..TargetConfig::default() };
    for opcode in [IoOpcode::Read, IoOpcode::Write] {
        let served = small(config.clone());
        let (admin, mut slow) = RawAssociation::with_queues(&served, none(), 8);
        for raw in &mut slow {
            ask_for_all(raw, opcode);
        }
        is_full(&served);
        // A host that requests a lot at once must wait, and that ends the hosts it waits for.
        let (controller, mut queue) = served.open(options());
        for tag in 0..8 {
            queue.submit_read(tag * 128, TRANSFER_BLOCKS, tag).expect("room");
        }
        let start = Instant::now();
        while queue.outstanding_count() > 0 {
            queue
                .poll(Wait::Block(LIMIT), |completion| assert_eq!(completion.status, Status::SUCCESS))
                .expect("the connection lives");
            assert!(start.elapsed() < LIMIT);
        }
        served.await_that("one is ended", |state| state.target.stats().slow_peers_ended > 0);
        is_served(&mut queue, 2);
        drop((controller, queue, admin, slow));
        served.finish();
    }
}

/// The device serves reads one after another, including those of other hosts. So one host has no
/// more reads there than a limit, however many queues it has. Beside other hosts the limit is
/// smaller. The host continues with its next reads as earlier ones end.
#[test]
fn a_host_has_no_more_at_the_device_than_a_bound() {
    const ALONE: usize = 8 << 20;
    const SHARED: usize = 1 << 20;
    let served = Served::with_config(TargetConfig::default(), 256 << 20);
    served.behave(Behavior { hold: true, ..Behavior::default() });
    let in_use = |at_least: usize| {
        served.await_that("it reads", move |state| state.storage.dma_in_use_bytes() >= at_least);
        std::thread::sleep(Duration::from_millis(100));
        served.with(|state| state.storage.dma_in_use_bytes())
    };
    let (admin, mut queues) = RawAssociation::with_queues(&served, none(), 4);
    for raw in &mut queues {
        ask_for_all(raw, IoOpcode::Read);
    }
    let first = in_use(ALONE);
    assert!(first < ALONE + TRANSFER, "{first} bytes of reads");
    let (other_admin, mut other_queues) = RawAssociation::with_queues(&served, none(), 4);
    for raw in &mut other_queues {
        ask_for_all(raw, IoOpcode::Read);
    }
    let both = in_use(first + SHARED);
    assert!(both < first + SHARED + TRANSFER, "{both} bytes of reads");
    served.behave(Behavior::default());
    for raw in queues.iter_mut().chain(&mut other_queues) {
        let mut answered = 0;
        while answered < DEPTH {
            let pdu = raw.read_pdu().expect("an answer");
            let has_ended = pdu.header.pdu_type == PduType::CapsuleResp as u8
                || (pdu.header.pdu_type == PduType::C2hData as u8 && pdu.header.flags & flags::SUCCESS != 0);
            answered += u16::from(has_ended);
        }
    }
    drop((admin, queues, other_admin, other_queues));
    served.finish();
}

#[test]
fn nobody_is_too_slow_while_nobody_waits() {
    let config = TargetConfig { peer_rate_span: Duration::from_millis(100), ..TargetConfig::default() };
    let served = Served::with_config(config, 64 << 20);
    let mut slow = RawAssociation::new(&served, none());
    ask_for_all(&mut slow.io, IoOpcode::Write);
    let (controller, mut queue) = served.open(options());
    for _ in 0..10 {
        is_served(&mut queue, 1);
        std::thread::sleep(Duration::from_millis(100));
    }
    let stats = served.with(|state| state.target.stats());
    assert_eq!((stats.slow_peers_ended, stats.waiting_for_memory), (0, 0), "{stats:?}");
    // Its R2Ts have arrived.
    for _ in 0..DEPTH {
        assert_eq!(slow.io.read_pdu().expect("an R2T").header.pdu_type, PduType::R2t as u8);
    }
    drop((controller, queue, slow));
    served.finish();
}

#[test]
fn nothing_is_asked_for_before_a_connect() {
    let served = Served::start();
    let crowd: Vec<RawConnection> = (0..40)
        .map(|_| {
            let mut raw = RawConnection::connect(served.address, LIMIT).expect("it connects");
            raw.initialize(none()).expect("it initializes");
            let mut write = Rw::new(IoOpcode::Write, 1, 0, TRANSFER_BLOCKS);
            write.sgl = SglDescriptor::transport(TRANSFER as u32);
            let mut connect = Connect::new(0, 32, 0);
            connect.sgl = SglDescriptor::transport(TRANSFER as u32);
            let wanted =
                [(write.into(), Status::COMMAND_SEQUENCE_ERROR), (connect.into(), Status::INVALID_SGL_TYPE)];
            for (command, status) in wanted {
                raw.send_command(command, &[], none()).expect("sent");
                let answer = raw.read_pdu().expect("an answer");
                let cqe = answer.view::<CapsuleResp>().expect("a response").cqe;
                assert_eq!(cqe.status().code_only(), status);
                assert!(cqe.status().is_do_not_retry());
            }
            // With the data in the right place, it is connected all the same.
            let mut connect = Connect::new(0, 32, 0);
            connect.sgl = SglDescriptor::in_capsule(1024);
            let host = ConnectOptions::default();
            let data =
                ConnectData::new(host.host_id, CONTROLLER_ID_DYNAMIC, &nqn::of_volume("one"), &host.host_nqn);
            raw.send_command(connect.into(), data.expect("short names").as_bytes(), none()).expect("sent");
            let answer = raw.read_pdu().expect("an answer");
            let cqe = answer.view::<CapsuleResp>().expect("a response").cqe;
            assert_eq!(cqe.status(), Status::SUCCESS);
            raw
        })
        .collect();
    let stats = served.with(|state| state.target.stats());
    assert_eq!((stats.staging_bytes, stats.host_memory_bytes), (0, 0));
    drop(crowd);
    served.finish();
}

#[test]
fn one_long_answer_of_an_admin_queue_waits_at_a_time() {
    let served = small(TargetConfig::default());
    let mut readers: Vec<RawConnection> =
        (0..6).map(|_| RawAssociation::with_queues(&served, none(), 0).0).collect();
    for raw in &mut readers {
        for command_id in 1..=20 {
            let mut command = GetLogPage::new(LogPageId::CommandEffects.into(), 0, 0, TRANSFER as u32);
            command.command_id.set(command_id);
            command.sgl = SglDescriptor::transport(TRANSFER as u32);
            raw.send_command(command.into(), &[], none()).expect("sent");
        }
    }
    std::thread::sleep(Duration::from_millis(300));
    let (controller, mut queue) = served.open(options());
    is_served(&mut queue, 5);
    let held_bytes = served.with(|state| state.target.stats().host_memory_bytes);
    assert!(held_bytes <= (readers.len() * TRANSFER) as u64, "{held_bytes}");
    // When they read, all of it arrives.
    for raw in &mut readers {
        let mut answers = 0;
        while answers < 20 {
            let answer = raw.read_pdu().expect("an answer");
            if answer.header.pdu_type == PduType::C2hData as u8 {
                assert_eq!(answer.data().len(), TRANSFER);
            } else {
                let cqe = answer.view::<CapsuleResp>().expect("a response").cqe;
                assert_eq!(cqe.status(), Status::SUCCESS);
                answers += 1;
            }
        }
    }
    drop((controller, queue, readers));
    served.finish();
}

/// Reads that wait for memory let the data of earlier writes pass: it is the memory of these writes
/// that they wait for.
#[test]
fn much_at_once_by_many_with_little_memory_all_ends_well() {
    let served = Served::with_config(TargetConfig::default(), 8 << 20);
    let address = served.address;
    let hosts: Vec<_> = (0..4_u64)
        .map(|host| {
            std::thread::spawn(move || {
                let options = ConnectOptions { queue_depth: 32, ..options() };
                let mut controller =
                    Controller::connect(address, &nqn::of_volume("one"), options).expect("it connects");
                let namespace = controller.namespaces().expect("it lists").remove(0);
                let mut queue = controller.take_queues().remove(0);
                queue.set_geometry(namespace.geometry());
                for round in 0..3_u64 {
                    let data = pattern(host + round, TRANSFER);
                    for tag in 0..10 {
                        let lba = (host * 8 + tag % 8) * 128;
                        queue.submit_write(lba, &data, false, 2 * tag).expect("room");
                        queue.submit_read(lba, TRANSFER_BLOCKS, 2 * tag + 1).expect("room");
                    }
                    queue.submit_compare(host * 1024, &data[..BLOCK], 100).expect("room");
                    while queue.outstanding_count() > 0 {
                        queue
                            .poll(Wait::Block(LIMIT), |completion| {
                                let is_compare = completion.tag == 100;
                                assert!(is_compare || completion.status == Status::SUCCESS);
                            })
                            .expect("the connection lives");
                    }
                }
            })
        })
        .collect();
    for host in hosts {
        host.join().expect("no panic");
    }
    let stats = served.with(|state| state.target.stats());
    assert!(stats.memory_waits > 0, "{stats:?}");
    assert_eq!((stats.slow_peers_ended, stats.commands_ended_busy), (0, 0), "{stats:?}");
    served.finish();
}
