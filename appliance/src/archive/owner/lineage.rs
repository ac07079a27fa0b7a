//! Determines which objects of an archive belong to a history.

use serde::{Deserialize, Serialize};

use crate::archive::object::{ClaimId, ObjectId};
use crate::log::Lsn;

/// A claim whose objects count, up to a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {
    /// The claim of the objects.
    pub claim: ClaimId,
    /// Objects that end at or before this position count.
    pub end_lsn: Lsn,
}

/// The claims of a history.
///
/// Invariant: no claim is in it twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lineage {
    claims: Vec<Acknowledged>,
    /// All objects up to here count, whatever their claim: the archive has no generation that
    /// restricts them.
    everything_to: Option<Lsn>,
}

impl Lineage {
    /// The history of an archive without generations: all existing objects.
    pub fn everything() -> Self {
        Lineage { claims: Vec::new(), everything_to: Some(Lsn::MAX) }
    }

    /// The objects that were stored before claims existed.
    pub fn unclaimed() -> Self {
        Lineage::default().with_open(ClaimId::NONE)
    }

    /// Whether the claim of an object is ignored.
    pub fn is_everything(&self) -> bool {
        self.everything_to.is_some()
    }

    /// A lineage of claims, oldest first. A claim that is given twice gets its smaller end.
    pub fn new(claims: impl IntoIterator<Item = Acknowledged>) -> Self {
        let mut lineage = Lineage::default();
        for claim in claims {
            lineage.add(claim);
        }
        lineage
    }

    fn add(&mut self, new: Acknowledged) {
        match self.claims.iter_mut().find(|known| known.claim == new.claim) {
            Some(known) => known.end_lsn = known.end_lsn.min(new.end_lsn),
            None => self.claims.push(new),
        }
    }

    /// The same, with a claim that is still in use, or whose end is unknown.
    #[must_use]
    pub fn with_open(mut self, claim: ClaimId) -> Self {
        self.claims.retain(|known| known.claim != claim);
        self.claims.push(Acknowledged { claim, end_lsn: Lsn::MAX });
        self
    }

    /// The same, up to a position.
    #[must_use]
    pub fn cut(mut self, end_lsn: Lsn) -> Self {
        self.claims.iter_mut().for_each(|known| known.end_lsn = known.end_lsn.min(end_lsn));
        self.everything_to = self.everything_to.map(|known| known.min(end_lsn));
        self
    }

    /// Whether an object belongs to this history.
    pub fn counts(&self, id: &ObjectId) -> bool {
        let counts = |known: &Acknowledged| known.claim == id.claim && id.to_lsn <= known.end_lsn;
        self.everything_to.is_some_and(|end_lsn| id.to_lsn <= end_lsn) || self.claims.iter().any(counts)
    }

    /// The position up to which objects of a claim count; `None`: they do not count, or the claim
    /// is `NONE`.
    pub fn end_of(&self, claim: ClaimId) -> Option<Lsn> {
        let known = self.claims.iter().find(|known| known.claim == claim && claim != ClaimId::NONE)?;
        Some(known.end_lsn)
    }

    /// The claims, oldest first.
    pub fn claims(&self) -> &[Acknowledged] {
        &self.claims
    }
}
