//! The first part of a turn: bytes from the socket, and the PDUs in them (TCP section 3.6).

use zerocopy::FromBytes;

use super::input::Received;
use super::slots::Stage;
use super::taken::Taken;
use super::{Close, Connection, Disconnecting, Fatal, H2C_DATA_BYTES_MAX, Incoming, Phase, Stall};
use crate::nvmf::server::context::Context;
use crate::nvmf::server::io;
use crate::nvmf::wire::command::Rw;
use crate::nvmf::wire::pdu::{
    COMMON_HEADER_BYTES, CapsuleCmd, DIGEST_BYTES, Digests, H2cData, IcReq, IcResp, PDU_FORMAT_VERSION,
    PduType, TermReq, flags,
};
use crate::nvmf::wire::pdu_check::{
    PduLayout, append_header, check_data, check_header, check_header_digest, common_header, digest,
};

/// The most receives of one connection per turn.
const RECEIVES_PER_TURN: usize = 16;
/// The most bytes per turn that a connection may take, received and to be read, so that one busy
/// host does not delay the others. What the last receive or command took beyond that is subtracted
/// in the next turns.
const BYTES_PER_TURN: usize = 512 * 1024;
/// The same for the only active connection: more, and still within a short turn, because the next
/// command may come from another.
const ALONE_BYTES_PER_TURN: isize = 2 << 20;
/// The least that each command counts for, and each range of a discard.
pub(super) const COMMAND_BYTES: isize = 4096;
/// While at least this much data has been requested, only headers go to the receive buffer, as far
/// as possible. The data after them is received directly into its destination instead of being
/// copied.
const DIRECT_DATA_BYTES: usize = 64 * 1024;
/// The most bytes that the receive buffer takes at a time then.
const HEADER_BYTES: usize = 1024;
/// Turns for which a connection is read without a readiness check after it received data.
const EAGER_TURNS: u32 = 256;
/// HPDA is at most 31 (0's based dwords).
const HOST_ALIGNMENT_MAX: u8 = 31;

/// The result of parsing.
enum Step {
    /// A PDU, or part of one, of this many bytes was consumed.
    Consumed(usize),
    /// More bytes are needed.
    NeedMore,
    /// The PDU must wait.
    Stalled(Stall),
}

impl Connection {
    /// Whether data was received recently.
    pub(in crate::nvmf::server) fn is_eager(&self) -> bool {
        self.eager_turns > 0
    }

    /// Reads from the socket and acts on the data. `directly`: even if the socket was not reported
    /// as ready. Returns the amount of work.
    pub(in crate::nvmf::server) fn receive(
        &mut self,
        context: &Context,
        directly: bool,
    ) -> Result<usize, Close> {
        self.has_asked = false;
        let received = self.receive_what_is_there(context, directly);
        self.withdraw_unless_asked(context);
        received
    }

    fn receive_what_is_there(&mut self, context: &Context, directly: bool) -> Result<usize, Close> {
        self.allowance_bytes = if directly {
            ALONE_BYTES_PER_TURN
        } else {
            let more_bytes = context.turn_bytes(BYTES_PER_TURN) as isize;
            (self.allowance_bytes + more_bytes).min(more_bytes)
        };
        let mut work = self.retry(context);
        if self.stall != Stall::None {
            work += self.parse(context)?;
        }
        if self.stall == Stall::Turn || self.allowance_bytes <= 0 {
            // There is more to do than fits into this turn.
            return Ok(work + 1);
        }
        let is_told = self.source.take_readable();
        let tries = is_told || (directly && self.is_eager());
        self.eager_turns = self.eager_turns.saturating_sub(1);
        if self.stall != Stall::None || !tries {
            return Ok(work);
        }
        for _ in 0..RECEIVES_PER_TURN {
            let filled = match self.receive_once(context)? {
                Received::Bytes { count, filled } => {
                    self.eager_turns = EAGER_TURNS;
                    self.allowance_bytes -= count as isize;
                    filled
                }
                Received::Nothing => break,
                Received::Closed => return Err(Close::ByPeer),
            };
            work += 1;
            self.parse(context)?;
            if !filled || self.stall != Stall::None || self.allowance_bytes <= 0 {
                break;
            }
        }
        Ok(work)
    }

    fn receive_once(&mut self, context: &Context) -> Result<Received, Close> {
        let received = self.receive_bytes()?;
        if let Received::Bytes { count, .. } = received {
            context.counters.received_bytes.add(count as u64);
            if self.is_terminating() {
                self.input.discard();
            } else if let Some(queue) = &self.queue {
                queue.controller.note_traffic(context.now());
            }
        }
        Ok(received)
    }

    fn receive_bytes(&mut self) -> Result<Received, Close> {
        let room_max = if self.staging_bytes >= DIRECT_DATA_BYTES { HEADER_BYTES } else { usize::MAX };
        let direct = self.incoming.as_mut().filter(|incoming| incoming.received < incoming.len_bytes);
        if let Some(incoming) = direct
            && self.input.is_empty()
            && let Some(staging) = self.slots.get_mut(incoming.slot).and_then(|slot| slot.staging.as_mut())
        {
            // The rest of the payload goes directly to its destination.
            let start = incoming.offset + incoming.received;
            let rest = &mut staging.as_mut_slice()[start..incoming.offset + incoming.len_bytes];
            let (received, taken) = self.input.receive_payload(&self.line.socket, rest, room_max)?;
            incoming.received += taken;
            self.data_bytes += taken as u64;
            return Ok(received);
        }
        Ok(self.input.receive(&self.line.socket, room_max)?)
    }

    /// Acts on every whole PDU in the buffer. Returns how many there were.
    fn parse(&mut self, context: &Context) -> Result<usize, Close> {
        // Taken out, so that payloads can be lent to the storage while the connection changes.
        let bytes = std::mem::take(&mut self.input.bytes);
        let mut count = 0;
        let result = loop {
            let step = if self.allowance_bytes <= 0 && self.has_next() {
                Ok(Step::Stalled(Stall::Turn))
            } else {
                self.parse_one(context, &bytes[self.input.start..self.input.end])
            };
            match step {
                Ok(Step::Consumed(consumed)) => {
                    self.input.start += consumed;
                    self.checked = None;
                    count += 1;
                    self.prefetch_next(context, &bytes[self.input.start..self.input.end]);
                }
                Ok(Step::NeedMore) => {
                    self.stall = Stall::None;
                    break Ok(count);
                }
                Ok(Step::Stalled(stall)) => {
                    if stall == Stall::Storage && self.stall != stall {
                        context.counters.storage_busy.add(1);
                    }
                    self.stall = stall;
                    break Ok(count);
                }
                Err(close) => break Err(close),
            }
        };
        self.input.bytes = bytes;
        match result {
            Err(Close::Protocol(fatal)) => {
                self.terminate(context, fatal);
                Ok(count)
            }
            other => other,
        }
    }

    /// Whether the next PDU, or a part of it, has been received.
    fn has_next(&self) -> bool {
        !self.input.is_empty() && self.incoming.is_none() && !self.is_terminating()
    }

    /// When another command follows, what it will look up is prefetched while this turn continues.
    /// The command has not been checked yet, and nothing depends on the result.
    fn prefetch_next(&self, context: &Context, rest: &[u8]) {
        let Some(volume) = self.volume() else { return };
        if let Ok((capsule, _)) = CapsuleCmd::ref_from_prefix(rest)
            && capsule.header.pdu_type == u8::from(PduType::CapsuleCmd)
        {
            context.storage.prefetch(volume, capsule.sqe.view::<Rw>().start_lba.get());
        }
    }

    fn parse_one(&mut self, context: &Context, rest: &[u8]) -> Result<Step, Close> {
        if self.is_terminating() || !matches!(self.disconnecting, Disconnecting::No) {
            return Ok(if rest.is_empty() { Step::NeedMore } else { Step::Consumed(rest.len()) });
        }
        if self.incoming.is_some() {
            return Ok(self.parse_payload(context, rest)?);
        }
        if self.output.len() + self.reading_bytes > self.output_bytes_max {
            return Ok(if rest.is_empty() { Step::NeedMore } else { Step::Stalled(Stall::Output) });
        }
        let Some(header) = common_header(rest) else { return Ok(Step::NeedMore) };
        debug_assert!(rest.len() >= COMMON_HEADER_BYTES);
        let layout = check_header(header, &self.limits).map_err(Fatal::from)?;
        match (self.phase, layout.pdu_type) {
            (Phase::Accepted, PduType::IcReq)
            | (Phase::Initialized, PduType::CapsuleCmd | PduType::H2cData)
            | (_, PduType::H2cTermReq) => {}
            (_, other) => return Err(Fatal::Sequence(other).into()),
        }
        if rest.len() < layout.head_bytes() {
            return Ok(Step::NeedMore);
        }
        if self.checked.is_none() {
            check_header_digest(rest, &layout).map_err(Fatal::from)?;
        }
        match layout.pdu_type {
            PduType::H2cData => Ok(self.h2c_data(rest, &layout)?),
            _ if rest.len() < layout.pdu_bytes as usize => Ok(Step::NeedMore),
            PduType::CapsuleCmd => Ok(self.capsule(context, &rest[..layout.pdu_bytes as usize], &layout)?),
            PduType::IcReq => {
                self.initialize(rest)?;
                Ok(Step::Consumed(layout.pdu_bytes as usize))
            }
            _ => {
                let (fatal_error, information) = TermReq::ref_from_prefix(rest)
                    .map_or((0, 0), |(request, _)| (request.fatal_error.get(), request.information.get()));
                Err(Close::HostTerminated { fatal_error, information })
            }
        }
    }

    fn initialize(&mut self, rest: &[u8]) -> Result<(), Fatal> {
        let Ok((request, _)) = IcReq::ref_from_prefix(rest) else { return Ok(()) };
        let version = request.format_version.get();
        if version != PDU_FORMAT_VERSION {
            return Err(Fatal::FormatVersion(version));
        }
        if request.host_data_alignment > HOST_ALIGNMENT_MAX {
            return Err(Fatal::Alignment(request.host_data_alignment));
        }
        self.host_alignment_bytes = (request.host_data_alignment + 1) * 4;
        // MAXR2T is at least one R2T per command, and we never send more.
        let digests = Digests::from_bits(request.digest);
        let response = IcResp::new(digests, H2C_DATA_BYTES_MAX);
        self.output.header(|arena| append_header(arena, &response));
        self.limits.digests = digests;
        self.phase = Phase::Initialized;
        Ok(())
    }

    fn capsule(&mut self, context: &Context, pdu: &[u8], layout: &PduLayout) -> Result<Step, Fatal> {
        let Ok((capsule, _)) = CapsuleCmd::ref_from_prefix(pdu) else { return Ok(Step::NeedMore) };
        let data_end = (layout.data_offset + layout.data_bytes) as usize;
        let data = &pdu[layout.data_offset as usize..data_end];
        // A capsule that waits for the storage is checked only once.
        let intact =
            self.checked.unwrap_or_else(|| !layout.data_digest || digest_matches(data, &pdu[data_end..]));
        self.checked = Some(intact);
        match self.command(context, &capsule.sqe, data, intact)? {
            Taken::Yes => {
                self.allowance_bytes -= COMMAND_BYTES;
                context.counters.commands.add(1);
                if let Some(queue) = &self.queue {
                    queue.counters.commands.add(1);
                    if !queue.is_admin() {
                        context.counters.io_commands.add(1);
                        self.allowance_bytes -= COMMAND_BYTES * (io::parts(&capsule.sqe) - 1);
                    }
                }
                Ok(Step::Consumed(layout.pdu_bytes as usize))
            }
            Taken::Busy => Ok(Step::Stalled(Stall::Storage)),
        }
    }

    /// Begins to receive the data of an `H2CData` PDU.
    fn h2c_data(&mut self, rest: &[u8], layout: &PduLayout) -> Result<Step, Fatal> {
        if rest.len() < layout.data_offset as usize {
            return Ok(Step::NeedMore);
        }
        let Ok((header, _)) = H2cData::ref_from_prefix(rest) else { return Ok(Step::NeedMore) };
        check_data(layout, header.data_bytes.get())?;
        let tag = header.transfer_tag.get();
        let slot = self
            .slots
            .get_mut(tag)
            .filter(|slot| slot.stage == Stage::AwaitData && slot.sqe.command_id == header.command_id)
            .ok_or(Fatal::TransferTag(tag))?;
        let (offset, len_bytes) = (header.data_offset.get(), layout.data_bytes);
        if offset != slot.received_bytes || len_bytes > slot.len_bytes - slot.received_bytes {
            return Err(Fatal::DataRange { offset, len_bytes });
        }
        self.incoming = Some(Incoming {
            slot: tag,
            offset: offset as usize,
            received: 0,
            len_bytes: len_bytes as usize,
            digest: layout.data_digest,
            last: header.header.flags & flags::LAST != 0,
        });
        Ok(Step::Consumed(layout.data_offset as usize))
    }

    /// Takes payload, and the digest after it, from the buffer.
    fn parse_payload(&mut self, context: &Context, rest: &[u8]) -> Result<Step, Fatal> {
        let Some(incoming) = &mut self.incoming else { return Ok(Step::NeedMore) };
        let Some(slot) = self.slots.get_mut(incoming.slot) else { return Ok(Step::NeedMore) };
        let Some(staging) = slot.staging.as_mut() else { return Ok(Step::NeedMore) };
        let missing = incoming.len_bytes - incoming.received;
        if missing > 0 {
            let count = missing.min(rest.len());
            if count == 0 {
                return Ok(Step::NeedMore);
            }
            let start = incoming.offset + incoming.received;
            staging.as_mut_slice()[start..start + count].copy_from_slice(&rest[..count]);
            incoming.received += count;
            self.data_bytes += count as u64;
            return Ok(Step::Consumed(count));
        }
        let mut consumed = 0;
        if incoming.digest {
            if rest.len() < DIGEST_BYTES {
                return Ok(Step::NeedMore);
            }
            let data = &staging.as_slice()[incoming.offset..incoming.offset + incoming.len_bytes];
            if !digest_matches(data, rest) {
                slot.digest_failed = true;
            }
            consumed = DIGEST_BYTES;
        }
        slot.received_bytes += incoming.len_bytes as u32;
        let complete = slot.received_bytes == slot.len_bytes;
        if incoming.last && !complete {
            return Err(Fatal::LastTooEarly);
        }
        let index = incoming.slot;
        self.incoming = None;
        if complete {
            self.data_complete(context, index);
        }
        Ok(Step::Consumed(consumed))
    }
}

/// Whether the digest that follows `data` matches. A missing digest does not match.
fn digest_matches(data: &[u8], behind: &[u8]) -> bool {
    behind.first_chunk().is_some_and(|found| u32::from_le_bytes(*found) == digest(data))
}
