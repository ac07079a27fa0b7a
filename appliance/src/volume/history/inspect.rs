//! The volumes of a pool that is not open: the catalog in force, the synchs, and every volume's
//! index, rebuilt from the segments alone.
//!
//! One pass over the segments, newest first, builds all indexes at once. An image gets its own
//! entries, then its parent's up to the point of the clone, and so on, each range from the W+1
//! segments that end at its point. Positions only fall along such a chain, so one pass finds its
//! entries in the right order.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::log::format::{EntryKind, EventHead, EventKind};
use crate::log::inspect::LogView;
use crate::log::reader::{PlacedEntry, ReadError, SegmentEntries};
use crate::log::{Lsn, SegmentSeq};
use crate::volume::catalog::{
    self, Catalog, CatalogFinder, CatalogImage, CatalogSnapshot, CatalogVolume, reach,
};
use crate::volume::history::event::{EventCollector, FoundEvent};
use crate::volume::history::past::see;
use crate::volume::image::index::{Index, IndexBuilder};
use crate::volume::info::SynchInfo;
use crate::volume::manage::checks::VOLUME_BLOCKS_MAX;

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

/// One range of a volume's image: the entries that count for it.
struct VolumeRange {
    /// The volume, by its place in the catalog.
    volume: usize,
    /// How many ranges are younger.
    depth: usize,
    /// Entries after this count.
    above: Lsn,
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
        catalog.extend_lost(new_losses);
        let mut builders: Vec<IndexBuilder> =
            catalog.volumes.iter().map(|volume| IndexBuilder::new(volume.size_blocks)).collect();
        let ranges = ranges(&catalog, log);
        let mut begun = vec![0; builders.len()];
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
                let wanted = ranges.get(&placed.entry.image().0);
                for range in wanted.into_iter().flatten() {
                    let counts = placed.lsn > range.above && placed.lsn <= range.up_to;
                    if counts && sequence >= range.oldest {
                        let (builder, begun) = (&mut builders[range.volume], &mut begun[range.volume]);
                        while *begun < range.depth {
                            builder.begin_parent();
                            *begun += 1;
                        }
                        see(builder, &placed);
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
            images: of_volume(&catalog, log, volume).iter().map(|range| range.image).collect(),
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

/// The ranges of a volume's image, youngest first.
fn of_volume(catalog: &Catalog, log: &LogView, volume: &CatalogVolume) -> Vec<catalog::ImageRange> {
    let geometry = log.geometry();
    let first_lsn = |at: Lsn| geometry.first_lsn(oldest_of(catalog, log, at));
    catalog.image_ranges(volume.image, newest_lsn(log), |at| Lsn(first_lsn(at).0.saturating_sub(1)))
}

/// A position at or after the end of the log, in its newest segment.
fn newest_lsn(log: &LogView) -> Lsn {
    let newest = log.segments().next_back().map_or(SegmentSeq(0), |(sequence, _)| sequence);
    Lsn(log.geometry().first_lsn(newest.next()).0 - 1)
}

/// The oldest of the W+1 segments that end at a position.
fn oldest_of(catalog: &Catalog, log: &LogView, at: Lsn) -> SegmentSeq {
    let geometry = log.geometry();
    let end = geometry.sequence_of(at);
    let working_set = reach(&catalog.working_sets, end).unwrap_or(geometry.working_set);
    SegmentSeq(end.0.saturating_sub(working_set))
}

/// For each image, the volumes that are built from its entries.
fn ranges(catalog: &Catalog, log: &LogView) -> HashMap<u32, Vec<VolumeRange>> {
    let mut ranges: HashMap<u32, Vec<VolumeRange>> = HashMap::new();
    for (place, volume) in catalog.volumes.iter().enumerate() {
        for (depth, range) in of_volume(catalog, log, volume).into_iter().enumerate() {
            let catalog::ImageRange { image, above, up_to, .. } = range;
            let oldest = oldest_of(catalog, log, up_to);
            let of_image = ranges.entry(image).or_default();
            of_image.push(VolumeRange { volume: place, depth, above, up_to, oldest });
        }
    }
    ranges
}

async fn synch(
    log: &LogView,
    event: &FoundEvent,
    problems: &mut Vec<String>,
) -> Result<SynchInfo, ReadError> {
    let decoded = text(log, event).await?.and_then(|text| SynchInfo::of_text(event.lsn.0, &text));
    Ok(decoded.unwrap_or_else(|| {
        let synch = SynchInfo::damaged(event.lsn.0, event.time_ns);
        problems.push(synch.damage());
        synch
    }))
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
