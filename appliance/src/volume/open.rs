//! Creating a pool, and opening one: the catalog, the synchs and the indexes are found in the log (DESIGN section 8).
//!
//! The entries of the working set are read once, newest segment first, and shown to one index builder per image: each block's first
//! sight wins. What a clone inherited is looked up after the start, by [`Pool::load_inherited`]; its requests wait until then, and nothing else does.

use std::collections::HashMap;
use std::rc::Rc;

use super::catalog::Catalog;
use super::error::VolumeError;
use super::event::{EventCollector, FoundEvent, read_event};
use super::history::{ScanReport, see};
use super::index::{Index, IndexBuilder};
use super::info::{SynchInfo, VolumeEvent};
use super::pool::{Pool, VolumeIndex};
use super::request::{MAX_IO_BLOCKS, VolumeId};
use crate::bdev::SharedBdev;
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::format::{EntryKind, EventKind};
use crate::log::reader::load_segment;
use crate::log::{CreateLog, Environment, LogError, Lsn, create, recover};
use crate::reactor::yield_now;

impl Pool {
    /// Creates a pool on a blank device.
    ///
    /// # Errors
    /// See [`LogError`]; nothing is written unless the device is blank and large enough.
    pub async fn create(
        device: SharedBdev,
        environment: Environment,
        request: CreateLog,
    ) -> Result<Rc<Self>, VolumeError> {
        let zeroes = zeroes(&environment)?;
        let log = create(device, environment, request).await?;
        let pool = Pool::new(log, zeroes);
        let lsn = pool.change(|_, _| Ok(())).await?;
        pool.drive_until_stable(lsn.plus(1)).await?;
        Ok(pool)
    }

    /// Opens the pool on a device.
    ///
    /// # Errors
    /// See [`LogError`]. Damage is not an error: [`Pool::info`] tells it.
    pub async fn open(device: SharedBdev, environment: Environment) -> Result<Rc<Self>, VolumeError> {
        let zeroes = zeroes(&environment)?;
        let recovered = recover(device, environment).await?;
        let pool = Pool::new(recovered.log, zeroes);
        pool.state.borrow_mut().problems = recovered.problems;
        let newest = Lsn(pool.log.borrow().head_lsn().0.saturating_sub(1));
        let mut catalog = pool.catalog_at(newest).await?;
        let new_losses: Vec<_> =
            recovered.lost.into_iter().filter(|lost| !catalog.lost.contains(lost)).collect();
        catalog.lost.extend(&new_losses);
        pool.log
            .borrow_mut()
            .set_catalog(Rc::from(catalog.encode()))
            .map_err(|error| LogError::Poisoned { reason: error.to_string() })?;
        let mut builders: HashMap<u16, IndexBuilder> = catalog
            .volumes
            .iter()
            .map(|volume| (volume.image, IndexBuilder::new(volume.size_blocks)))
            .collect();
        let synchs = pool.scan_all(&mut builders).await?;
        pool.adopt(catalog, builders, &synchs).await?;
        if !new_losses.is_empty() {
            pool.record_losses().await;
        }
        Ok(pool)
    }

    /// Writes a catalog that holds what was found lost. A log that is full, or a device that takes no writes, does not keep the pool from being
    /// read: the next start finds the same losses again.
    async fn record_losses(&self) {
        let result = match self.change(|_, _| Ok(())).await {
            Ok(lsn) => self.drive_until_stable(lsn.plus(1)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.note_problem(format!("the losses could not be recorded in the log: {error}"));
        }
    }

    /// Waits until everything before `lsn` is stable, turning the pool itself: nobody else does before it is opened.
    async fn drive_until_stable(&self, lsn: Lsn) -> Result<(), VolumeError> {
        self.log.borrow_mut().request_stable(lsn);
        loop {
            self.poll();
            {
                let log = self.log.borrow();
                if log.stable_lsn() >= lsn {
                    return Ok(());
                }
                if let Some(reason) = log.poisoned() {
                    return Err(VolumeError::Failed { reason: reason.to_string() });
                }
            }
            yield_now().await;
        }
    }

    /// Reads the entries of the working set, newest first, into the builders; returns the synch events, newest first.
    async fn scan_all(
        &self,
        builders: &mut HashMap<u16, IndexBuilder>,
    ) -> Result<Vec<FoundEvent>, VolumeError> {
        let (sequences, reach) = {
            let log = self.log.borrow();
            let sequences: Vec<_> =
                log.table().iter().rev().map(|(sequence, segment)| (sequence, segment.slot)).collect();
            let newest = sequences.first().map_or(0, |(sequence, _)| sequence.0);
            (sequences, newest.saturating_sub(log.geometry().working_set))
        };
        let mut synchs = Vec::new();
        for (sequence, slot) in sequences {
            if slot.is_none() {
                continue;
            }
            let entries = load_segment(&self.log, sequence).await?;
            let mut collector = EventCollector::default();
            entries.visit_backward(Lsn::MAX, |placed| {
                match placed.entry.kind() {
                    Some(EntryKind::Event) => collector.see(&placed),
                    _ if sequence.0 >= reach => {
                        if let Some(builder) = builders.get_mut(&placed.entry.image().0) {
                            see(builder, &placed);
                        }
                    }
                    _ => {}
                }
                true
            });
            synchs.extend(collector.found.into_iter().filter(|event| event.kind == EventKind::Synch));
            yield_now().await;
        }
        Ok(synchs)
    }

    async fn adopt(
        &self,
        catalog: Catalog,
        mut builders: HashMap<u16, IndexBuilder>,
        synchs: &[FoundEvent],
    ) -> Result<(), VolumeError> {
        let volumes = catalog.volumes.clone();
        self.state.borrow_mut().catalog = catalog;
        for volume in volumes {
            let id = self.add_volume(&volume.name, Index::new(1));
            let builder =
                builders.remove(&volume.image).unwrap_or_else(|| IndexBuilder::new(volume.size_blocks));
            let mut state = self.state.borrow_mut();
            let uncertain_below = state.catalog.uncertain_below(volume.image, Lsn::MAX);
            let inherits = state.catalog.image(volume.image).is_some_and(|image| image.parent.is_some());
            if let Some(opened) = state.volume_mut(id) {
                opened.uncertain_below = uncertain_below;
                opened.index = if inherits {
                    VolumeIndex::Inherits(Some(builder))
                } else {
                    VolumeIndex::Ready(builder.finish())
                };
            }
            state.events.push_back(VolumeEvent::Created(id));
        }
        for event in synchs.iter().rev() {
            let synch = match read_event(&self.log, event).await? {
                Some(text) => serde_json::from_slice::<SynchInfo>(&text).ok(),
                None => None,
            };
            // A synch whose text is lost is still a point; its position and time stand in the entry.
            let synch = synch.unwrap_or_else(|| {
                self.note_problem(format!("the text of the synch at LSN {} is damaged", event.lsn));
                SynchInfo {
                    id: 0,
                    label: "damaged".to_owned(),
                    lsn: 0,
                    time_ns: event.time_ns,
                    details: serde_json::Value::Null,
                }
            });
            let mut state = self.state.borrow_mut();
            state.catalog.next_synch = state.catalog.next_synch.max(synch.id + 1);
            state.synchs.push(SynchInfo { lsn: event.lsn.0, ..synch });
        }
        Ok(())
    }

    /// Looks up what clones inherited, one volume after the other. Requests of a volume are [`Busy`](super::Submitted::Busy) until it is done. One that cannot be
    /// looked up is degraded, and does not stop the others.
    pub async fn load_inherited(self: Rc<Self>) {
        let waiting: Vec<VolumeId> = (0..self.state.borrow().volumes.len() as u32).map(VolumeId).collect();
        for id in waiting {
            let taken = {
                let mut state = self.state.borrow_mut();
                let catalog = state.catalog.clone();
                state.volume_mut(id).and_then(|volume| match &mut volume.index {
                    VolumeIndex::Inherits(builder) => {
                        Some((builder.take()?, volume.image, volume.name.clone(), catalog))
                    }
                    _ => None,
                })
            };
            let Some((mut builder, image, name, catalog)) = taken else { continue };
            let parent = catalog.image(image.0).and_then(|image| image.parent);
            let mut report = ScanReport::default();
            let result = match parent {
                Some(parent) => {
                    self.scan_generations(&catalog, parent.image, Lsn(parent.lsn), &mut builder, &mut report)
                        .await
                }
                None => Ok(()),
            };
            let index = match result {
                Ok(()) => VolumeIndex::Ready(builder.finish()),
                Err(error) => {
                    self.note_problem(format!("volume '{name}': what it inherited cannot be read: {error}"));
                    VolumeIndex::Failed
                }
            };
            if let Some(volume) = self.state.borrow_mut().volume_mut(id) {
                volume.index = index;
            }
        }
    }
}

/// A run of zeroes as long as the longest read.
fn zeroes(environment: &Environment) -> Result<DmaBuf, VolumeError> {
    let mut zeroes = environment
        .dma
        .allocate(MAX_IO_BLOCKS as usize * BLOCK_BYTES)
        .map_err(|error| VolumeError::Failed { reason: error.to_string() })?;
    zeroes.as_mut_slice().fill(0);
    Ok(zeroes.freeze())
}
