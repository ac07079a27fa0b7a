//! The past of a pool: what points there are, and what the volumes were there.
//!
//! | file | job |
//! |---|---|
//! | `point` | how an operator names a point |
//! | `past` | what a point is, which volumes there were, and the index of an image there |
//! | `known` | what is known of a segment, from the device and the archive together |
//! | `event` | events in the log, and their texts |
//! | `clone` | a point of a volume as a new volume |
//! | `synchs` | the list of all synchs |
//! | `events` | what became of volumes, for the target |
//! | `clock` | the clock of the log and that of the machine |
//! | `inspect` | the past of a pool that is not open |

pub(in crate::volume) mod clock;
mod clone;
pub(in crate::volume) mod event;
pub(in crate::volume) mod events;
pub(crate) mod inspect;
pub(in crate::volume) mod known;
pub(in crate::volume) mod past;
pub(in crate::volume) mod point;
pub(in crate::volume) mod synchs;
