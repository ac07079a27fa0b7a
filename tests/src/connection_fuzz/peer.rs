//! A host's end of one connection: what it has sent and received, and what the target owes it.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use varve::nvmf::wire::command::Sqe;
use varve::nvmf::wire::opcode::AdminOpcode;
use varve::nvmf::wire::pdu::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, H2cData, PduType, R2t, flags,
};
use varve::nvmf::wire::pdu_check::{append_header, digest_bytes};
use varve::nvmf::wire::status::Status;
use zerocopy::FromBytes;

/// Data that the target has requested, and that is still to be sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) command_id: u16,
    pub(super) tag: u16,
    pub(super) offset: u32,
    pub(super) len_bytes: u32,
}

/// How a command ended.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) command_id: u16,
    pub(super) status: Status,
    pub(super) result: u64,
    pub(super) data: Vec<u8>,
}

/// One connection.
#[derive(Debug)]
pub(super) struct Peer {
    stream: TcpStream,
    pub(super) digests: Digests,
    next_command_id: u16,
    /// Bytes that the socket has not accepted yet.
    unsent: Vec<u8>,
    received: Vec<u8>,
    /// Commands without an answer, and their opcodes.
    outstanding: HashMap<u16, u8>,
    data: HashMap<u16, Vec<u8>>,
    pub(super) asked: Vec<Asked>,
    pub(super) answers: Vec<Answer>,
    /// The target has ended it.
    pub(super) is_closed: bool,
    /// It has sent what no host may send, and the target may wait for the rest of it.
    pub(super) is_confused: bool,
}

impl Peer {
    pub(super) fn open(address: SocketAddr, digests: Digests) -> Self {
        let stream = TcpStream::connect(address).expect("it connects");
        stream.set_nonblocking(true).expect("a socket");
        Peer {
            stream,
            digests,
            next_command_id: 0,
            unsent: Vec::new(),
            received: Vec::new(),
            outstanding: HashMap::new(),
            data: HashMap::new(),
            asked: Vec::new(),
            answers: Vec::new(),
            is_closed: false,
            is_confused: false,
        }
    }

    /// Sends bytes unchanged.
    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.unsent.extend_from_slice(bytes);
    }

    /// Sends a command and returns its ID.
    pub(super) fn command(&mut self, mut sqe: Sqe, data: &[u8]) -> u16 {
        let command_id = self.next_command_id;
        self.next_command_id = self.next_command_id.wrapping_add(1);
        sqe.command_id.set(command_id);
        let digests = self.digests;
        let header = if data.is_empty() {
            CommonHeader::without_data(PduType::CapsuleCmd, digests.header)
        } else {
            CommonHeader::with_data(PduType::CapsuleCmd, digests, 4, data.len() as u32)
        };
        let mut bytes = Vec::new();
        append_header(&mut bytes, &CapsuleCmd { header, sqe });
        bytes.extend_from_slice(data);
        if digests.data && !data.is_empty() {
            bytes.extend_from_slice(&digest_bytes(data));
        }
        self.outstanding.insert(command_id, sqe.opcode);
        self.send(&bytes);
        command_id
    }

    /// Sends a data PDU with these fields, whether it was requested or not.
    pub(super) fn data_pdu(&mut self, part: Asked, is_last: bool) {
        let data = vec![part.tag as u8; part.len_bytes as usize];
        let mut header = CommonHeader::with_data(PduType::H2cData, self.digests, 4, part.len_bytes);
        if is_last {
            header.flags |= flags::LAST;
        }
        let pdu = H2cData {
            header,
            command_id: part.command_id.into(),
            transfer_tag: part.tag.into(),
            data_offset: part.offset.into(),
            data_bytes: part.len_bytes.into(),
            reserved: [0; 4],
        };
        let mut bytes = Vec::new();
        append_header(&mut bytes, &pdu);
        bytes.extend_from_slice(&data);
        if self.digests.data {
            bytes.extend_from_slice(&digest_bytes(&data));
        }
        self.send(&bytes);
    }

    /// Sends all requested data.
    pub(super) fn fulfil(&mut self) {
        for asked in std::mem::take(&mut self.asked) {
            self.data_pdu(asked, true);
        }
    }

    /// What the target owes, as text: answers to all commands except event requests, which may
    /// never be answered.
    pub(super) fn owed(&self) -> Option<String> {
        if self.is_closed {
            return None;
        }
        let event = u8::from(AdminOpcode::AsyncEventRequest);
        if self.outstanding.values().all(|opcode| *opcode == event) {
            return None;
        }
        let commands: Vec<String> =
            self.outstanding.iter().map(|(id, opcode)| format!("{id} (opcode {opcode:#04x})")).collect();
        Some(format!(
            "of {} commands these are without an answer: {}; data is asked for: {:?}; {} bytes are not taken, {} came of a PDU",
            self.next_command_id,
            commands.join(", "),
            self.asked,
            self.unsent.len(),
            self.received.len()
        ))
    }

    /// Ends the sending half.
    pub(super) fn close_write(&mut self) {
        // A connection that the target has reset cannot be closed, and need not be.
        let _ = self.stream.shutdown(Shutdown::Write);
        self.is_confused = true;
    }

    /// Sends this many of the remaining bytes, and hangs up.
    pub(super) fn hang_up_after(mut self, bytes: usize) {
        let count = bytes.min(self.unsent.len());
        // What does not fit is cut off; that is the purpose.
        let _ = self.stream.write(&self.unsent[..count]);
    }

    /// Moves bytes in both directions, and handles what was received.
    ///
    /// # Panics
    /// When the target sends what it must not.
    pub(super) fn step(&mut self) {
        if self.is_closed {
            return;
        }
        if !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // What was received before must still be read.
                Err(_) => self.unsent.clear(),
            }
        }
        let mut buffer = [0; 16_384];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.is_closed = true,
            Ok(count) => self.received.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => self.is_closed = true,
        }
        let mut at = 0;
        while let Ok((header, _)) = CommonHeader::ref_from_prefix(&self.received[at..]) {
            let len_bytes = header.plen.get() as usize;
            assert!(len_bytes >= 8, "a PDU of {len_bytes} bytes came");
            if self.received.len() - at < len_bytes {
                break;
            }
            let pdu = self.received[at..at + len_bytes].to_vec();
            self.take(&pdu);
            at += len_bytes;
        }
        self.received.drain(..at);
    }

    fn take(&mut self, pdu: &[u8]) {
        let header = view::<CommonHeader>(pdu);
        match PduType::try_from(header.pdu_type) {
            Ok(PduType::IcResp) => {}
            // The host then hangs up, and nothing follows.
            Ok(PduType::C2hTermReq) => self.is_closed = true,
            Ok(PduType::CapsuleResp) => {
                let cqe = view::<CapsuleResp>(pdu).cqe;
                self.answer(cqe.command_id.get(), cqe.status(), cqe.result.get());
            }
            Ok(PduType::C2hData) => {
                let data = view::<C2hData>(pdu);
                let command_id = data.command_id.get();
                assert!(self.outstanding.contains_key(&command_id), "data for command {command_id} came");
                let start = usize::from(header.pdo);
                let bytes = &pdu[start..start + data.data_bytes.get() as usize];
                self.data.entry(command_id).or_default().extend_from_slice(bytes);
                if header.flags & flags::SUCCESS != 0 {
                    self.answer(command_id, Status::SUCCESS, 0);
                }
            }
            Ok(PduType::R2t) => {
                let asked = view::<R2t>(pdu);
                let command_id = asked.command_id.get();
                assert!(self.outstanding.contains_key(&command_id), "R2T for command {command_id} came");
                self.asked.push(Asked {
                    command_id,
                    tag: asked.transfer_tag.get(),
                    offset: asked.data_offset.get(),
                    len_bytes: asked.data_bytes.get(),
                });
            }
            other => panic!("a target sends no {other:?} ({:#x})", header.pdu_type),
        }
    }

    fn answer(&mut self, command_id: u16, status: Status, result: u64) {
        let was_sent = self.outstanding.remove(&command_id).is_some();
        // The garbage may have been a command.
        assert!(was_sent || self.is_confused, "an answer for command {command_id}, which waits for none");
        self.asked.retain(|asked| asked.command_id != command_id);
        let data = self.data.remove(&command_id).unwrap_or_default();
        self.answers.push(Answer { command_id, status, result, data });
    }
}

fn view<T>(bytes: &[u8]) -> T
where
    T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned + Copy,
{
    *T::ref_from_prefix(bytes).expect("as long as its type needs").0
}
