//! The objects of the management plane: volumes and snapshots, and the change of the catalog that
//! each operation is.
//!
//! Every change is a new catalog in the log. It takes effect when it is appended, and is answered
//! when it is stable, so a crash never reverts an answered change. A crash in between leaves the
//! whole change or nothing of it.

use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;

use crate::dma::BLOCK_BYTES;
use crate::log::{AppendError, ImageId, Lsn, recovery};
use crate::reactor::yield_now;
use crate::volume::catalog::{
    Catalog, CatalogImage, CatalogSnapshot, CatalogVolume, SessionMember, Snapshots,
};
use crate::volume::error::VolumeError;
use crate::volume::history::point::NamedPoint;
use crate::volume::hosts::HostGuard;
use crate::volume::image::image_ids;
use crate::volume::image::index::Index;
use crate::volume::image::volume::{NewVolume, Volume, VolumeIndex};
use crate::volume::image::volumes::VOLUMES_MAX;
use crate::volume::info::{ImageParent, SnapshotInfo, VolumeEvent, VolumeInfo};
use crate::volume::manage::checks::{check_free, check_name, check_size};
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// How many turns an operation waits for a full pipeline before it gives up.
pub(super) const BUSY_TURNS_MAX: usize = 1_000_000;

/// What a deletion does to a volume, for a refusal.
pub(in crate::volume) const DELETE_IT: &str = "delete it";

/// The parameters of a new volume.
#[derive(Debug, Clone)]
pub struct CreateVolume {
    /// Its name: 1 to 64 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// Its size, a multiple of 4096.
    pub size_bytes: u64,
    /// Its UUID; `None`: a new random one.
    pub uuid: Option<Uuid>,
    /// Whether its capacity is not reserved: writes may then be refused when the pool is full.
    pub thin: bool,
}

impl Pool {
    /// Creates an empty volume.
    ///
    /// # Errors
    /// A bad name or size, a name that exists, no room, a failed pool.
    pub async fn create_volume(self: Rc<Self>, request: CreateVolume) -> Result<VolumeInfo, VolumeError> {
        check_name("volume name", &request.name)?;
        let size_blocks = check_size(request.size_bytes)?;
        let (created_ns, uuid) = {
            let log = self.log.borrow();
            let environment = log.environment();
            (log.now_ns(), request.uuid.unwrap_or_else(|| environment.random.uuid()))
        };
        let lsn = self
            .change(|catalog, born_lsn| {
                self.check_capacity(if request.thin { 0 } else { size_blocks })?;
                let image = add_image(catalog, self.format_version(), None, born_lsn)?;
                let volume = CatalogVolume {
                    name: request.name.clone(),
                    uuid,
                    size_blocks,
                    read_only: false,
                    image,
                    created_ns,
                    thin: request.thin,
                    origin: None,
                };
                add_volume(catalog, volume)
            })
            .await?;
        let id = self.add_volume(&request.name, VolumeIndex::Ready(Index::new(size_blocks)), false);
        recovery::stable(&self.log, lsn.plus(1)).await?;
        self.announce(id, &request.name)
    }

    /// Deletes a volume, and takes it out of its groups. Its history stays until it leaves the log.
    ///
    /// # Errors
    /// No such volume, one that a session of several volumes needs, a failed pool.
    pub async fn delete_volume(self: Rc<Self>, name: String) -> Result<(), VolumeError> {
        self.delete_volumes(vec![name], HostGuard::none()).await
    }

    /// The same, unless a host is connected to it.
    ///
    /// # Errors
    /// As there, and those of the guard.
    pub async fn delete_unused_volume(
        self: Rc<Self>,
        name: String,
        guard: HostGuard,
    ) -> Result<(), VolumeError> {
        self.delete_volumes(vec![name], guard).await
    }

    /// The same for several volumes, in one change.
    ///
    /// # Errors
    /// As there; then all of them stay.
    pub(in crate::volume) async fn delete_volumes(
        self: Rc<Self>,
        names: Vec<String>,
        guard: HostGuard,
    ) -> Result<(), VolumeError> {
        let change = self.change(|catalog, head| {
            guard.check_all(&names, DELETE_IT)?;
            self.remove_volumes(catalog, head, &names)
        });
        let lsn = change.await?;
        self.put_removal_in_force(&names);
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok(())
    }

    /// Takes volumes out of a catalog that is being changed while the log ends at `head`, with what
    /// nobody needs without them.
    ///
    /// # Errors
    /// No such volume; a session would keep only some of its clones.
    pub(in crate::volume) fn remove_volumes(
        &self,
        catalog: &mut Catalog,
        head: Lsn,
        names: &[String],
    ) -> Result<(), VolumeError> {
        let mut gone = Vec::with_capacity(names.len());
        let mut youngest = Vec::with_capacity(names.len());
        for name in names {
            let known = catalog.volume(name).map(|volume| (volume.image, volume.uuid));
            let (image, uuid) = known.ok_or_else(|| VolumeError::NoSuchVolume { name: name.clone() })?;
            catalog.remove_volume(name);
            if self.leaves_nothing(catalog, image) {
                let parent = catalog.image(image).and_then(|image| image.parent);
                youngest.extend(parent.map(|parent| parent.image));
                catalog.remove_image(image);
            } else {
                youngest.push(image);
            }
            catalog.leave_groups(uuid);
            gone.push(uuid);
        }
        check_sessions_whole(catalog, &gone)?;
        catalog.forget_sessions();
        for image in youngest {
            catalog.prune_lineage(image, self.behind_change(head), head, |at| self.window_before(at));
        }
        Ok(())
    }

    /// Puts the removal of volumes in force, in the turn in which it was appended.
    pub(in crate::volume) fn put_removal_in_force(&self, names: &[String]) {
        let state = &mut *self.state.borrow_mut();
        for name in names {
            let Some(id) = state.volumes.find(name) else { continue };
            if let Some(volume) = state.volumes.remove(id) {
                state.forget_trouble(&volume);
                self.log.borrow_mut().forget_masks(volume.image());
                state.bury(volume);
            }
            state.latencies.disable(id);
            state.events.push(VolumeEvent::Deleted(id));
        }
    }

    /// Grows a volume. Shrinking is refused.
    ///
    /// # Errors
    /// No such volume, a size that is not larger, a failed pool.
    pub async fn resize_volume(
        self: Rc<Self>,
        name: String,
        size_bytes: u64,
    ) -> Result<VolumeInfo, VolumeError> {
        let size_blocks = check_size(size_bytes)?;
        let lsn = self
            .change(|catalog, _| {
                let Some(volume) = catalog.volume(&name) else {
                    return Err(VolumeError::NoSuchVolume { name: name.clone() });
                };
                if size_blocks < volume.size_blocks {
                    let now_bytes = volume.size_blocks * BLOCK_BYTES as u64;
                    let reason = format!("volume '{name}' has {now_bytes} bytes; a volume can only grow");
                    return Err(VolumeError::Invalid { what: "size", reason });
                }
                if !volume.thin {
                    self.check_capacity(size_blocks - volume.size_blocks)?;
                }
                catalog.change_volume(&name, |volume| volume.size_blocks = size_blocks);
                Ok(())
            })
            .await?;
        let found = self.state.borrow().volumes.find(&name);
        let id = found.ok_or_else(|| VolumeError::NoSuchVolume { name: name.clone() })?;
        self.state.borrow_mut().volumes.grow(id, size_blocks);
        recovery::stable(&self.log, lsn.plus(1)).await?;
        self.state.borrow_mut().events.push(VolumeEvent::Resized(id));
        self.volume(id).ok_or(VolumeError::NoSuchVolume { name })
    }

    /// Names the present point.
    ///
    /// # Errors
    /// A bad name, a name that exists, a failed pool.
    pub async fn create_snapshot(self: Rc<Self>, name: String) -> Result<SnapshotInfo, VolumeError> {
        check_name("snapshot name", &name)?;
        let (point, time_ns) = {
            let log = self.log.borrow();
            (log.point_lsn(), log.now_ns())
        };
        // Commands are appended whole, so the head is the end of a command.
        let snapshot = CatalogSnapshot { name: Arc::from(name.as_str()), lsn: point.0, time_ns };
        let lsn = self.change(|catalog, _| insert_snapshot(catalog, &snapshot)).await?;
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok((&snapshot).into())
    }

    /// Names a point of the past, and keeps it from now on. It has the time of the point.
    ///
    /// # Errors
    /// A bad name, a name that exists, a point that does not exist or that cannot be opened any
    /// more, a failed pool.
    pub async fn create_snapshot_at(
        self: Rc<Self>,
        name: String,
        point: impl Into<NamedPoint>,
    ) -> Result<SnapshotInfo, VolumeError> {
        check_name("snapshot name", &name)?;
        let point = point.into();
        let expiries = self.expiries();
        let at = self.resolve_for(&point, None).await?;
        self.check_openable(&point, Lsn(at.lsn)).await?;
        let snapshot = CatalogSnapshot { name: Arc::from(name.as_str()), lsn: at.lsn, time_ns: at.time_ns };
        let lsn = self
            .change(|catalog, _| {
                self.check_not_expired(expiries, format_args!("{} was being looked up", point.text))?;
                insert_snapshot(catalog, &snapshot)
            })
            .await?;
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok((&snapshot).into())
    }

    /// Deletes a snapshot's name.
    ///
    /// # Errors
    /// No such snapshot, a failed pool.
    pub async fn delete_snapshot(self: Rc<Self>, name: String) -> Result<(), VolumeError> {
        let lsn = self
            .change(|catalog, _| {
                if !catalog.remove_snapshot(&name) {
                    let reason = "`varve snapshot list` shows what there is".to_owned();
                    return Err(VolumeError::NoSuchPoint { point: format!("snapshot:{name}"), reason });
                }
                Ok(())
            })
            .await?;
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok(())
    }

    /// Every snapshot, oldest first.
    pub fn snapshots(&self) -> Vec<SnapshotInfo> {
        self.state.borrow().catalog.snapshots.iter().map(|snapshot| (&snapshot).into()).collect()
    }

    /// The snapshots: a copy that shares its pages, so it costs one reference and may be read on
    /// any thread.
    pub(crate) fn snapshot_table(&self) -> Snapshots {
        self.state.borrow().catalog.snapshots.clone()
    }

    /// A page of the snapshots from a position on, in the order of the log: at most `limit`, plus
    /// all others at the last one's position.
    pub fn snapshots_from(&self, lsn: Lsn, limit: usize) -> Vec<SnapshotInfo> {
        let state = self.state.borrow();
        let snapshots = &state.catalog.snapshots;
        let mut page = Vec::with_capacity(limit.min(snapshots.len()));
        page.extend(snapshots.page(lsn, limit).map(|snapshot| SnapshotInfo::from(&snapshot)));
        page
    }

    /// Writes what is open, flushes, and records that the stop was clean. No requests may follow.
    ///
    /// # Errors
    /// A failed pool.
    pub async fn close(self: Rc<Self>) -> Result<(), VolumeError> {
        // If superblocks are being written, finish that. Its result does not matter now.
        let _ = self.reshaping_idle().await;
        // From here on no change may begin: it would still be running when the process ends, and
        // leave a superblock torn.
        self.log.borrow_mut().stop_appending();
        recovery::close(&self.log).await?;
        Ok(())
    }

    /// Refuses a volume that the pool has no capacity for.
    pub(in crate::volume) fn check_capacity(&self, more_blocks: u64) -> Result<(), VolumeError> {
        let (state, log) = (self.state.borrow(), self.log.borrow());
        let Some(capacity) = state.capacity_of(&log).filter(|_| more_blocks > 0) else { return Ok(()) };
        let taken = state.taken_blocks(&log);
        if taken + more_blocks > capacity {
            let mib = |blocks: u64| (blocks * BLOCK_BYTES as u64) >> 20;
            return Err(VolumeError::NoSpace {
                reason: format!(
                    "the pool can hold {} MiB, of which {} MiB are taken; this needs {} MiB more. Create the volume thin, or use a larger device",
                    mib(capacity),
                    mib(taken),
                    mib(more_blocks)
                ),
            });
        }
        Ok(())
    }

    /// Appends a changed catalog and puts it in force; returns its position. `edit` gets the
    /// catalog to change and the position after which a new image has its entries.
    pub(in crate::volume) async fn change(
        &self,
        mut edit: impl FnMut(&mut Catalog, Lsn) -> Result<(), VolumeError>,
    ) -> Result<Lsn, VolumeError> {
        for _ in 0..BUSY_TURNS_MAX {
            {
                let mut catalog = Catalog::clone(&self.state.borrow().catalog);
                let head = self.log.borrow().head_lsn();
                edit(&mut catalog, Lsn(head.0.saturating_sub(1)))?;
                let mut state = self.state.borrow_mut();
                let mut log = self.log.borrow_mut();
                match state.catalog.append_change(&mut log, catalog) {
                    Ok(lsn) => return Ok(lsn),
                    Err(AppendError::Busy) => state.check_not_refusing(&log)?,
                    Err(error) => return Err(error.into()),
                }
            }
            yield_now().await;
        }
        Err(AppendError::Busy.into())
    }

    /// The format version of the device.
    pub(in crate::volume) fn format_version(&self) -> u32 {
        self.log.borrow().format_version()
    }

    /// Drops images that nothing needs, in a change that is made while the log ends at `head`.
    pub(in crate::volume) fn prune_images(&self, catalog: &mut Catalog, head: Lsn) {
        catalog.prune_images(self.behind_change(head), head, |at| self.window_before(at));
    }

    /// A position at or after that of a change that is made while the log ends at `head`: its event
    /// goes to this segment or to the next.
    pub(in crate::volume) fn behind_change(&self, head: Lsn) -> Lsn {
        head.plus(self.log.borrow().geometry().segment_blocks)
    }

    /// Makes a volume of the catalog usable; it is announced later. The caller counts its resident
    /// blocks. `is_written`: whether its image may have entries already.
    pub(in crate::volume) fn add_volume(&self, name: &str, index: VolumeIndex, is_written: bool) -> VolumeId {
        let mut state = self.state.borrow_mut();
        let entry = state.catalog.volume(name).expect("the catalog was changed first");
        let image = state.catalog.image(entry.image);
        let is_clone = image.is_some_and(|image| image.parent.is_some());
        let keeps_inherited = is_clone && state.volumes.keeps_inherited();
        let resident = image.and_then(|image| image.resident);
        let own_above = image.map_or(0, |image| resident.map_or(image.born_lsn, |part| part.above));
        let volume = Volume::new(NewVolume {
            name: name.to_owned(),
            size_blocks: entry.size_blocks,
            read_only: entry.read_only,
            image: ImageId(entry.image),
            index,
            resident_above: Lsn(if is_clone && !keeps_inherited { own_above } else { 0 }),
            keeps_inherited,
            holds_inherited: keeps_inherited || resident.is_some(),
            is_written,
            inherits: image.is_some_and(CatalogImage::inherits),
            changed_lsn: Lsn(self.log.borrow().head_lsn().0.saturating_sub(1)),
            thin: entry.thin,
        });
        state.volumes.insert(volume)
    }

    pub(in crate::volume) fn announce(&self, id: VolumeId, name: &str) -> Result<VolumeInfo, VolumeError> {
        let info = self.volume(id).ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })?;
        self.state.borrow_mut().events.push(VolumeEvent::Created(id));
        Ok(info)
    }
}

pub(in crate::volume) fn add_image(
    catalog: &mut Catalog,
    format_version: u32,
    parent: Option<ImageParent>,
    born_lsn: Lsn,
) -> Result<u32, VolumeError> {
    let id = image_ids::take(catalog, format_version)?;
    catalog.add_image(CatalogImage {
        id,
        parent,
        born_lsn: born_lsn.0,
        hydrated_lsn: None,
        hydrating: false,
        uncertain_below: 0,
        resident: None,
        begun_blocks: None,
    });
    Ok(id)
}

pub(in crate::volume) fn add_volume(catalog: &mut Catalog, volume: CatalogVolume) -> Result<(), VolumeError> {
    check_free(catalog, &volume.name)?;
    if catalog.volume_with_uuid(volume.uuid).is_some() {
        return Err(VolumeError::Invalid {
            what: "uuid",
            reason: format!("{} is another volume's", volume.uuid),
        });
    }
    if catalog.volumes.len() >= VOLUMES_MAX {
        return Err(VolumeError::NoSpace { reason: format!("a pool holds at most {VOLUMES_MAX} volumes") });
    }
    catalog.add_volume(volume);
    Ok(())
}

/// Refuses to leave a session with only some of its clones: only together they stand at its
/// position.
fn check_sessions_whole(catalog: &Catalog, gone: &[Uuid]) -> Result<(), VolumeError> {
    let is_gone = |member: &SessionMember| gone.contains(&member.clone);
    let halved = catalog
        .sessions()
        .find(|session| session.members.iter().any(is_gone) && !session.members.iter().all(is_gone));
    let Some(session) = halved else { return Ok(()) };
    let reason = format!(
        "it is a clone of session '{0}', which has several; end the session (varve restore abort {0} deletes them all, varve restore commit {0} --keep NAME keeps them)",
        session.name
    );
    Err(VolumeError::Invalid { what: "volume", reason })
}

fn insert_snapshot(catalog: &mut Catalog, snapshot: &CatalogSnapshot) -> Result<(), VolumeError> {
    if catalog.snapshots.get(&snapshot.name).is_some() {
        let reason = format!("a snapshot '{}' exists already; choose another name", snapshot.name);
        return Err(VolumeError::Invalid { what: "snapshot name", reason });
    }
    catalog.add_snapshot(snapshot);
    Ok(())
}
