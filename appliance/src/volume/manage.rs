//! The nouns of the management plane: volumes, synchs, snapshots, clones.
//!
//! Every change is a new catalog in the log. It takes effect when it is appended, and is answered when it is stable, so an answer is never taken
//! back by a crash; a crash in between leaves the change whole or not at all.

use std::rc::Rc;

use uuid::Uuid;

use super::catalog::{Catalog, CatalogImage, CatalogSnapshot, CatalogVolume, ROOM_SHARE};
use super::error::VolumeError;
use super::image_ids;
use super::index::{Index, RangeSet};
use super::info::{ImageParent, SnapshotInfo, SynchInfo, VolumeEvent, VolumeInfo, VolumeStats};
use super::pool::{Pool, State, Volume, VolumeIndex};
use super::request::VolumeId;
use crate::dma::BLOCK_BYTES;
use crate::log::format::EventKind;
use crate::log::{AppendError, ImageId, Log, Lsn, recovery};
use crate::reactor::yield_now;

/// The most volumes of a pool.
pub const VOLUMES_MAX: usize = 1024;
/// The longest name, in bytes.
pub const NAME_BYTES_MAX: usize = 64;
/// The largest volume, in blocks (256 TiB).
pub const VOLUME_BLOCKS_MAX: u64 = 1 << 36;
/// The longest label of a synch, in bytes.
pub const LABEL_BYTES_MAX: usize = 256;
/// The longest details of a synch, in bytes of JSON.
pub const DETAILS_BYTES_MAX: usize = 16_384;
/// How often a full pipeline is waited for before an operation gives up.
const BUSY_TURNS_MAX: usize = 1_000_000;

/// What a new volume shall be.
#[derive(Debug, Clone)]
pub struct CreateVolume {
    /// Its name: 1 to 64 letters, digits, `.`, `_` or `-`.
    pub name: String,
    /// Its size, a multiple of 4096.
    pub size_bytes: u64,
    /// Its UUID; `None`: a new random one.
    pub uuid: Option<Uuid>,
    /// Whether its capacity is not set aside: it may then be refused blocks when the pool is full.
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
                };
                add_volume(catalog, volume)
            })
            .await?;
        let id = self.add_volume(&request.name, VolumeIndex::Ready(Index::new(size_blocks)));
        recovery::stable(&self.log, lsn.plus(1)).await?;
        self.announce(id, &request.name)
    }

    /// Deletes a volume. Its history stays until it leaves the log.
    ///
    /// # Errors
    /// No such volume, a failed pool.
    pub async fn delete_volume(self: Rc<Self>, name: String) -> Result<(), VolumeError> {
        let lsn = self
            .change(|catalog, head| {
                if !catalog.volumes.remove(|volume| volume.name == name) {
                    return Err(VolumeError::NoSuchVolume { name: name.clone() });
                }
                catalog.prune_images(self.behind_change(head));
                Ok(())
            })
            .await?;
        {
            let mut state = self.state.borrow_mut();
            if let Some(id) = state.find(&name) {
                if let Some(volume) = state.volumes[id.0 as usize].take() {
                    state.forget_trouble(&volume);
                    self.log.borrow_mut().forget_masks(volume.image);
                    state.bury(volume);
                }
                state.forget_latencies(id);
                state.events.push_back(VolumeEvent::Deleted(id));
            }
        }
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok(())
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
                catalog
                    .volumes
                    .change(|volume| volume.name == name, |volume| volume.size_blocks = size_blocks);
                Ok(())
            })
            .await?;
        let id = self
            .state
            .borrow()
            .find(&name)
            .ok_or_else(|| VolumeError::NoSuchVolume { name: name.clone() })?;
        if let Some(volume) = self.state.borrow_mut().volume_mut(id) {
            volume.size_blocks = size_blocks;
        }
        recovery::stable(&self.log, lsn.plus(1)).await?;
        self.state.borrow_mut().events.push_back(VolumeEvent::Resized(id));
        self.volume(id).ok_or(VolumeError::NoSuchVolume { name })
    }

    /// Writes a synch event: the blocks of all volumes are consistent now, says the caller (R25, R26). All writes submitted before are before it.
    ///
    /// # Errors
    /// A label or details that are too long, no room, a failed pool.
    pub async fn create_synch(
        self: Rc<Self>,
        label: String,
        details: serde_json::Value,
    ) -> Result<SynchInfo, VolumeError> {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control) {
            let reason = format!("it must have 1 to {LABEL_BYTES_MAX} bytes and no control characters");
            return Err(VolumeError::Invalid { what: "label", reason });
        }
        if details.to_string().len() > DETAILS_BYTES_MAX {
            let reason = format!("they may have at most {DETAILS_BYTES_MAX} bytes of JSON");
            return Err(VolumeError::Invalid { what: "details", reason });
        }
        for _ in 0..BUSY_TURNS_MAX {
            let appended = {
                let mut state = self.state.borrow_mut();
                let mut log = self.log.borrow_mut();
                let time_ns = log.now_ns();
                let id = state.catalog.next_synch;
                let mut synch =
                    SynchInfo { id, label: label.clone(), lsn: 0, time_ns, details: details.clone() };
                let text =
                    serde_json::to_vec(&synch).unwrap_or_else(|_| unreachable!("a synch is plain data"));
                match log.append_event(EventKind::Synch, &text) {
                    Ok(lsn) => {
                        synch.lsn = lsn.0;
                        state.catalog.next_synch += 1;
                        // Every new segment's catalog must know that the id is taken.
                        state.catalog_writer.publish_next_synch(&mut log, &state.catalog)?;
                        state.synchs.push(synch.clone());
                        Some(synch)
                    }
                    Err(AppendError::Busy) => {
                        state.check_not_refusing(&log)?;
                        None
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            if let Some(synch) = appended {
                recovery::stable(&self.log, Lsn(synch.lsn).plus(1)).await?;
                return Ok(synch);
            }
            yield_now().await;
        }
        Err(AppendError::Busy.into())
    }

    /// Gives the present point a name.
    ///
    /// # Errors
    /// A bad name, a name that exists, a failed pool.
    pub async fn create_snapshot(self: Rc<Self>, name: String) -> Result<SnapshotInfo, VolumeError> {
        check_name("snapshot name", &name)?;
        let (point, time_ns) = {
            let log = self.log.borrow();
            (log.point_lsn(), log.now_ns())
        };
        // Commands are appended whole, so the head is the end of one.
        let snapshot = CatalogSnapshot { name: Rc::from(name.as_str()), lsn: point.0, time_ns };
        let lsn = self
            .change(|catalog, _| {
                if catalog.snapshots.get(&name).is_some() {
                    let reason = format!("a snapshot '{name}' exists already; choose another name");
                    return Err(VolumeError::Invalid { what: "snapshot name", reason });
                }
                catalog.snapshots.insert(&snapshot);
                Ok(())
            })
            .await?;
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok((&snapshot).into())
    }

    /// Forgets a snapshot's name.
    ///
    /// # Errors
    /// No such snapshot, a failed pool.
    pub async fn delete_snapshot(self: Rc<Self>, name: String) -> Result<(), VolumeError> {
        let lsn = self
            .change(|catalog, _| {
                if !catalog.snapshots.remove(&name) {
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

    /// A page of the snapshots from a position on, in the order of the log: at most `limit`, and
    /// all of the last one's position.
    pub fn snapshots_from(&self, lsn: Lsn, limit: usize) -> Vec<SnapshotInfo> {
        let state = self.state.borrow();
        let mut page: Vec<SnapshotInfo> = Vec::new();
        for snapshot in state.catalog.snapshots.iter_from(lsn) {
            if page.len() >= limit && page.last().is_none_or(|last| last.lsn != snapshot.lsn) {
                break;
            }
            page.push((&snapshot).into());
        }
        page
    }

    /// Writes what is open, flushes, and leaves a note that the stop was clean. No requests after it.
    ///
    /// # Errors
    /// A failed pool.
    pub async fn close(self: Rc<Self>) -> Result<(), VolumeError> {
        // Superblocks that are being written are written whole. How that ends is not what matters now.
        let _ = self.reshaping_idle().await;
        // From here on no change begins: it would be under way when the process ends, and leave a superblock torn.
        self.log.borrow_mut().stop_appending();
        recovery::close(&self.log).await?;
        Ok(())
    }

    /// Refuses what the pool cannot hold.
    fn check_capacity(&self, more_blocks: u64) -> Result<(), VolumeError> {
        let (state, log) = (self.state.borrow(), self.log.borrow());
        let Some(capacity) = state.capacity_of(&log) else { return Ok(()) };
        let taken = state.taken_blocks(&log);
        if more_blocks > 0 && taken + more_blocks > capacity {
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

    /// Appends a changed catalog and makes it the present one; returns its position. `edit` gets the catalog to change and the position
    /// after which a new image has its entries.
    pub(super) async fn change(
        &self,
        mut edit: impl FnMut(&mut Catalog, Lsn) -> Result<(), VolumeError>,
    ) -> Result<Lsn, VolumeError> {
        for _ in 0..BUSY_TURNS_MAX {
            {
                let mut catalog = self.state.borrow().catalog.clone();
                let head = self.log.borrow().head_lsn();
                edit(&mut catalog, Lsn(head.0.saturating_sub(1)))?;
                let mut state = self.state.borrow_mut();
                let mut log = self.log.borrow_mut();
                match state.append_catalog(&mut log, catalog) {
                    Ok(lsn) => {
                        state.change_lsn = lsn;
                        return Ok(lsn);
                    }
                    Err(AppendError::Busy) => state.check_not_refusing(&log)?,
                    Err(error) => return Err(error.into()),
                }
            }
            yield_now().await;
        }
        Err(AppendError::Busy.into())
    }

    /// The version of the format of what is on the device.
    pub(super) fn format_version(&self) -> u32 {
        self.log.borrow().format_version()
    }

    /// A position at or behind that of a change which is edited while the log ends at `head`: its event goes to this segment or to the next.
    pub(super) fn behind_change(&self, head: Lsn) -> Lsn {
        head.plus(self.log.borrow().geometry().segment_blocks)
    }

    /// Makes a volume of the catalog usable; it is announced later. What is resident of it is counted by the caller.
    pub(super) fn add_volume(&self, name: &str, index: VolumeIndex) -> VolumeId {
        let mut state = self.state.borrow_mut();
        let log = self.log.borrow();
        let entry = state.catalog.volume(name).expect("the catalog was changed first");
        let image = state.catalog.image(entry.image);
        let is_clone = image.is_some_and(|image| image.parent.is_some());
        let keeps_inherited = is_clone && state.keeps_inherited;
        let born_lsn = image.map_or(0, |image| image.born_lsn);
        let volume = Volume {
            name: name.to_owned(),
            size_blocks: entry.size_blocks,
            read_only: entry.read_only,
            image: ImageId(entry.image),
            index,
            uncertain_below: Lsn(0),
            uncertain_blocks: 0,
            resident_above: Lsn(if is_clone && !keeps_inherited { born_lsn } else { 0 }),
            keeps_inherited,
            inherits: image.is_some_and(CatalogImage::inherits),
            hydrating: false,
            trouble: None,
            changed_lsn: Lsn(log.head_lsn().0.saturating_sub(1)),
            masked: RangeSet::default(),
            resident: 0,
            thin: entry.thin,
            stats: VolumeStats::default(),
        };
        let id = VolumeId(state.volumes.len() as u32);
        state.volumes.push(Some(volume));
        id
    }

    pub(super) fn announce(&self, id: VolumeId, name: &str) -> Result<VolumeInfo, VolumeError> {
        let info = self.volume(id).ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })?;
        self.state.borrow_mut().events.push_back(VolumeEvent::Created(id));
        Ok(info)
    }
}

impl State {
    /// Appends what makes the catalog this one and makes it the present one; returns the position.
    pub(super) fn append_catalog(&mut self, log: &mut Log, mut catalog: Catalog) -> Result<Lsn, AppendError> {
        let (version, max_bytes) = (log.format_version(), log.geometry().catalog_bytes_max());
        // Some room is kept from operators for what grows by itself.
        let kept_bytes = max_bytes / ROOM_SHARE;
        let mut text_bytes_max = catalog.text_bytes_max(version);
        if text_bytes_max > max_bytes / 2 {
            let len_bytes = catalog.own_bytes(version);
            if len_bytes + kept_bytes > max_bytes && len_bytes > self.catalog.own_bytes(version) {
                return Err(AppendError::EventTooLong { len_bytes, max_bytes: max_bytes - kept_bytes });
            }
        }
        // Small segments do not hold a catalog with as much of that as may be remembered; what is there now comes first.
        if text_bytes_max > max_bytes {
            text_bytes_max = catalog.shorten(version, max_bytes);
        }
        let lsn = self.catalog_writer.append(log, &catalog, text_bytes_max)?;
        self.catalog = catalog;
        Ok(lsn)
    }

    /// Appends the catalog that the newest segment could not begin with. Returns how much was done.
    pub(super) fn pay_catalog(&self, log: &mut Log) -> usize {
        self.catalog_writer.pay(log, &self.catalog)
    }

    /// Has every new segment begin with the present catalog, which was changed without an event.
    ///
    /// # Errors
    /// It is too long.
    pub(super) fn publish_catalog(&self, log: &mut Log) -> Result<(), AppendError> {
        let text_bytes_max = self.catalog.text_bytes_max(log.format_version());
        self.catalog_writer.publish(log, &self.catalog, text_bytes_max)
    }

    /// Remembers a problem for the operator, once.
    pub(super) fn note_problem(&mut self, problem: String) {
        if !self.problems.contains(&problem) {
            tracing::warn!(problem, "the pool has a problem");
            self.problems.push(problem);
        }
    }
}

pub(super) fn add_image(
    catalog: &mut Catalog,
    format_version: u32,
    parent: Option<ImageParent>,
    born_lsn: Lsn,
) -> Result<u32, VolumeError> {
    let id = image_ids::take(catalog, format_version)?;
    catalog.images.push(CatalogImage {
        id,
        parent,
        born_lsn: born_lsn.0,
        hydrated_lsn: None,
        hydrating: false,
        uncertain_below: 0,
    });
    Ok(id)
}

pub(super) fn add_volume(catalog: &mut Catalog, volume: CatalogVolume) -> Result<(), VolumeError> {
    if catalog.volume(&volume.name).is_some() {
        return Err(VolumeError::VolumeExists { name: volume.name });
    }
    if catalog.volumes.iter().any(|known| known.uuid == volume.uuid) {
        return Err(VolumeError::Invalid {
            what: "uuid",
            reason: format!("{} is another volume's", volume.uuid),
        });
    }
    if catalog.volumes.len() >= VOLUMES_MAX {
        return Err(VolumeError::NoSpace { reason: format!("a pool holds at most {VOLUMES_MAX} volumes") });
    }
    catalog.volumes.push(volume);
    Ok(())
}

pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), VolumeError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        let reason = format!("'{name}' is not 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' or '-'");
        return Err(VolumeError::Invalid { what, reason });
    }
    Ok(())
}

fn check_size(size_bytes: u64) -> Result<u64, VolumeError> {
    let size_blocks = size_bytes / BLOCK_BYTES as u64;
    if size_blocks == 0 || size_blocks > VOLUME_BLOCKS_MAX || !size_bytes.is_multiple_of(BLOCK_BYTES as u64) {
        let reason = format!("{size_bytes} bytes is not a multiple of 4096 from 4096 to 256 TiB");
        return Err(VolumeError::Invalid { what: "size", reason });
    }
    Ok(size_blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        LABEL_BYTES_MAX => "| `label` | text | 1 to {} bytes, no control characters",
        DETAILS_BYTES_MAX => "| `details` | any JSON | at most {} bytes (`DETAILS_BYTES_MAX`)",
    );
}
