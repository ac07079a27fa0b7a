//! The object of a generation.
//!
//! Its text is one line of JSON and one line with the BLAKE3 of that in hexadecimal digits, and
//! both once more: one damaged copy does no harm.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::lineage::{Acknowledged, Lineage};
use crate::archive::object::ClaimId;
use crate::archive::store::Name;
use crate::log::Lsn;

/// The version of the text.
const VERSION: u32 = 1;

/// A history: the content of one log from its beginning to its end. A recovery or a fork begins
/// another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HistoryId(pub Uuid);

impl HistoryId {
    /// A new random id.
    pub fn random() -> Self {
        HistoryId(Uuid::new_v4())
    }
}

impl std::fmt::Display for HistoryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The beginning of a history: a point in another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The other history.
    pub history: HistoryId,
    /// The position up to which both are the same.
    pub cut_lsn: Lsn,
}

/// A history that is not the owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SideHistory {
    /// Its id.
    pub history: HistoryId,
    /// Its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Its claims.
    pub acknowledged: Vec<Acknowledged>,
}

impl SideHistory {
    /// The objects that belong to it.
    pub fn lineage(&self) -> Lineage {
        Lineage::new(self.acknowledged.iter().copied())
    }
}

/// The content of a generation. See the [module's documentation](super).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub(super) version: u32,
    /// The pool.
    pub pool: Uuid,
    /// Its number, which is also its name.
    pub number: u64,
    /// The owner's claim.
    pub claim: ClaimId,
    /// The owner's history.
    pub history: HistoryId,
    /// The beginning of that history.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// The time when it was made, by the owner's clock, ns since the Unix epoch.
    pub made_ns: u64,
    /// The machine and process of the owner, for messages.
    pub by: String,
    /// The earlier claims whose objects belong to this history.
    pub acknowledged: Vec<Acknowledged>,
    /// Other histories.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<SideHistory>,
    /// Names of objects that may be deleted, and may be gone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tombstones: Vec<String>,
    /// The retention rules, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
}

/// Why the text of a generation cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordDamage {
    /// Neither copy is intact.
    #[error("both copies of its text are damaged")]
    Checksum,
    /// A later version of this program wrote it.
    #[error("it has version {0}, and this program reads up to version {VERSION}")]
    Version(u32),
    /// It is intact, but does not match its name.
    #[error("it is of another pool or generation than its name says")]
    Misnamed,
}

impl Generation {
    /// The first generation of a pool.
    pub fn first(pool: Uuid, claim: ClaimId, history: HistoryId, acknowledged: Vec<Acknowledged>) -> Self {
        Generation {
            version: VERSION,
            pool,
            number: 1,
            claim,
            history,
            parent: None,
            made_ns: 0,
            by: String::new(),
            acknowledged,
            beside: Vec::new(),
            tombstones: Vec::new(),
            rules: None,
        }
    }

    /// The next generation of the same owner, with the names that may be deleted from then on.
    #[must_use]
    pub fn with_tombstones(&self, names: &BTreeSet<String>) -> Self {
        let tombstones = names.iter().cloned().collect();
        Generation { number: self.number + 1, tombstones, ..self.clone() }
    }

    /// The objects that belong to the owner's history, including all present and future ones of its
    /// own claim.
    pub fn lineage(&self) -> Lineage {
        Lineage::new(self.acknowledged.iter().copied()).with_open(self.claim)
    }

    /// Every history that it names, the owner's first, and the objects that belong to each.
    pub fn histories(&self) -> impl Iterator<Item = (HistoryId, Lineage)> + '_ {
        let beside = self.beside.iter().map(|beside| (beside.history, beside.lineage()));
        std::iter::once((self.history, self.lineage())).chain(beside)
    }

    /// This history in the form of a side history.
    pub fn aside(&self) -> SideHistory {
        let acknowledged = self.lineage().claims().to_vec();
        SideHistory { history: self.history, parent: self.parent, acknowledged }
    }

    /// The prefix of the names of a pool's generations.
    pub fn prefix(pool: Uuid) -> String {
        format!("v1/{pool}/owner/")
    }

    /// The name of a generation.
    pub fn name_of(pool: Uuid, number: u64) -> Name {
        let text = format!("{}{number:016x}", Self::prefix(pool));
        Name::new(&text).unwrap_or_else(|_| unreachable!("a UUID and digits are a valid name"))
    }

    /// Its name.
    pub fn name(&self) -> Name {
        Self::name_of(self.pool, self.number)
    }

    /// The number in a name, if it is the name of a generation of the pool.
    pub fn number_of(pool: Uuid, name: &Name) -> Option<u64> {
        let digits = name.as_str().strip_prefix(&Self::prefix(pool))?;
        let number = u64::from_str_radix(digits, 16).ok()?;
        (Self::name_of(pool, number) == *name).then_some(number)
    }

    /// Its text.
    pub fn encode(&self) -> Vec<u8> {
        let line = serde_json::to_string(self).unwrap_or_else(|_| unreachable!("it is plain data"));
        let copy = format!("{line}\n{}\n", blake3::hash(line.as_bytes()).to_hex());
        copy.repeat(2).into_bytes()
    }

    /// Decodes the text of the object with the name of generation `number` of `pool`.
    ///
    /// # Errors
    /// See [`RecordDamage`].
    pub fn decode(text: &[u8], pool: Uuid, number: u64) -> Result<Self, RecordDamage> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        // Both copies have the same length, so a damaged line feed between them does not matter.
        let (first, second) = text.split_at(text.len() / 2);
        let line = [text, first, second].into_iter().find_map(whole_line);
        let line = line.ok_or(RecordDamage::Checksum)?;
        let version = serde_json::from_slice::<Versioned>(line).map_err(|_| RecordDamage::Checksum)?;
        if version.version > VERSION {
            return Err(RecordDamage::Version(version.version));
        }
        let record: Self = serde_json::from_slice(line).map_err(|_| RecordDamage::Checksum)?;
        if (record.pool, record.number) != (pool, number) {
            return Err(RecordDamage::Misnamed);
        }
        Ok(record)
    }
}

/// The first line that is followed by its digest. A damaged line feed affects only its own copy.
fn whole_line(text: &[u8]) -> Option<&[u8]> {
    let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').collect();
    lines.windows(2).find_map(|copy| {
        let &[line, digest] = copy else { return None };
        (blake3::hash(line).to_hex().as_bytes() == digest).then_some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_this_version,
        VERSION => "| generation (ownership) | `\"version\"` in JSON | {} | up to 1 |",
    );

    #[test]
    fn the_document_has_these_keys() {
        let history = HistoryId(Uuid::nil());
        let parent = Parent { history, cut_lsn: Lsn(1) };
        let acknowledged = vec![Acknowledged { claim: ClaimId(1), end_lsn: Lsn(2) }];
        let side = SideHistory { history, parent: Some(parent), acknowledged: acknowledged.clone() };
        let generation = Generation {
            parent: Some(parent),
            beside: vec![side],
            tombstones: vec!["a".to_owned()],
            rules: Some("all".to_owned()),
            ..Generation::first(Uuid::nil(), ClaimId(1), history, acknowledged)
        };
        crate::document::check_keys("Name: `v1/POOL/owner/NUMBER`", "| key |", &generation);
        let value = serde_json::to_value(&generation).expect("plain data");
        let keys = |value: &serde_json::Value| {
            let keys = value.as_object().expect("an object").keys().map(|key| format!("\"{key}\""));
            format!("{{{}}}", keys.collect::<Vec<_>>().join(","))
        };
        for (key, phrase) in [
            (&value["parent"], "| `parent` | `{}` | where the history began"),
            (&value["acknowledged"][0], "| `acknowledged` | list of `{}` |"),
            (&value["beside"][0], "| `beside` | list of `{}` |"),
        ] {
            crate::document::check_says(&phrase.replace("{}", &keys(key)));
        }
    }
}
