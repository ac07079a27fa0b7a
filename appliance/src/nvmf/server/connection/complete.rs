//! The second part of a turn: completions of the storage and events become responses and data PDUs.

use smallvec::{SmallVec, smallvec};
use zerocopy::little_endian::{U16, U32};

use super::Connection;
use super::memory::AnswerRoom;
use super::slots::Stage;
use crate::dma::DmaBuf;
use crate::nvmf::server::context::Context;
use crate::nvmf::server::error_log::Failure;
use crate::nvmf::server::io;
use crate::nvmf::wire::command::{Cqe, Rw, Sqe};
use crate::nvmf::wire::opcode::{AdminOpcode, IoOpcode};
use crate::nvmf::wire::pdu::{C2hData, CommonHeader, PduType, flags};
use crate::nvmf::wire::pdu_check::{DataDigest, append_header};
use crate::nvmf::wire::status::Status;
use crate::volume::IoCompletion;

impl Connection {
    /// Answers everything that has completed. Returns how many responses that were.
    pub(super) fn drain(&mut self, context: &Context) -> usize {
        let mut work = 0;
        if self.is_terminating() {
            return std::iter::from_fn(|| self.drop_completion()).count();
        }
        while let Some(completion) = self.sink.pop() {
            self.finish(context, completion);
            work += 1;
        }
        self.finish_disconnect(context);
        work + self.send_events()
    }

    /// Takes a completion and sends no answer: nothing follows a termination request.
    fn drop_completion(&mut self) -> Option<()> {
        let completion = self.sink.pop()?;
        if let Some(slot) = self.slots.get_mut(completion.tag as u16) {
            slot.stage = Stage::AwaitRoom;
        }
        Some(())
    }

    /// Completes asynchronous event requests for which an event is pending.
    fn send_events(&mut self) -> usize {
        let mut count = 0;
        while let Some(queue) = &mut self.queue
            && queue.is_admin()
        {
            let next = queue.controller.events.borrow_mut().next();
            let Some((command_id, event)) = next else { break };
            let head = queue.advance();
            self.respond(Cqe::new(command_id, head, Status::SUCCESS, u64::from(event.to_dword())));
            count += 1;
        }
        count
    }

    /// Ends a command that the storage has completed.
    fn finish(&mut self, context: &Context, completion: IoCompletion) {
        let index = completion.tag as u16;
        let Some(slot) = self.slots.get_mut(index) else { return };
        let (sqe, len_bytes, data) = (slot.sqe, slot.len_bytes, slot.data.take());
        let charged_bytes = std::mem::take(&mut slot.charged_bytes);
        self.slots.give_back(index);
        let opcode = IoOpcode::try_from(sqe.opcode).unwrap_or(IoOpcode::Flush);
        self.note_read(context, io::reading_bytes(opcode, &sqe) as usize);
        let status = match completion.result {
            Ok(()) if opcode == IoOpcode::Compare => {
                if is_same(&completion.data, data.as_deref().unwrap_or_default()) {
                    Status::SUCCESS
                } else {
                    Status::COMPARE_FAILURE
                }
            }
            Ok(()) => Status::SUCCESS,
            Err(error) => io::status_of(error),
        };
        self.release_staging(context, data.map_or(0, |data| data.len()));
        if self.queue.as_ref().is_some_and(super::Queue::is_admin) {
            self.release_memory(context, charged_bytes);
            return self.shutdown_flushed(if status.is_success() { Ok(()) } else { Err(status) });
        }
        self.account(opcode, len_bytes, status);
        if status.is_success() && opcode == IoOpcode::Read {
            self.complete_with_data(context, &sqe, len_bytes, completion.data, charged_bytes);
        } else {
            self.release_memory(context, charged_bytes);
            self.complete(context, &sqe, status, 0);
        }
    }

    /// The storage has read this many bytes for the connection, or the connection no longer waits
    /// for them.
    pub(super) fn note_read(&mut self, context: &Context, len_bytes: usize) {
        self.reading_bytes -= len_bytes;
        if let Some(queue) = &self.queue {
            context.end_reading(&queue.controller, len_bytes);
        }
    }

    fn account(&self, opcode: IoOpcode, len_bytes: u32, status: Status) {
        let Some(queue) = &self.queue else { return };
        let (health, counters) = (&queue.controller.subsystem.health, &queue.counters);
        match opcode {
            IoOpcode::Read | IoOpcode::Compare => {
                health.reads.add(1);
                health.read_bytes.add(u64::from(len_bytes));
                counters.reads.add(1);
                counters.read_bytes.add(u64::from(len_bytes));
            }
            IoOpcode::Write => {
                health.writes.add(1);
                health.written_bytes.add(u64::from(len_bytes));
                counters.writes.add(1);
                counters.written_bytes.add(u64::from(len_bytes));
            }
            _ => {}
        }
        let code = status.code_only();
        if code == Status::UNRECOVERED_READ_ERROR || code == Status::WRITE_FAULT {
            health.media_errors.add(1);
        }
    }

    /// Answers a command with a completion only.
    pub(super) fn complete(&mut self, context: &Context, sqe: &Sqe, status: Status, result: u64) {
        if !status.is_success() {
            self.note_failure(context, sqe, status);
        }
        let head = self.queue.as_mut().map_or(0, super::Queue::advance);
        self.respond(Cqe::new(sqe.command_id.get(), head, status, result));
    }

    fn note_failure(&self, context: &Context, sqe: &Sqe, status: Status) {
        context.counters.command_errors.add(1);
        let Some(queue) = &self.queue else { return };
        queue.counters.errors.add(1);
        queue.controller.subsystem.health.errors.add(1);
        let is_fabrics = sqe.opcode == u8::from(AdminOpcode::Fabrics);
        let lba = if queue.is_admin() || is_fabrics { 0 } else { sqe.view::<Rw>().start_lba.get() };
        queue.controller.errors.borrow_mut().record(&Failure {
            queue_id: queue.id,
            command_id: sqe.command_id.get(),
            status,
            nsid: if is_fabrics { 0 } else { sqe.nsid.get() },
            lba,
        });
    }

    /// Answers a read: its data in one PDU, then its completion.
    fn complete_with_data(
        &mut self,
        context: &Context,
        sqe: &Sqe,
        len_bytes: u32,
        pieces: SmallVec<[DmaBuf; 1]>,
        charged_bytes: usize,
    ) {
        debug_assert_eq!(pieces.iter().map(|piece| piece.len()).sum::<usize>(), len_bytes as usize);
        if pieces.iter().map(|piece| piece.len()).sum::<usize>() != len_bytes as usize {
            // A storage that breaks its contract must not cause a short read at the host.
            self.release_memory(context, charged_bytes);
            return self.complete(context, sqe, Status::INTERNAL_ERROR, 0);
        }
        let needs_response = self.data_header(sqe, len_bytes);
        let mut digest = self.limits.digests.data.then(DataDigest::default);
        let last = pieces.len().saturating_sub(1);
        for (index, piece) in pieces.into_iter().enumerate() {
            if let Some(digest) = &mut digest {
                digest.update(&piece);
            }
            // With the last piece, all memory of the read is free.
            self.output.charged_data(piece, if index == last { charged_bytes } else { 0 });
        }
        if let Some(digest) = digest {
            self.output.header(|arena| arena.extend_from_slice(&digest.finish()));
        }
        self.after_data(context, sqe, needs_response);
    }

    /// Answers an admin command that requests data.
    pub(super) fn complete_with_bytes(&mut self, context: &Context, sqe: &Sqe, data: &[u8]) {
        let needs_response = self.data_header(sqe, data.len() as u32);
        let mut digest = self.limits.digests.data.then(DataDigest::default);
        self.output.header(|arena| {
            arena.extend_from_slice(data);
            if let Some(mut digest) = digest.take() {
                digest.update(data);
                arena.extend_from_slice(&digest.finish());
            }
        });
        self.after_data(context, sqe, needs_response);
    }

    /// The same with a long answer, in memory that was requested for it.
    pub(super) fn complete_with_room(
        &mut self,
        context: &Context,
        sqe: &Sqe,
        data: &[u8],
        mut room: AnswerRoom,
    ) {
        room.buffer.as_mut_slice()[..data.len()].copy_from_slice(data);
        let buffer = room.buffer.freeze().slice(0, data.len());
        self.complete_with_data(context, sqe, data.len() as u32, smallvec![buffer], room.charge_bytes);
    }

    fn after_data(&mut self, context: &Context, sqe: &Sqe, needs_response: bool) {
        if needs_response {
            self.complete(context, sqe, Status::SUCCESS, 0);
        } else if let Some(queue) = &mut self.queue {
            queue.advance();
        }
    }

    /// Writes the header of a data PDU that carries a whole transfer. Returns whether a response
    /// must follow: without flow control a response contains nothing beyond the SUCCESS flag (TCP
    /// section 3.3.2.2).
    fn data_header(&mut self, sqe: &Sqe, len_bytes: u32) -> bool {
        let success_flag = self.queue.as_ref().is_some_and(|queue| !queue.flow_control);
        let mut header = CommonHeader::with_data(
            PduType::C2hData,
            self.limits.digests,
            self.host_alignment_bytes,
            len_bytes,
        );
        header.flags |= flags::LAST;
        if success_flag {
            header.flags |= flags::SUCCESS;
        }
        let pdu = C2hData {
            header,
            command_id: U16::new(sqe.command_id.get()),
            data_bytes: U32::new(len_bytes),
            ..C2hData::default()
        };
        self.output.header(|arena| {
            let start = arena.len();
            append_header(arena, &pdu);
            arena.resize(start + usize::from(header.pdo), 0);
        });
        !success_flag
    }
}

/// Whether the pieces hold exactly the expected bytes.
fn is_same(pieces: &[DmaBuf], expected: &[u8]) -> bool {
    let mut rest = expected;
    for piece in pieces {
        let Some((front, behind)) = rest.split_at_checked(piece.len()) else { return false };
        if front != &piece[..] {
            return false;
        }
        rest = behind;
    }
    rest.is_empty()
}
