//! The management plane's operations on a whole pool.
//!
//! | file | job |
//! |---|---|
//! | `operations` | creates, changes and deletes volumes, synchs and snapshots |
//! | `synchs` | lists synchs by a filter, and deletes them |
//! | `open` | creates or opens a pool |
//! | `recover` | recovers a pool from its archive |
//! | `ownership` | records the pool's claim on its archive in the log |

pub(in crate::volume) mod open;
pub(in crate::volume) mod operations;
mod ownership;
pub(in crate::volume) mod recover;
pub(in crate::volume) mod synchs;
