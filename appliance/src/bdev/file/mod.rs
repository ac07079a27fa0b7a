//! Files and block devices of the system as block devices: opening, locking and choosing an engine.
//!
//! [`open_file`] opens a path and returns one handle to it. A [`FileDevice`] is the opened path
//! itself, from which every reactor takes its own handle. It is locked against all other openers
//! until the last handle is dropped.

mod device;
mod lock;
mod open;
mod opened;
mod options;
mod room;
#[cfg(test)]
mod tests;

pub use device::{FileDevice, open_file};
pub(super) use opened::{DISCARD_MODE, OpenFile, discard};
pub use options::{ENGINE_VARIABLE, Engine, FileOptions, MAX_QUEUE_DEPTH, OpenError};
pub use room::is_blank;
