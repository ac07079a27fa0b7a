//! Names of the objects of anchors.
//!
//! `v1/POOL/anc/EPOCH/LSN-IMAGE.CLAIM.NUMBER.part`, and `LSN-IMAGE.CLAIM.PARTS.anchor` for the
//! head, where PARTS is how many parts there are. LSN and CLAIM are 16 hexadecimal digits, the
//! other numbers 8, all lower case. EPOCH is that of the segment in which the position lies. The
//! name of a head tells the names of all its parts, so an anchor can be deleted whose head cannot
//! be read.

use uuid::Uuid;
use zerocopy::little_endian::{U32, U64};

use super::{AnchorDamage, PARTS_MAX};
use crate::archive::object::{ClaimId, ObjectId};
use crate::archive::store::{InvalidName, Name};
use crate::log::types::{Lsn, SegmentSeq};

/// The identity of an anchor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnchorId {
    /// The pool.
    pub pool: Uuid,
    /// The epoch in which the segment of the position was opened.
    pub epoch: u32,
    /// The image.
    pub image: u32,
    /// The position: everything at or before it is in the anchor.
    pub lsn: Lsn,
    /// Who stored it.
    pub claim: ClaimId,
}

/// An object of an anchor, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnchorName {
    /// The head, and how many parts there are.
    Head(AnchorId, u32),
    /// A part, by its number.
    Part(AnchorId, u32),
}

/// The prefix of the names of all objects of a pool's anchors.
pub fn anchor_prefix(pool: Uuid) -> String {
    format!("v1/{pool}/anc/")
}

/// Whose an object of an anchor is, as it is stored: pool, epoch, image, LSN, claim.
pub(super) type RawOwner = ([u8; 16], U32, U32, U64, U64);

impl AnchorId {
    /// Checks that an object belongs to this anchor.
    pub(super) fn check_owner(&self, (pool, epoch, image, lsn, claim): RawOwner) -> Result<(), AnchorDamage> {
        let owner = AnchorId {
            pool: Uuid::from_bytes(pool),
            epoch: epoch.get(),
            image: image.get(),
            lsn: Lsn(lsn.get()),
            claim: ClaimId(claim.get()),
        };
        if owner == *self { Ok(()) } else { Err(AnchorDamage::Elsewhere("anchor")) }
    }

    fn object(&self, number: u32, kind: &str) -> Result<Name, InvalidName> {
        let AnchorId { pool, epoch, image, lsn, claim } = self;
        Name::new(&format!(
            "{}{epoch:08x}/{:016x}-{image:08x}.{:016x}.{number:08x}.{kind}",
            anchor_prefix(*pool),
            lsn.0,
            claim.0
        ))
    }

    /// The name of the head of an anchor with so many parts.
    ///
    /// # Errors
    /// None in practice: every name built here is valid in every store.
    pub fn head_name(&self, parts: u32) -> Result<Name, InvalidName> {
        self.object(parts, "anchor")
    }

    /// The name of a part.
    ///
    /// # Errors
    /// None in practice: every name built here is valid in every store.
    pub fn part_name(&self, number: u32) -> Result<Name, InvalidName> {
        self.object(number, "part")
    }

    /// The names of all objects of an anchor with so many parts, the head first.
    ///
    /// # Errors
    /// None in practice: every name built here is valid in every store.
    pub fn names(&self, parts: u32) -> Result<Vec<Name>, InvalidName> {
        std::iter::once(self.head_name(parts))
            .chain((0..parts.min(PARTS_MAX)).map(|number| self.part_name(number)))
            .collect()
    }

    /// An object of the log that belongs to the same histories: it ends behind the position, and
    /// has the same owner.
    pub fn as_object(&self) -> ObjectId {
        ObjectId {
            pool: self.pool,
            epoch: self.epoch,
            sequence: SegmentSeq(0),
            from_lsn: Lsn(0),
            to_lsn: Lsn(self.lsn.0.saturating_add(1)),
            whole: false,
            claim: self.claim,
        }
    }
}

impl AnchorName {
    /// The anchor.
    pub fn id(&self) -> AnchorId {
        match *self {
            AnchorName::Head(id, _) | AnchorName::Part(id, _) => id,
        }
    }

    /// The object's name.
    ///
    /// # Errors
    /// None in practice: every name built here is valid in every store.
    pub fn name(&self) -> Result<Name, InvalidName> {
        match *self {
            AnchorName::Head(id, parts) => id.head_name(parts),
            AnchorName::Part(id, number) => id.part_name(number),
        }
    }

    /// Parses a name. Only the exact spelling that [`name`](Self::name) returns is accepted, and
    /// only positions and counts that an anchor can have.
    pub fn parse(name: &str) -> Option<Self> {
        let (pool, rest) = name.strip_prefix("v1/")?.split_once("/anc/")?;
        let (epoch, rest) = rest.split_once('/')?;
        let (lsn, rest) = rest.split_once('-')?;
        let mut parts = rest.split('.');
        let (image, claim, number, kind) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let of_u32 = |digits| u32::from_str_radix(digits, 16).ok();
        let of_u64 = |digits| u64::from_str_radix(digits, 16).ok();
        let id = AnchorId {
            pool: Uuid::try_parse(pool).ok()?,
            epoch: of_u32(epoch)?,
            image: of_u32(image)?,
            lsn: Lsn(of_u64(lsn)?),
            claim: ClaimId(of_u64(claim)?),
        };
        let number = of_u32(number)?;
        let found = match kind {
            "anchor" => AnchorName::Head(id, number),
            "part" => AnchorName::Part(id, number),
            _ => return None,
        };
        let is_possible = id.lsn.0 > 0 && id.lsn <= Lsn::MAX && number <= PARTS_MAX;
        (is_possible && found.name().is_ok_and(|own| own.as_str() == name)).then_some(found)
    }
}
