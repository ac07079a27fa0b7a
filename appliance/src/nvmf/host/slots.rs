//! The commands in flight of a queue, and their buffers.

use bytes::Bytes;

use crate::nvmf::wire::status::Status;

/// The data of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// No data.
    None,
    /// The host sends these bytes (not empty). They are copied at submission.
    Write(&'a [u8]),
    /// The host sends these bytes (not empty). If they do not fit the capsule, it keeps a shared
    /// reference instead of a copy.
    WriteShared(&'a Bytes),
    /// The host sends these bytes by R2T even if they would fit the capsule.
    WriteByR2t(&'a [u8]),
    /// The host receives this many bytes (not 0).
    Read(u32),
}

/// A completed command.
#[derive(Clone, Copy, Debug)]
pub struct Completion<'a> {
    /// The tag given at submission.
    pub tag: u64,
    /// The status. Success for data that came with the SUCCESS flag.
    pub status: Status,
    /// DW0 and DW1. 0 for data that came with the SUCCESS flag.
    pub result: u64,
    /// The received bytes: all of them if the command succeeded.
    pub data: &'a [u8],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Free,
    None,
    InCapsule,
    Write,
    Read,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub(super) tag: u64,
    pub(super) direction: Direction,
    /// Bytes of the whole transfer.
    pub(super) total_bytes: u32,
    /// Bytes received, or requested by R2T.
    pub(super) moved_bytes: u32,
    /// Where the data of the last R2T ends in the sent stream.
    pub(super) r2t_end: u64,
}

/// The commands in flight and their buffers.
#[derive(Debug)]
pub(super) struct Slots {
    pub(super) entries: Vec<Slot>,
    pub(super) free: Vec<u16>,
    /// Data that a write sends instead of its buffer.
    pub(super) shared: Vec<Option<Bytes>>,
    buffers: Vec<u8>,
    stride: usize,
}

impl Slots {
    pub(super) fn new(depth: u16, stride: u32) -> Self {
        let empty = Slot { tag: 0, direction: Direction::Free, total_bytes: 0, moved_bytes: 0, r2t_end: 0 };
        let stride = stride as usize;
        Self {
            entries: vec![empty; usize::from(depth)],
            free: (0..depth).rev().collect(),
            shared: vec![None; usize::from(depth)],
            buffers: vec![0; stride * usize::from(depth)],
            stride,
        }
    }

    /// The slot of a command that is in flight.
    pub(super) fn get(&mut self, command_id: u16) -> Option<&mut Slot> {
        self.entries.get_mut(usize::from(command_id)).filter(|slot| slot.direction != Direction::Free)
    }

    /// A part of a slot's buffer. The caller has checked the range against the transfer.
    pub(super) fn buffer(&mut self, command_id: u16, offset: u32, bytes: u32) -> &mut [u8] {
        let start = usize::from(command_id) * self.stride + offset as usize;
        &mut self.buffers[start..start + bytes as usize]
    }

    /// Data that a write sends instead of its buffer.
    pub(super) fn shared(&self, command_id: u16) -> Option<Bytes> {
        self.shared.get(usize::from(command_id))?.clone()
    }

    pub(super) fn release(&mut self, command_id: u16) {
        if let Some(slot) = self.get(command_id) {
            slot.direction = Direction::Free;
            self.free.push(command_id);
            self.shared[usize::from(command_id)] = None;
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(super) fn tags(&self) -> impl Iterator<Item = u64> + '_ {
        self.entries.iter().filter(|slot| slot.direction != Direction::Free).map(|slot| slot.tag)
    }
}
