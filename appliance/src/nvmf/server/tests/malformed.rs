//! Malformed PDUs, one after another: each ends its connection with the termination request that
//! names the fault, or its command with the right status. The target continues.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::{BLOCK, LIMIT, Served, pattern};
use crate::nvmf::host::{ConnectOptions, RawConnection, RawPdu};
use crate::nvmf::nqn;
use crate::nvmf::wire::command::{Rw, Sqe};
use crate::nvmf::wire::fabrics::{
    CONTROLLER_ID_DYNAMIC, Connect, ConnectData, ConnectResult, Disconnect, PropertySet,
};
use crate::nvmf::wire::opcode::{AdminOpcode, IoOpcode};
use crate::nvmf::wire::pdu::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, FatalError, H2cData, IcReq, PduType, R2t,
    TermReq, flags,
};
use crate::nvmf::wire::pdu_check::digest_bytes;
use crate::nvmf::wire::property::{Cc, Property};
use crate::nvmf::wire::sgl::SglDescriptor;
use crate::nvmf::wire::status::Status;

/// An association with raw PDUs: the admin connection, and one I/O connection.
pub(super) struct RawAssociation {
    pub(super) admin: RawConnection,
    pub(super) io: RawConnection,
    pub(super) digests: Digests,
}

impl RawAssociation {
    pub(super) fn new(served: &Served, digests: Digests) -> Self {
        let (admin, io) = Self::with_queues(served, digests, 1);
        let io = io.into_iter().next().expect("there is one");
        RawAssociation { admin, io, digests }
    }

    /// The admin connection of a controller, and this many of its I/O queues.
    pub(super) fn with_queues(
        served: &Served,
        digests: Digests,
        queues: u16,
    ) -> (RawConnection, Vec<RawConnection>) {
        let host = ConnectOptions::default();
        let connect = |queue_id: u16, controller_id: u16| {
            let mut raw = RawConnection::connect(served.address, LIMIT).expect("it connects");
            raw.initialize(digests).expect("it initializes");
            let mut command = Connect::new(queue_id, 32, 0);
            command.sgl = SglDescriptor::in_capsule(1024);
            let data = ConnectData::new(host.host_id, controller_id, &nqn::of_volume("one"), &host.host_nqn);
            let data = data.expect("short names");
            raw.send_command(command.into(), data.as_bytes(), digests).expect("sent");
            let answer = raw.read_pdu().expect("an answer");
            let cqe = answer.view::<CapsuleResp>().expect("a response").cqe;
            assert_eq!(cqe.status(), Status::SUCCESS);
            (raw, ConnectResult::from_result(cqe.result.get()).controller_id.get())
        };
        let (mut admin, id) = connect(0, CONTROLLER_ID_DYNAMIC);
        let enable = PropertySet::new(Property::Configuration, Cc::enabled().0.into());
        admin.send_command(enable.into(), &[], digests).expect("sent");
        admin.read_pdu().expect("an answer");
        (admin, (1..=queues).map(|queue_id| connect(queue_id, id).0).collect())
    }

    pub(super) fn send(&mut self, sqe: Sqe, data: &[u8]) {
        self.io.send_command(sqe, data, self.digests).expect("sent");
    }

    fn status(&mut self) -> Status {
        let answer = self.io.read_pdu().expect("an answer");
        answer.view::<CapsuleResp>().expect("a response").cqe.status().code_only()
    }

    /// Sends a write of `blocks` blocks by R2T, and reads the R2T.
    fn ask(&mut self, blocks: u32) -> R2t {
        let mut command = Rw::new(IoOpcode::Write, 1, 0, blocks);
        command.command_id.set(7);
        command.sgl = SglDescriptor::transport(blocks * BLOCK as u32);
        self.send(command.into(), &[]);
        let answer = self.io.read_pdu().expect("an answer");
        assert_eq!(answer.header.pdu_type, PduType::R2t as u8);
        *answer.view::<R2t>().expect("an R2T")
    }

    fn h2c(&self, r2t: &R2t, offset: u32, len_bytes: u32, last: bool) -> H2cData {
        let mut header = CommonHeader::with_data(PduType::H2cData, self.digests, 4, len_bytes);
        if last {
            header.flags |= flags::LAST;
        }
        H2cData {
            header,
            command_id: r2t.command_id,
            transfer_tag: r2t.transfer_tag,
            data_offset: U32::new(offset),
            data_bytes: U32::new(len_bytes),
            reserved: [0; 4],
        }
    }
}

/// The termination request at the end of what a connection sends.
fn termination(pdus: &[RawPdu]) -> (u16, u32) {
    let last = pdus.last().expect("a termination request");
    assert_eq!(last.header.pdu_type, PduType::C2hTermReq as u8);
    let request = last.view::<TermReq>().expect("a termination request");
    (request.fatal_error.get(), request.information.get())
}

fn fatal(error: FatalError, information: u32) -> (u16, u32) {
    (error.into(), information)
}

#[test]
fn a_wrong_start_is_terminated() {
    let served = Served::start();
    let good = IcReq::new(Digests::default());
    let with = |change: &dyn Fn(&mut IcReq)| {
        let mut request = good;
        change(&mut request);
        request.as_bytes().to_vec()
    };
    let table: Vec<(Vec<u8>, (u16, u32))> = vec![
        (with(&|request| request.header.pdu_type = 0x7F), fatal(FatalError::InvalidHeaderField, 0)),
        (with(&|request| request.header.pdu_type = 0x01), fatal(FatalError::InvalidHeaderField, 0)),
        (with(&|request| request.header.hlen = 24), fatal(FatalError::InvalidHeaderField, 2)),
        (with(&|request| request.header.plen.set(127)), fatal(FatalError::InvalidHeaderField, 4)),
        (with(&|request| request.header.plen.set(u32::MAX)), fatal(FatalError::InvalidHeaderField, 4)),
        (with(&|request| request.header.plen.set(0)), fatal(FatalError::InvalidHeaderField, 4)),
        (with(&|request| request.format_version.set(1)), fatal(FatalError::UnsupportedParameter, 8)),
        (with(&|request| request.host_data_alignment = 32), fatal(FatalError::InvalidHeaderField, 10)),
        (
            CapsuleCmd {
                header: CommonHeader::without_data(PduType::CapsuleCmd, false),
                sqe: Sqe::admin(AdminOpcode::KeepAlive),
            }
            .as_bytes()
            .to_vec(),
            fatal(FatalError::SequenceError, 0),
        ),
        (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".to_vec(), fatal(FatalError::InvalidHeaderField, 0)),
    ];
    for (bytes, expected) in table {
        let mut raw = RawConnection::connect(served.address, LIMIT).expect("it connects");
        raw.send_bytes(&bytes).expect("sent");
        raw.close_write().expect("an open socket");
        let pdus = raw.read_until_closed().expect("it is closed");
        assert_eq!(termination(&pdus), expected, "{:02x?}", &bytes[..16]);
    }
    served.finish();
}

/// Sends something wrong on the I/O connection.
type Wrong = fn(&mut RawAssociation);

#[test]
fn a_wrong_pdu_in_the_middle_is_terminated() {
    let served = Served::start();
    let table: [(&str, Digests, Wrong, (u16, u32)); 13] = [
        (
            "a second ICReq",
            Digests::default(),
            |raw| raw.io.send_pdu(&IcReq::new(Digests::default()), &[]).expect("sent"),
            fatal(FatalError::SequenceError, 0),
        ),
        (
            "a PDU of the controller",
            Digests::default(),
            |raw| {
                let pdu = C2hData {
                    header: CommonHeader::without_data(PduType::C2hData, false),
                    ..Default::default()
                };
                raw.io.send_pdu(&pdu, &[]).expect("sent");
            },
            fatal(FatalError::InvalidHeaderField, 0),
        ),
        (
            "a digest where none was negotiated",
            Digests::default(),
            |raw| {
                raw.digests.header = true;
                raw.send(Sqe::new(IoOpcode::Flush.into(), 1), &[]);
            },
            fatal(FatalError::InvalidHeaderField, 1),
        ),
        (
            "no digest where one was negotiated",
            Digests { header: true, data: false },
            |raw| {
                raw.digests.header = false;
                raw.send(Sqe::new(IoOpcode::Flush.into(), 1), &[]);
            },
            fatal(FatalError::InvalidHeaderField, 1),
        ),
        (
            "a wrong header digest",
            Digests { header: true, data: false },
            |raw| {
                let pdu = CapsuleCmd {
                    header: CommonHeader::without_data(PduType::CapsuleCmd, true),
                    sqe: Sqe::new(IoOpcode::Flush.into(), 1),
                };
                let mut bytes = pdu.as_bytes().to_vec();
                bytes.extend_from_slice(&[1, 2, 3, 4]);
                raw.io.send_bytes(&bytes).expect("sent");
            },
            fatal(FatalError::HeaderDigestError, 0x0403_0201),
        ),
        (
            "data inside the header",
            Digests::default(),
            |raw| {
                let mut header = CommonHeader::with_data(PduType::CapsuleCmd, Digests::default(), 4, 4096);
                header.pdo = 8;
                let pdu = CapsuleCmd { header, sqe: Rw::new(IoOpcode::Write, 1, 0, 1).into() };
                raw.io.send_pdu(&pdu, &[0; 4096]).expect("sent");
            },
            fatal(FatalError::InvalidHeaderField, 3),
        ),
        (
            "more in-capsule data than the capsule takes",
            Digests::default(),
            |raw| {
                let header = CommonHeader::with_data(PduType::CapsuleCmd, Digests::default(), 4, 20_480);
                let pdu = CapsuleCmd { header, sqe: Rw::new(IoOpcode::Write, 1, 0, 5).into() };
                raw.io.send_pdu(&pdu, &[0; 64]).expect("sent");
            },
            fatal(FatalError::InvalidHeaderField, 4),
        ),
        (
            "data that nobody asked for",
            Digests::default(),
            |raw| {
                let pdu = raw.h2c(&R2t::new(1, 3, 0, 4096, false), 0, 4096, true);
                raw.io.send_pdu(&pdu, &[0; 4096]).expect("sent");
            },
            fatal(FatalError::InvalidHeaderField, 10),
        ),
        (
            "data for another command",
            Digests::default(),
            |raw| {
                let mut r2t = raw.ask(8);
                r2t.command_id.set(8);
                let pdu = raw.h2c(&r2t, 0, 4096, false);
                raw.io.send_pdu(&pdu, &[0; 4096]).expect("sent");
            },
            fatal(FatalError::InvalidHeaderField, 10),
        ),
        (
            "data out of order",
            Digests::default(),
            |raw| {
                let r2t = raw.ask(8);
                let pdu = raw.h2c(&r2t, 4096, 4096, false);
                raw.io.send_pdu(&pdu, &[0; 4096]).expect("sent");
            },
            fatal(FatalError::DataOutOfRange, 12),
        ),
        (
            "data beyond the end",
            Digests::default(),
            |raw| {
                let r2t = raw.ask(8);
                let pdu = raw.h2c(&r2t, 0, 9 * 4096, true);
                raw.io.send_pdu(&pdu, &[0; 4096]).expect("sent");
            },
            fatal(FatalError::DataOutOfRange, 12),
        ),
        (
            "a length that is not the data's",
            Digests::default(),
            |raw| {
                let r2t = raw.ask(8);
                let mut pdu = raw.h2c(&r2t, 0, 4096, false);
                pdu.data_bytes.set(4000);
                raw.io.send_pdu(&pdu, &[0; 4096]).expect("sent");
            },
            fatal(FatalError::InvalidHeaderField, 16),
        ),
        (
            "the last PDU before the end",
            Digests::default(),
            |raw| {
                let r2t = raw.ask(8);
                let pdu = raw.h2c(&r2t, 0, 4096, true);
                raw.io.send_pdu(&pdu, &[0; 4096]).expect("sent");
            },
            fatal(FatalError::InvalidHeaderField, 1),
        ),
    ];
    for (what, digests, wrong, expected) in table {
        let mut raw = RawAssociation::new(&served, digests);
        wrong(&mut raw);
        raw.io.close_write().expect("an open socket");
        let pdus = raw.io.read_until_closed().expect("it is closed");
        assert_eq!(termination(&pdus), expected, "{what}");
        // The association continues without that queue.
        raw.admin.send_command(Sqe::admin(AdminOpcode::KeepAlive), &[], digests).expect("sent");
        raw.admin.read_pdu().expect("an answer");
    }
    assert_eq!(served.with(|state| state.target.stats().protocol_errors), 13);
    served.finish();
}

#[test]
fn more_commands_than_entries_are_terminated() {
    let served = Served::start();
    served.behave(crate::nvmf::server::memory::Behavior { hold: true, ..Default::default() });
    let mut raw = RawAssociation::new(&served, Digests::default());
    for command_id in 0..33 {
        let mut command = Sqe::new(IoOpcode::Flush.into(), 1);
        command.command_id.set(command_id);
        raw.send(command, &[]);
    }
    raw.io.close_write().expect("an open socket");
    let pdus = raw.io.read_until_closed().expect("it is closed");
    assert_eq!(termination(&pdus), fatal(FatalError::SequenceError, 0));
    drop(raw);
    served.finish();
}

#[test]
fn a_wrong_data_digest_fails_its_command_only() {
    let served = Served::start();
    let digests = Digests { header: true, data: true };
    let mut raw = RawAssociation::new(&served, digests);
    let data = pattern(1, 2 * BLOCK);
    let wrong = |tail: &[u8]| [tail, &[9, 9, 9, 9]].concat();
    // In the capsule.
    let mut command = Rw::new(IoOpcode::Write, 1, 0, 1);
    command.sgl = SglDescriptor::in_capsule(BLOCK as u32);
    let header = CommonHeader::with_data(PduType::CapsuleCmd, digests, 4, BLOCK as u32);
    let pdu = CapsuleCmd { header, sqe: command.into() };
    raw.io.send_pdu(&pdu, &wrong(&data[..BLOCK])).expect("sent");
    assert_eq!(raw.status(), Status::TRANSIENT_TRANSPORT_ERROR);
    // In the first of two data PDUs.
    let r2t = raw.ask(2);
    let first = raw.h2c(&r2t, 0, BLOCK as u32, false);
    raw.io.send_pdu(&first, &wrong(&data[..BLOCK])).expect("sent");
    let second = raw.h2c(&r2t, BLOCK as u32, BLOCK as u32, true);
    let tail = [&data[BLOCK..], &digest_bytes(&data[BLOCK..])].concat();
    raw.io.send_pdu(&second, &tail).expect("sent");
    assert_eq!(raw.status(), Status::TRANSIENT_TRANSPORT_ERROR);
    // And correct, byte by byte.
    let r2t = raw.ask(2);
    let mut bytes = Vec::new();
    for (offset, last) in [(0, false), (BLOCK, true)] {
        let pdu = raw.h2c(&r2t, offset as u32, BLOCK as u32, last);
        crate::nvmf::wire::pdu_check::append_header(&mut bytes, &pdu);
        bytes.extend_from_slice(&data[offset..offset + BLOCK]);
        bytes.extend_from_slice(&digest_bytes(&data[offset..offset + BLOCK]));
    }
    let (dribble, rest) = bytes.split_at(200);
    for byte in dribble {
        raw.io.send_bytes(&[*byte]).expect("sent");
    }
    for piece in rest.chunks(1000) {
        raw.io.send_bytes(piece).expect("sent");
    }
    assert_eq!(raw.status(), Status::SUCCESS);
    let stats = served.with(|state| state.target.stats());
    assert_eq!(stats.data_digest_errors, 2);
    drop(raw);
    served.finish();
}

/// A Disconnect ends commands that wait for data that can no longer come, and is answered last.
/// Before the fix, such a queue stayed open for the whole transfer timeout and kept its memory.
#[test]
fn a_disconnect_ends_what_waits_for_data() {
    let served = Served::start();
    let mut raw = RawAssociation::new(&served, Digests::default());
    let r2t = raw.ask(2);
    let half = raw.h2c(&r2t, 0, BLOCK as u32, false);
    raw.io.send_pdu(&half, &[0; 100]).expect("sent");
    let rest = [0; BLOCK - 100];
    raw.io.send_bytes(&rest).expect("sent");
    let mut disconnect = Disconnect::new();
    disconnect.command_id.set(9);
    raw.send(disconnect.into(), &[]);
    let answers = raw.io.read_until_closed().expect("it is closed");
    let told: Vec<(u16, Status)> = answers
        .iter()
        .map(|answer| answer.view::<CapsuleResp>().expect("a response").cqe)
        .map(|cqe| (cqe.command_id.get(), cqe.status().code_only()))
        .collect();
    assert_eq!(told, [(7, Status::ABORTED_QUEUE_DELETED), (9, Status::SUCCESS)]);
    assert_eq!(served.with(|state| state.target.stats()).staging_bytes, 0);
    drop(raw);
    served.finish();
}

#[test]
fn wrong_descriptors_get_their_status() {
    let served = Served::start();
    let mut raw = RawAssociation::new(&served, Digests::default());
    let block = [0; BLOCK];
    let length = BLOCK as u32;
    let offset = |offset: u64, length_bytes| SglDescriptor {
        address: offset.into(),
        ..SglDescriptor::in_capsule(length_bytes)
    };
    let keyed = SglDescriptor { identifier: 0x40, ..SglDescriptor::transport(length) };
    for (opcode, sgl, data, status) in [
        (IoOpcode::Write, offset(0, length), &block[..], Status::SUCCESS),
        (IoOpcode::Write, offset(0, 2 * length), &block[..], Status::INVALID_DATA_SGL_LENGTH),
        (IoOpcode::Write, offset(0, 100), &block[..], Status::INVALID_DATA_SGL_LENGTH),
        (IoOpcode::Write, offset(1, length), &block[..], Status::INVALID_DATA_SGL_LENGTH),
        (IoOpcode::Write, offset(5000, length), &block[..], Status::INVALID_SGL_OFFSET),
        (IoOpcode::Write, offset(u64::MAX, length), &block[..], Status::INVALID_SGL_OFFSET),
        (IoOpcode::Write, offset(0, length), &[], Status::INVALID_DATA_SGL_LENGTH),
        (IoOpcode::Write, SglDescriptor::transport(u32::MAX), &[], Status::INVALID_DATA_SGL_LENGTH),
        (IoOpcode::Write, SglDescriptor::transport(0), &[], Status::INVALID_DATA_SGL_LENGTH),
        (IoOpcode::Write, keyed, &[], Status::INVALID_SGL_TYPE),
        (IoOpcode::Read, keyed, &[], Status::INVALID_SGL_TYPE),
        (IoOpcode::Read, offset(0, length), &block[..], Status::INVALID_SGL_TYPE),
        (IoOpcode::Read, SglDescriptor::transport(2 * length), &[], Status::INVALID_DATA_SGL_LENGTH),
        (
            IoOpcode::DatasetManagement,
            SglDescriptor::in_capsule(8),
            &block[..8],
            Status::INVALID_DATA_SGL_LENGTH,
        ),
        // More space than ranges, as the Linux host sends it.
        (IoOpcode::DatasetManagement, SglDescriptor::in_capsule(length), &block[..], Status::SUCCESS),
    ] {
        let mut command = Rw::new(opcode, 1, 0, 1);
        command.sgl = sgl;
        raw.send(command.into(), data);
        assert_eq!(raw.status(), status, "{opcode:?} {sgl:?}");
    }
    drop(raw);
    served.finish();
}
