//! Creates a pool, or opens one: finds the catalog, the synchs and the indexes in the log.
//!
//! The entries of the working set are read once, newest segment first, and passed to one index
//! builder per image: the first entry found for a block wins. The inherited entries of clones are
//! looked up after the start, by [`Pool::load_inherited`]; only requests to these clones wait until
//! then.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use futures_util::{StreamExt, stream};

use crate::bdev::SharedBdev;
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::format::{EntryKind, EventKind};
use crate::log::reader::LsnRange;
use crate::log::table::Mask;
use crate::log::{
    CreateLog, Environment, FailureCause, ImageId, LogError, LogFailure, Lsn, Recycling, create, recover,
};
use crate::reactor::yield_now;
use crate::volume::catalog::{Catalog, CatalogImage};
use crate::volume::error::VolumeError;
use crate::volume::history::event::{EventCollector, FoundEvent};
use crate::volume::history::past::{CatalogThen, Loading, Nowhere, ScanReport, see};
use crate::volume::history::synch_table::SynchTable;
use crate::volume::image::index::{IndexBuilder, RangeSet};
use crate::volume::image::trouble::Trouble;
use crate::volume::image::volume::{Volume, VolumeIndex};
use crate::volume::info::{SynchInfo, VolumeEvent};
use crate::volume::manage::heirs::Heirs;
use crate::volume::pool::{Pool, READ_AHEAD_BLOCKS_DEFAULT};
use crate::volume::request::{MAX_IO_BLOCKS, VolumeId};
use crate::volume::space::capacity::OVERPROVISIONING_PERCENT_RANGE;

/// How many texts of synchs of a segment are read at once: one after the other, each would take the
/// device's latency for one block, and there may be 100,000 of them.
const TEXTS_AT_ONCE: usize = 64;

/// The options for opening a pool.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolOptions {
    /// What happens to segments that contain no live blocks. [`Recycling::Archived`] needs an
    /// archive; otherwise writes wait when the device is full.
    pub recycling: Recycling,
    /// For a new pool: spare blocks per hundred live blocks; `None`:
    /// [`OVERPROVISIONING_PERCENT_DEFAULT`](crate::volume::OVERPROVISIONING_PERCENT_DEFAULT).
    pub overprovisioning_percent: Option<u64>,
    /// The read-ahead window for sequential readers, in blocks; 0: no read-ahead; `None`:
    /// [`READ_AHEAD_BLOCKS_DEFAULT`].
    pub read_ahead_blocks: Option<u64>,
}

impl Pool {
    /// Creates a pool on a blank device.
    ///
    /// # Errors
    /// See [`LogError`]; nothing is written unless the device is blank and large enough.
    pub async fn create(
        device: SharedBdev,
        environment: Environment,
        request: CreateLog,
        options: PoolOptions,
    ) -> Result<Rc<Self>, VolumeError> {
        let zeroes = zeroes(&environment).await?;
        if let Some(percent) = options.overprovisioning_percent
            && !OVERPROVISIONING_PERCENT_RANGE.contains(&percent)
        {
            let (least, most) = OVERPROVISIONING_PERCENT_RANGE.into_inner();
            let reason = format!("{percent} % is not from {least} to {most} %");
            return Err(VolumeError::Invalid { what: "over-provisioning", reason });
        }
        let log = create(device, environment, request).await?;
        let pool = Pool::new(log, zeroes);
        pool.set_recycling(options.recycling);
        pool.set_read_ahead(options.read_ahead_blocks.unwrap_or(READ_AHEAD_BLOCKS_DEFAULT));
        let lsn = pool
            .change(|catalog, _| {
                // A recovery from the archive needs the working set.
                let log = pool.log.borrow();
                let working_set = log.geometry().working_set;
                catalog.begin(log.created_ns(), working_set, options.overprovisioning_percent);
                Ok(())
            })
            .await?;
        pool.drive_until_stable(lsn.plus(1)).await?;
        Ok(pool)
    }

    /// Opens the pool on a device.
    ///
    /// # Errors
    /// See [`LogError`]. Damage is not an error: [`Pool::info`] reports it.
    pub async fn open(
        device: SharedBdev,
        environment: Environment,
        options: PoolOptions,
    ) -> Result<Rc<Self>, VolumeError> {
        let zeroes = zeroes(&environment).await?;
        let recovered = recover(device, environment).await?;
        let pool = Pool::new(recovered.log, zeroes);
        pool.state.borrow_mut().problems.begin_with(recovered.problems);
        let newest = Lsn(pool.log.borrow().head_lsn().0.saturating_sub(1));
        let CatalogThen { mut catalog, is_whole, .. } = pool.find_catalog(newest).await?;
        if is_whole {
            pool.state.borrow().catalog.note_read(&catalog);
        }
        let mut is_news = false;
        for lost in recovered.lost {
            is_news |= catalog.add_lost(lost);
        }
        let mut builders: HashMap<u32, IndexBuilder> = catalog
            .volumes
            .iter()
            .map(|volume| (volume.image, IndexBuilder::new(volume.size_blocks)))
            .collect();
        let clones: HashSet<u32> =
            catalog.images.iter().filter(|image| image.inherits()).map(|image| image.id).collect();
        let mut heirs = Heirs::new(&catalog, newest, |at| pool.window_before(at));
        let (synchs, holes) = pool.scan_all(&mut builders, &clones, &mut heirs).await?;
        for hole in holes {
            if catalog.add_lost(hole) {
                is_news = true;
                pool.note_problem(format!(
                    "the records at LSN {} to {} cannot be read (earlier points have what was there: `varve restore clone`); blocks that were not written again after them are not served",
                    hole.start, hole.end
                ));
            }
        }
        pool.state.borrow_mut().problems.remember_gaps(&catalog.gaps);
        pool.begin_with(&mut catalog)?;
        pool.state.borrow_mut().volumes.set_keeps_inherited(options.recycling == Recycling::Discard);
        pool.adopt(catalog, builders, &heirs, synchs);
        pool.adopt_working_set().await?;
        if pool.state.borrow().volumes.keeps_inherited() {
            // The inherited blocks of clones must be counted before any slot is reassigned.
            Rc::clone(&pool).load_inherited().await;
        }
        pool.set_recycling(options.recycling);
        pool.set_read_ahead(options.read_ahead_blocks.unwrap_or(READ_AHEAD_BLOCKS_DEFAULT));
        if is_news {
            pool.record_losses().await;
        }
        Ok(pool)
    }

    /// Makes every new segment begin with a catalog, which is shortened if necessary.
    fn begin_with(&self, catalog: &mut Catalog) -> Result<(), VolumeError> {
        let (state, mut log) = (self.state.borrow(), self.log.borrow_mut());
        let text_bytes_max = catalog.shorten(log.format_version(), log.geometry().catalog_bytes_max());
        let published = state.catalog.publish_opened(&mut log, catalog, text_bytes_max);
        published.map_err(|error| {
            let failure = LogFailure::new(FailureCause::Device, &error.to_string());
            LogError::Poisoned { failure }
        })?;
        Ok(())
    }

    /// Runs the pool's turns while a future of it runs, because nothing else does before the pool
    /// is served.
    pub(crate) async fn turning<T>(self: Rc<Self>, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|context| {
            self.poll();
            let polled = future.as_mut().poll(context);
            if polled.is_pending() {
                context.waker().wake_by_ref();
            }
            polled
        })
        .await
    }

    pub(in crate::volume) fn set_recycling(&self, recycling: Recycling) {
        self.state.borrow_mut().volumes.set_keeps_inherited(recycling == Recycling::Discard);
        self.log.borrow_mut().set_recycling(recycling);
    }

    /// Writes a catalog with the losses that were found. A full log, or a device that accepts no
    /// writes or has no room for them now, does not prevent the pool from being read: the next
    /// start finds the same losses again.
    async fn record_losses(&self) {
        let result = match self.change(|_, _| Ok(())).await {
            // It is written as soon as there is room.
            Ok(_) if self.waits_for_room() => return,
            Ok(lsn) => self.drive_until_stable(lsn.plus(1)).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            self.note_problem(format!("the losses could not be recorded in the log: {error}"));
        }
    }

    /// Waits until everything before `lsn` is stable, and runs the pool's turns, because nothing
    /// else does before it is opened.
    pub(in crate::volume) async fn drive_until_stable(&self, lsn: Lsn) -> Result<(), VolumeError> {
        self.drive_until(lsn, true).await
    }

    /// The same, but it gives up if the device has no room.
    pub(in crate::volume) async fn drive_until_stable_or_starved(&self, lsn: Lsn) -> Result<(), VolumeError> {
        self.drive_until(lsn, false).await
    }

    async fn drive_until(&self, lsn: Lsn, waits_for_room: bool) -> Result<(), VolumeError> {
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
            if !waits_for_room && self.waits_for_room() {
                return Err(VolumeError::NoSpace { reason: "the device has no room".to_owned() });
            }
            yield_now().await;
        }
    }

    /// Passes the entries of the working set, newest first, to the builders. Returns the synchs,
    /// and the ranges of the working set for which nothing is known. An unreadable segment does not
    /// prevent the start. The events of one segment at a time are in memory.
    async fn scan_all(
        &self,
        builders: &mut HashMap<u32, IndexBuilder>,
        clones: &HashSet<u32>,
        heirs: &mut Heirs,
    ) -> Result<(SynchTable, Vec<LsnRange>), VolumeError> {
        let (sequences, reach) = {
            let log = self.log.borrow();
            let sequences: Vec<_> =
                log.table().iter().rev().map(|(sequence, segment)| (sequence, segment.slot)).collect();
            let newest = sequences.first().map_or(0, |(sequence, _)| sequence.0);
            (sequences, newest.saturating_sub(log.geometry().working_set))
        };
        // One table for each segment, newest first.
        let mut tables = Vec::new();
        let mut holes = Vec::new();
        for (sequence, slot) in sequences {
            if slot.is_none() {
                continue;
            }
            let known = self.known_of(sequence).await?;
            if sequence.0 >= reach {
                holes.extend(&known.holes);
            } else if let Some(hole) = known.holes.first() {
                self.note_problem(format!(
                    "the records from LSN {} on, of segment {sequence}, cannot be read; points in that segment, and synchs there, may be missing; use a point before or after it",
                    hole.start
                ));
            }
            let entries = known.entries;
            let mut collector = EventCollector::default();
            let mut masks = Vec::new();
            entries.visit_backward(Lsn::MAX, |placed| {
                match placed.entry.kind() {
                    Some(EntryKind::Event) => collector.see(&placed),
                    _ if sequence.0 >= reach => {
                        let (image, block) = (placed.entry.image(), placed.entry.block());
                        heirs.see(builders, &placed);
                        if let Some(builder) = builders.get_mut(&image.0) {
                            let len_blocks = placed.entry.value();
                            // If newer trims and masks hide the same, it need not be copied
                            // forward.
                            if clones.contains(&image.0)
                                && placed.entry.hides()
                                && builder.see_mask(block.0, len_blocks)
                            {
                                masks.push(Mask { image, block, len_blocks });
                            }
                            see(builder, &placed);
                        }
                    }
                    _ => {}
                }
                true
            });
            for mask in masks {
                self.log.borrow_mut().note_mask(sequence, mask);
            }
            tables.extend(self.read_table(&collector.found).await?);
            yield_now().await;
        }
        let mut synchs = SynchTable::default();
        tables.iter().rev().flat_map(SynchTable::iter).for_each(|synch| synchs.push_ref(synch));
        Ok((synchs, holes))
    }

    /// The synchs among the events of a segment, which come newest first; `None` if there are none.
    async fn read_table(&self, events: &[FoundEvent]) -> Result<Option<SynchTable>, VolumeError> {
        let synchs = events.iter().rev().filter(|event| event.kind == EventKind::Synch);
        let texts = stream::iter(synchs.map(|event| self.read_synch(event)));
        let mut texts = std::pin::pin!(texts.buffered(TEXTS_AT_ONCE));
        let mut table = SynchTable::default();
        while let Some(synch) = texts.next().await {
            table.push(&synch?);
        }
        Ok((!table.is_empty()).then_some(table))
    }

    fn adopt(
        &self,
        catalog: Catalog,
        mut builders: HashMap<u32, IndexBuilder>,
        heirs: &Heirs,
        synchs: SynchTable,
    ) {
        heirs.finish(&mut builders);
        let volumes = catalog.volumes.clone();
        let masked: HashMap<u32, RangeSet> =
            builders.iter().map(|(&image, builder)| (image, builder.masked().clone())).collect();
        self.state.borrow_mut().catalog.adopt(catalog);
        for volume in volumes.iter() {
            let builder =
                builders.remove(&volume.image).unwrap_or_else(|| IndexBuilder::new(volume.size_blocks));
            let (uncertain_below, inherits) = {
                let state = self.state.borrow();
                let image = state.catalog.image(volume.image);
                let inherits = image.is_some_and(CatalogImage::inherits);
                (state.catalog.uncertain_below(volume.image, Lsn::MAX), inherits)
            };
            let index =
                if inherits { VolumeIndex::Inherits(builder) } else { VolumeIndex::Ready(builder.finish()) };
            let is_written = heirs.is_written(volume.image);
            let id = self.add_volume(&volume.name, index, is_written);
            let mut state = self.state.borrow_mut();
            let mut log = self.log.borrow_mut();
            state.count_resident(&mut log, id);
            if state.volumes.get(id).is_some_and(Volume::holds_inherited) {
                log.watch_demand();
            }
            if let Some(opened) = state.volumes.get_mut(id) {
                opened.set_uncertain_below(uncertain_below);
                opened.set_masked(masked.get(&volume.image).cloned().unwrap_or_default());
            }
            state.events.push(VolumeEvent::Created(id));
        }
        let mut state = self.state.borrow_mut();
        if let Some(newest_id) = synchs.iter().map(|synch| synch.id).max() {
            state.catalog.learn_synch_id(newest_id);
        }
        state.synchs.begin_with(synchs);
        state.drop_deleted_synchs();
    }

    /// Reads a synch event. If its text is lost, it is still a point, because its position and time
    /// are in the entry.
    pub(in crate::volume) async fn read_synch(&self, event: &FoundEvent) -> Result<SynchInfo, VolumeError> {
        let text = self.read_event(event).await?;
        if let Some(synch) = text.and_then(|text| SynchInfo::of_text(event.lsn.0, &text)) {
            return Ok(synch);
        }
        let synch = SynchInfo::damaged(event.lsn.0, event.time_ns);
        self.note_problem(synch.damage());
        Ok(synch)
    }

    /// Looks up the inherited blocks of clones, one volume after the other. Requests to a volume
    /// are [`Busy`](crate::volume::Submitted::Busy) until its lookup is done. If a lookup fails,
    /// the volume is degraded, and the others continue. A further call tries those again whose
    /// archive did not answer.
    pub async fn load_inherited(self: Rc<Self>) {
        let waiting: Vec<VolumeId> = self.state.borrow().volumes.ids().collect();
        for id in waiting {
            let found = {
                let state = self.state.borrow();
                state.volumes.get(id).and_then(|volume| match volume.index() {
                    VolumeIndex::Inherits(builder) | VolumeIndex::Failed(builder)
                        if volume.is_to_be_looked_up() =>
                    {
                        let catalog = Catalog::clone(&state.catalog);
                        Some((builder.clone(), volume.image(), volume.name().to_owned(), catalog))
                    }
                    _ => None,
                })
            };
            let Some((mut builder, image, name, catalog)) = found else { continue };
            let loading = Loading { volume: id, read: 0, of: 0 };
            let mut report = ScanReport { loading: Some(loading), ..ScanReport::default() };
            let result = self.scan_ancestors(&catalog, image, &mut builder, &mut report).await;
            let state = &mut *self.state.borrow_mut();
            // It may have been set to another state meanwhile.
            let is_same = |volume: &&Volume| volume.image() == image && volume.ready_index().is_none();
            if !state.volumes.get(id).as_ref().is_some_and(is_same) {
                continue;
            }
            state.report_trouble(id, result.as_ref().err().map(|error| Trouble::of_lookup(&name, error)));
            let Some(volume) = state.volumes.get_mut(id) else { continue };
            if result.is_err() {
                volume.fail_lookup();
                continue;
            }
            let uncertain_below = volume.uncertain_below().max(report.uncertain_below);
            let mut log = self.log.borrow_mut();
            let (before, after) = volume.take_inherited(builder.finish(), &mut log);
            volume.set_uncertain_below(uncertain_below);
            if volume.is_thin() {
                state.capacity.remove_thin(before);
                state.capacity.add_thin(after);
            }
            if volume.keeps_inherited() {
                log.watch_demand();
            }
        }
    }
}

impl Pool {
    /// Feeds a builder with what an image inherited, apart from what is resident: the start found
    /// that in the working set ([`Heirs`]).
    async fn scan_ancestors(
        &self,
        catalog: &Catalog,
        image: ImageId,
        builder: &mut IndexBuilder,
        report: &mut ScanReport,
    ) -> Result<(), VolumeError> {
        let keeps_inherited = self.state.borrow().volumes.keeps_inherited();
        let nowhere = if keeps_inherited { Nowhere::Skip } else { Nowhere::Hole };
        if let Some(part) = catalog.image(image.0).and_then(|image| image.resident) {
            builder.begin_ancestors_again(Lsn(part.above));
        }
        let ranges = catalog.image_ranges(image.0, Lsn::MAX, |at| self.window_before(at));
        if let Some(loading) = &mut report.loading {
            let geometry = self.log.borrow().geometry();
            let segments = ranges.iter().skip(1).map(|range| {
                let from = range.above.max(self.window_before(range.up_to)).plus(1);
                (geometry.sequence_of(range.up_to).0 + 1).saturating_sub(geometry.sequence_of(from).0)
            });
            loading.of = segments.sum();
        }
        for depth in 1..ranges.len() {
            builder.begin_parent();
            self.scan_image(&ranges[depth..], builder, report, nowhere).await?;
            if report.anchor_lsn.is_some() {
                break;
            }
        }
        Ok(())
    }
}

/// A buffer of zeroes as long as the longest read.
pub(in crate::volume) async fn zeroes(environment: &Environment) -> Result<DmaBuf, VolumeError> {
    let mut zeroes = environment
        .wait_for_memory(MAX_IO_BLOCKS as usize * BLOCK_BYTES)
        .await
        .map_err(|error| VolumeError::Failed { reason: error.to_string() })?;
    zeroes.as_mut_slice().fill(0);
    Ok(zeroes.freeze())
}
