//! Tape: a model of a drive, an emulation of it in SIMH .tap files, real drives through Linux's
//! `st`, and the store that uses them.
//!
//! ```text
//! cartridge | label block | FM | file | FM | file | FM | ... end of data
//! file      | header block | data block | ... | trailer block |
//! ```
//!
//! A file contains an object, a part of one (when a cartridge is full the object continues in the
//! first file of the next), or a tombstone. A file is valid only with its trailer and its filemark;
//! an incomplete file that a crash left at the end of the data is overwritten. The directory is in
//! memory and is rebuilt by reading labels, headers and trailers; nothing else is needed to read a
//! set of cartridges.
//!
//! The owner of the archive must be known whichever cartridge is away: see `at_hand`.
//!
//! **Damage is never the end.** What the store has written where is also recorded in a ledger next
//! to the tapes (`ledger`), so that a cartridge that is damaged, cut short or away is recognised.
//! Nothing is appended to such a cartridge, its readable files stay readable, and writes go to the
//! next cartridge (`files`). Before each append the last mark on the cartridge and the end after it
//! are read again (`place`).

mod at_hand;
mod cartridges;
mod contents;
mod drive;
mod emulation;
mod entry;
mod error;
mod file;
mod files;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod ledger;
mod mark;
mod place;
mod problem;
mod repeat;
mod scan;
mod simh;
mod st;
mod stage;
mod state;
mod store;

#[cfg(test)]
mod tests;

use std::io;
use std::path::Path;

use uuid::Uuid;

pub use drive::{Damage, Drive, DriveError, Library, Mounted, Position, Read, Written};
pub use emulation::{EmulatedLibrary, TapDrive};
pub use problem::TapeProblem;
pub use scan::identify;
pub use st::{StDevice, StDrive, StLibrary};
pub use store::{TapeOptions, TapeStore};

/// The stores that have ledgers in a directory. All cartridges of such a store may be away.
///
/// # Errors
/// The operating system's.
pub fn remembered(directory: &Path) -> io::Result<Vec<Uuid>> {
    ledger::owners(directory)
}
