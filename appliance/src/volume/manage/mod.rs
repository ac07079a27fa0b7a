//! The management plane's operations on a whole pool.
//!
//! | file | job |
//! |---|---|
//! | `operations` | creates, changes and deletes volumes, synchs and snapshots |
//! | `names` | renames a volume, and swaps the names of a clone and its origin |
//! | `synchs` | deletes synchs |
//! | `open` | creates or opens a pool |
//! | `heirs` | what of the working set a start gives to images that inherited it |
//! | `recover` | recovers a pool from its archive |
//! | `ownership` | records the pool's claim on its archive in the log |

mod heirs;
mod names;
pub(in crate::volume) mod open;
pub(in crate::volume) mod operations;
mod ownership;
pub(in crate::volume) mod recover;
pub(in crate::volume) mod synchs;
