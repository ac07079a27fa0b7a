//! Volumes in plain memory: a [`Storage`] for tests and for measuring the target alone. It keeps
//! nothing across a restart.
//!
//! It can be set to be late, out of order, busy or broken ([`Behavior`]), which the target's tests
//! need.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;
use uuid::Uuid;

use super::config::BLOCK_BYTES;
use super::storage::Storage;
use crate::dma::{DmaBuf, DmaPool};
use crate::volume::{
    IoCompletion, IoError, MAX_IO_BLOCKS, Request, Sink, Submitted, VolumeEvent, VolumeId, VolumeInfo,
    VolumeState, VolumeStats,
};

/// The most DMA memory that reads use, in bytes.
const READ_MEMORY_BYTES: usize = 256 << 20;

/// How the storage misbehaves.
#[derive(Debug, Clone, Copy, Default)]
pub struct Behavior {
    /// The least number of polls that a request takes to complete.
    pub delay_polls: u32,
    /// Complete the newest request first.
    pub reverse: bool,
    /// Refuse this many of every `busy_of` submissions.
    pub busy: u32,
    /// See `busy`. 0 means never busy.
    pub busy_of: u32,
    /// Complete everything with this error.
    pub error: Option<IoError>,
    /// Complete nothing for now.
    pub hold: bool,
    /// Return the data of reads as parts of memory that is four times as large, as a log does.
    pub roomy: bool,
    /// Report that completed writes may be lost.
    pub volatile_cache: bool,
    /// Report that the medium has failed.
    pub failed: bool,
}

/// Volumes in memory.
pub struct MemoryStorage {
    dma: DmaPool,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    volumes: Vec<Volume>,
    events: VecDeque<VolumeEvent>,
    pending: VecDeque<Pending>,
    behavior: Behavior,
    submissions: u64,
    polls: u64,
    next_id: u32,
    flushes: u64,
}

struct Volume {
    info: VolumeInfo,
    bytes: Vec<u8>,
}

struct Pending {
    due_poll: u64,
    sink: Rc<Sink>,
    completion: IoCompletion,
}

impl MemoryStorage {
    /// Creates a storage without volumes.
    pub fn new() -> Rc<Self> {
        Rc::new(MemoryStorage { dma: DmaPool::new(READ_MEMORY_BYTES), state: RefCell::default() })
    }

    /// Adds a volume of zeroes. `size_bytes` is a multiple of 4096.
    pub fn create(&self, name: &str, size_bytes: u64, read_only: bool) -> VolumeId {
        let mut state = self.state.borrow_mut();
        let id = VolumeId(state.next_id);
        state.next_id += 1;
        let info = VolumeInfo {
            id,
            name: name.to_owned(),
            uuid: Uuid::new_v4(),
            size_bytes,
            read_only,
            state: VolumeState::Online,
            image: 0,
            parent: None,
            origin: None,
            created_ns: 0,
            mapped_blocks: 0,
            inherited_blocks: 0,
            uncertain_blocks: 0,
            problem: None,
            hydrating: false,
            thin: false,
            stats: VolumeStats::default(),
            histogram: false,
        };
        state.volumes.push(Volume { info, bytes: vec![0; size_bytes as usize] });
        state.events.push_back(VolumeEvent::Created(id));
        id
    }

    /// Changes the size of a volume.
    pub fn resize(&self, id: VolumeId, size_bytes: u64) {
        let mut state = self.state.borrow_mut();
        if let Some(volume) = state.volumes.iter_mut().find(|volume| volume.info.id == id) {
            volume.info.size_bytes = size_bytes;
            volume.bytes.resize(size_bytes as usize, 0);
            state.events.push_back(VolumeEvent::Resized(id));
        }
    }

    /// Deletes a volume.
    pub fn delete(&self, id: VolumeId) {
        let mut state = self.state.borrow_mut();
        state.volumes.retain(|volume| volume.info.id != id);
        state.events.push_back(VolumeEvent::Deleted(id));
    }

    /// Sets how it misbehaves from now on.
    pub fn set_behavior(&self, behavior: Behavior) {
        self.state.borrow_mut().behavior = behavior;
    }

    /// Flush requests so far.
    pub fn flushes(&self) -> u64 {
        self.state.borrow().flushes
    }

    /// DMA memory that reads hold now, in bytes.
    pub fn dma_in_use_bytes(&self) -> usize {
        self.dma.stats().in_use_bytes
    }

    /// One turn: completes what is due. Returns how many requests.
    pub fn poll(&self) -> usize {
        let mut done = 0;
        loop {
            let mut state = self.state.borrow_mut();
            if done == 0 {
                state.polls += 1;
            }
            let (polls, behavior) = (state.polls, state.behavior);
            let due = |pending: &Pending| !behavior.hold && pending.due_poll <= polls;
            let next = if behavior.reverse {
                state.pending.iter().rposition(due)
            } else {
                state.pending.iter().position(due)
            };
            let Some(pending) = next.and_then(|index| state.pending.remove(index)) else { break };
            drop(state);
            pending.sink.push(pending.completion);
            done += 1;
        }
        done
    }
}

impl Storage for MemoryStorage {
    fn submit(&self, volume: VolumeId, request: &Request<'_>, tag: u64, sink: &Rc<Sink>) -> Submitted {
        let mut state = self.state.borrow_mut();
        let state = &mut *state;
        state.submissions += 1;
        let behavior = state.behavior;
        if behavior.busy_of > 0 && state.submissions % u64::from(behavior.busy_of) < u64::from(behavior.busy)
        {
            return Submitted::Busy;
        }
        if matches!(request, Request::Flush) {
            state.flushes += 1;
        }
        let volume = state.volumes.iter_mut().find(|other| other.info.id == volume);
        let outcome = match (behavior.error, volume) {
            (Some(error), _) => Err(error),
            (None, None) => Err(IoError::Gone),
            (None, Some(volume)) => match volume.execute(&self.dma, behavior.roomy, request) {
                Ok(Some(data)) => Ok(data),
                Ok(None) => return Submitted::Busy,
                Err(error) => Err(error),
            },
        };
        let (result, data) = match outcome {
            Ok(data) => (Ok(()), data),
            Err(error) => (Err(error), SmallVec::new()),
        };
        sink.begin();
        state.pending.push_back(Pending {
            due_poll: state.polls + 1 + u64::from(behavior.delay_polls),
            sink: Rc::clone(sink),
            completion: IoCompletion { tag, result, data },
        });
        Submitted::Queued
    }

    fn volumes(&self) -> Vec<VolumeInfo> {
        self.state.borrow().volumes.iter().map(|volume| volume.info.clone()).collect()
    }

    fn volume(&self, id: VolumeId) -> Option<VolumeInfo> {
        let state = self.state.borrow();
        state.volumes.iter().find(|volume| volume.info.id == id).map(|volume| volume.info.clone())
    }

    fn find(&self, name: &str) -> Option<VolumeInfo> {
        let state = self.state.borrow();
        state.volumes.iter().find(|volume| volume.info.name == name).map(|volume| volume.info.clone())
    }

    fn take_events(&self, events: &mut VecDeque<VolumeEvent>) {
        events.append(&mut self.state.borrow_mut().events);
    }

    fn volatile_cache(&self) -> bool {
        self.state.borrow().behavior.volatile_cache
    }

    fn has_failed(&self) -> bool {
        self.state.borrow().behavior.failed
    }
}

impl Volume {
    /// `None` when there is no memory for a read.
    fn execute(
        &mut self,
        dma: &DmaPool,
        roomy: bool,
        request: &Request<'_>,
    ) -> Result<Option<SmallVec<[DmaBuf; 1]>>, IoError> {
        if self.info.read_only && !matches!(request, Request::Read { .. } | Request::Flush) {
            return Err(IoError::ReadOnly);
        }
        let mut read = SmallVec::new();
        match request {
            Request::Read { block, len_blocks } => {
                if !(1..=MAX_IO_BLOCKS).contains(len_blocks) {
                    return Err(IoError::InvalidLength);
                }
                let bytes = self.range(*block, u64::from(*len_blocks))?;
                let room = if roomy { 4 } else { 1 };
                let Ok(mut buffer) = dma.allocate(room * bytes.len()) else { return Ok(None) };
                buffer.as_mut_slice()[..bytes.len()].copy_from_slice(bytes);
                read.push(buffer.freeze().slice(0, bytes.len()));
            }
            Request::Write { block, data, .. } => {
                let len_bytes: usize = data.iter().map(|slice| slice.len()).sum();
                let len_blocks = len_bytes / BLOCK_BYTES as usize;
                if !len_bytes.is_multiple_of(BLOCK_BYTES as usize)
                    || !(1..=MAX_IO_BLOCKS as usize).contains(&len_blocks)
                {
                    return Err(IoError::InvalidLength);
                }
                let mut room = self.range(*block, len_blocks as u64)?;
                for slice in *data {
                    let (front, behind) = room.split_at_mut(slice.len());
                    front.copy_from_slice(slice);
                    room = behind;
                }
            }
            Request::WriteReceived { block, data, force_unit_access } => {
                let (block, force_unit_access) = (*block, *force_unit_access);
                return self.execute(dma, roomy, &Request::Write { block, data: &[data], force_unit_access });
            }
            Request::WriteZeroes { block, len_blocks, .. } => self.range(*block, *len_blocks)?.fill(0),
            Request::Trim { ranges } => {
                for (block, len_blocks) in *ranges {
                    self.range(*block, *len_blocks)?;
                }
                for (block, len_blocks) in *ranges {
                    self.range(*block, *len_blocks)?.fill(0);
                }
            }
            Request::Flush => {}
        }
        Ok(Some(read))
    }

    fn range(&mut self, block: u64, len_blocks: u64) -> Result<&mut [u8], IoError> {
        let unit = u64::from(BLOCK_BYTES);
        let end =
            block.checked_add(len_blocks).and_then(|end| end.checked_mul(unit)).ok_or(IoError::OutOfRange)?;
        let start = block.checked_mul(unit).ok_or(IoError::OutOfRange)?;
        self.bytes.get_mut(start as usize..end as usize).ok_or(IoError::OutOfRange)
    }
}
