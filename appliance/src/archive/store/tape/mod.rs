//! Tape: a model of a drive, an emulation of it in SIMH .tap files, real drives through Linux's
//! `st`, and the store on top.
//!
//! ```text
//! cartridge | label block | FM | file | FM | file | FM | ... end of data
//! file      | header block | data block | ... | trailer block |
//! ```
//!
//! A file holds an object, a part of one (when a cartridge is full the object goes on in the first
//! file of the next), or a tombstone. A file counts only with its trailer and its filemark; what a
//! crash left without them at the end of the data is written over. The directory is in memory and
//! is rebuilt by reading labels, headers and trailers; nothing else is needed to read a set of
//! cartridges.
//!
//! Who owns the archive must be known whichever cartridge is away: see `at_hand`.
//!
//! **Damage is never the end.** What the store has put where is recorded in a ledger beside the
//! tapes as well (`ledger`), so that a cartridge that is damaged, cut short or away is known for
//! that. Nothing is appended to such a one, what can be read on it is, and the next one is written
//! to (`files`). Before each append the last mark on the cartridge and the end after it are read
//! again (`place`).

mod at_hand;
mod cartridges;
mod contents;
mod drive;
mod emulation;
mod file;
mod files;
mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod ledger;
mod place;
mod problem;
mod scan;
mod simh;
mod st;
mod stage;
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

/// Whose ledgers are in a directory: the stores that have written to cartridges which may all be
/// away.
///
/// # Errors
/// The operating system's.
pub fn remembered(directory: &Path) -> io::Result<Vec<Uuid>> {
    ledger::owners(directory)
}
