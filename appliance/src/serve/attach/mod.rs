//! The archive of a served pool: its store is opened before the pool is touched, and attached after
//! the pool is open.
//!
//! ```text
//! open   before any part of the pool is made or opened: the store is opened and probed, the
//!        retention rules are read
//! learn  after the pool's UUID is known, on a thread of its own: the store is listed, objects that
//!        are new to the local catalog are read for their synchs
//! late   instead, if the pool's archive is away: it is opened as soon as it can be reached
//! give   the archivist's threads start; the pool gets the store, its objects and the synchs of the
//!        whole history
//! ```

mod config;
mod find;
mod give;
mod late;
mod learn;
mod off_reactor;
mod open;
mod started;

pub use config::{ARCHIVE_DIRECTORY_NAME, ArchiveConfig, CATALOG_FILE_NAME, KEEP_FILE_NAME};
pub(super) use find::{FoundArchive, find};
pub(super) use give::{attach, look_often, start_service};
pub(super) use late::{AwayArchive, waits_for};
pub(super) use learn::{Learned, learn};
pub(super) use off_reactor::off_reactor;
pub use started::ArchiveStarted;
pub(super) use started::lines;
