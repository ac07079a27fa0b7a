//! The commands of one connection that are under way. A slot's number is the tag of its request to
//! the storage, and of its transfer (TTAG) while data is awaited.

use std::time::Instant;

use crate::dma::{DmaBuf, DmaBufMut};
use crate::nvmf::wire::command::Sqe;

/// The state of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The slot is free.
    Free,
    /// It waits for memory: for the data that the host will send, or for the data that it reads.
    AwaitMemory,
    /// Its data was requested from the host.
    AwaitData,
    /// Its data is there, but the storage had no room yet.
    AwaitRoom,
    /// The storage has it.
    InStorage,
}

/// A command under way.
pub(super) struct Slot {
    pub(super) stage: Stage,
    pub(super) sqe: Sqe,
    /// Bytes that the command moves.
    pub(super) len_bytes: u32,
    /// Bytes of `staging` that have been received.
    pub(super) received_bytes: u32,
    /// Data memory that its connection holds because of it.
    pub(super) charged_bytes: usize,
    /// Memory for data from the host, while it is being received.
    pub(super) staging: Option<DmaBufMut>,
    /// All data from the host, after it has been received.
    pub(super) data: Option<DmaBuf>,
    /// A data digest did not match.
    pub(super) digest_failed: bool,
    /// When its data was requested.
    pub(super) asked_at: Option<Instant>,
}

impl Slot {
    fn free() -> Self {
        Slot {
            stage: Stage::Free,
            sqe: Sqe::default(),
            len_bytes: 0,
            received_bytes: 0,
            charged_bytes: 0,
            staging: None,
            data: None,
            digest_failed: false,
            asked_at: None,
        }
    }
}

/// The slots: as many as the queue has entries.
pub(super) struct Slots {
    slots: Vec<Slot>,
    free: Vec<u16>,
}

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        let mut slots = Slots { slots: Vec::new(), free: Vec::new() };
        slots.grow(count);
        slots
    }

    pub(super) fn grow(&mut self, count: usize) {
        for index in self.slots.len()..count {
            self.slots.push(Slot::free());
            self.free.push(index as u16);
        }
    }

    /// Commands under way.
    pub(super) fn used(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Takes a free slot for a command.
    pub(super) fn take(&mut self, sqe: &Sqe, len_bytes: u32, stage: Stage) -> Option<u16> {
        let index = self.free.pop()?;
        self.slots[usize::from(index)] = Slot { stage, sqe: *sqe, len_bytes, ..Slot::free() };
        Some(index)
    }

    /// Frees a slot. Its memory must have been taken out before.
    pub(super) fn give_back(&mut self, index: u16) {
        let slot = &mut self.slots[usize::from(index)];
        debug_assert!(slot.stage != Stage::Free && slot.staging.is_none() && slot.data.is_none());
        slot.stage = Stage::Free;
        self.free.push(index);
    }

    /// A slot by its number, which may come from the peer.
    pub(super) fn get_mut(&mut self, index: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(index)).filter(|slot| slot.stage != Stage::Free)
    }

    /// The commands that wait for memory or for data from the host.
    pub(super) fn waiting(&self) -> Vec<u16> {
        let waits = |slot: &Slot| matches!(slot.stage, Stage::AwaitMemory | Stage::AwaitData);
        (0..).zip(&self.slots).filter(|(_, slot)| waits(slot)).map(|(index, _)| index).collect()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().filter(|slot| slot.stage != Stage::Free)
    }
}
