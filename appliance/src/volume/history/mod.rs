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
//! | `whose` | whose commands and marks a name stands for |
//! | `members` | the volumes that a volume's or a group's name stands for at a point |
//! | `deleted` | volumes that no longer exist |
//! | `time_line` | the time line: marks, gaps, what hosts wrote |
//! | `plan` | what a restore would read from where |
//! | `point_info` | what the pool tells about points |
//! | `anchor_check` | compares an opening from an anchor with a scan |
//! | `anchored` | opening a point from an anchor |
//! | `known` | the entries of a segment, from the device and the archive together |
//! | `known_content` | what is known of a segment |
//! | `volume_then`, `past_volume` | a volume in the catalog of a position, and with its index there |
//! | `entry_cache` | a few segments' entries, for whoever moves along the log |
//! | `reigns` | which image a volume had in which stretch of the log |
//! | `commands` | counts hosts' commands along the log |
//! | `walk` | the state of a volume at a position, moved along the log |
//! | `walk_check` | compares a walk with a scan |
//! | `event` | events in the log, and their texts |
//! | `clone` | makes new volumes from a point of volumes, in one change |
//! | `roll_back` | rolls a volume, or those of a group, back in place, in one change |
//! | `roll_back_info` | what a roll-back tells |
//! | `reset` | sets a clone to another point of its origin |
//! | `synchs` | the synchs that can be restored |
//! | `synch_table` | synchs in memory: compact, in pages that copies share |
//! | `synch_details` | reads the details that are too long to stay in memory |
//! | `synch_names` | synchs by what operators call them |
//! | `events` | changes of the set of volumes, for the target |
//! | `clock` | the clock of the log and that of the machine |
//! | `inspect` | the history of a pool that is not open |

pub(in crate::volume) mod anchor_check;
mod anchored;
pub(in crate::volume) mod clock;
pub(in crate::volume) mod clone;
pub(in crate::volume) mod commands;
mod deleted;
pub(in crate::volume) mod entry_cache;
pub(in crate::volume) mod event;
pub(in crate::volume) mod events;
pub(in crate::volume) mod host_commands;
pub(crate) mod inspect;
pub(in crate::volume) mod known;
pub(in crate::volume) mod known_content;
mod locate;
pub(in crate::volume) mod members;
pub(in crate::volume) mod past;
pub(in crate::volume) mod past_volume;
mod plan;
pub(in crate::volume) mod point;
pub(in crate::volume) mod point_info;
pub(in crate::volume) mod point_time;
pub(in crate::volume) mod reigns;
mod reset;
pub(in crate::volume) mod roll_back;
pub(in crate::volume) mod roll_back_info;
pub(in crate::volume) mod stretches;
mod synch_details;
pub(in crate::volume) mod synch_names;
pub(crate) mod synch_table;
pub(in crate::volume) mod synchs;
pub(in crate::volume) mod time_line;
mod times;
pub(in crate::volume) mod volume_then;
pub(in crate::volume) mod walk;
pub(in crate::volume) mod walk_check;
pub(in crate::volume) mod whose;
