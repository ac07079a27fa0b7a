//! Claims an archive for a pool that is served here, or for one that is recovered.
//!
//! See [`archive::owner`](crate::archive::owner) for what a claim is, and for the order of a start.
//! Everything that calls the store blocks, and runs on a thread of its own.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use super::ServeError;
use super::attach::{ArchiveConfig, Learned, learn, off_reactor};
use super::owner::OwnerError;
use crate::archive::catalog::CatalogError;
use crate::archive::object::{ClaimId, ObjectId};
use crate::archive::owner::{
    Chain, Claimant, Generation, HistoryId, Inheritance, Lineage, OwnedStore, Recovered, Settled, read_chain,
};
use crate::archive::store::{Store, StoreErrorKind};
use crate::log::{Lsn, system_now_ns};
use crate::reactor::Local;
use crate::volume::{Pool, VolumeError};

/// Why a rehearsal uploads nothing.
const REHEARSAL: &str = "this pool is a rehearsal of a recovery, which owns no archive";
/// Why a pool that takes no writes uploads nothing.
const NO_WRITES: &str =
    "the pool takes no writes, so it could not say that it claims the archive; restart it when it does";

/// Why a pool without room uploads nothing yet.
const NO_ROOM: &str = "the pool has no room to say that it claims the archive, which it does when it has";
/// How often the appliance checks whether the pool has room.
const ROOM_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// What the archive holds for a pool that may claim it.
pub(super) struct OwnedArchive {
    pub(super) learned: Learned,
    /// What it inherits, and the claim that it makes; `None`: it only reads.
    taking: Option<(Inheritance, ClaimId)>,
}

/// What a pool records about its ownership.
fn claimant(pool: &Pool) -> Claimant {
    let (info, ownership) = (pool.info(), pool.ownership());
    Claimant {
        pool: info.uuid,
        history: ownership.history,
        claim: ownership.claim,
        next_claim: ownership.next_claim,
        head_lsn: Lsn(pool.stats().head_lsn),
        archived_lsn: pool.archived_below(),
    }
}

/// Learns what the archive holds of a pool's history, if the pool may claim it.
pub(super) async fn find(
    local: &Local,
    store: &Arc<OwnedStore>,
    pool: &Pool,
    config: &ArchiveConfig,
    is_new: bool,
) -> Result<OwnedArchive, ServeError> {
    let (claimant, fork, catalog) = (claimant(pool), config.fork, config.catalog.clone());
    let store = Arc::clone(store.inner());
    let rehearsal_lsn = pool.ownership().rehearsal_lsn;
    let found = off_reactor(local, move || match rehearsal_lsn {
        Some(end_lsn) => find_rehearsal(&*store, &claimant, end_lsn, &catalog),
        None => find_own(&*store, &claimant, fork, &catalog, is_new),
    });
    Ok(found.await??)
}

fn find_own(
    store: &dyn Store,
    claimant: &Claimant,
    fork: bool,
    catalog: &Path,
    is_new: bool,
) -> Result<OwnedArchive, OwnerError> {
    let chain = read_chain(store, claimant.pool)?;
    if !fork {
        chain.certain(store).map_err(OwnerError::Chain)?;
    }
    let claim = ClaimId::random();
    let settled = Inheritance::settle(claimant, &chain, fork, |lineage| {
        // Objects that are uploaded from now on count too.
        let lineage = lineage.clone().with_open(claim);
        let learned = learn_history(store, claimant, lineage, catalog, is_new)?;
        let newest_lsn = learned.known.ids().map(|id| id.to_lsn).max();
        Ok::<_, CatalogError>((learned, newest_lsn))
    })?;
    let settled = settled.map_err(|conflict| OwnerError::of(conflict, claimant, store))?;
    let Settled { inheritance, mut learned, is_fork } = settled;
    if is_fork {
        learned.notes.push(format!(
            "this pool goes on as history {} from LSN {} on; the archive's other history stays beside it",
            inheritance.history, claimant.head_lsn
        ));
    }
    Ok(OwnedArchive { learned, taking: Some((inheritance, claim)) })
}

fn find_rehearsal(
    store: &dyn Store,
    claimant: &Claimant,
    end_lsn: Lsn,
    catalog: &Path,
) -> Result<OwnedArchive, OwnerError> {
    let chain = read_chain(store, claimant.pool)?;
    let recovered = find_history(store, claimant.pool, &chain, claimant.history)?;
    let mut learned = learn_history(store, claimant, recovered.lineage.cut(end_lsn), catalog, false)?;
    learned.notes.push(format!("{REHEARSAL}: nothing of it is archived"));
    Ok(OwnedArchive { learned, taking: None })
}

fn learn_history(
    store: &dyn Store,
    claimant: &Claimant,
    lineage: Lineage,
    catalog: &Path,
    is_new: bool,
) -> Result<Learned, CatalogError> {
    learn(store, claimant.pool, catalog, is_new, Box::new(move |id: &ObjectId| lineage.counts(id)))
}

/// A history of a pool: the owner's, unless another one is requested.
pub(super) fn find_history(
    store: &dyn Store,
    pool: Uuid,
    chain: &Chain,
    wanted: Option<HistoryId>,
) -> Result<Recovered, OwnerError> {
    Recovered::find(chain, wanted).ok_or_else(|| {
        let there = chain.newest.iter().flat_map(Generation::histories);
        let others: Vec<String> = there.map(|(history, _)| history.to_string()).collect();
        OwnerError::NoHistory {
            store: store.label().to_owned(),
            pool,
            history: wanted.unwrap_or(HistoryId(Uuid::nil())),
            others: others.join(", "),
        }
    })
}

/// Claims the archive for the pool: first in its log, then in the store. Returns what was learnt,
/// the claim under which objects are uploaded, and notes for the operator.
pub(super) async fn take(
    local: &Local,
    store: &Arc<OwnedStore>,
    pool: &Rc<Pool>,
    found: OwnedArchive,
    rules: Option<String>,
) -> Result<(Learned, ClaimId, Vec<String>), ServeError> {
    let OwnedArchive { learned, taking } = found;
    let Some((inheritance, claim)) = taking else {
        store.read_only(REHEARSAL);
        return Ok((learned, ClaimId::NONE, Vec::new()));
    };
    let objects = learned.known.ids().collect();
    let taking = Taking { store: Arc::clone(store), inheritance, claim, objects, rules };
    match pool.announce_claim(taking.inheritance.held, claim).await {
        Ok(()) => {
            let notes = taking.finish(local, pool).await?;
            Ok((learned, claim, notes))
        }
        Err(error @ VolumeError::NoSpace { .. }) => {
            // Nothing is uploaded before that; the archivist retries until then.
            store.read_only(NO_ROOM);
            taking.finish_later(local, pool);
            Ok((learned, claim, vec![format!("nothing can be archived now: {NO_ROOM}: {error}")]))
        }
        Err(error) => {
            store.read_only(NO_WRITES);
            Ok((learned, ClaimId::NONE, vec![format!("nothing can be archived: {NO_WRITES}: {error}")]))
        }
    }
}

/// What is needed to claim an archive.
struct Taking {
    store: Arc<OwnedStore>,
    inheritance: Inheritance,
    claim: ClaimId,
    objects: Vec<ObjectId>,
    rules: Option<String>,
}

impl Taking {
    /// Claims the archive for a pool whose log has announced the claim. Returns notes for the
    /// operator.
    async fn finish(self, local: &Local, pool: &Rc<Pool>) -> Result<Vec<String>, ServeError> {
        let Taking { store, inheritance, claim, objects, rules } = self;
        let history = inheritance.history;
        let (uuid, head_lsn) = (pool.info().uuid, Lsn(pool.stats().head_lsn));
        let mut generation = inheritance.generation(uuid, claim, head_lsn, objects.into_iter());
        generation.rules = rules.or(generation.rules);
        sign(&mut generation);
        store.claim(generation);
        let taken = off_reactor(local, move || {
            let taken = store.ensure_owner("claim");
            if taken.is_ok() {
                store.finish_deletes();
            }
            taken
        });
        match taken.await? {
            Ok(()) => {
                pool.note_claim(history, claim).await?;
                Ok(Vec::new())
            }
            Err(error) if error.kind == StoreErrorKind::Overtaken => Err(OwnerError::Store(error).into()),
            Err(error) => Ok(vec![format!(
                "the archive could not be claimed yet, and nothing is archived before: {error}"
            )]),
        }
    }

    /// The same, as soon as the pool takes writes.
    fn finish_later(self, local: &Local, pool: &Rc<Pool>) {
        let (later, pool) = (local.clone(), Rc::clone(pool));
        drop(local.spawn(async move {
            loop {
                later.sleep(ROOM_INTERVAL).await;
                match pool.announce_claim(self.inheritance.held, self.claim).await {
                    Ok(()) => break,
                    Err(VolumeError::NoSpace { .. }) => {}
                    Err(error) => {
                        tracing::error!(%error, "nothing can be archived before a restart");
                        return;
                    }
                }
            }
            match self.finish(&later, &pool).await {
                Ok(notes) => notes.iter().for_each(|note| tracing::warn!(note, "the archive was claimed")),
                Err(error) => pool.give_up_to_owner(&error.to_string()),
            }
        }));
    }
}

/// Records who makes a generation, and when.
pub(super) fn sign(generation: &mut Generation) {
    let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    generation.by = format!("process {} on {machine}", std::process::id());
    generation.made_ns = system_now_ns();
}

impl From<OwnerError> for ServeError {
    fn from(error: OwnerError) -> Self {
        ServeError::Owner(Box::new(error))
    }
}

/// The error as the pool's error, for a recovery, which then ends.
pub(super) fn failed(error: &OwnerError) -> VolumeError {
    VolumeError::Archive { reason: error.to_string() }
}
