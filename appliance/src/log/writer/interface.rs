//! The interface between the log and its users: classes of appends, errors, and bounds.

use std::sync::Arc;

use crate::bdev::BdevError;
use crate::dma::DmaBufMut;

/// The maximum number of record writes at the device at once.
pub const RECORDS_IN_FLIGHT_MAX: usize = 8;
/// The maximum number of closed records, submitted or not; at this number, appends must wait.
pub const CLOSED_RECORDS_MAX: usize = 32;
/// How many slots are kept free for the next segments.
pub(in crate::log) const FREE_SLOTS_TARGET: usize = 2;

/// The catalog with which every segment begins. The log asks for its text when it opens a segment.
pub trait SegmentCatalog {
    /// The text.
    fn text(&self) -> Vec<u8>;

    /// The maximum length of the text, in bytes.
    fn text_bytes_max(&self) -> usize;

    /// The text is now in the log, at the start of its newest segment.
    fn note_written(&self);

    /// The newest segment begins without the text, because data that must be copied there comes
    /// first, or there was no memory. Append it as soon as it fits.
    fn note_missing(&self);
}

/// Who appends. Hosts are refused while some room is still left for the pool itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendClass {
    /// A host's write or trim.
    Host,
    /// The pool's own events.
    Pool,
    /// A live block of the segment that must leave the working set before the next one is opened.
    Copy,
    /// A live block of a segment that leaves later.
    CopyAhead,
    /// A live block of a segment that leaves because the working set is being shortened. It may
    /// open the next segment, but does not wait for anything that would delay others.
    Drain,
}

/// What happens to segments that contain no live blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recycling {
    /// They stay; when the log is full, it refuses writes.
    #[default]
    Never,
    /// Their slots are reused when needed; the history in them is then lost.
    Discard,
    /// The same, but only after they are in the archive.
    Archived,
}

/// Why an append was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Something else must end first; try again after the next poll.
    /// [`Log::why_busy`](super::Log::why_busy) returns the reason, unless it is only the device.
    #[error("the log is busy")]
    Busy,
    /// The working set is full.
    #[error(
        "capacity exceeded: the log has used its {segments} segments; delete volumes, trim, or use a larger device"
    )]
    Full {
        /// W.
        segments: u64,
    },
    /// The log failed before.
    #[error("the log failed and takes no more writes: {reason}; cure that and restart")]
    Poisoned {
        /// The first failure.
        reason: Arc<str>,
    },
    /// An event's text is too long.
    #[error("an event of {len_bytes} bytes does not fit; the segment size allows {max_bytes}")]
    EventTooLong {
        /// Its length.
        len_bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
}

/// A read that completed.
pub struct ReadDone {
    /// The reader's own number, 48 bits.
    pub token: u64,
    /// The buffer, even after an error, so that a retry needs no memory.
    pub buffer: DmaBufMut,
    /// Whether the buffer is filled; otherwise the device's error.
    pub result: Result<(), BdevError>,
}
