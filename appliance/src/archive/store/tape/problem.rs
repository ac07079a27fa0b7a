//! The problems of cartridges that an open finds, in words for the operator.

use std::fmt;

use super::drive::Damage;

/// A problem of a cartridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapeProblem {
    /// It holds something else, and is not used.
    Foreign {
        /// The cartridge.
        barcode: String,
    },
    /// It has the number of another cartridge, as a copy has. It is not used.
    Twin {
        /// The cartridge.
        barcode: String,
        /// The number.
        number: u64,
    },
    /// A file on it, or its label, cannot be read; the content of the file is missing.
    Unreadable {
        /// The cartridge.
        barcode: String,
        /// The position where the file begins.
        object: u64,
    },
    /// Its structure is damaged at a place; the records after it were found again.
    Damaged {
        /// The cartridge.
        barcode: String,
        /// The place.
        damage: Damage,
    },
    /// The drive cannot find the end of its data.
    NoEnd {
        /// The cartridge.
        barcode: String,
    },
    /// It ends before the last data that was written to it.
    CutShort {
        /// The cartridge.
        barcode: String,
        /// The position where it ends.
        object: u64,
        /// The number of the last file that was written to it.
        file: Option<u64>,
    },
    /// There is unknown data at its end.
    Tail {
        /// The cartridge.
        barcode: String,
        /// The position where this data begins.
        object: u64,
    },
    /// It is not in the library; its content cannot be read until it is back.
    Away {
        /// The cartridge.
        barcode: String,
        /// Its number.
        number: u64,
        /// The number of objects that need it.
        objects: u64,
    },
    /// A cartridge is not in the library, and there is no record of its content.
    Missing {
        /// Its number.
        number: u64,
    },
    /// Objects that were written are not found on cartridges that are present.
    Lost {
        /// The number of objects.
        objects: u64,
        /// The name of the first one.
        first: String,
    },
}

/// The consequence for a damaged cartridge.
const READ_ONLY: &str = "nothing is written to it any more, and what can be read on it is";

impl fmt::Display for TapeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TapeProblem::Foreign { barcode } => {
                write!(f, "cartridge {barcode} holds something that is not of this archive; it is left alone")
            }
            TapeProblem::Twin { barcode, number } => write!(
                f,
                "cartridge {barcode} is a second one with number {number}, as a copy is; it is left alone: take it out"
            ),
            TapeProblem::Unreadable { barcode, object } => write!(
                f,
                "cartridge {barcode} cannot be read at block {object}: what the file there held is missing; {READ_ONLY}"
            ),
            TapeProblem::Damaged { barcode, damage } => write!(
                f,
                "cartridge {barcode} is damaged at byte {} (block {}, {} bytes), and {} bytes follow, which were found again; {READ_ONLY}",
                damage.offset_bytes, damage.object, damage.len_bytes, damage.behind_bytes
            ),
            TapeProblem::NoEnd { barcode } => {
                write!(f, "cartridge {barcode}: the drive cannot find the end of its data; {READ_ONLY}")
            }
            TapeProblem::CutShort { barcode, object, file } => {
                write!(f, "cartridge {barcode} ends at block {object}, and more was written to it")?;
                if let Some(file) = file {
                    write!(f, " (up to file {file})")?;
                }
                write!(f, ": {READ_ONLY}")
            }
            TapeProblem::Tail { barcode, object } => write!(
                f,
                "cartridge {barcode} has something without an end at block {object} that may have been needed; {READ_ONLY}"
            ),
            TapeProblem::Away { barcode, number, objects } => write!(
                f,
                "cartridge {barcode} (number {number}) is not in the library: {objects} objects on it cannot be read until it is back"
            ),
            TapeProblem::Missing { number } => write!(
                f,
                "cartridge number {number} is not in the library, and nothing tells what is on it: put it in and start again"
            ),
            TapeProblem::Lost { objects, first } => write!(
                f,
                "{objects} objects that were written are not found on their cartridges, the first of them {first}"
            ),
        }
    }
}
