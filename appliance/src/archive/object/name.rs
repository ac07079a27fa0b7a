//! Names of objects: they sort in log order.
//!
//! `v1/POOL/seg/EPOCH/SEQUENCE-FROM-TO.seg.zst`, or `.inc.zst` for an increment. POOL is the UUID with hyphens; EPOCH is 8 hexadecimal
//! digits, the others 16, all lower case. The epoch of a segment never falls along the log (see `log::format`), so the order of the names is
//! the order of the log; the increments of a segment stand in their order, and a whole segment behind the increments that begin with it.

use uuid::Uuid;

use crate::archive::store::{InvalidName, Name};
use crate::log::types::{Lsn, SegmentSeq};

/// Which stretch of which pool's log an object holds.
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
    /// The position behind the last one.
    pub to_lsn: Lsn,
    /// Whether it is the whole, sealed segment, and not an increment.
    pub whole: bool,
}

/// Why a name is not one of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of an archived object: its {0} is wrong")]
pub struct NameError(&'static str);

/// What all names of a pool's objects begin with.
pub fn pool_prefix(pool: Uuid) -> String {
    format!("v1/{pool}/seg/")
}

impl ObjectId {
    /// The object's name.
    ///
    /// # Errors
    /// None in fact: every name that is built here is valid in every store.
    pub fn name(&self) -> Result<Name, InvalidName> {
        let kind = if self.whole { "seg" } else { "inc" };
        Name::new(&format!(
            "{}{:08x}/{:016x}-{:016x}-{:016x}.{kind}.zst",
            pool_prefix(self.pool),
            self.epoch,
            self.sequence.0,
            self.from_lsn.0,
            self.to_lsn.0,
        ))
    }

    /// Reads a name. Only the one spelling that [`name`](Self::name) gives is accepted.
    ///
    /// # Errors
    /// Which part of it is wrong.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        let rest = name.strip_prefix("v1/").ok_or(NameError("version"))?;
        let (pool, rest) = rest.split_once("/seg/").ok_or(NameError("shape"))?;
        let (epoch, rest) = rest.split_once('/').ok_or(NameError("shape"))?;
        let (numbers, whole) = match (rest.strip_suffix(".seg.zst"), rest.strip_suffix(".inc.zst")) {
            (Some(numbers), _) => (numbers, true),
            (None, Some(numbers)) => (numbers, false),
            (None, None) => return Err(NameError("kind")),
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
        };
        match id.name() {
            Ok(own) if own.as_str() == name => Ok(id),
            _ => Err(NameError("spelling")),
        }
    }
}
