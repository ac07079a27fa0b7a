//! Names of objects, which sort in log order.
//!
//! `v1/POOL/seg/EPOCH/SEQUENCE-FROM-TO.CLAIM.seg.zst`, or `.inc.zst` for a part. POOL is the
//! UUID with hyphens; EPOCH is 8 hexadecimal digits, the others 16, all lower case. Names from
//! before claims existed have neither CLAIM nor the point before it. The epoch of a segment never
//! decreases along the log (see `log::format`), so the order of the names is the order of the log.
//! The parts of a segment are in their order, and a whole segment is after the parts that
//! begin with it.
//!
//! The claim identifies who stored an object (see [`owner`](crate::archive::owner)). It is in the
//! name alone, so an object's bytes do not depend on it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::archive::store::{InvalidName, Name};
use crate::log::types::{Lsn, SegmentSeq};

/// Who stored an object: a random number that an owner of the archive took. Zero: stored before
/// claims existed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ClaimId(pub u64);

impl ClaimId {
    /// The claim of objects that were stored before claims existed.
    pub const NONE: ClaimId = ClaimId(0);

    /// A new random claim.
    pub fn random() -> Self {
        let (high, low) = Uuid::new_v4().as_u64_pair();
        // The fixed bits of a version 4 UUID are at different bits of the two terms, so none is
        // fixed in the result. Zero has a meaning already.
        ClaimId((high ^ low.rotate_left(32)).max(1))
    }

    /// Its position among claims in the order of names: zero, which has no text in the name, is
    /// last.
    fn order(self) -> u64 {
        self.0.wrapping_sub(1)
    }
}

impl std::fmt::Display for ClaimId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

// Serialized as digits: JSON's numbers are not exact everywhere.
impl Serialize for ClaimId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClaimId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map(ClaimId).map_err(serde::de::Error::custom)
    }
}

/// The identity of an object: a stretch of a pool's log, and who stored it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ObjectId {
    /// The pool.
    pub pool: Uuid,
    /// The epoch in which the segment was opened.
    pub epoch: u32,
    /// The segment.
    pub sequence: SegmentSeq,
    /// The first position.
    pub from_lsn: Lsn,
    /// The position after the last one.
    pub to_lsn: Lsn,
    /// Whether it is the whole, sealed segment, not a part of one.
    pub whole: bool,
    /// Who stored it; [`ClaimId::NONE`] if decoded from an object's bytes, which do not contain it.
    pub claim: ClaimId,
}

/// Epoch, sequence, first LSN, LSN after the last, order of the claim, whole.
pub type Place = (u32, u64, u64, u64, u64, bool);

/// Why a name is not an object's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an archived object: its {0} is wrong")]
pub struct NameError(&'static str);

/// The prefix of the names of all of a pool's objects.
pub fn pool_prefix(pool: Uuid) -> String {
    format!("v1/{pool}/seg/")
}

impl ObjectId {
    /// The object's name.
    ///
    /// # Errors
    /// None in practice: every name built here is valid in every store.
    pub fn name(&self) -> Result<Name, InvalidName> {
        let kind = if self.whole { "seg" } else { "inc" };
        let claim = if self.claim == ClaimId::NONE { String::new() } else { format!(".{}", self.claim) };
        Name::new(&format!(
            "{}{:08x}/{:016x}-{:016x}-{:016x}{claim}.{kind}.zst",
            pool_prefix(self.pool),
            self.epoch,
            self.sequence.0,
            self.from_lsn.0,
            self.to_lsn.0,
        ))
    }

    /// Its place among the pool's objects: sorts as the names do.
    pub fn place(&self) -> Place {
        let (from, to) = (self.from_lsn.0, self.to_lsn.0);
        (self.epoch, self.sequence.0, from, to, self.claim.order(), self.whole)
    }

    /// The object of a pool at a place.
    pub fn at(pool: Uuid, (epoch, sequence, from, to, claim, whole): Place) -> Self {
        let (sequence, from_lsn, to_lsn) = (SegmentSeq(sequence), Lsn(from), Lsn(to));
        let claim = ClaimId(claim.wrapping_add(1));
        ObjectId { pool, epoch, sequence, from_lsn, to_lsn, whole, claim }
    }

    /// Whether both hold the same stretch, whoever stored them.
    pub fn is_same_stretch(&self, other: &Self) -> bool {
        *self == ObjectId { claim: self.claim, ..*other }
    }

    /// Parses a name. Only the exact spelling that [`name`](Self::name) returns is accepted.
    ///
    /// # Errors
    /// Which part of the name is wrong.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let rest = name.strip_prefix("v1/").ok_or(NameError("version"))?;
        let (pool, rest) = rest.split_once("/seg/").ok_or(NameError("shape"))?;
        let (epoch, rest) = rest.split_once('/').ok_or(NameError("shape"))?;
        let (numbers, whole) = match (rest.strip_suffix(".seg.zst"), rest.strip_suffix(".inc.zst")) {
            (Some(numbers), _) => (numbers, true),
            (None, Some(numbers)) => (numbers, false),
            (None, None) => return Err(NameError("kind")),
        };
        let (numbers, claim) = match numbers.split_once('.') {
            Some((numbers, claim)) => {
                let claim = u64::from_str_radix(claim, 16).map_err(|_| NameError("claim"))?;
                (numbers, ClaimId(claim))
            }
            None => (numbers, ClaimId::NONE),
        };
        let mut parts = numbers.split('-');
        let mut number = |what| {
            let digits = parts.next().ok_or(NameError(what))?;
            u64::from_str_radix(digits, 16).map_err(|_| NameError(what))
        };
        let id = ObjectId {
            pool: Uuid::try_parse(pool).map_err(|_| NameError("pool"))?,
            epoch: u32::from_str_radix(epoch, 16).map_err(|_| NameError("epoch"))?,
            sequence: SegmentSeq(number("sequence")?),
            from_lsn: Lsn(number("first LSN")?),
            to_lsn: Lsn(number("last LSN")?),
            whole,
            claim,
        };
        match id.name() {
            Ok(own) if own.as_str() == name => Ok(id),
            _ => Err(NameError("spelling")),
        }
    }
}
