//! The tables of the catalog and their rows.

use redb::{ReadableTable, Table, TableDefinition};

use crate::archive::object::{ObjectId, Place};
use crate::log::reader::LsnRange;
use crate::log::types::Lsn;

/// The version of the tables. A file of another version is not read: the catalog is rebuilt.
pub(super) const VERSION: &str = "2";
/// The reason that a gap records when it comes from a hole in an object.
const HOLE_REASON: &str = "its entries could not be read when it was archived";
/// The key of the mark: its value is `yes` in a file that has everything.
pub(super) const COMPLETE: &str = "complete";

/// Sorts in the same order as the object names.
pub(super) type ObjectKey = Place;
/// The times of opening and sealing, and those of the first and the last record if there is one.
type DetailsValue = (u64, u64, Option<(u64, u64)>);
/// Size in bytes, and the details.
pub(super) type ObjectValue = (u64, Option<DetailsValue>);

pub(super) const OBJECTS: TableDefinition<'_, ObjectKey, ObjectValue> = TableDefinition::new("objects");
pub(super) const SYNCHS: TableDefinition<'_, u64, (u64, &[u8])> = TableDefinition::new("synchs");
pub(super) const GAPS: TableDefinition<'_, u64, (u64, u64, &str)> = TableDefinition::new("gaps");
pub(super) const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

/// What the front of an object contains. Times in ns since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectDetails {
    /// When the segment was opened.
    pub opened_ns: u64,
    /// When the stretch was sealed.
    pub sealed_ns: u64,
    /// Times of the first and of the last record; `None` when there is none.
    pub records_ns: Option<(u64, u64)>,
}

/// An object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectRow {
    /// Its identity.
    pub id: ObjectId,
    /// Its size in bytes.
    pub len_bytes: u64,
    /// What its front contains, once it has been read.
    pub details: Option<ObjectDetails>,
}

/// A synch event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SynchRow {
    /// Its position.
    pub lsn: Lsn,
    /// Its time, ns since the Unix epoch.
    pub time_ns: u64,
    /// Its text, JSON as in the log; empty when it could not be read.
    pub text: Vec<u8>,
}

/// A stretch of the log that is not in the archive and never will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GapRow {
    /// The stretch.
    pub range: LsnRange,
    /// When it was found, ns since the Unix epoch.
    pub time_ns: u64,
    /// Why, in words for the operator.
    pub reason: String,
}

pub(super) fn value_of(len_bytes: u64, details: Option<ObjectDetails>) -> ObjectValue {
    (len_bytes, details.map(|details| (details.opened_ns, details.sealed_ns, details.records_ns)))
}

pub(super) fn row_of(id: ObjectId, (len_bytes, details): ObjectValue) -> ObjectRow {
    let details =
        details.map(|(opened_ns, sealed_ns, records_ns)| ObjectDetails { opened_ns, sealed_ns, records_ns });
    ObjectRow { id, len_bytes, details }
}

/// Inserts an object. Details that are already known are kept when `details` is `None` and the size
/// is the same.
pub(super) fn insert_object(
    objects: &mut Table<'_, ObjectKey, ObjectValue>,
    id: &ObjectId,
    len_bytes: u64,
    details: Option<ObjectDetails>,
) -> Result<(), redb::Error> {
    let mut value = value_of(len_bytes, details);
    if value.1.is_none() {
        let known = objects.get(id.place())?.map(|known| known.value());
        value.1 = known.filter(|known| known.0 == len_bytes).and_then(|known| known.1);
    }
    objects.insert(id.place(), value)?;
    Ok(())
}

/// Records the stretches of an object whose entries are unknown, and removes all other gaps within
/// it.
pub(super) fn insert_holes(
    gaps: &mut Table<'_, u64, (u64, u64, &'static str)>,
    id: &ObjectId,
    holes: &[LsnRange],
    sealed_ns: u64,
) -> Result<(), redb::Error> {
    let mut known = Vec::new();
    for item in gaps.range(id.from_lsn.0..id.to_lsn.0)? {
        known.push(item?.0.value());
    }
    for start in known {
        gaps.remove(start)?;
    }
    for hole in holes {
        gaps.insert(hole.start.0, (hole.end.0, sealed_ns, HOLE_REASON))?;
    }
    Ok(())
}

/// Inserts a synch, unless it has no text and the synch is already known.
pub(super) fn insert_synch(
    synchs: &mut Table<'_, u64, (u64, &'static [u8])>,
    synch: &SynchRow,
) -> Result<(), redb::Error> {
    if synch.text.is_empty() && synchs.get(synch.lsn.0)?.is_some() {
        return Ok(());
    }
    synchs.insert(synch.lsn.0, (synch.time_ns, synch.text.as_slice()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_these_tables() {
        use redb::TableHandle;

        crate::document::check_says(&format!("key `version` of table `meta` | `{VERSION}` (text) |"));
        crate::document::check_says(&format!("| `version` | `{VERSION}` |"));
        crate::document::check_says(&format!("| `{COMPLETE}` | `yes`: the file has everything"));
        for name in [OBJECTS.name(), SYNCHS.name(), GAPS.name(), META.name()] {
            let rows = crate::document::rows_of("A redb database", "| table |");
            assert!(rows.iter().any(|row| row[0] == format!("`{name}`")), "the document has no table {name}");
        }
    }
}
