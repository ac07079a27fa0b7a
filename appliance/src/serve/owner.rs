//! Taking an archive for a pool that is here, or for one that is recovered.
//!
//! See [`archive::owner`](crate::archive::owner) for what a claim is, and for the order of a start.
//! Everything that asks the store blocks, and runs on a thread of its own.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use super::archive::{Learned, learn, off_reactor};
use super::{ArchiveConfig, ServeError};
use crate::archive::catalog::CatalogError;
use crate::archive::object::{ClaimId, ObjectId};
use crate::archive::owner::{
    Chain, ChainError, Claimant, Conflict, Generation, HistoryId, Inheritance, Lineage, OwnedStore,
    Recovered, Settled, read_chain,
};
use crate::archive::store::{Store, StoreError, StoreErrorKind};
use crate::log::{Lsn, system_now_ns};
use crate::reactor::Local;
use crate::text::units::format_time;
use crate::volume::{Pool, VolumeError};

/// Why a rehearsal puts nothing.
const REHEARSAL: &str = "this pool is a rehearsal of a recovery, which owns no archive";
/// Why a pool that takes no writes puts nothing.
const NO_WRITES: &str =
    "the pool takes no writes, so it could not say that it claims the archive; restart it when it does";

/// Why a pool does not get its archive.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Its catalog failed.
    #[error("{0}")]
    Catalog(#[from] CatalogError),
    /// What says who owns it is damaged.
    #[error(
        "{0}. Nothing in the archive was changed. Ways out: bring that object back from a copy of the archive; or --fork goes on from this pool as a history of its own, beside which everything that is there stays"
    )]
    Chain(ChainError),
    /// Somebody else owns it.
    #[error(
        "the archive in {store} was taken over by {by} at {at}, which goes on with this pool as history {history}: this is an older copy of it. Nothing in the archive was changed. Ways out: serve the pool where it is now; move this copy away and make the newest again (`varve pool recover --from ARCHIVE --dir DIR`); --fork goes on from this copy as a history of its own and takes the archive back (the other stays whole, `varve pool recover --history {history}`); --no-archive serves this copy without"
    )]
    Taken {
        /// The store's label.
        store: String,
        /// Who.
        by: String,
        /// When.
        at: String,
        /// The history that it goes on with.
        history: HistoryId,
    },
    /// The archive has more than the pool.
    #[error(
        "the archive in {store} holds this pool's log up to LSN {archive_lsn}, and the primary device ends at LSN {head_lsn}: it is an older copy, or has lost its newest part. Nothing in the archive was changed. Ways out: put the newest primary back; move this one away and make the newest again (`varve pool recover --from ARCHIVE --dir DIR`); --fork goes on from here as a history of its own (the other stays whole and can be recovered); --no-archive serves this copy without"
    )]
    Ahead {
        /// The store's label.
        store: String,
        /// Where the archive ends.
        archive_lsn: Lsn,
        /// Where the pool ends.
        head_lsn: Lsn,
    },
    /// The list of histories does not have that one.
    #[error("{store} holds no history {history} of pool {pool}; it holds {others}")]
    NoHistory {
        /// The store's label.
        store: String,
        /// The pool.
        pool: Uuid,
        /// What was asked for.
        history: HistoryId,
        /// What is there.
        others: String,
    },
}

impl OwnerError {
    /// Whether the archive is somebody else's, or of another state of the pool.
    pub(super) fn is_of_another(&self) -> bool {
        matches!(self, OwnerError::Taken { .. } | OwnerError::Ahead { .. })
    }

    fn of(conflict: Conflict, claimant: &Claimant, store: &dyn Store) -> Self {
        let store = store.label().to_owned();
        match conflict {
            Conflict::Taken(by) => {
                OwnerError::Taken { store, at: format_time(by.made_ns), history: by.history, by: by.by }
            }
            Conflict::Ahead { archive_lsn } => {
                OwnerError::Ahead { store, archive_lsn, head_lsn: claimant.head_lsn }
            }
        }
    }
}

/// Why a pool without room puts nothing yet.
const NO_ROOM: &str = "the pool has no room to say that it claims the archive, which it does when it has";
/// How often it is tried whether the pool has room.
const ROOM_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// What the archive holds for a pool that may take it.
pub(super) struct Found {
    pub(super) learned: Learned,
    /// What it takes over, and the claim that it takes; `None`: it only reads.
    taking: Option<(Inheritance, ClaimId)>,
}

/// What a pool says of itself.
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

/// Learns what the archive holds of a pool's history, if the pool may take it.
pub(super) async fn find(
    local: &Local,
    store: &Arc<OwnedStore>,
    pool: &Pool,
    config: &ArchiveConfig,
    is_new: bool,
) -> Result<Found, ServeError> {
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
) -> Result<Found, OwnerError> {
    let chain = read_chain(store, claimant.pool)?;
    if !fork {
        chain.certain(store).map_err(OwnerError::Chain)?;
    }
    let claim = ClaimId::random();
    let settled = Inheritance::settle(claimant, &chain, fork, |lineage| {
        // What is put from now on counts too.
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
    Ok(Found { learned, taking: Some((inheritance, claim)) })
}

fn find_rehearsal(
    store: &dyn Store,
    claimant: &Claimant,
    end_lsn: Lsn,
    catalog: &Path,
) -> Result<Found, OwnerError> {
    let chain = read_chain(store, claimant.pool)?;
    let recovered = find_history(store, claimant.pool, &chain, claimant.history)?;
    let mut learned = learn_history(store, claimant, recovered.lineage.cut(end_lsn), catalog, false)?;
    learned.notes.push(format!("{REHEARSAL}: nothing of it is archived"));
    Ok(Found { learned, taking: None })
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

/// A history of a pool: the owner's, unless another one is asked for.
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

/// Takes the archive for the pool: in its log first, then in the store. Gives what the operator
/// must know, and the claim under which objects are put.
pub(super) async fn take(
    local: &Local,
    store: &Arc<OwnedStore>,
    pool: &Rc<Pool>,
    found: Found,
    rules: Option<String>,
) -> Result<(Learned, ClaimId, Vec<String>), ServeError> {
    let Found { learned, taking } = found;
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
            // Nothing is put before; the archivist tries again until then.
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

/// What it takes to take an archive.
struct Taking {
    store: Arc<OwnedStore>,
    inheritance: Inheritance,
    claim: ClaimId,
    objects: Vec<ObjectId>,
    rules: Option<String>,
}

impl Taking {
    /// Takes the archive for a pool whose log has announced the claim. What the operator must know.
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
                Err(error) => pool.take_no_more_writes(error.to_string()),
            }
        }));
    }
}

/// Says who makes a generation, and when.
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

/// As the pool's error: for a recovery, which ends then.
pub(super) fn failed(error: &OwnerError) -> VolumeError {
    VolumeError::Archive { reason: error.to_string() }
}
