//! Hydration: copies everything that an image inherited into entries of its own, so that it no
//! longer needs its parent or the archive.
//!
//! **When.** A recovered pool starts it automatically for the data that was on the lost primary
//! device: its volumes are usable at once, and their blocks are copied to the new device. A clone
//! of the past is hydrated when the operator asks for it, because it needs room that nobody has
//! reserved.
//!
//! **States of an image:** inheriting → hydrating (in the catalog, so that it continues after a
//! restart) → hydrated, from a position in the catalog. From that position on, the image has its
//! own entries for everything that it maps, so the W+1 segments that end at a later position
//! determine the state there. Before that position the parent is still used.
//!
//! **How.** It reads the segments from which the inherited index was built, newest first in each
//! range, and matches their entries with the index. So an object of the archive is read once,
//! in order, and every block is checked against all 32 bits of its checksum. As in the cleaner, a
//! copy is appended only if the index still points to its source at that moment; it does not end a
//! command, so history does not see it.
//!
//! **Failures.** A block that cannot be read stays inherited, and stops nothing else; the image
//! still needs its parent, the operator is informed, and the command may be repeated. A block that
//! is not certain, because entries that may have replaced it are lost, is copied as an error
//! (`copies`), and the catalog still says that blocks without contents there are not certain
//! either. A pool without room refuses, as it refuses writes to a thin volume.
//!
//! **Costs:** for each block one read, shared with its neighbours, a copy in memory if it came from
//! the archive, one CRC32C, and its place in a record. Hosts go first: a batch is [`BATCH_BLOCKS`]
//! blocks, and the reactor runs other work between batches; nothing waits for it.

use std::rc::Rc;

use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::format::EntryKind;
use crate::log::reader::SegmentEntries;
use crate::log::{AppendClass, AppendError, BlockNumber, ImageId, Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::catalog::{Catalog, CatalogImage};
use crate::volume::error::VolumeError;
use crate::volume::image::index::Mapping;
use crate::volume::image::trouble::Trouble;
use crate::volume::image::volume::{Volume, VolumeIndex};
use crate::volume::info::VolumeInfo;
use crate::volume::pool::Pool;
use crate::volume::request::{IoError, Refusal, VolumeId};
use crate::volume::space::copies::{Batch, Copied, Source, read};

/// How many blocks are read and appended together.
const BATCH_BLOCKS: usize = 64;

impl Pool {
    /// Records that a volume is to be hydrated; [`hydrate`](Self::hydrate) does it.
    ///
    /// # Errors
    /// No such volume; it inherits nothing; the pool keeps inherited data on the primary device
    /// anyway; a failed pool.
    pub async fn begin_hydration(self: Rc<Self>, name: String) -> Result<VolumeInfo, VolumeError> {
        if self.state.borrow().volumes.keeps_inherited() {
            let reason =
                "the pool has no archive: what a clone inherited is on the primary device already".to_owned();
            return Err(VolumeError::Invalid { what: "volume", reason });
        }
        self.change(|catalog, _| {
            let image = catalog.volume(&name).map(|volume| volume.image);
            let image = image.ok_or_else(|| VolumeError::NoSuchVolume { name: name.clone() })?;
            if !catalog.image(image).is_some_and(CatalogImage::inherits) {
                let reason = format!("'{name}' inherits nothing: all its blocks are its own");
                return Err(VolumeError::Invalid { what: "volume", reason });
            }
            catalog.change_image(image, |image| image.hydrating = true);
            Ok(())
        })
        .await?;
        self.find_volume(&name).ok_or(VolumeError::NoSuchVolume { name })
    }

    /// Hydrates every volume that is marked for it, one after the other. A failure of one is
    /// reported as a problem of the pool.
    pub async fn hydrate_all(self: Rc<Self>) {
        let ids: Vec<VolumeId> = self.state.borrow().volumes.ids().collect();
        for id in ids {
            Rc::clone(&self).hydrate(id).await;
        }
    }

    /// Hydrates a volume, if it is marked for it and no hydration of it is running.
    pub async fn hydrate(self: Rc<Self>, id: VolumeId) {
        // A roll-back under way gives the volume another image, which may have to be hydrated too.
        while Rc::clone(&self).hydrate_once(id).await {}
    }

    /// The same for the volume's present image. Returns whether it has another one now.
    async fn hydrate_once(self: Rc<Self>, id: VolumeId) -> bool {
        let (name, of) = {
            let state = &mut *self.state.borrow_mut();
            let Some(volume) = state.volumes.get_mut(id) else { return false };
            let image = state.catalog.image(volume.image().0);
            let is_wanted = image.is_some_and(|image| image.hydrating) && volume.inherits();
            // A failed lookup is reported already, and must be resolved first.
            if !is_wanted || volume.is_hydrating() || volume.lookup_failed() {
                return false;
            }
            volume.set_hydrating(true);
            (volume.name().to_owned(), volume.image())
        };
        let result = self.hydrate_image(id, of).await;
        let mut state = self.state.borrow_mut();
        let Some(volume) = state.volumes.get_mut(id) else { return false };
        volume.set_hydrating(false);
        if volume.image() != of {
            return true;
        }
        if !volume.lookup_failed() {
            state.report_trouble(id, result.err().map(|error| Trouble::of_hydration(&name, &error)));
        }
        false
    }

    async fn hydrate_image(&self, id: VolumeId, of: ImageId) -> Result<(), VolumeError> {
        while self.is_loading(id)? {
            yield_now().await;
        }
        let mut unreadable = 0;
        let mut failure = None;
        for (image, sequences) in self.inherited_from(id) {
            for sequence in sequences {
                if !self.has_image(id, of) {
                    return Ok(());
                }
                match self.known_of(sequence).await {
                    Ok(known) => {
                        unreadable += self.hydrate_from((id, of), image, sequence, &known.entries).await?;
                    }
                    Err(error @ (VolumeError::Busy { .. } | VolumeError::ArchiveAway { .. })) => {
                        return Err(error);
                    }
                    // Blocks there stay inherited; the rest continues.
                    Err(error) => failure = Some(error),
                }
            }
        }
        if unreadable > 0 {
            let reason = format!("{unreadable} blocks cannot be read");
            return Err(VolumeError::Archive { reason });
        }
        self.finish_hydration(id, of, failure).await
    }

    /// Whether a volume still has an image.
    fn has_image(&self, id: VolumeId, image: ImageId) -> bool {
        self.state.borrow().volumes.get(id).is_some_and(|volume| volume.image() == image)
    }

    /// Whether the inherited index of a volume is still being looked up.
    fn is_loading(&self, id: VolumeId) -> Result<bool, VolumeError> {
        match self.state.borrow().volumes.get(id).map(Volume::index) {
            Some(VolumeIndex::Inherits(_)) => Ok(true),
            Some(VolumeIndex::Ready(_)) | None => Ok(false),
            Some(VolumeIndex::Failed(_)) => {
                let reason = "what it inherited could not be looked up".to_owned();
                Err(VolumeError::Archive { reason })
            }
        }
    }

    /// The segments that may contain inherited blocks of a volume, for each of its ancestors,
    /// newest first.
    fn inherited_from(&self, id: VolumeId) -> Vec<(ImageId, Vec<SegmentSeq>)> {
        let state = self.state.borrow();
        let Some(volume) = state.volumes.get(id) else { return Vec::new() };
        let (image, above) = (volume.image().0, volume.resident_above());
        let (geometry, catalog) = (self.log.borrow().geometry(), Catalog::clone(&state.catalog));
        drop(state);
        let ranges = catalog.image_ranges(image, Lsn::MAX, |at| self.window_before(at));
        // What is above that is resident already.
        let ancestors = ranges.into_iter().skip(1).filter(|range| range.above < above);
        let segments = ancestors.map(|range| {
            let end = range.up_to.min(above);
            let oldest = geometry.sequence_of(range.above.max(self.window_before(range.up_to)).plus(1));
            let sequences = (oldest.0..=geometry.sequence_of(end).0).rev().map(SegmentSeq);
            (ImageId(range.image), sequences.collect())
        });
        segments.collect()
    }

    /// Hydrates the inherited blocks of a volume in one segment; returns how many could not be
    /// read.
    async fn hydrate_from(
        &self,
        (id, of): (VolumeId, ImageId),
        parent: ImageId,
        sequence: SegmentSeq,
        entries: &SegmentEntries,
    ) -> Result<u64, VolumeError> {
        let mut unreadable = 0;
        let mut from = 0;
        while from < entries.len() {
            let (sources, next) = self.sources((id, of), parent, entries, from);
            from = next;
            if sources.is_empty() {
                continue;
            }
            let batch = self.read_sources(sequence, sources).await?;
            for (source, data) in batch {
                let copied = {
                    let state = self.state.borrow();
                    let uncertain = state.volumes.is_uncertain(id, source.lsn);
                    let copied = source.copied(data, uncertain, state.reads.zero_block());
                    // An unreadable block may be readable later; an uncertain block never becomes
                    // certain.
                    Some(copied).filter(|copied| uncertain || !copied.bad)
                };
                match copied {
                    Some(copied) => self.append_hydrated(id, source, copied).await?,
                    None => unreadable += 1,
                }
            }
            yield_now().await;
        }
        Ok(unreadable)
    }

    /// Inherited blocks of the volume in a segment, from a record on, and the record to continue
    /// with.
    fn sources(
        &self,
        (id, of): (VolumeId, ImageId),
        parent: ImageId,
        entries: &SegmentEntries,
        from: usize,
    ) -> (Vec<Source>, usize) {
        let state = self.state.borrow();
        let mut sources = Vec::new();
        let volume = state.volumes.get(id).filter(|volume| volume.image() == of);
        let Some(volume) = volume else { return (sources, entries.len()) };
        let mut record = from;
        while record < entries.len() && sources.len() < BATCH_BLOCKS {
            let (line, of_record) = entries.record(record);
            for placed in SegmentEntries::placed(line, of_record) {
                let entry = placed.entry;
                let is_block = matches!(entry.kind(), Some(EntryKind::Write | EntryKind::Copied));
                if is_block
                    && entry.image() == parent
                    && placed.lsn <= volume.resident_above()
                    && volume.own_index().get(entry.block().0) == Mapping::new(placed.lsn, entry.crc())
                {
                    sources.push(Source::of_entry(&placed, volume.image()));
                }
            }
            record += 1;
        }
        (sources, record)
    }

    /// Reads blocks of a segment, from the primary device if the segment is there, or else from the
    /// archive.
    pub(in crate::volume) async fn read_sources(
        &self,
        sequence: SegmentSeq,
        sources: Vec<Source>,
    ) -> Result<Batch, VolumeError> {
        // Blocks that are still in flight to the device cannot be read from it.
        let last = sources.iter().map(|source| source.lsn).max().unwrap_or_default();
        self.log.borrow_mut().close_up_to(last.plus(1));
        while self.log.borrow().written_lsn() <= last {
            if let Some(reason) = self.log.borrow().poisoned() {
                return Err(VolumeError::Failed { reason: reason.to_string() });
            }
            yield_now().await;
        }
        let pinned = self.log.borrow_mut().pin(sequence);
        if pinned {
            let batch = read(Rc::clone(&self.log), sources).await;
            self.log.borrow_mut().unpin(sequence);
            return Ok(batch);
        }
        let mut batch = Vec::with_capacity(sources.len());
        for source in sources {
            let data = match self.archived_block(sequence, source.lsn, source.crc).await {
                Ok(Some(data)) => Some(self.in_dma(&data).await),
                Ok(None) => None,
                // The archive does not return the other blocks now either.
                Err(error @ VolumeError::ArchiveAway { .. }) => return Err(error),
                // One block that the archive cannot return must not stop the rest.
                Err(error) => {
                    tracing::warn!(lsn = source.lsn.0, %error, "an inherited block cannot be read");
                    None
                }
            };
            batch.push((source, data));
        }
        Ok(batch)
    }

    /// Copies a block into memory from which a device can write.
    async fn in_dma(&self, data: &[u8]) -> DmaBuf {
        loop {
            let allocated = self.log.borrow().environment().dma.allocate(BLOCK_BYTES);
            if let Ok(mut buffer) = allocated {
                buffer.as_mut_slice().copy_from_slice(data);
                return buffer.freeze();
            }
            // Records that complete free memory.
            yield_now().await;
        }
    }

    /// Appends an inherited block, if it is still inherited.
    async fn append_hydrated(&self, id: VolumeId, source: Source, copied: Copied) -> Result<(), VolumeError> {
        loop {
            {
                let mut state = self.state.borrow_mut();
                let mut log = self.log.borrow_mut();
                let Some(volume) = state.volumes.get(id) else { return Ok(()) };
                let thin = volume.is_thin();
                if volume.image() != source.image || volume.own_index().get(source.block) != source.mapping()
                {
                    return Ok(());
                }
                if thin && let Err(Refusal::Error(error)) = state.check_thin_room(1, &log) {
                    return Err(refused(error));
                }
                match log.reserve(AppendClass::Host, 1, 1, false) {
                    Ok(()) => {
                        let (block, origin) = (BlockNumber(source.block), source.origin);
                        let Copied { data, crc, bad } = copied;
                        let lsn = log.append_copied(source.image, block, data, crc, origin, bad);
                        log.note_live(lsn);
                        if state.volumes.move_block(id, source.block, Mapping::new(lsn, crc)) {
                            state.capacity.note_hydrated(thin);
                        }
                        return Ok(());
                    }
                    Err(AppendError::Busy) => state.check_not_refusing(&log)?,
                    Err(error) => return Err(error.into()),
                }
            }
            yield_now().await;
        }
    }

    /// If nothing is inherited any longer, records that in the catalog. `failure` is why a segment
    /// could not be read.
    async fn finish_hydration(
        &self,
        id: VolumeId,
        image: ImageId,
        failure: Option<VolumeError>,
    ) -> Result<(), VolumeError> {
        let Some((name, left)) = self.left_of(id, image) else { return Ok(()) };
        if left > 0
            && let Some(failure) = failure
        {
            return Err(failure);
        }
        if left > 0 {
            let reason = format!("{left} blocks were not found where they should be");
            return Err(VolumeError::Archive { reason });
        }
        let mut is_done = false;
        self.change(|catalog, head| {
            // While the change waited for room, the image may have been set to another point, if it
            // had nothing.
            is_done = self.left_of(id, image).is_some_and(|(_, left)| left == 0);
            if !is_done {
                return Ok(());
            }
            // From now on its ancestors are no longer used.
            let uncertain_below = catalog.inherited_uncertain_below(image.0).max(self.uncertain_of(id));
            if catalog.volume_of_image(image.0).is_some() {
                catalog.change_image(image.0, |image| {
                    image.hydrating = false;
                    match &mut image.resident {
                        Some(part) => part.only_from = Some(head.0),
                        None => image.hydrated_lsn = Some(head.0),
                    }
                    image.uncertain_below = image.uncertain_below.max(uncertain_below.0);
                });
            }
            self.prune_images(catalog, head);
            Ok(())
        })
        .await?;
        let mut state = self.state.borrow_mut();
        let volume = state.volumes.get_mut(id).filter(|volume| is_done && volume.image() == image);
        let Some(volume) = volume else { return Ok(()) };
        volume.note_hydrated();
        self.log.borrow_mut().forget_masks(image);
        tracing::info!(volume = name, "the volume is hydrated: it needs neither its parent nor the archive");
        Ok(())
    }
}

impl Pool {
    /// The name of a volume that has an image, and how many of its blocks it inherits.
    fn left_of(&self, id: VolumeId, image: ImageId) -> Option<(String, u64)> {
        let state = self.state.borrow();
        let volume = state.volumes.get(id).filter(|volume| volume.image() == image)?;
        Some((volume.name().to_owned(), volume.mapped() - volume.resident()))
    }

    /// The LSN below which inherited data of a volume is not certain, as far as this was found out
    /// since the start.
    fn uncertain_of(&self, id: VolumeId) -> Lsn {
        let state = self.state.borrow();
        let below = |volume: &Volume| volume.uncertain_below().min(volume.resident_above().plus(1));
        state.volumes.get(id).map_or(Lsn(0), below)
    }
}

fn refused(error: IoError) -> VolumeError {
    VolumeError::NoSpace { reason: error.to_string() }
}
