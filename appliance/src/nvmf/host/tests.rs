//! The host against the peer of `peer.rs`: the flows it must handle, and the faults it must report.

use std::net::SocketAddr;
use std::time::Duration;

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::peer::{BLOCK_BYTES, Behaviour, SIZE_BLOCKS, SUBSYSTEM, script, serve};
use super::queue::{Queue, QueueOptions, Wait};
use super::raw::RawConnection;
use super::slots::Payload;
use super::{ConnectOptions, Controller, HostError, Loss, Negotiation, Violation, discover};
use crate::nvmf::wire::command::{Cqe, Rw, Sqe};
use crate::nvmf::wire::feature::AsyncEvent;
use crate::nvmf::wire::opcode::{AdminOpcode, IoOpcode};
use crate::nvmf::wire::pdu::{
    C2hData, CapsuleResp, CommonHeader, Digests, FatalError, IcResp, PduType, R2t, TermReq, flags,
};
use crate::nvmf::wire::pdu_check::PduError;
use crate::nvmf::wire::status::Status;

const SECOND: Duration = Duration::from_secs(1);

fn pattern(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

fn connect(address: SocketAddr, options: ConnectOptions) -> (Controller, Queue) {
    let mut controller = Controller::connect(address, SUBSYSTEM, options).unwrap();
    let namespaces = controller.namespaces().unwrap();
    let mut queue = controller.take_queues().remove(0);
    queue.set_geometry(namespaces[0].geometry());
    (controller, queue)
}

#[test]
fn bring_up_finds_the_namespace_and_shuts_down() {
    let address = serve(Behaviour::default(), 3);
    let options = ConnectOptions { io_queues: 9, ..ConnectOptions::default() };
    let mut controller = Controller::connect(address, SUBSYSTEM, options).unwrap();
    assert_eq!(controller.controller_id(), 7);
    assert_eq!(controller.version(), 0x0002_0000);
    // The peer grants two of nine queues.
    assert_eq!(controller.queues().len(), 2);
    let namespaces = controller.namespaces().unwrap();
    assert_eq!(namespaces.len(), 1);
    assert_eq!(namespaces[0].geometry().block_bytes, BLOCK_BYTES);
    assert_eq!(namespaces[0].size_blocks, SIZE_BLOCKS);
    assert_eq!(namespaces[0].ids.uuid, Some([3; 16]));
    let (status, _) = controller.admin(Sqe::admin(AdminOpcode::FormatNvm), Payload::None, &mut []).unwrap();
    assert_eq!(status.code_only(), Status::INVALID_OPCODE);
    controller.shutdown().unwrap();
}

#[test]
fn data_survives_every_way_to_move_it() {
    let base = Behaviour::default();
    let behaviours = [
        base,
        Behaviour { in_capsule_bytes: 0, ..base },
        Behaviour { in_capsule_bytes: 4096, h2c_data_bytes_max: 4096, alignment: 31, ..base },
        Behaviour { in_capsule_bytes: 4096, r2t_bytes: 8192, alignment: 2, ..base },
        Behaviour { c2h_bytes: 4096, success_flag: false, ..base },
        Behaviour { c2h_bytes: 1000, ..base },
    ];
    for (index, behaviour) in behaviours.into_iter().enumerate() {
        for digests in 0..4_u8 {
            let address = serve(behaviour, 2);
            let options = ConnectOptions {
                header_digest: digests & 1 != 0,
                data_digest: digests & 2 != 0,
                ..ConnectOptions::default()
            };
            let (controller, mut queue) = connect(address, options);
            for (lba, blocks) in [(0, 1), (1, 2), (5, 32), (1020, 4)] {
                let data = pattern(lba + index as u64, blocks * BLOCK_BYTES as usize);
                queue.write(lba, &data).unwrap();
                queue.flush().unwrap();
                let mut back = vec![0; data.len()];
                queue.read(lba, &mut back).unwrap();
                assert!(back == data, "behaviour {index}, digests {digests}, LBA {lba}");
            }
            controller.shutdown().unwrap();
        }
    }
}

#[test]
fn many_commands_at_once_complete_with_their_own_data() {
    let behaviour = Behaviour { in_capsule_bytes: 4096, c2h_bytes: 3000, ..Behaviour::default() };
    let address = serve(behaviour, 2);
    let (mut controller, mut queue) = connect(address, ConnectOptions::default());
    let depth = queue.depth();
    assert_eq!(depth, 32);
    for round in 0..8_u64 {
        for tag in 0..u64::from(depth) {
            let blocks = 1 + (tag % 3) as usize;
            let data = pattern(round * 100 + tag, blocks * BLOCK_BYTES as usize);
            queue.submit_write(tag * 4, &data, tag % 2 == 0, tag).unwrap();
        }
        assert!(matches!(queue.submit_flush(99), Err(HostError::QueueFull { depth: 32 })));
        drain(&mut queue, |_, status, _| {
            assert_eq!(status, Status::SUCCESS);
        });
        for tag in 0..u64::from(depth) {
            queue.submit_read(tag * 4, 1 + (tag % 3) as u32, tag).unwrap();
        }
        drain(&mut queue, |tag, status, data| {
            assert_eq!(status, Status::SUCCESS);
            assert!(*data == pattern(round * 100 + tag, data.len()), "tag {tag}");
            assert_eq!(data.len(), (1 + tag as usize % 3) * BLOCK_BYTES as usize);
        });
    }
    controller.keep_alive().unwrap();
}

fn drain(queue: &mut Queue, mut check: impl FnMut(u64, Status, &[u8])) {
    let mut seen = vec![false; usize::from(queue.depth())];
    while queue.outstanding_count() > 0 {
        let wait = if queue.outstanding_count().is_multiple_of(2) {
            Wait::Block(SECOND)
        } else {
            Wait::Spin(SECOND)
        };
        queue
            .poll(wait, |completion| {
                let tag = completion.tag as usize;
                assert!(!std::mem::replace(&mut seen[tag], true), "tag {tag} came twice");
                check(completion.tag, completion.status, completion.data);
            })
            .unwrap();
    }
    assert!(seen.iter().all(|&came| came));
    // Nothing is outstanding: a wait ends immediately.
    assert_eq!(queue.poll(Wait::Block(SECOND), |_| {}).unwrap(), 0);
}

#[test]
fn other_commands_do_what_they_say() {
    let address = serve(Behaviour::default(), 2);
    let (_controller, mut queue) = connect(address, ConnectOptions::default());
    let ones = vec![1; 4 * BLOCK_BYTES as usize];
    queue.write(0, &ones).unwrap();
    let mut statuses = [Status::INTERNAL_ERROR; 6];
    queue.submit_compare(0, &ones[..8192], 0).unwrap();
    queue.submit_compare(0, &vec![2; BLOCK_BYTES as usize], 1).unwrap();
    queue.submit_write_zeroes(1, 1, true, 2).unwrap();
    queue.submit_trim(&[(2, 1), (3, 1)], 3).unwrap();
    queue.submit_read(SIZE_BLOCKS, 1, 4).unwrap();
    queue.submit_flush(5).unwrap();
    while queue.outstanding_count() > 0 {
        queue
            .poll(Wait::Block(SECOND), |completion| {
                statuses[completion.tag as usize] = completion.status.code_only();
            })
            .unwrap();
    }
    assert_eq!(
        statuses,
        [
            Status::SUCCESS,
            Status::COMPARE_FAILURE,
            Status::SUCCESS,
            Status::SUCCESS,
            Status::LBA_OUT_OF_RANGE,
            Status::SUCCESS
        ]
    );
    let mut back = vec![9; 4 * BLOCK_BYTES as usize];
    queue.read(0, &mut back).unwrap();
    let (first, rest) = back.split_at(BLOCK_BYTES as usize);
    assert!(first.iter().all(|&byte| byte == 1) && rest.iter().all(|&byte| byte == 0));

    assert!(matches!(queue.write(0, &[0; 100]), Err(HostError::NotWholeBlocks { bytes: 100, .. })));
    assert!(matches!(queue.submit_read(0, 0, 0), Err(HostError::NotWholeBlocks { bytes: 0, .. })));
    assert!(matches!(queue.submit_write_zeroes(0, 65_537, false, 0), Err(HostError::NotWholeBlocks { .. })));
    assert!(matches!(queue.submit_trim(&[], 0), Err(HostError::RangeCount { count: 0 })));
    assert!(matches!(queue.submit_read(0, 65_536, 0), Err(HostError::TransferTooLarge { .. })));
    let error = queue.write(SIZE_BLOCKS, &ones).unwrap_err();
    assert_eq!(error.to_string(), "Write failed: LBA Out of Range (0h/80h, do not retry)");
    assert!(!queue.is_lost());
}

#[test]
fn asynchronous_events_arrive_and_are_armed_again() {
    let address = serve(Behaviour::default(), 2);
    let (mut controller, _queue) = connect(address, ConnectOptions::default());
    for _ in 0..3 {
        assert_eq!(controller.next_event(Duration::ZERO).unwrap(), None);
        controller.keep_alive().unwrap();
        let event = controller.next_event(SECOND).unwrap();
        assert_eq!(event, Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
    }
}

#[test]
fn discovery_reads_a_page_of_several_chunks() {
    let address = serve(Behaviour::default(), 1);
    let entries = discover(address, ConnectOptions::default()).unwrap();
    assert_eq!(entries.len(), 6);
    assert_eq!(entries[5].subsystem_nqn(), Ok(SUBSYSTEM));
    assert_eq!(entries[5].port_id.get(), 5);
}

#[test]
fn a_refused_connect_says_why() {
    let address = serve(Behaviour::default(), 1);
    let error = Controller::connect(address, "nqn.2024-01.test:none", ConnectOptions::default()).unwrap_err();
    assert!(matches!(
        error,
        HostError::Status { operation: "Connect", status, result: 0x0001_0100 }
            if status.code_only() == Status::CONNECT_INVALID_PARAMETERS
    ));
}

#[test]
fn a_lost_connection_names_the_uncertain_commands() {
    let behaviour = Behaviour { close_at: Some(10), ..Behaviour::default() };
    let address = serve(behaviour, 2);
    let (_controller, mut queue) = connect(address, ConnectOptions::default());
    let data = pattern(1, BLOCK_BYTES as usize);
    for tag in 0..20 {
        queue.submit_write(tag, &data, false, 1000 + tag).unwrap();
    }
    let mut done = Vec::new();
    let error = loop {
        match queue.poll(Wait::Block(SECOND), |completion| done.push(completion.tag)) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    let HostError::Lost { queue_id: 1, mut outstanding, .. } = error else {
        panic!("{error:?}");
    };
    // A reset may overtake completions that were sent before it, so some of the first ten may be
    // missing too.
    assert!(done.iter().all(|tag| (1000..1010).contains(tag)));
    outstanding.extend(&done);
    outstanding.sort_unstable();
    assert_eq!(outstanding, (1000..1020).collect::<Vec<_>>());
    assert!(matches!(queue.submit_flush(0), Err(HostError::AlreadyLost { queue_id: 1 })));
    assert!(queue.is_lost());
}

fn scripted(
    digests: Digests,
    play: impl FnOnce(&mut RawConnection) -> std::io::Result<()> + Send + 'static,
) -> Queue {
    let address = script(IcResp::new(digests, 4096), move |connection| {
        connection.read_pdu()?;
        play(connection)
    });
    let options = QueueOptions {
        queue_id: 1,
        depth: 4,
        transfer_bytes_max: 16_384,
        in_capsule_bytes_max: 0,
        digests,
        timeout: SECOND,
    };
    Queue::open(address, options).unwrap()
}

fn loss_of(mut queue: Queue, payload: Payload<'_>) -> Loss {
    let opcode = match payload {
        Payload::Read(_) => IoOpcode::Read,
        Payload::None => IoOpcode::Flush,
        _ => IoOpcode::Write,
    };
    queue.submit(Rw::new(opcode, 1, 0, 1).into(), payload, 5).unwrap();
    loop {
        match queue.poll(Wait::Block(SECOND), |completion| panic!("{completion:?}")) {
            Ok(_) => {}
            Err(HostError::Lost { cause, outstanding, .. }) => {
                assert_eq!(outstanding, [5]);
                return cause;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn data_pdu(digests: Digests, offset: u32, bytes: u32, more_flags: u8) -> C2hData {
    let mut header = CommonHeader::with_data(PduType::C2hData, digests, 4, bytes);
    header.flags |= more_flags;
    C2hData { header, data_offset: U32::new(offset), data_bytes: U32::new(bytes), ..C2hData::default() }
}

fn violation_of(
    payload: Payload<'_>,
    play: impl FnOnce(&mut RawConnection) -> std::io::Result<()> + Send + 'static,
) -> Violation {
    match loss_of(scripted(Digests::default(), play), payload) {
        Loss::Violation(violation) => violation,
        other => panic!("{other:?}"),
    }
}

const PLAIN: Digests = Digests { header: false, data: false };
const READ: Payload<'static> = Payload::Read(4096);
const WRITE: Payload<'static> = Payload::Write(&[7; 8192]);

#[test]
fn wrong_data_pdus_are_violations() {
    let last = flags::LAST | flags::SUCCESS;
    assert!(matches!(
        violation_of(READ, move |c| c.send_pdu(&data_pdu(PLAIN, 0, 2048, last), &[0; 2048])),
        Violation::ShortData { received_bytes: 2048, total_bytes: 4096, .. }
    ));
    assert!(matches!(
        violation_of(READ, |c| c.send_pdu(&data_pdu(PLAIN, 4, 2048, 0), &[0; 2048])),
        Violation::DataRange { data_offset: 4, expected_offset: 0, .. }
    ));
    assert!(matches!(
        violation_of(READ, |c| c.send_pdu(&data_pdu(PLAIN, 0, 4100, 0), &[0; 4100])),
        Violation::DataRange { data_bytes: 4100, .. }
    ));
    assert!(matches!(
        violation_of(READ, |c| c.send_pdu(&data_pdu(PLAIN, 0, 4096, flags::SUCCESS), &[0; 4096])),
        Violation::SuccessWithoutLast { .. }
    ));
    assert!(matches!(
        violation_of(WRITE, |c| c.send_pdu(&data_pdu(PLAIN, 0, 4096, 0), &[0; 4096])),
        Violation::DataForNonRead { .. }
    ));
}

#[test]
fn wrong_responses_are_violations() {
    let response = |id, status| CapsuleResp::new(Cqe::new(id, 0, status, 0), false);
    assert!(matches!(
        violation_of(Payload::None, move |c| c.send_pdu(&response(3, Status::SUCCESS), &[])),
        Violation::UnknownCommand { command_id: 3 }
    ));
    assert!(matches!(
        violation_of(Payload::None, move |c| c.send_pdu(&response(400, Status::SUCCESS), &[])),
        Violation::UnknownCommand { command_id: 400 }
    ));
    assert!(matches!(
        violation_of(READ, move |c| c.send_pdu(&response(0, Status::SUCCESS), &[])),
        Violation::ShortData { received_bytes: 0, .. }
    ));
    assert!(matches!(
        violation_of(WRITE, move |c| c.send_pdu(&response(0, Status::SUCCESS), &[])),
        Violation::ShortWrite { sent_bytes: 0, total_bytes: 8192, .. }
    ));
    assert!(matches!(
        violation_of(READ, |c| c.send_bytes(IcResp::new(PLAIN, 4096).as_bytes())),
        Violation::UnexpectedPdu { pdu_type: 1 }
    ));
}

#[test]
fn wrong_r2ts_are_violations() {
    assert!(matches!(
        violation_of(READ, |c| c.send_pdu(&R2t::new(0, 0, 0, 4096, false), &[])),
        Violation::R2tForNonWrite { .. }
    ));
    for (offset, bytes) in [(0, 0), (4096, 4096), (0, 8196), (u32::MAX, u32::MAX)] {
        assert!(matches!(
            violation_of(WRITE, move |c| c.send_pdu(&R2t::new(0, 0, offset, bytes, false), &[])),
            Violation::R2tRange { .. }
        ));
    }
    assert!(matches!(
        violation_of(WRITE, |c| {
            let mut both = R2t::new(0, 0, 0, 4096, false).as_bytes().to_vec();
            both.extend_from_slice(R2t::new(0, 1, 4096, 4096, false).as_bytes());
            c.send_bytes(&both)
        }),
        Violation::R2tLimit { .. }
    ));
}

#[test]
fn digests_are_verified() {
    let both = Digests { header: true, data: true };
    let queue = scripted(both, move |c| {
        let mut tail = vec![1; 4096];
        tail.extend_from_slice(&[0; 4]);
        c.send_pdu(&data_pdu(both, 0, 4096, flags::LAST | flags::SUCCESS), &tail)
    });
    assert!(matches!(loss_of(queue, READ), Loss::Violation(Violation::DataDigest { found: 0, .. })));
    let queue = scripted(both, |c| {
        let mut bytes = CapsuleResp::new(Cqe::new(0, 0, Status::SUCCESS, 0), true).as_bytes().to_vec();
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        c.send_bytes(&bytes)
    });
    assert!(matches!(
        loss_of(queue, Payload::None),
        Loss::Pdu(PduError::HeaderDigest { found: 0x0403_0201, .. })
    ));
}

#[test]
fn a_malformed_pdu_is_answered_with_a_termination_request() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let queue = scripted(PLAIN, move |c| {
        let mut header = CommonHeader::without_data(PduType::CapsuleResp, false);
        header.hlen = 25;
        c.send_pdu(&header, &[0; 16])?;
        let answer = c.read_pdu()?;
        sender.send(*answer.view::<TermReq>().unwrap()).unwrap();
        Ok(())
    });
    assert!(matches!(
        loss_of(queue, Payload::None),
        Loss::Pdu(PduError::HeaderLength { found: 25, expected: 24 })
    ));
    let request = receiver.recv_timeout(SECOND).unwrap();
    assert_eq!(request.header.pdu_type, PduType::H2cTermReq as u8);
    assert_eq!(request.fatal_error.get(), FatalError::InvalidHeaderField as u16);
    assert_eq!(request.information.get(), 2);
}

#[test]
fn termination_close_and_timeout_are_told_apart() {
    let queue = scripted(PLAIN, |c| {
        let request = TermReq::new(PduType::C2hTermReq, FatalError::DataOutOfRange, 12, 8);
        c.send_pdu(&request, &[0; 8])
    });
    assert!(matches!(loss_of(queue, Payload::None), Loss::Terminated { fatal_error: 4, information: 12 }));
    assert!(matches!(loss_of(scripted(PLAIN, |_| Ok(())), Payload::None), Loss::Closed));

    let mut queue = scripted(PLAIN, |c| c.read_until_closed().map(|_| ()));
    queue.options.timeout = Duration::from_millis(20);
    let flush = Sqe::new(IoOpcode::Flush.into(), 1);
    let error = queue.execute("Flush", flush, Payload::None, &mut []).unwrap_err();
    assert!(matches!(error, HostError::Lost { cause: Loss::Timeout { timeout_ms: 20 }, .. }));
}

#[test]
fn a_bad_initialization_response_is_refused() {
    let good = IcResp::new(PLAIN, 4096);
    let refused = |change: &dyn Fn(&mut IcResp)| {
        let mut response = good;
        change(&mut response);
        let address = script(response, |_| Ok(()));
        let options = ConnectOptions::default();
        match Controller::connect(address, SUBSYSTEM, options).unwrap_err() {
            HostError::Negotiation(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(refused(&|r| r.format_version.set(1)), Negotiation::FormatVersion { found: 1 }));
    assert!(matches!(refused(&|r| r.digest = 1), Negotiation::Digests { found: 1, asked: 0 }));
    assert!(matches!(refused(&|r| r.controller_data_alignment = 32), Negotiation::Alignment { found: 32 }));
    assert!(matches!(refused(&|r| r.h2c_data_bytes_max.set(4098)), Negotiation::H2cDataMax { found: 4098 }));
    assert!(matches!(
        refused(&|r| r.header.plen.set(64)),
        Negotiation::Exchange(Loss::Pdu(PduError::Length { value: 64 }))
    ));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    /// Whatever bytes arrive, the queue either is lost or continues to wait. It never panics or
    /// completes a read incorrectly.
    #[test]
    fn garbage_from_a_controller_does_no_harm(
        kind in 0_u8..12,
        digests in 0_u8..4,
        head in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        plausible: bool,
    ) {
        let digests = Digests { header: digests & 1 != 0, data: digests & 2 != 0 };
        let mut bytes = head;
        if plausible && bytes.len() >= 8 {
            let pdu_type = PduType::try_from(kind).unwrap_or(PduType::C2hData);
            bytes[0] = kind;
            bytes[1] = digests.to_bits() | bytes[1] & (flags::LAST | flags::SUCCESS);
            bytes[2] = pdu_type.header_bytes();
            bytes[3] &= 0x3F;
            bytes[5..8].fill(0);
        }
        let mut queue = scripted(digests, move |c| c.send_bytes(&bytes));
        queue.submit(Rw::new(IoOpcode::Read, 1, 0, 1).into(), READ, 5).unwrap();
        for _ in 0..10 {
            match queue.poll(Wait::Block(SECOND), |completion| {
                assert!(!completion.status.is_success() || completion.data.len() == 4096);
            }) {
                Ok(_) => {}
                Err(HostError::Lost { .. }) => break,
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}
