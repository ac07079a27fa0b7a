//! What the users of the log give it and get from it: who appends, what may be refused, and the
//! bounds.

use std::rc::Rc;

use crate::bdev::BdevError;
use crate::dma::DmaBufMut;

/// The most record writes at the device at once.
pub const RECORDS_IN_FLIGHT_MAX: usize = 8;
/// The most closed records, submitted or not; with so many, appends must wait.
pub const CLOSED_RECORDS_MAX: usize = 32;
/// How many slots are kept free for the next segments.
pub(in crate::log) const FREE_SLOTS_TARGET: usize = 2;

/// What every segment begins with. It is asked for its text when a segment is opened.
pub trait SegmentCatalog {
    /// The text.
    fn text(&self) -> Vec<u8>;

    /// How long the text is at most, in bytes.
    fn text_bytes_max(&self) -> usize;

    /// The text is in the log now, at the start of its newest segment.
    fn note_written(&self);

    /// The newest segment begins without it, because what must be copied there comes first, or
    /// there was no memory. It is to be appended as soon as it fits.
    fn note_missing(&self);
}

/// Who appends: hosts are refused while some room is left for the pool itself.
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
    /// A live block of a segment that leaves because the working set is to become shorter. It may
    /// open the next segment, but waits for nothing that would hold up others.
    Drain,
}

/// What becomes of segments in which nothing is live any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Recycling {
    /// They stay; a log that is full refuses writes.
    #[default]
    Never,
    /// Their slots are used again when they are needed; the past in them is gone then.
    Discard,
    /// The same, but only once they are in the archive.
    Archived,
}

/// Why nothing can be appended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// Something must end first; try again after the next poll.
    /// [`Log::why_busy`](super::Log::why_busy) gives the reason if it is not only the device.
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
        reason: Rc<str>,
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
    /// The buffer, also after an error, so that trying again needs no memory.
    pub buffer: DmaBufMut,
    /// Whether the buffer is filled; or the device's error.
    pub result: Result<(), BdevError>,
}
