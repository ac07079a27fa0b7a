//! The volumes of a pool that is not open: the catalog in force, the synchs, and every volume's
//! index, rebuilt from the segments alone.
//!
//! One pass over the segments, newest first, builds all indexes at once. An image gets its own
//! entries, then its parent's up to the point of the clone, and so on, each generation from the W+1
//! segments that end at its point. Positions only fall along such a chain, so one pass finds its
//! entries in the right order.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::log::format::{EntryKind, EventHead, EventKind};
use crate::log::inspect::LogView;
use crate::log::reader::{PlacedEntry, ReadError, SegmentEntries};
use crate::log::{Lsn, SegmentSeq};
use crate::volume::catalog::{Catalog, CatalogFinder, CatalogImage, CatalogSnapshot, CatalogVolume, reach};
use crate::volume::history::event::{EventCollector, FoundEvent};
use crate::volume::history::past::see;
use crate::volume::image::index::{Index, IndexBuilder};
use crate::volume::info::SynchInfo;
use crate::volume::manage::operations::VOLUME_BLOCKS_MAX;

/// A volume with its rebuilt index.
pub(crate) struct VolumeView {
    /// Its entry in the catalog.
    pub(crate) catalog: CatalogVolume,
    /// Its image.
    pub(crate) image: Option<CatalogImage>,
    /// The index, rebuilt.
    pub(crate) index: Index,
    /// Mappings below this LSN are not certain; 0 if all are.
    pub(crate) uncertain_below: Lsn,
    /// The images whose entries the index may contain.
    images: BTreeSet<u32>,
}

impl VolumeView {
    /// Whether the index says that an entry's data is the volume's current content.
    pub(crate) fn holds(&self, placed: &PlacedEntry) -> bool {
        matches!(placed.entry.kind(), Some(EntryKind::Write | EntryKind::Copied))
            && self.images.contains(&placed.entry.image().0)
            && self.index.get(placed.entry.block().0).lsn() == placed.lsn
    }
}

/// The volumes of a pool.
pub(crate) struct VolumesView {
    /// The position of the catalog in force; `None` if there is none.
    pub(crate) catalog_lsn: Option<Lsn>,
    /// Every image.
    pub(crate) images: Vec<CatalogImage>,
    /// Every snapshot.
    pub(crate) snapshots: Vec<CatalogSnapshot>,
    /// Every volume.
    pub(crate) volumes: Vec<VolumeView>,
    /// Every synch in the log, oldest first.
    pub(crate) synchs: Vec<SynchInfo>,
    /// The problems, as text for the operator.
    pub(crate) problems: Vec<String>,
}

/// One generation of a volume's image: the entries that count for it.
struct Generation {
    /// The volume, by its place in the catalog.
    volume: usize,
    /// Entries at or before this count.
    up_to: Lsn,
    /// Entries of this segment and later ones count.
    oldest: SegmentSeq,
}

impl VolumesView {
    /// Reads the catalog and rebuilds everything.
    ///
    /// # Errors
    /// No memory. Damaged parts are left out, and listed in [`problems`](Self::problems).
    pub(crate) async fn build(log: &LogView) -> Result<Self, ReadError> {
        let mut problems = Vec::new();
        let (mut catalog, catalog_lsn) = match find_catalog(log, &mut problems).await? {
            Some((catalog, lsn)) => (catalog, Some(lsn)),
            None => (Catalog::default(), None),
        };
        let new_losses = log.lost().iter().filter(|lost| !catalog.lost.contains(lost)).copied();
        let new_losses: Vec<_> = new_losses.collect();
        catalog.lost.extend(new_losses);
        let mut builders: Vec<IndexBuilder> =
            catalog.volumes.iter().map(|volume| IndexBuilder::new(volume.size_blocks)).collect();
        let generations = generations(&catalog, log);
        let mut events = Vec::new();
        for sequence in present(log) {
            let Some(entries) = readable(log, sequence, &mut problems).await? else { continue };
            let mut collector = EventCollector::default();
            entries.visit_backward(Lsn::MAX, |placed| {
                if placed.entry.kind() == Some(EntryKind::Event) {
                    collector.see(&placed);
                }
                if placed.lsn > Lsn::MAX || placed.entry.block().0 >= VOLUME_BLOCKS_MAX {
                    return true;
                }
                let wanted = generations.get(&placed.entry.image().0);
                for generation in wanted.into_iter().flatten() {
                    if placed.lsn <= generation.up_to && sequence >= generation.oldest {
                        see(&mut builders[generation.volume], &placed);
                    }
                }
                true
            });
            events.extend(collector.found.into_iter().filter(|event| event.kind == EventKind::Synch));
        }
        let mut synchs = Vec::new();
        let deleted: HashSet<u64> = catalog.deleted_synchs.iter().copied().collect();
        for event in events.iter().rev().filter(|event| !deleted.contains(&event.lsn.0)) {
            synchs.push(synch(log, event, &mut problems).await?);
        }
        let volumes = catalog.volumes.iter().zip(builders).map(|(volume, builder)| VolumeView {
            catalog: volume.clone(),
            image: catalog.image(volume.image).cloned(),
            index: builder.finish(),
            uncertain_below: catalog.uncertain_below(volume.image, Lsn::MAX),
            images: ancestry(&catalog, volume).map(|(image, _)| image).collect(),
        });
        let volumes = volumes.collect();
        let (images, snapshots) =
            (catalog.images.iter().cloned().collect(), catalog.snapshots.iter().collect());
        Ok(VolumesView { catalog_lsn, images, snapshots, volumes, synchs, problems })
    }

    /// The volume with a name.
    pub(crate) fn find(&self, name: &str) -> Option<&VolumeView> {
        self.volumes.iter().find(|volume| volume.catalog.name == name)
    }
}

/// The segments on the device, newest first.
fn present(log: &LogView) -> Vec<SegmentSeq> {
    let segments = log.segments().rev();
    segments.filter(|(_, segment)| segment.slot.is_some()).map(|(sequence, _)| sequence).collect()
}

async fn readable(
    log: &LogView,
    sequence: SegmentSeq,
    problems: &mut Vec<String>,
) -> Result<Option<std::rc::Rc<SegmentEntries>>, ReadError> {
    match log.entries(sequence).await? {
        Ok(entries) => Ok(Some(entries)),
        Err(reason) => {
            problems.push(format!("segment {sequence}: its entries cannot be read: {reason}"));
            Ok(None)
        }
    }
}

/// The newest readable catalog, and its position.
async fn find_catalog(
    log: &LogView,
    problems: &mut Vec<String>,
) -> Result<Option<(Catalog, Lsn)>, ReadError> {
    let mut finder = CatalogFinder::default();
    for sequence in present(log) {
        // The pass over all segments reports what is wrong with this one.
        let Ok(entries) = log.entries(sequence).await? else { continue };
        let events = EventCollector::events(&entries, Lsn::MAX);
        for event in events.iter().filter(|event| CatalogFinder::wants(event.kind)) {
            let text = text(log, event).await?;
            if let Some(found) = finder.see(event.kind, event.lsn, text.as_deref()) {
                problems.extend(found.problems);
                return Ok(found.whole_lsn.map(|lsn| (found.catalog, lsn)));
            }
        }
    }
    problems.extend(finder.nothing_older().problems);
    Ok(None)
}

/// The image of a volume and its ancestors, each with the last position whose entries count.
fn ancestry<'a>(catalog: &'a Catalog, volume: &CatalogVolume) -> impl Iterator<Item = (u32, Lsn)> + 'a {
    // An image is younger than its parent; if a damaged catalog says otherwise, the chain ends.
    std::iter::successors(Some((volume.image, Lsn::MAX)), |&(image, _)| {
        let parent = catalog.image(image)?.parent?;
        (parent.image < image).then_some((parent.image, Lsn(parent.lsn)))
    })
}

/// For each image, the volumes that are built from its entries.
fn generations(catalog: &Catalog, log: &LogView) -> HashMap<u32, Vec<Generation>> {
    let geometry = log.geometry();
    let newest = log.segments().next_back().map_or(SegmentSeq(0), |(sequence, _)| sequence);
    let mut generations: HashMap<u32, Vec<Generation>> = HashMap::new();
    for (index, volume) in catalog.volumes.iter().enumerate() {
        for (image, up_to) in ancestry(catalog, volume) {
            let end = geometry.sequence_of(up_to).min(newest);
            let working_set = reach(&catalog.working_sets, end).unwrap_or(geometry.working_set);
            let oldest = SegmentSeq(end.0.saturating_sub(working_set));
            generations.entry(image).or_default().push(Generation { volume: index, up_to, oldest });
        }
    }
    generations
}

async fn synch(
    log: &LogView,
    event: &FoundEvent,
    problems: &mut Vec<String>,
) -> Result<SynchInfo, ReadError> {
    let decoded = text(log, event).await?.and_then(|text| serde_json::from_slice::<SynchInfo>(&text).ok());
    let synch = decoded.unwrap_or_else(|| {
        let synch = SynchInfo::damaged(event.lsn.0, event.time_ns);
        problems.push(synch.damage());
        synch
    });
    Ok(SynchInfo { lsn: event.lsn.0, ..synch })
}

/// An event's text, each chunk from whichever copy is valid; `None` if neither is. The check of all
/// data blocks finds damaged copies.
async fn text(log: &LogView, event: &FoundEvent) -> Result<Option<Vec<u8>>, ReadError> {
    let mut text = Vec::new();
    for chunk in 0..event.chunks() {
        let mut whole = None;
        for (lsn, crc) in (0..EventHead::COPIES).filter_map(|copy| event.chunk(copy, chunk)) {
            let sequence = log.geometry().sequence_of(lsn);
            let Some(slot) = log.survey.table.slot(sequence) else { continue };
            match log.reader().read_checked(slot, lsn, crc).await {
                Ok(Some(block)) => {
                    whole = Some(block);
                    break;
                }
                // The other copy may be readable.
                Ok(None) | Err(ReadError::Device(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(block) = whole else { return Ok(None) };
        text.extend_from_slice(block.as_slice());
    }
    Ok(event.cut(text))
}
