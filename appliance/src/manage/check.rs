//! Checks one object: reads it back whole and runs every check that its format has.

use crate::archive::catalog::ObjectRow;
use crate::archive::object::{Decompressor, ObjectError, ObjectId, ObjectReader};
use crate::archive::store::{Store, StoreErrorKind, StoredObject};
use crate::log::reader::LsnRange;
use crate::text::units::format_time;

/// The result of the check of one object.
pub(super) enum Outcome {
    Whole,
    /// The object is a part, and its segment has since been archived as a whole.
    Gone,
    Missing,
    Incomplete {
        holes: Vec<LsnRange>,
        damaged_blocks: u64,
    },
    Damaged(String),
    Failed(String),
}

pub(super) fn verify_one(store: &dyn Store, id: &ObjectId, codec: &mut Decompressor) -> Outcome {
    let name = match id.name() {
        Ok(name) => name,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let mut read = || {
        let object = StoredObject::open(store, &name)?;
        let reader = ObjectReader::open(&object)?;
        let front = reader.verify(codec, |_| ())?;
        Ok::<_, ObjectError>((front, reader.table().damaged().len() as u64))
    };
    match read() {
        Ok((front, _)) if !front.header.id.is_same_stretch(id) => {
            Outcome::Damaged("it holds another stretch than its name says".to_owned())
        }
        Ok((front, 0)) if front.holes.is_empty() => Outcome::Whole,
        Ok((front, damaged_blocks)) => Outcome::Incomplete { holes: front.holes, damaged_blocks },
        Err(ObjectError::Store(error)) => match error.kind {
            StoreErrorKind::NotFound if !id.whole => Outcome::Gone,
            StoreErrorKind::NotFound => Outcome::Missing,
            StoreErrorKind::Corrupt(_) | StoreErrorKind::OutOfRange => Outcome::Damaged(error.to_string()),
            _ => Outcome::Failed(error.to_string()),
        },
        Err(error @ ObjectError::OutOfMemory) => Outcome::Failed(error.to_string()),
        Err(error) => Outcome::Damaged(error.to_string()),
    }
}

/// Describes an object: its segment, its positions, its times, its name.
pub(super) fn describe(row: &ObjectRow) -> String {
    let id = &row.id;
    let times = row.details.and_then(|details| details.records_ns);
    let times = times.map_or_else(String::new, |(first_ns, last_ns)| {
        format!(", {} to {}", format_time(first_ns), format_time(last_ns))
    });
    let name = id.name().map_or_else(|_| format!("{id:?}"), |name| name.to_string());
    format!("segment {} (LSN {} to {}{times}): {name}", id.sequence, id.from_lsn, id.to_lsn)
}
