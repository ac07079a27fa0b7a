//! What an open finds wrong with cartridges, in words for the operator.

use std::fmt;

use super::drive::Damage;

/// What was found wrong with a cartridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapeProblem {
    /// It holds something else, and is left alone.
    Foreign {
        /// The cartridge.
        barcode: String,
    },
    /// It has the number of another one, as a copy has: it is left alone.
    Twin {
        /// The cartridge.
        barcode: String,
        /// The number.
        number: u64,
    },
    /// A file on it, or its label, cannot be read; what the file held is missing.
    Unreadable {
        /// The cartridge.
        barcode: String,
        /// Where the file begins.
        object: u64,
    },
    /// Its structure is damaged at a place; what follows it was found again.
    Damaged {
        /// The cartridge.
        barcode: String,
        /// The place.
        damage: Damage,
    },
    /// The drive cannot find where its data ends.
    NoEnd {
        /// The cartridge.
        barcode: String,
    },
    /// It ends before what was written to it.
    CutShort {
        /// The cartridge.
        barcode: String,
        /// Where it ends.
        object: u64,
        /// The number of the last file that was written to it.
        file: Option<u64>,
    },
    /// Something is at its end that nobody knows.
    Tail {
        /// The cartridge.
        barcode: String,
        /// Where it begins.
        object: u64,
    },
    /// It is not in the library; what is on it cannot be read until it is back.
    Away {
        /// The cartridge.
        barcode: String,
        /// Its number.
        number: u64,
        /// Objects that need it.
        objects: u64,
    },
    /// A cartridge is not in the library, and nobody remembers what is on it.
    Missing {
        /// Its number.
        number: u64,
    },
    /// Objects that were written are not found on cartridges that are there.
    Lost {
        /// How many.
        objects: u64,
        /// The name of the first one.
        first: String,
    },
}

/// What becomes of a damaged cartridge.
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
