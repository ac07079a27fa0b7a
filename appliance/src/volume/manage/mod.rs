//! The management plane's operations on a whole pool.
//!
//! | file | job |
//! |---|---|
//! | `operations` | volumes, synchs and snapshots: made, changed, deleted |
//! | `open` | a pool is made, or opened |
//! | `recover` | a pool is made again from its archive |
//! | `ownership` | which claim on its archive the log says that the pool has |

pub(in crate::volume) mod open;
pub(in crate::volume) mod operations;
mod ownership;
pub(in crate::volume) mod recover;
