//! Lets the jobs on the archive use the pool from their threads: each use is a call to its reactor.

use super::app::{App, POOL_NOT_OPEN};
use super::method::DEFAULT_CALL_TIMEOUT;
use crate::archive::anchor::AnchorId;
use crate::archive::object::ObjectId;
use crate::archive::retention::SegmentRange;
use crate::log::Lsn;
use crate::manage::{ExpiryPool, Learner, ManageError};
use crate::reactor::ReactorHandle;
use crate::volume::{Forgotten, KnownAnchor, Lineage, Pool};

/// The jobs, as an error names them.
const EXPIRE: &str = "archive_expire";
const VERIFY: &str = "archive_verify";

impl ExpiryPool for ReactorHandle<App> {
    fn lineage(&self) -> Result<Lineage, ManageError> {
        on_reactor(self, EXPIRE, |pool| Ok(pool.lineage()))
    }

    fn forget(&self, ranges: Vec<SegmentRange>, change_lsn: Lsn) -> Result<Forgotten, ManageError> {
        on_reactor(self, EXPIRE, move |pool| Ok(pool.forget_archived(&ranges, change_lsn)?))
    }
}

fn on_reactor<T: Send + 'static>(
    handle: &ReactorHandle<App>,
    job: &'static str,
    run: impl FnOnce(&Pool) -> Result<T, ManageError> + Send + 'static,
) -> Result<T, ManageError> {
    let outcome = handle.call(DEFAULT_CALL_TIMEOUT, move |app: &App, reply| {
        let pool = app.find_pool().ok_or(ManageError::NotReady { reason: POOL_NOT_OPEN });
        reply.send(pool.and_then(|pool| run(&pool)));
    });
    outcome.map_err(|source| ManageError::NoAnswer { job, source })?
}

impl Learner for ReactorHandle<App> {
    /// If the pool is not open, nothing is reported: it finds the problems itself when it opens.
    fn learn(&self, missing: &[ObjectId], damaged: &[ObjectId]) -> Result<(), ManageError> {
        let (missing, damaged) = (missing.to_vec(), damaged.to_vec());
        let learned = self.call(DEFAULT_CALL_TIMEOUT, move |app: &App, reply| {
            if let Some(pool) = app.find_pool() {
                pool.learn_missing_objects(&missing);
                pool.learn_damaged_objects(&damaged);
            }
            reply.send(());
        });
        learned.map_err(|source| ManageError::NoAnswer { job: VERIFY, source })
    }

    fn anchors(&self) -> Result<Vec<KnownAnchor>, ManageError> {
        let mut all: Vec<KnownAnchor> = Vec::new();
        loop {
            // One call for each page, so that no turn of the reactor takes long.
            let after = all.last().map(|anchor| (anchor.id.image, anchor.id.lsn));
            let page = on_reactor(self, VERIFY, move |pool| Ok(pool.anchors_after(after)))?;
            if page.is_empty() {
                return Ok(all);
            }
            all.extend(page);
        }
    }

    fn learn_useless_anchor(&self, id: &AnchorId) -> Result<bool, ManageError> {
        let id = *id;
        on_reactor(self, VERIFY, move |pool| Ok(pool.learn_useless_anchor(&id)))
    }
}
