//! Tape: a model of a drive, an emulation of it in SIMH .tap files, real drives through Linux's `st`, and the store on top.
//!
//! ```text
//! cartridge | label block | FM | file | FM | file | FM | ... end of data
//! file      | header block | data block | ... | trailer block |
//! ```
//!
//! A file holds an object, a part of one (when a cartridge is full the object goes on in the first file of the next), or a tombstone. A file counts
//! only with its trailer and its filemark; what a crash left without them at the end of the data is written over. The directory is in memory and
//! is rebuilt by reading labels, headers and trailers; nothing else is needed to read a set of cartridges.

mod drive;
mod emulation;
mod file;
mod format;
mod scan;
mod st;
mod stage;
mod store;

#[cfg(test)]
mod tests;

pub use drive::{Drive, DriveError, Library, Position, Read, Written};
pub use emulation::{EmulatedLibrary, TapDrive};
pub use scan::{TapeProblem, identify};
pub use st::{StDevice, StDrive, StLibrary};
pub use store::{TapeOptions, TapeStore};
