//! Rolls volumes back in place: from now on they show, and go on from, their state at a point of
//! the past. The volumes of a group change together, at one position; one volume is a group of one.
//!
//! **What a host sees.** The same namespace, with other contents, from one command to the next. A
//! command that was submitted before the change belongs to the old state, every later one to the
//! new state. What a host keeps in its caches is not known here, so a roll-back is refused while a
//! host is connected, unless the operator insists.
//!
//! **What stays.** The state before is named by one snapshot that is made in the same change of the
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
use crate::volume::history::members::Members;
use crate::volume::history::past::ScanReport;
use crate::volume::history::point::NamedPoint;
use crate::volume::history::roll_back_info::{RollBackInfo, RollBacks, RolledBack};
use crate::volume::hosts::HostGuard;
use crate::volume::image::rebase::{PastState, RebaseKind};
use crate::volume::info::ResolvedPoint;
use crate::volume::manage::checks::NAME_BYTES_MAX;
use crate::volume::manage::operations::DELETE_IT;
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// What a roll-back does to a volume, for a refusal.
pub(in crate::volume) const ROLL_IT_BACK: &str = "roll it back";
/// How the names of the snapshots begin that roll-backs make.
const SNAPSHOT_PREFIX: &str = "before-roll-back-of-";

/// How volumes are rolled back.
#[derive(Clone, Copy)]
pub(in crate::volume) struct RollBackTerms<'a> {
    /// Volumes that are deleted in the same change.
    pub(in crate::volume) ended: &'a [String],
    /// Also if blocks of the point's state are only in an archive that does not answer.
    pub(in crate::volume) forced: bool,
    /// How often history had expired when the point was looked up.
    pub(in crate::volume) expiries: u64,
    /// Whether hosts allow it.
    pub(in crate::volume) guard: &'a HostGuard,
}

impl Pool {
    /// Rolls a volume that no host is connected to back to a point:
    /// [`roll_back_members`](Self::roll_back_members) of one.
    ///
    /// # Errors
    /// As there.
    pub async fn roll_back(
        self: Rc<Self>,
        volume: String,
        point: impl Into<NamedPoint>,
        forced: bool,
    ) -> Result<RollBackInfo, VolumeError> {
        let done =
            Rc::clone(&self).roll_back_members(volume.clone(), point, forced, HostGuard::none()).await?;
        done.into_first().ok_or(VolumeError::NoSuchVolume { name: volume })
    }

    /// Rolls a volume, or all volumes of a group, back to a point, in one change. Volumes are
    /// followed through time by their UUIDs. `forced`: also if blocks of the point's state are only
    /// in an archive that does not answer; they can be read when it does. The caller hydrates the
    /// volumes ([`hydrate`](Self::hydrate)).
    ///
    /// # Errors
    /// No such volume or group, or one that did not exist at the point; a host is connected to one;
    /// a point that does not exist; an archive that does not answer; no room; a failed pool.
    /// Nothing has changed then.
    pub async fn roll_back_members(
        self: Rc<Self>,
        name: String,
        point: impl Into<NamedPoint>,
        forced: bool,
        guard: HostGuard,
    ) -> Result<RollBacks, VolumeError> {
        let expiries = self.expiries();
        let (at, members) = self.present_members_at(&name, &point.into()).await?;
        for volume in &members.volumes {
            self.refuse_session_clone(volume.uuid)?;
        }
        let terms = RollBackTerms { ended: &[], forced, expiries, guard: &guard };
        self.roll_back_to(at, members, terms).await
    }

    /// Rolls volumes back to the point at which they are given.
    pub(in crate::volume) async fn roll_back_to(
        &self,
        at: ResolvedPoint,
        members: Members,
        terms: RollBackTerms<'_>,
    ) -> Result<RollBacks, VolumeError> {
        let started = Instant::now();
        let RollBackTerms { ended, forced, expiries, .. } = terms;
        let Members { catalog, group, volumes } = members;
        let now = Catalog::clone(&self.state.borrow().catalog);
        check_unused(&now, &volumes, &terms)?;
        let (mut moves, mut reports) = (Vec::new(), Vec::new());
        for volume in &volumes {
            let id = self.id_with_uuid(volume.uuid, &volume.name)?;
            let (to, report) = self.state_of(catalog.clone(), volume, Lsn(at.lsn)).await?;
            if !forced {
                self.check_reachable(&volume.name, &to)?;
            }
            moves.push((id, to));
            reports.push(report);
        }
        let mut before = None;
        let done = self.rebase(&moves, RebaseKind::RollBack, |catalog, head| {
            check_unused(catalog, &volumes, &terms)?;
            self.check_not_expired(expiries, format_args!("{} was being opened", at.point))?;
            let first = volumes.first().and_then(|first| catalog.volume_with_uuid(first.uuid));
            let name = group.as_ref().or(first.map(|first| &first.name)).cloned().unwrap_or_default();
            let snapshot = snapshot_before(catalog, &self.log.borrow(), &name);
            catalog.add_snapshot(&snapshot);
            before = Some(snapshot);
            self.remove_volumes(catalog, head, ended)
        });
        let done = done.await?;
        self.put_removal_in_force(ended);
        let before = before.expect("the change that was made has made it");
        for (id, _) in &moves {
            tracing::warn!(
                volume = self.volume(*id).map(|volume| volume.name),
                point = at.point,
                lsn = at.lsn,
                before = %before.name,
                "the volume was rolled back; the snapshot names its state before"
            );
        }
        recovery::stable(&self.log, done.lsn.plus(1)).await?;
        let mut rolled = Vec::with_capacity(moves.len());
        for (((id, to), report), inherited_blocks) in moves.iter().zip(reports).zip(done.inherited_blocks) {
            rolled.push(RolledBack {
                volume: self.volume(*id).ok_or_else(|| gone(*id))?,
                resident_blocks: to.index.mapped() - inherited_blocks,
                inherited_blocks,
                scan: report.cost(),
            });
        }
        Ok(RollBacks {
            group,
            point: at,
            before: (&before).into(),
            volumes: rolled,
            elapsed_us: started.elapsed().as_micros() as u64,
        })
    }

    /// The id of the volume with a UUID, which is named so in an error.
    pub(in crate::volume) fn id_with_uuid(&self, uuid: Uuid, name: &str) -> Result<VolumeId, VolumeError> {
        let state = self.state.borrow();
        let volume = state.catalog.volume_with_uuid(uuid);
        let id = volume.and_then(|volume| state.volumes.find(&volume.name));
        id.ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })
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
        let source = self.member_then(uuid, &catalog, &at.point)?;
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
}

/// Refuses a roll-back that hosts would notice: under which names they know the volumes now is in
/// the catalog.
fn check_unused(
    catalog: &Catalog,
    volumes: &[CatalogVolume],
    terms: &RollBackTerms<'_>,
) -> Result<(), VolumeError> {
    let now = volumes.iter().filter_map(|then| catalog.volume_with_uuid(then.uuid));
    terms.guard.check_all(now.map(|volume| &volume.name), ROLL_IT_BACK)?;
    terms.guard.check_all(terms.ended, DELETE_IT)
}

/// The snapshot of the present state, for a volume or a group that is about to be rolled back.
fn snapshot_before(catalog: &Catalog, log: &Log, name: &str) -> CatalogSnapshot {
    // The longest name leaves no room for the rest.
    let room = NAME_BYTES_MAX - SNAPSHOT_PREFIX.len() - 12;
    let what = &name[..name.len().min(room)];
    let names = (1_u64..).map(|number| format!("{SNAPSHOT_PREFIX}{what}-{number}"));
    let name = names.into_iter().find(|name| catalog.snapshots.get(name).is_none()).unwrap_or_default();
    CatalogSnapshot { name: Arc::from(name.as_str()), lsn: log.point_lsn().0, time_ns: log.now_ns() }
}

fn gone(id: VolumeId) -> VolumeError {
    VolumeError::NoSuchVolume { name: format!("number {}", id.0) }
}
