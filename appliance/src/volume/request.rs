//! Requests to a volume and their completions: the interface between a volume and the target that
//! serves it to hosts.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use smallvec::SmallVec;

use crate::dma::DmaBuf;
use crate::log::AppendError;
use crate::log::geometry::COMMAND_BLOCKS_MAX;

/// The maximum number of blocks in one read or write: the record limit, rounded down to a power of
/// two, so that every write is atomic.
pub const MAX_IO_BLOCKS: u32 = COMMAND_BLOCKS_MAX as u32;

/// The maximum number of ranges in one trim, as in NVMe's Dataset Management.
pub const MAX_TRIM_RANGES: usize = 256;

/// The id of a volume within a running appliance. Never reused while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VolumeId(pub u32);

/// The bits of an id that are the slot of the volume; the others count how often the slot was used
/// before.
const SLOT_BITS: u32 = 20;

impl VolumeId {
    /// Its slot in tables of volumes: no two volumes have the same at the same time.
    #[inline]
    pub(in crate::volume) fn slot(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }

    /// The first id with a slot.
    pub(in crate::volume) fn first_of_slot(slot: usize) -> Self {
        assert!(slot < 1 << SLOT_BITS, "a pool has at most 1,024 volumes");
        VolumeId(slot as u32)
    }

    /// The next id with the same slot; `None`: there is none left.
    pub(in crate::volume) fn next_of_slot(self) -> Option<Self> {
        self.0.checked_add(1 << SLOT_BITS).map(VolumeId)
    }
}

/// One request. Block numbers are in units of 4096 bytes.
#[derive(Debug)]
pub enum Request<'a> {
    /// Read `len_blocks` (1 to [`MAX_IO_BLOCKS`]) from `block` on.
    Read {
        /// First block.
        block: u64,
        /// How many.
        len_blocks: u32,
    },
    /// Write `data` from `block` on. The bytes are copied before `submit` returns.
    Write {
        /// First block.
        block: u64,
        /// The data: slices one after the other, each a whole number of blocks, 1 to
        /// [`MAX_IO_BLOCKS`] blocks together.
        data: &'a [&'a [u8]],
        /// Complete only once it would survive loss of power.
        force_unit_access: bool,
    },
    /// As `Write`, for data in DMA memory: the volume does not copy it, but keeps a view of it
    /// until it is written.
    WriteReceived {
        /// First block.
        block: u64,
        /// The data: 1 to [`MAX_IO_BLOCKS`] whole blocks.
        data: &'a DmaBuf,
        /// Complete only once it would survive loss of power.
        force_unit_access: bool,
    },
    /// Make blocks read as zeroes.
    WriteZeroes {
        /// First block.
        block: u64,
        /// How many, at least 1.
        len_blocks: u64,
        /// Complete only once it would survive loss of power.
        force_unit_access: bool,
    },
    /// Discard blocks; they read as zeroes until written again.
    Trim {
        /// `(first block, how many)`, at most [`MAX_TRIM_RANGES`]; empty ranges are allowed.
        ranges: &'a [(u64, u64)],
    },
    /// Make everything that was acknowledged before survive loss of power.
    Flush,
}

/// The result of a submission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Submitted {
    /// Accepted: exactly one [`IoCompletion`] follows in the sink, even for errors.
    Queued,
    /// No room now (log, memory, or the volume's index is being loaded); nothing was accepted.
    /// Submit again after the next turn.
    Busy,
}

/// The completion of a request.
#[derive(Debug)]
pub struct IoCompletion {
    /// The tag that came with the request.
    pub tag: u64,
    /// Its result.
    pub result: Result<(), IoError>,
    /// The data read: pieces of whole blocks, in order, together exactly the requested length.
    /// Empty for all other requests and on errors.
    pub data: SmallVec<[DmaBuf; 1]>,
}

/// Why a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IoError {
    /// It extends beyond the volume.
    #[error("beyond the end of the volume")]
    OutOfRange,
    /// Lengths are outside what [`Request`] allows.
    #[error("invalid length")]
    InvalidLength,
    /// The log has no room for another write.
    #[error("capacity exceeded: the pool's log is full")]
    CapacityExceeded,
    /// The device has had no room for too long, or its data waits for the archive. There may be
    /// room later, so a retry makes sense. A write that had been accepted may or may not be done.
    #[error("no room on the pool's device; try again")]
    NoRoom,
    /// The data is unreadable, or its checksum is wrong, and a retry does not help.
    #[error("media error on read")]
    ReadFault,
    /// The data is not available now: the archive does not answer, or memory is short. The same
    /// request may succeed later.
    #[error("not possible now; try again")]
    NotNow,
    /// The log could not be written; the pool accepts no more writes.
    #[error("media error on write: the pool's log has failed")]
    WriteFault,
    /// The volume is read-only.
    #[error("the volume is read-only")]
    ReadOnly,
    /// The volume was deleted.
    #[error("the volume is gone")]
    Gone,
}

/// Why a request was not started.
pub(in crate::volume) enum Refusal {
    /// There is no room now; the request may be repeated.
    Busy,
    /// The request ends with this error.
    Error(IoError),
}

impl From<IoError> for Refusal {
    fn from(error: IoError) -> Self {
        Refusal::Error(error)
    }
}

impl From<AppendError> for Refusal {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Busy => Refusal::Busy,
            AppendError::Full { .. } | AppendError::EventTooLong { .. } => {
                Refusal::Error(IoError::CapacityExceeded)
            }
            AppendError::Poisoned { .. } => Refusal::Error(IoError::WriteFault),
        }
    }
}

/// The queue for the completions of one client (a connection, a test), which the client drains.
#[derive(Default)]
pub struct Sink {
    queue: RefCell<VecDeque<IoCompletion>>,
    outstanding: Cell<usize>,
    /// The client's number among those of its volume: the sinks of one client have one share of
    /// shared resources.
    client: Cell<u32>,
    /// Since when the client's next request has been waiting because the pool was busy, if
    /// latencies are measured; 0: it is not waiting.
    pub(super) busy_since_ns: Cell<u64>,
}

impl Sink {
    /// An empty sink.
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// Sets the client's number among those of its volume.
    pub fn set_client(&self, client: u32) {
        self.client.set(client);
    }

    pub(super) fn client(&self) -> u32 {
        self.client.get()
    }

    /// The next completion.
    pub fn pop(&self) -> Option<IoCompletion> {
        self.queue.borrow_mut().pop_front()
    }

    /// Whether no completion waits.
    pub fn is_empty(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Requests that were queued and have not completed.
    pub fn outstanding(&self) -> usize {
        self.outstanding.get()
    }

    pub(crate) fn begin(&self) {
        self.outstanding.set(self.outstanding.get() + 1);
    }

    pub(crate) fn push(&self, completion: IoCompletion) {
        self.outstanding.set(self.outstanding.get() - 1);
        self.queue.borrow_mut().push_back(completion);
    }
}
