//! Rolls a volume back in place: from now on it shows, and goes on from, its state at a point of
//! the
//! past.
//!
//! **What a host sees.** The same namespace, with other contents, from one command to the next. A
//! command that was submitted before the change belongs to the old state, every later one to the
//! new
//! state. What a host keeps in its caches is not known here, so the caller refuses while a host is
//! connected, unless the operator insists.
//!
//! **What stays.** The state before is named by a snapshot that is made in the same change of the
//! catalog, so it stays reachable, and rolling back to it undoes the roll-back.
//!
//! **Costs.** The index at the point is built before anything changes. The change is one event.
//! Blocks that are in the working set stay there; the rest is hydrated in the background.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use uuid::Uuid;

use crate::log::{Log, Lsn, recovery};
use crate::volume::catalog::{Catalog, CatalogSnapshot, CatalogVolume};
use crate::volume::error::VolumeError;
use crate::volume::history::past::ScanReport;
use crate::volume::history::point::{NamedPoint, Point};
use crate::volume::image::rebase::{PastState, RebaseKind};
use crate::volume::info::{ResolvedPoint, RollBackInfo};
use crate::volume::manage::operations::NAME_BYTES_MAX;
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// How the names of the snapshots begin that roll-backs make.
const SNAPSHOT_PREFIX: &str = "before-roll-back-of-";

impl Pool {
    /// Rolls a volume back to a point. The volume is followed through time by its UUID. `forced`:
    /// also if blocks of the point's state are only in an archive that does not answer; they can be
    /// read when it does. The caller hydrates the volume ([`hydrate`](Self::hydrate)).
    ///
    /// # Errors
    /// No such volume, or it did not exist at the point; a point that does not exist; an archive
    /// that does not answer; no room; a failed pool. Nothing has changed then.
    pub async fn roll_back(
        self: Rc<Self>,
        volume: String,
        point: impl Into<NamedPoint>,
        forced: bool,
    ) -> Result<RollBackInfo, VolumeError> {
        let started = Instant::now();
        let (id, uuid) = self.identity_of(&volume)?;
        self.refuse_session_clone(uuid)?;
        let expiries = self.expiries();
        let at = Rc::clone(&self).resolve(point).await?;
        let (to, report) = self.past_state(uuid, &at).await?;
        if !forced {
            self.check_reachable(&volume, &to)?;
        }
        let mut before = None;
        let done = self.rebase(id, &to, RebaseKind::RollBack, |catalog, _| {
            self.check_not_expired(expiries, format_args!("{} was being opened", at.point))?;
            let entry = catalog.volume_with_uuid(uuid);
            let name = entry.map(|known| known.name.clone());
            let name = name.ok_or_else(|| VolumeError::NoSuchVolume { name: volume.clone() })?;
            let snapshot = snapshot_before(catalog, &self.log.borrow(), &name);
            catalog.add_snapshot(&snapshot);
            before = Some(snapshot);
            Ok(())
        });
        let done = done.await?;
        let before = before.expect("the change that was made has made it");
        tracing::warn!(
            volume,
            point = at.point,
            lsn = at.lsn,
            before = %before.name,
            "the volume was rolled back; the snapshot names its state before"
        );
        recovery::stable(&self.log, done.lsn.plus(1)).await?;
        Ok(RollBackInfo {
            volume: self.volume(id).ok_or(VolumeError::NoSuchVolume { name: volume })?,
            point: at,
            before: (&before).into(),
            resident_blocks: to.index.mapped() - done.inherited_blocks,
            inherited_blocks: done.inherited_blocks,
            segments_touched: report.segments_touched,
            segments_bound: report.segments_bound,
            entries_scanned: report.entries_scanned,
            anchor_lsn: report.anchor_lsn.map(|lsn| lsn.0),
            anchor_bytes: report.anchor_bytes,
            elapsed_us: started.elapsed().as_micros() as u64,
        })
    }

    /// The id and the UUID of a volume.
    pub(in crate::volume) fn identity_of(&self, name: &str) -> Result<(VolumeId, Uuid), VolumeError> {
        let state = self.state.borrow();
        let found = state.volumes.find(name).zip(state.catalog.volume(name).map(|volume| volume.uuid));
        found.ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })
    }

    /// The state of the volume with a UUID at a point.
    ///
    /// # Errors
    /// It did not exist then; what the archive refuses.
    pub(in crate::volume) async fn past_state(
        &self,
        uuid: Uuid,
        at: &ResolvedPoint,
    ) -> Result<(PastState, ScanReport), VolumeError> {
        let catalog = self.catalog_at(Lsn(at.lsn)).await?;
        let Some(source) = catalog.volume_with_uuid(uuid).cloned() else {
            return Err(VolumeError::NoSuchPoint {
                point: at.point.clone(),
                reason: self.why_not_then(uuid),
            });
        };
        self.state_of(catalog, &source, Lsn(at.lsn)).await
    }

    /// The state of a volume of the catalog at a point.
    pub(in crate::volume) async fn state_of(
        &self,
        catalog: Catalog,
        source: &CatalogVolume,
        lsn: Lsn,
    ) -> Result<(PastState, ScanReport), VolumeError> {
        let (index, report) = self.index_at(&catalog, source, lsn).await?;
        let census = self.census(&index).await;
        let state = PastState {
            image: source.image,
            lsn,
            catalog,
            size_blocks: source.size_blocks,
            index,
            uncertain_below: report.uncertain_below,
            is_written: report.is_written,
            census,
        };
        Ok((state, report))
    }

    /// Refuses a state of which blocks are only in an archive that does not answer.
    pub(in crate::volume) fn check_reachable(&self, volume: &str, to: &PastState) -> Result<(), VolumeError> {
        let Err(VolumeError::ArchiveAway { reason }) = self.check_reached() else { return Ok(()) };
        let log = self.log.borrow();
        let is_away = |sequence| log.table().slot(sequence).is_none();
        let away: u64 =
            to.census.iter().filter(|(sequence, _)| is_away(**sequence)).map(|(_, blocks)| blocks).sum();
        if away == 0 {
            return Ok(());
        }
        let reason = format!(
            "{reason}, and {away} of the {} blocks of volume '{volume}' at that point are only there; with --force the rest can be used at once, and these when it answers",
            to.index.mapped()
        );
        Err(VolumeError::ArchiveAway { reason })
    }

    /// Why there is no volume with a UUID at a point: when the present one was made.
    fn why_not_then(&self, uuid: Uuid) -> String {
        let state = self.state.borrow();
        let volume = state.catalog.volume_with_uuid(uuid);
        volume.map_or_else(
            || "the volume did not exist then".to_owned(),
            |volume| {
                let created = Point::Time(volume.created_ns);
                format!("volume '{}' did not exist then; it was made at {created}", volume.name)
            },
        )
    }
}

/// The snapshot of the present state, for a volume that is about to be rolled back.
fn snapshot_before(catalog: &Catalog, log: &Log, volume: &str) -> CatalogSnapshot {
    // The longest name of a volume leaves no room for the rest.
    let room = NAME_BYTES_MAX - SNAPSHOT_PREFIX.len() - 12;
    let volume = &volume[..volume.len().min(room)];
    let names = (1_u64..).map(|number| format!("{SNAPSHOT_PREFIX}{volume}-{number}"));
    let name = names.into_iter().find(|name| catalog.snapshots.get(name).is_none()).unwrap_or_default();
    CatalogSnapshot { name: Arc::from(name.as_str()), lsn: log.point_lsn().0, time_ns: log.now_ns() }
}
