//! A connection's use of the memory for host data: requesting, releasing and waiting, and whether
//! its host is too slow for those who wait (the policy is `shares`).
//!
//! The memory is charged to the command's slot. With a read's data the charge moves to the output,
//! and is released when the socket has accepted the data. A command that must wait does so in its
//! slot, not in the receive buffer: the buffer may contain, after the command, the data of another
//! command whose memory it waits for.

use std::ops::ControlFlow;
use std::time::Duration;

use super::pace::MinimumRate;
use super::slots::Stage;
use super::taken::Taken;
use super::{Close, Connection, Disconnecting, Queue};
use crate::dma::{DmaBufMut, DmaPool};
use crate::nvmf::server::context::Context;
use crate::nvmf::server::io;
use crate::nvmf::server::leftover::Leftover;
use crate::nvmf::wire::command::Sqe;
use crate::nvmf::wire::opcode::IoOpcode;
use crate::nvmf::wire::pdu::R2t;
use crate::nvmf::wire::pdu_check::append_header;
use crate::nvmf::wire::status::Status;

/// A host whose output has waited for this time gets its data copied into separate memory: it must
/// not keep memory of the log from being reused.
const OWN_AFTER: Duration = Duration::from_millis(200);

/// Memory for the answer to an admin command.
pub(super) struct AnswerRoom {
    pub(super) buffer: DmaBufMut,
    pub(super) charge_bytes: usize,
}

/// The charge for a buffer of `len_bytes`. 0 for no buffer.
pub(super) fn charge_of(len_bytes: usize) -> usize {
    if len_bytes == 0 { 0 } else { DmaPool::allocation_bytes(len_bytes) }
}

impl Connection {
    /// Asks for memory. `false`: the command waits, and asks again in the next turn.
    pub(super) fn ask_memory(&mut self, context: &Context, charge_bytes: usize) -> bool {
        // Before a Connect there is no member.
        let Some(member) = self.member else { return false };
        if context.shares.borrow_mut().ask(member, charge_bytes) {
            if self.waits_for_memory {
                self.waits_for_memory = false;
                self.patience.note_taken();
            }
            return true;
        }
        context.counters.memory_waits.add(u64::from(!self.waits_for_memory));
        (self.waits_for_memory, self.has_asked) = (true, true);
        false
    }

    /// Releases memory.
    pub(super) fn release_memory(&mut self, context: &Context, charge_bytes: usize) {
        if charge_bytes > 0
            && let Some(member) = self.member
        {
            context.shares.borrow_mut().release(member, charge_bytes);
        }
    }

    /// Returns memory that was granted but that the pool did not have, and waits for it.
    pub(super) fn return_memory(&mut self, context: &Context, charge_bytes: usize) {
        if let Some(member) = self.member {
            context.shares.borrow_mut().return_and_wait(member, charge_bytes);
            (self.waits_for_memory, self.has_asked) = (true, true);
        }
    }

    /// The connection is closed: releases everything except the memory of commands in the storage.
    pub(super) fn give_up_memory(&mut self, context: &Context) {
        let in_storage = self.slots.iter().filter(|slot| slot.stage == Stage::InStorage);
        let (mut count, mut kept_bytes) = (0, 0);
        for slot in in_storage {
            count += 1;
            kept_bytes += slot.charged_bytes;
        }
        let Some(member) = self.member.take() else { return };
        match &self.queue {
            Some(queue) if !queue.is_admin() && count > 0 => {
                context.shares.borrow_mut().keep_only(member, kept_bytes);
                context.leave(Leftover::new(&queue.controller, &self.sink, count, member));
            }
            _ => context.shares.borrow_mut().leave(member),
        }
    }

    /// A waiting connection asks in every turn. This one did not, so it stops waiting.
    pub(super) fn withdraw_unless_asked(&mut self, context: &Context) {
        if self.waits_for_memory && !self.has_asked {
            self.waits_for_memory = false;
            if let Some(member) = self.member {
                context.shares.borrow_mut().withdraw(member);
            }
        }
    }

    /// Frees a slot and its charge. Its memory must have been taken out before.
    pub(super) fn free_slot(&mut self, context: &Context, index: u16) {
        if let Some(slot) = self.slots.get_mut(index) {
            let charged_bytes = std::mem::take(&mut slot.charged_bytes);
            self.release_memory(context, charged_bytes);
        }
        self.slots.give_back(index);
    }

    /// Memory for a long answer of an admin queue. Without it the command stays where it is, or has
    /// ended.
    pub(super) fn answer_room(
        &mut self,
        context: &Context,
        sqe: &Sqe,
        len_bytes: usize,
    ) -> Result<AnswerRoom, Taken> {
        let charge_bytes = charge_of(len_bytes);
        if self.ask_memory(context, charge_bytes) {
            match context.dma.allocate(len_bytes) {
                Ok(buffer) => return Ok(AnswerRoom { buffer, charge_bytes }),
                Err(_) => self.return_memory(context, charge_bytes),
            }
        }
        Err(self.wait_in_buffer(context, sqe))
    }

    /// A command waits for memory in the receive buffer and blocks everything after it. That is
    /// allowed only while no requested data can be after it, and only for a limited time.
    pub(super) fn wait_in_buffer(&mut self, context: &Context, sqe: &Sqe) -> Taken {
        if self.staging_bytes > 0 || self.has_waited_too_long_for_memory(context) {
            self.complete(context, sqe, Status::COMMAND_INTERRUPTED, 0);
            return Taken::Yes;
        }
        Taken::Busy
    }

    /// Continues with commands that wait for memory, as far as there is memory: requests the data
    /// of those that carry some, with one R2T for all of it, and starts those that read.
    pub(super) fn go_on_with_memory(&mut self, context: &Context) {
        while let Some(&index) = self.await_memory.front() {
            // Who waits asks in every turn, to keep its place. Others have had their limit.
            if self.allowance_bytes <= 0 && !self.waits_for_memory {
                break;
            }
            let Some(slot) = self.slots.get_mut(index) else { break };
            let (sqe, len_bytes) = (slot.sqe, slot.len_bytes as usize);
            let opcode = IoOpcode::try_from(sqe.opcode).unwrap_or(IoOpcode::Flush);
            let is_admin = self.queue.as_ref().is_none_or(Queue::is_admin);
            let brings_data = is_admin || !matches!(opcode, IoOpcode::Read | IoOpcode::Verify);
            let room = context.config.staging_bytes_per_connection_max;
            if brings_data && self.staging_bytes + len_bytes > room {
                break;
            }
            let reading_bytes = if is_admin { 0 } else { io::reading_bytes(opcode, &sqe) as usize };
            let coming_bytes = if brings_data { len_bytes } else { 0 };
            let charge_bytes = charge_of(reading_bytes) + charge_of(coming_bytes);
            if !self.ask_memory(context, charge_bytes) {
                if !self.has_waited_too_long_for_memory(context) {
                    break;
                }
                self.await_memory.pop_front();
                self.end_early(context, index, Status::COMMAND_INTERRUPTED);
                continue;
            }
            let staging = if brings_data { context.take_staging(len_bytes) } else { None };
            if brings_data && staging.is_none() {
                self.return_memory(context, charge_bytes);
                break;
            }
            self.await_memory.pop_front();
            let Some(slot) = self.slots.get_mut(index) else { break };
            slot.charged_bytes = charge_bytes;
            slot.staging = staging;
            if !brings_data {
                slot.stage = Stage::AwaitRoom;
                if !self.await_room.is_empty() || !self.start_from_slot(context, index) {
                    self.await_room.push_back(index);
                }
                continue;
            }
            slot.stage = Stage::AwaitData;
            slot.asked_at = Some(context.now());
            let request =
                R2t::new(slot.sqe.command_id.get(), index, 0, slot.len_bytes, self.limits.digests.header);
            self.staging_bytes += len_bytes;
            self.output.header(|arena| append_header(arena, &request));
        }
    }

    /// Ends every command that waits for memory or for data: nothing more is received.
    pub(super) fn end_what_waits(&mut self, context: &Context) {
        self.await_memory.clear();
        self.incoming = None;
        for index in self.slots.waiting() {
            self.end_early(context, index, Status::ABORTED_QUEUE_DELETED);
        }
    }

    /// Ends a command that the storage has not accepted, and releases all its memory.
    pub(super) fn end_early(&mut self, context: &Context, index: u16, status: Status) {
        let Some(slot) = self.slots.get_mut(index) else { return };
        let (sqe, staging) = (slot.sqe, slot.staging.take());
        self.release_staging(context, staging.map_or(0, |staging| staging.len()));
        self.free_slot(context, index);
        self.complete(context, &sqe, status, 0);
    }

    /// Answers a Disconnect when the storage has no command of the queue any more.
    pub(super) fn finish_disconnect(&mut self, context: &Context) {
        if let Disconnecting::Asked(sqe) = self.disconnecting
            && self.slots.used() == 0
        {
            self.disconnecting = Disconnecting::Answered;
            self.complete(context, &sqe, Status::SUCCESS, 0);
        }
    }

    /// Copies waiting output into separate memory if it keeps more memory from being reused than it
    /// needs, for example a block of the log's memory. Without memory for the copy, it stays as it
    /// is. What all connections copy per turn is bounded: the rest is copied in the next turns.
    pub(super) fn own_output(&mut self, context: &Context) {
        self.owns_output = true;
        if self.behind_since.is_none_or(|since| context.now() < since + OWN_AFTER) {
            return;
        }
        let owned = self.output.replace_data(|data| {
            if data.pinned_bytes() <= 2 * charge_of(data.len()) {
                return ControlFlow::Continue(None);
            }
            if !context.may_copy(data.len()) {
                return ControlFlow::Break(());
            }
            let Ok(mut own) = context.dma.allocate(data.len()) else { return ControlFlow::Continue(None) };
            own.as_mut_slice().copy_from_slice(data);
            ControlFlow::Continue(Some(own.freeze()))
        });
        self.owns_output = owned.is_continue();
    }

    /// Ends a connection whose host takes or sends data too slowly while others wait for memory.
    pub(super) fn check_pace(&mut self, context: &Context) -> Result<(), Close> {
        let is_in_the_way = self.member.is_some_and(|member| context.shares.borrow().is_in_the_way(member));
        if !is_in_the_way {
            self.taking.forget();
            self.sending.forget();
            return Ok(());
        }
        let rate = MinimumRate {
            bytes_per_second: context.config.peer_rate_bytes_per_second_min,
            span: context.config.peer_rate_span,
        };
        let now = context.now();
        let to_take = if self.blocked_since.is_some() { self.output.len() as u64 } else { 0 };
        // While we do not read, it is not the host that is late.
        let to_send = if self.reads() && self.staging_bytes > 0 {
            let asked = self.slots.iter().filter(|slot| slot.stage == Stage::AwaitData);
            asked.map(|slot| u64::from(slot.len_bytes - slot.received_bytes)).sum()
        } else {
            0
        };
        let is_too_slow = self.taking.is_too_slow(now, self.sent_bytes, to_take, rate)
            | self.sending.is_too_slow(now, self.data_bytes, to_send, rate);
        if !is_too_slow {
            return Ok(());
        }
        context.counters.slow_peers_ended.add(1);
        if context.may_warn() {
            let least_bytes_per_second = rate.bytes_per_second;
            tracing::warn!(
                peer = %self.line.peer,
                to_take,
                to_send,
                least_bytes_per_second,
                "a host is too slow for those who wait for memory: the connection is ended"
            );
        }
        Err(Close::TooSlow)
    }
}
