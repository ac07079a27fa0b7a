//! The management plane's operations on a whole pool.
//!
//! | file | job |
//! |---|---|
//! | `operations` | creates, changes and deletes volumes and snapshots |
//! | `checks` | which names and sizes are allowed |
//! | `names` | renames a volume, and swaps the names of a clone and its origin |
//! | `groups`, `group_info` | makes, changes and deletes groups; what is told of them |
//! | `marks` | writes synchs |
//! | `synchs` | deletes synchs |
//! | `open` | creates or opens a pool |
//! | `heirs` | what of the working set a start gives to images that inherited it |
//! | `recover` | recovers a pool from its archive |
//! | `ownership` | records the pool's claim on its archive in the log |

pub(in crate::volume) mod checks;
pub(in crate::volume) mod group_info;
pub(in crate::volume) mod groups;
mod heirs;
pub(in crate::volume) mod marks;
pub(in crate::volume) mod names;
pub(in crate::volume) mod open;
pub(in crate::volume) mod operations;
mod ownership;
pub(in crate::volume) mod recover;
pub(in crate::volume) mod synchs;
