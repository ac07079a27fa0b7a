//! The history of a pool: its points, and the volumes at these points.
//!
//! | file | job |
//! |---|---|
//! | `point`, `point_time` | how an operator names a point; times and spans |
//! | `locate` | which position of the log a point is, and what is there |
//! | `times` | which record is the newest at a time |
//! | `past` | what a point is, which volumes there were, and the index of an image there |
//! | `stretches` | which points can be opened, and the nearest ones |
//! | `host_commands` | host commands of the log, and counting them |
//! | `deleted` | volumes that no longer exist |
//! | `time_line` | the time line: marks, gaps, what hosts wrote |
//! | `plan` | what a restore would read from where |
//! | `point_info` | what the pool tells about points |
//! | `known` | the entries of a segment, from the device and the archive together |
//! | `event` | events in the log, and their texts |
//! | `clone` | makes a new volume from a point of a volume |
//! | `synchs`, `synch_names` | the list of all synchs; synchs by what operators call them |
//! | `events` | changes of the set of volumes, for the target |
//! | `clock` | the clock of the log and that of the machine |
//! | `inspect` | the history of a pool that is not open |

pub(in crate::volume) mod clock;
mod clone;
mod deleted;
pub(in crate::volume) mod event;
pub(in crate::volume) mod events;
pub(in crate::volume) mod host_commands;
pub(crate) mod inspect;
pub(in crate::volume) mod known;
mod locate;
pub(in crate::volume) mod past;
mod plan;
pub(in crate::volume) mod point;
pub(in crate::volume) mod point_info;
pub(in crate::volume) mod point_time;
pub(in crate::volume) mod stretches;
mod synch_names;
pub(in crate::volume) mod synchs;
pub(in crate::volume) mod time_line;
mod times;
