//! The number types of the log. Each is a separate type, so that they cannot be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A position in the log: blocks since the creation of the pool. It never changes and is never
    /// reused. 0 is the first segment's header, so no data block has it, and it means "none". At
    /// most 48 bits.
    Lsn(u64)
}
number! {
    /// The number of a segment: its first LSN divided by the segment size.
    SegmentSeq(u64)
}
number! {
    /// A place for a segment on the primary device, counted from the first.
    Slot(u64)
}
number! {
    /// The id of an image. 0 is the pool itself, for events. In pools of format 1 at most 16 bits.
    ImageId(u32)
}
number! {
    /// The number of a 4096-byte block within a volume.
    BlockNumber(u64)
}

impl Lsn {
    /// The largest position that the index can hold.
    pub const MAX: Lsn = Lsn((1 << 48) - 1);

    /// The position `blocks` later.
    #[must_use]
    pub fn plus(self, blocks: u64) -> Lsn {
        Lsn(self.0 + blocks)
    }
}

impl SegmentSeq {
    /// The segment after this one.
    #[must_use]
    pub fn next(self) -> SegmentSeq {
        SegmentSeq(self.0 + 1)
    }
}

impl ImageId {
    /// The pool itself: the owner of events.
    pub const POOL: ImageId = ImageId(0);
}
