//! The receiving half of a queue: splits the stream into PDUs and acts on each.

use zerocopy::FromBytes;

use super::error::{Loss, Violation};
use super::queue::Queue;
use super::slots::{Completion, Direction};
use super::stage::{Incoming, Stage};
use super::transport::{Block, Received};
use crate::nvmf::wire::pdu::{
    C2hData, COMMON_HEADER_BYTES, CapsuleResp, DIGEST_BYTES, PduType, R2t, TermReq, flags,
};
use crate::nvmf::wire::pdu_check::{
    PduLayout, check_data, check_header, check_header_digest, common_header, digest,
};
use crate::nvmf::wire::status::Status;

impl Queue {
    /// Receives once and acts on everything that is complete. Returns the number of completions,
    /// and whether bytes were received.
    pub(super) fn receive_once(
        &mut self,
        block: Block,
        on_completion: &mut impl FnMut(Completion<'_>),
    ) -> Result<(usize, bool), Loss> {
        let received = match self.stage {
            Stage::Data(incoming) => {
                let rest = incoming.end - incoming.at;
                let direct = self.slots.buffer(incoming.command_id, incoming.at, rest);
                self.transport.receive(direct, block)?
            }
            Stage::Header | Stage::Digest(_) => self.transport.receive(&mut [], block)?,
        };
        let Received::Direct(direct_bytes) = received else {
            return Ok((0, false));
        };
        if let Stage::Data(incoming) = &mut self.stage {
            incoming.at += direct_bytes as u32;
        }
        Ok((self.act_on_received(on_completion)?, true))
    }

    fn act_on_received(&mut self, on_completion: &mut impl FnMut(Completion<'_>)) -> Result<usize, Loss> {
        let mut completed = 0;
        loop {
            match self.stage {
                Stage::Header => match self.take_header(on_completion)? {
                    Some(count) => completed += count,
                    None => return Ok(completed),
                },
                Stage::Data(mut incoming) => {
                    let received = self.transport.received();
                    let bytes = (incoming.end - incoming.at).min(received.len() as u32);
                    self.slots
                        .buffer(incoming.command_id, incoming.at, bytes)
                        .copy_from_slice(&received[..bytes as usize]);
                    self.transport.consume(bytes as usize);
                    incoming.at += bytes;
                    if incoming.at < incoming.end {
                        self.stage = Stage::Data(incoming);
                        return Ok(completed);
                    }
                    if incoming.digest {
                        self.stage = Stage::Digest(incoming);
                    } else {
                        completed += self.finish_data(incoming, on_completion)?;
                    }
                }
                Stage::Digest(incoming) => {
                    let Some(found) = self.transport.received().first_chunk::<DIGEST_BYTES>() else {
                        return Ok(completed);
                    };
                    let found = u32::from_le_bytes(*found);
                    let bytes = incoming.end - incoming.first;
                    let command_id = incoming.command_id;
                    let computed = digest(self.slots.buffer(command_id, incoming.first, bytes));
                    if found != computed {
                        return Err(Violation::DataDigest { command_id, found, computed }.into());
                    }
                    self.transport.consume(DIGEST_BYTES);
                    completed += self.finish_data(incoming, on_completion)?;
                }
            }
        }
    }

    /// Acts on one header if it has been received completely. `None` when more bytes are needed.
    fn take_header(&mut self, on_completion: &mut impl FnMut(Completion<'_>)) -> Result<Option<usize>, Loss> {
        let received = self.transport.received();
        let Some(header) = common_header(received) else {
            return Ok(None);
        };
        let layout = check_header(header, &self.limits)?;
        // A header with its digest and padding. PDUs without data to place are small and taken
        // whole.
        let needed = match layout.pdu_type {
            PduType::C2hData => layout.data_offset as usize,
            _ => layout.pdu_bytes as usize,
        };
        debug_assert!(needed >= COMMON_HEADER_BYTES);
        if received.len() < needed {
            return Ok(None);
        }
        check_header_digest(received, &layout)?;
        let unexpected = Violation::UnexpectedPdu { pdu_type: layout.pdu_type.into() };
        let count = match layout.pdu_type {
            PduType::CapsuleResp => {
                let response = *view::<CapsuleResp>(received).ok_or(unexpected)?;
                self.take_response(&response, on_completion)?;
                1
            }
            PduType::C2hData => {
                let pdu = *view::<C2hData>(received).ok_or(unexpected)?;
                self.begin_data(&pdu, &layout)?;
                0
            }
            PduType::R2t => {
                let pdu = *view::<R2t>(received).ok_or(unexpected)?;
                self.take_r2t(&pdu)?;
                0
            }
            PduType::C2hTermReq => {
                let request = *view::<TermReq>(received).ok_or(unexpected)?;
                return Err(Loss::Terminated {
                    fatal_error: request.fatal_error.get(),
                    information: request.information.get(),
                });
            }
            _ => return Err(unexpected.into()),
        };
        self.transport.consume(needed);
        Ok(Some(count))
    }

    fn take_response(
        &mut self,
        response: &CapsuleResp,
        on_completion: &mut impl FnMut(Completion<'_>),
    ) -> Result<(), Violation> {
        let cqe = &response.cqe;
        let command_id = cqe.command_id.get();
        self.complete(command_id, cqe.status(), cqe.result.get(), on_completion)
    }

    fn begin_data(&mut self, pdu: &C2hData, layout: &PduLayout) -> Result<(), Loss> {
        let command_id = pdu.command_id.get();
        let data_offset = pdu.data_offset.get();
        let data_bytes = pdu.data_bytes.get();
        check_data(layout, data_bytes)?;
        let slot = self.slots.get(command_id).ok_or(Violation::UnknownCommand { command_id })?;
        if slot.direction != Direction::Read {
            return Err(Violation::DataForNonRead { command_id }.into());
        }
        // The Linux host places data one after another whatever DATAO is, so order is required.
        let room = slot.total_bytes - slot.moved_bytes;
        if data_offset != slot.moved_bytes || data_bytes > room {
            return Err(Violation::DataRange {
                command_id,
                data_offset,
                data_bytes,
                expected_offset: slot.moved_bytes,
                total_bytes: slot.total_bytes,
            }
            .into());
        }
        let bits = pdu.header.flags;
        if bits & flags::SUCCESS != 0 && bits & flags::LAST == 0 {
            return Err(Violation::SuccessWithoutLast { command_id }.into());
        }
        self.stage = Stage::Data(Incoming {
            command_id,
            first: data_offset,
            at: data_offset,
            end: data_offset + data_bytes,
            digest: layout.data_digest,
            flags: bits,
        });
        Ok(())
    }

    fn finish_data(
        &mut self,
        incoming: Incoming,
        on_completion: &mut impl FnMut(Completion<'_>),
    ) -> Result<usize, Loss> {
        self.stage = Stage::Header;
        if let Some(slot) = self.slots.get(incoming.command_id) {
            slot.moved_bytes = incoming.end;
        }
        if incoming.flags & flags::SUCCESS == 0 {
            return Ok(0);
        }
        self.complete(incoming.command_id, Status::SUCCESS, 0, on_completion)?;
        Ok(1)
    }

    fn complete(
        &mut self,
        command_id: u16,
        status: Status,
        result: u64,
        on_completion: &mut impl FnMut(Completion<'_>),
    ) -> Result<(), Violation> {
        let slot = *self.slots.get(command_id).ok_or(Violation::UnknownCommand { command_id })?;
        if status.is_success() && slot.moved_bytes != slot.total_bytes {
            match slot.direction {
                Direction::Read => {
                    return Err(Violation::ShortData {
                        command_id,
                        received_bytes: slot.moved_bytes,
                        total_bytes: slot.total_bytes,
                    });
                }
                Direction::Write => {
                    return Err(Violation::ShortWrite {
                        command_id,
                        sent_bytes: slot.moved_bytes,
                        total_bytes: slot.total_bytes,
                    });
                }
                Direction::InCapsule | Direction::None | Direction::Free => {}
            }
        }
        let bytes = if slot.direction == Direction::Read { slot.moved_bytes } else { 0 };
        on_completion(Completion {
            tag: slot.tag,
            status,
            result,
            data: self.slots.buffer(command_id, 0, bytes),
        });
        self.slots.release(command_id);
        Ok(())
    }

    fn take_r2t(&mut self, pdu: &R2t) -> Result<(), Violation> {
        let command_id = pdu.command_id.get();
        let data_offset = pdu.data_offset.get();
        let data_bytes = pdu.data_bytes.get();
        let sent_position = self.transport.sent_position();
        let slot = self.slots.get(command_id).ok_or(Violation::UnknownCommand { command_id })?;
        if slot.direction != Direction::Write {
            return Err(Violation::R2tForNonWrite { command_id });
        }
        if slot.r2t_end > sent_position {
            return Err(Violation::R2tLimit { command_id });
        }
        let room = slot.total_bytes - slot.moved_bytes;
        if data_bytes == 0 || data_offset != slot.moved_bytes || data_bytes > room {
            return Err(Violation::R2tRange {
                command_id,
                data_offset,
                data_bytes,
                sent_bytes: slot.moved_bytes,
                total_bytes: slot.total_bytes,
            });
        }
        slot.moved_bytes += data_bytes;
        self.append_data_pdus(command_id, pdu.transfer_tag.get(), data_offset, data_bytes);
        Ok(())
    }
}

fn view<T>(bytes: &[u8]) -> Option<&T>
where
    T: FromBytes + zerocopy::KnownLayout + zerocopy::Immutable + zerocopy::Unaligned,
{
    T::ref_from_prefix(bytes).ok().map(|(pdu, _)| pdu)
}
