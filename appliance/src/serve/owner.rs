//! Why a pool does not get its archive: another appliance owns it, or the owner cannot be
//! determined.

use uuid::Uuid;

use crate::archive::catalog::CatalogError;
use crate::archive::owner::{ChainError, Claimant, Conflict, HistoryId};
use crate::archive::store::{Store, StoreError};
use crate::log::Lsn;
use crate::text::units::format_time;

/// Why a pool does not get its archive.
#[derive(Debug, thiserror::Error)]
pub enum OwnerError {
    /// The store failed.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// Its catalog failed.
    #[error("{0}")]
    Catalog(#[from] CatalogError),
    /// The record of its owner is damaged.
    #[error(
        "{0}. Nothing in the archive was changed. Ways out: bring that object back from a copy of the archive; or --fork goes on from this pool as a history of its own, beside which everything that is there stays"
    )]
    Chain(ChainError),
    /// Another appliance owns it.
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
        /// The history that it continues.
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
    /// The archive holds no such history.
    #[error("{store} holds no history {history} of pool {pool}; it holds {others}")]
    NoHistory {
        /// The store's label.
        store: String,
        /// The pool.
        pool: Uuid,
        /// The history that was requested.
        history: HistoryId,
        /// The histories it holds.
        others: String,
    },
}

impl OwnerError {
    /// Whether the archive belongs to another appliance, or to another state of the pool.
    pub(super) fn is_of_another(&self) -> bool {
        matches!(self, OwnerError::Taken { .. } | OwnerError::Ahead { .. })
    }

    pub(super) fn of(conflict: Conflict, claimant: &Claimant, store: &dyn Store) -> Self {
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
