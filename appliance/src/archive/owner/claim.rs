//! Decides whether a pool may take an archive and what it takes over, and makes the generation that
//! records it.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::chain::Chain;
use super::lineage::{Acknowledged, Lineage};
use super::record::{Generation, HistoryId, Parent, SideHistory};
use crate::archive::object::{ClaimId, ObjectId};
use crate::log::Lsn;

/// Claims of a history that are remembered even if they have no objects.
const CLAIMS_MAX: usize = 4096;

/// A pool that wants to own its archive, as its own log describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claimant {
    /// The pool.
    pub pool: Uuid,
    /// The history of its log, if it ever had a claim.
    pub history: Option<HistoryId>,
    /// Its current claim.
    pub claim: ClaimId,
    /// The claim that it was about to take.
    pub next_claim: ClaimId,
    /// The end of its log.
    pub head_lsn: Lsn,
    /// The position up to which it knows from its own log that this log is archived.
    pub archived_lsn: Lsn,
}

/// Why a pool may not take its archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conflict {
    /// Another owner has it.
    Taken(Box<Generation>),
    /// The archive holds more of the pool's history than the pool's own log does.
    Ahead {
        /// The end of the newest object of the history.
        archive_lsn: Lsn,
    },
}

/// What an owner takes over from earlier owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inheritance {
    /// The earlier objects that count.
    pub lineage: Lineage,
    /// The history that continues.
    pub history: HistoryId,
    /// The point where it began.
    pub parent: Option<Parent>,
    /// Other histories.
    pub beside: Vec<SideHistory>,
    /// The retention rules, if the archive has them.
    pub rules: Option<String>,
    /// Names that the earlier owner announced, and may not have deleted.
    tombstones: Vec<String>,
    /// The claim of the generation in force, if it is the pool's own.
    pub held: Option<(HistoryId, ClaimId)>,
    /// The number of the generation to make.
    number: u64,
}

/// What a pool takes over, and what was learned about it.
#[derive(Debug)]
pub struct Settled<L> {
    /// What it takes over.
    pub inheritance: Inheritance,
    /// What was learned.
    pub learned: L,
    /// Whether it continues as a separate history.
    pub is_fork: bool,
}

impl Inheritance {
    /// What an existing pool takes over, and what `learn` finds for it: the objects of a lineage,
    /// and the end of the newest of them. With `fork`, a pool that may not take the archive as it
    /// is continues as a separate history. If a newer generation may be damaged (see
    /// [`Chain::certain`]), this always forks, so the caller must not call it without `fork` then.
    ///
    /// # Errors
    /// Those of `learn`; the inner error is the conflict.
    pub fn settle<L, E>(
        claimant: &Claimant,
        chain: &Chain,
        fork: bool,
        mut learn: impl FnMut(&Lineage) -> Result<(L, Option<Lsn>), E>,
    ) -> Result<Result<Settled<L>, Conflict>, E> {
        if chain.damaged.is_empty() {
            let conflict = match Self::of(claimant, chain) {
                Ok(inheritance) => match learn(&inheritance.lineage)? {
                    (_, Some(archive_lsn)) if archive_lsn > claimant.head_lsn => {
                        Conflict::Ahead { archive_lsn }
                    }
                    (learned, _) => return Ok(Ok(Settled { inheritance, learned, is_fork: false })),
                },
                Err(conflict) => conflict,
            };
            if !fork {
                return Ok(Err(conflict));
            }
        }
        let inheritance = Self::of_fork(claimant, chain);
        let (learned, _) = learn(&inheritance.lineage)?;
        Ok(Ok(Settled { inheritance, learned, is_fork: true }))
    }

    /// What an existing pool takes over when the archive is its own.
    ///
    /// # Errors
    /// [`Conflict::Taken`].
    fn of(claimant: &Claimant, chain: &Chain) -> Result<Self, Conflict> {
        let is_mine = |claim: ClaimId| {
            claim != ClaimId::NONE && (claim == claimant.claim || claim == claimant.next_claim)
        };
        match &chain.newest {
            None => Ok(Self::first(claimant.history, chain)),
            Some(newest) if is_mine(newest.claim) => Ok(Inheritance {
                lineage: newest.lineage(),
                history: newest.history,
                parent: newest.parent,
                beside: newest.beside.clone(),
                rules: newest.rules.clone(),
                tombstones: newest.tombstones.clone(),
                held: Some((newest.history, newest.claim)),
                number: chain.number + 1,
            }),
            Some(newest) => Err(Conflict::Taken(Box::new(newest.clone()))),
        }
    }

    /// What a pool takes over that continues from its current state as a separate history: what its
    /// own log shows to be its own. The other history is kept beside it.
    pub(super) fn of_fork(claimant: &Claimant, chain: &Chain) -> Self {
        let Some(newest) = &chain.newest else {
            let first = Self::first(None, chain);
            return Inheritance { lineage: first.lineage.cut(claimant.archived_lsn), ..first };
        };
        // A history that inherits from another one also has the other's claims, none of them with a
        // later end than the other has. The claim that was announced last is the best evidence: its
        // generation may have begun a history.
        let rank = |(history, lineage): &(HistoryId, Lineage)| {
            let is_said = claimant.history == Some(*history);
            (lineage.end_of(claimant.next_claim), is_said, lineage.end_of(claimant.claim))
        };
        let (from, lineage) = newest
            .histories()
            .filter(|history| rank(history) > (None, false, None))
            .max_by_key(rank)
            // Before claims existed, everything belonged to one history.
            .unwrap_or_else(|| (claimant.history.unwrap_or(newest.history), Lineage::unclaimed()));
        Inheritance {
            lineage: lineage.cut(claimant.archived_lsn),
            history: HistoryId::random(),
            parent: Some(Parent { history: from, cut_lsn: claimant.archived_lsn }),
            beside: with_aside(newest),
            rules: newest.rules.clone(),
            // They belong to the other history, from which nothing is deleted.
            tombstones: Vec::new(),
            held: None,
            number: chain.number + 1,
        }
    }

    /// What a recovery up to `cut_lsn` takes over from the history that it recovers. It continues
    /// as `history`.
    pub fn of_recovery(chain: &Chain, from: &Recovered, cut_lsn: Lsn, history: HistoryId) -> Self {
        Inheritance {
            lineage: from.lineage.clone().cut(cut_lsn),
            history,
            parent: from.history.map(|history| Parent { history, cut_lsn }),
            beside: chain.newest.as_ref().map_or_else(Vec::new, with_aside),
            rules: from.rules.clone(),
            tombstones: from.tombstones.clone(),
            held: None,
            number: chain.number + 1,
        }
    }

    fn first(history: Option<HistoryId>, chain: &Chain) -> Self {
        Inheritance {
            lineage: Lineage::everything(),
            history: history.unwrap_or_else(HistoryId::random),
            parent: None,
            beside: Vec::new(),
            rules: None,
            tombstones: Vec::new(),
            held: None,
            number: chain.number + 1,
        }
    }

    /// The generation that makes `claim` the owner. Earlier objects count up to `end_lsn`, the end
    /// of the log; `objects` are those that exist.
    ///
    /// Claims without objects are kept, because they identify a copy of the pool from their time.
    /// Each start adds one; beyond `CLAIMS_MAX` the oldest without objects are forgotten.
    pub fn generation(
        self,
        pool: Uuid,
        claim: ClaimId,
        end_lsn: Lsn,
        objects: impl Iterator<Item = ObjectId>,
    ) -> Generation {
        let there: BTreeSet<ClaimId> = objects.map(|id| id.claim).collect();
        let lineage = if self.lineage.is_everything() {
            Lineage::new(there.iter().map(|&claim| Acknowledged { claim, end_lsn }))
        } else {
            self.lineage.cut(end_lsn)
        };
        let mut surplus = lineage.claims().len().saturating_sub(CLAIMS_MAX);
        let mut stays = |known: &&Acknowledged| {
            let goes = surplus > 0 && !there.contains(&known.claim);
            surplus -= usize::from(goes);
            !goes
        };
        let acknowledged = lineage.claims().iter().filter(|known| stays(known)).copied().collect();
        Generation {
            number: self.number,
            parent: self.parent,
            beside: self.beside,
            tombstones: self.tombstones,
            rules: self.rules,
            ..Generation::first(pool, claim, self.history, acknowledged)
        }
    }
}

/// The other histories for the owner that takes over from a generation: the generation's own
/// history is one of them.
fn with_aside(newest: &Generation) -> Vec<SideHistory> {
    let mut beside = newest.beside.clone();
    beside.retain(|known| known.history != newest.history);
    beside.push(newest.aside());
    beside
}

/// A history that can be recovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Its id; `None`: the archive had no owner.
    pub history: Option<HistoryId>,
    /// Its objects.
    pub lineage: Lineage,
    /// Names of objects that may be gone, and do not count.
    pub tombstones: Vec<String>,
    /// The rules of retention.
    pub rules: Option<String>,
}

impl Recovered {
    /// The owner's history; or the requested one, if it exists.
    pub fn find(chain: &Chain, wanted: Option<HistoryId>) -> Option<Self> {
        let Some(newest) = &chain.newest else {
            let everything = Recovered {
                history: None,
                lineage: Lineage::everything(),
                tombstones: Vec::new(),
                rules: None,
            };
            return wanted.is_none().then_some(everything);
        };
        let (history, lineage) =
            newest.histories().find(|(history, _)| wanted.is_none_or(|wanted| wanted == *history))?;
        // Tombstones are announced only for the owner's history.
        let is_owners = history == newest.history;
        let tombstones = if is_owners { newest.tombstones.clone() } else { Vec::new() };
        Some(Recovered { history: Some(history), lineage, tombstones, rules: newest.rules.clone() })
    }
}
