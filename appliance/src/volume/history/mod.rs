//! The history of a pool: its points, and the volumes at these points.
//!
//! | file | job |
//! |---|---|
//! | `point` | how an operator names a point |
//! | `past` | what a point is, which volumes there were, and the index of an image there |
//! | `known` | the entries of a segment, from the device and the archive together |
//! | `event` | events in the log, and their texts |
//! | `clone` | makes a new volume from a point of a volume |
//! | `synchs` | the synchs that can be restored |
//! | `synch_table` | synchs in memory: compact, in pages that copies share |
//! | `synch_details` | reads the details that are too long to stay in memory |
//! | `events` | changes of the set of volumes, for the target |
//! | `clock` | the clock of the log and that of the machine |
//! | `inspect` | the history of a pool that is not open |

pub(in crate::volume) mod clock;
mod clone;
pub(in crate::volume) mod event;
pub(in crate::volume) mod events;
pub(crate) mod inspect;
pub(in crate::volume) mod known;
pub(in crate::volume) mod past;
pub(in crate::volume) mod point;
mod synch_details;
pub(crate) mod synch_table;
pub(in crate::volume) mod synchs;
