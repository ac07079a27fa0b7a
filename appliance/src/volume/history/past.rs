//! The history: what a point is, which volumes there were, and the index of an image at a point.
//!
//! The entries at or before LSN P determine the state at P. An index at P is built by scanning
//! backward from P, where the first entry found for a block wins (R28, R29), over at most W+1
//! segments for each image of a clone (R30); the count is asserted and reported. The scan of a
//! large working set ends at an anchor, which has everything older (`anchored`).
//!
//! *Unreadable entries** are looked up in the archive (`known`). If neither the device nor the
//! archive has them, nothing is guessed: older mappings of an index are not certain, which the
//! report says; a point that may be in the unknown range is refused; a catalog that may have been
//! replaced in it is reported.

use smallvec::SmallVec;

use crate::archive::service::AnchorRead;
use crate::log::format::EntryKind;
use crate::log::reader::{LsnRange, PlacedEntry};
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::archiving::Ahead;
use crate::volume::catalog::{Catalog, CatalogFinder, CatalogVolume, FoundCatalog, ImageRange};
use crate::volume::error::VolumeError;
use crate::volume::history::event::EventCollector;
use crate::volume::history::known::Known;
use crate::volume::image::index::{Index, IndexBuilder, Mapping};
use crate::volume::info::ScanCost;
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// How an index was built.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::volume) struct ScanReport {
    /// The maximum number of segments that the scan of one image read.
    pub(in crate::volume) segments_touched: u64,
    /// The bound for one image: W+1, with the W that was in force.
    pub(in crate::volume) segments_bound: u64,
    /// How many entries were read.
    pub(in crate::volume) entries_scanned: u64,
    /// Mappings below this LSN are not certain, because later entries that may have replaced them
    /// could not be read; 0: all are certain.
    pub(in crate::volume) uncertain_below: Lsn,
    /// Whether the image itself may have entries at or before the point: some were seen, or not all
    /// segments since its birth were read.
    pub(in crate::volume) is_written: bool,
    /// The position of the anchor that was used, if there was one.
    pub(in crate::volume) anchor_lsn: Option<Lsn>,
    /// How many bytes of anchors were read.
    pub(in crate::volume) anchor_bytes: u64,
    /// For the lookup of what a volume inherited: its progress.
    pub(in crate::volume) loading: Option<Loading>,
}

impl ScanReport {
    /// What operators see of it.
    pub(in crate::volume) fn cost(&self) -> ScanCost {
        ScanCost {
            segments_touched: self.segments_touched,
            segments_bound: self.segments_bound,
            entries_scanned: self.entries_scanned,
            anchor_lsn: self.anchor_lsn.map(|lsn| lsn.0),
            anchor_bytes: self.anchor_bytes,
        }
    }
}

/// How far the lookup of what a volume inherited is.
#[derive(Debug, Clone, Copy)]
pub(in crate::volume) struct Loading {
    pub(in crate::volume) volume: VolumeId,
    /// How many segments were read, and how many there are.
    pub(in crate::volume) read: u64,
    pub(in crate::volume) of: u64,
}

/// How a scan handles a segment that neither the primary device nor the archive has, and that is
/// not recorded as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum Nowhere {
    /// Refuse the point, because its history is gone.
    Refuse,
    /// Skip it: the data that a clone keeps of it has been copied.
    Skip,
    /// Treat it as a hole, because a volume needs it: data older than its end is not certain.
    Hole,
}

/// The end of a command at or before a position.
#[derive(Debug, Clone, Copy)]
pub(in crate::volume) struct Boundary {
    pub(in crate::volume) lsn: Lsn,
    pub(in crate::volume) time_ns: u64,
    /// Whether an event ends there, and not a host's command.
    pub(in crate::volume) is_event: bool,
}

/// The newest catalog at or before a position that can be read.
pub(in crate::volume) struct CatalogThen {
    pub(in crate::volume) catalog: Catalog,
    /// The oldest event after it, at or before the position, that cannot be read.
    unread: Option<Lsn>,
    /// Whether it is the one that was in force: all events could be read, and none is in an unknown
    /// range.
    pub(in crate::volume) is_whole: bool,
}

impl Pool {
    /// Makes everything appended so far readable as entries, so that "now" is now. Returns where
    /// the log ends.
    pub(in crate::volume) fn close_up_to_now(&self) -> Lsn {
        let mut log = self.log.borrow_mut();
        let head = log.commit_lsn();
        log.close_up_to(head);
        head
    }

    /// The end of the last complete command known at or before `lsn`; LSN 0 if there is none. If a
    /// later one may be in an unknown range, that is reported.
    pub(in crate::volume) async fn boundary(&self, lsn: Lsn) -> Result<Boundary, VolumeError> {
        let (boundary, unknown) = self.boundary_and_hole(lsn).await?;
        if let Some(hole) = unknown {
            let (start, end) = (hole.start, hole.end);
            self.note_problem(format!(
                "the records at LSN {start} to {end} are not known; the newest command that is known before LSN {lsn} ended at LSN {}. Points between are not available: use that one",
                boundary.lsn
            ));
        }
        Ok(boundary)
    }

    /// The same, with the newest unknown range between it and `lsn`.
    pub(in crate::volume) async fn boundary_and_hole(
        &self,
        lsn: Lsn,
    ) -> Result<(Boundary, Option<LsnRange>), VolumeError> {
        let (created_ns, mut sequence) = {
            let log = self.log.borrow();
            (log.created_ns(), log.geometry().sequence_of(lsn))
        };
        let mut unknown = None;
        loop {
            let known = self.known_of(sequence).await?;
            let mut found = None;
            known.entries.visit_backward(lsn, |placed| {
                if placed.entry.is_last() {
                    let is_event = placed.entry.kind() == Some(EntryKind::Event);
                    found = Some(Boundary { lsn: placed.lsn, time_ns: placed.time_ns, is_event });
                }
                found.is_none()
            });
            let from = found.map_or(Lsn(0), |boundary| boundary.lsn);
            unknown = unknown.or_else(|| known.hole_between(from, lsn));
            if let Some(boundary) = found {
                return Ok((boundary, unknown));
            }
            if sequence.0 == 0 {
                return Ok((Boundary { lsn: Lsn(0), time_ns: created_ns, is_event: false }, unknown));
            }
            sequence = SegmentSeq(sequence.0 - 1);
        }
    }

    /// The catalog in force at a position. If a newer one may be in an unknown range, that is
    /// reported: what is older than the range is then uncertain in every image.
    ///
    /// # Errors
    /// An event that it is made from cannot be read, so that the images and the sizes of volumes
    /// there are not known; its history is gone; the store is away.
    pub(in crate::volume) async fn catalog_at(&self, lsn: Lsn) -> Result<Catalog, VolumeError> {
        let found = self.find_catalog(lsn).await?;
        let Some(unread) = found.unread else { return Ok(found.catalog) };
        let geometry = self.log.borrow().geometry();
        let again = geometry.first_lsn(geometry.sequence_of(lsn).next());
        Err(VolumeError::NoSuchPoint {
            point: format!("lsn:{lsn}"),
            reason: format!(
                "the volumes of that time are not known, because the catalog at LSN {unread} cannot be read now; choose a point before it, or one from lsn:{again} on"
            ),
        })
    }

    /// The same, and what is known of it: the newest that can be read.
    pub(in crate::volume) async fn find_catalog(&self, lsn: Lsn) -> Result<CatalogThen, VolumeError> {
        let mut sequence = self.log.borrow().geometry().sequence_of(lsn);
        let (mut unknown, mut finder) = (None, CatalogFinder::default());
        loop {
            let known = self.known_of(sequence).await?;
            let events = EventCollector::events(&known.entries, lsn);
            for event in events.iter().filter(|event| CatalogFinder::wants(event.kind)) {
                let text = self.read_event(event).await?;
                if let Some(found) = finder.see(event.kind, event.lsn, text.as_deref()) {
                    let unknown = unknown.or_else(|| known.hole_between(event.lsn, lsn));
                    if let Some(hole) = unknown {
                        self.note_problem(format!(
                            "the records at LSN {} to {} are not known; points before them are whole; the catalog of LSN {} is used for what is after them, and what was changed in them is missing",
                            hole.start, hole.end, event.lsn
                        ));
                    }
                    return Ok(self.take_found(found, unknown.is_none()));
                }
            }
            unknown = unknown.or_else(|| known.hole_between(Lsn(0), lsn));
            if sequence.0 == 0 {
                return Ok(self.take_found(finder.nothing_older(), false));
            }
            sequence = SegmentSeq(sequence.0 - 1);
        }
    }

    fn take_found(&self, found: FoundCatalog, is_known: bool) -> CatalogThen {
        found.problems.into_iter().for_each(|problem| self.note_problem(problem));
        CatalogThen {
            catalog: found.catalog,
            unread: found.unread,
            is_whole: is_known && found.unread.is_none(),
        }
    }

    /// Whether a range left the primary device without having been archived. Ranges that the device
    /// has lost count as uncertain instead, which refuses only the blocks that may have been in
    /// them.
    pub(in crate::volume) fn is_in_gap(&self, hole: LsnRange) -> bool {
        let catalog = &self.state.borrow().catalog;
        let has =
            |ranges: &[LsnRange]| ranges.iter().any(|range| range.start < hole.end && range.end > hole.start);
        has(&catalog.gaps) && !has(&catalog.lost)
    }

    /// Stores a problem for the operator, once.
    pub(in crate::volume) fn note_problem(&self, problem: String) {
        self.state.borrow_mut().problems.note(problem);
    }

    /// The index of a volume's image at a position, by scanning backward from there.
    pub(in crate::volume) async fn index_at(
        &self,
        catalog: &Catalog,
        volume: &CatalogVolume,
        lsn: Lsn,
    ) -> Result<(Index, ScanReport), VolumeError> {
        let mut builder = IndexBuilder::new(volume.size_blocks);
        let mut report = ScanReport::default();
        self.scan_generations(catalog, volume.image, lsn, &mut builder, &mut report, Nowhere::Refuse).await?;
        Ok((builder.finish(), report))
    }

    /// Feeds a builder with the entries of an image at or before `lsn`, newest first, and then with
    /// those of its ancestors. If there is a usable anchor of one of them, it takes the place of
    /// everything older.
    pub(in crate::volume) async fn scan_generations(
        &self,
        catalog: &Catalog,
        image: u32,
        lsn: Lsn,
        builder: &mut IndexBuilder,
        report: &mut ScanReport,
        nowhere: Nowhere,
    ) -> Result<(), VolumeError> {
        let ranges = catalog.image_ranges(image, lsn, |at| self.window_before(at));
        for (depth, range) in ranges.iter().enumerate() {
            let entries_of = self.scan_image(&ranges[depth..], builder, report, nowhere).await?;
            let is_anchored = report.anchor_lsn.is_some();
            if range.image == image {
                let is_all = self.window_before(lsn) <= range.above;
                // Images that were never written have no anchors.
                report.is_written = entries_of > 0 || !is_all || report.uncertain_below.0 > 0 || is_anchored;
            }
            if is_anchored {
                break;
            }
            builder.begin_parent();
        }
        Ok(())
    }

    /// Feeds the first of these ranges; the others are its ancestors. Returns how many of its
    /// entries were found. If the report has an anchor afterwards, the ancestors are not needed.
    pub(in crate::volume) async fn scan_image(
        &self,
        ranges: &[ImageRange],
        builder: &mut IndexBuilder,
        report: &mut ScanReport,
        nowhere: Nowhere,
    ) -> Result<u64, VolumeError> {
        let Some(&ImageRange { image, above: born, up_to, .. }) = ranges.first() else { return Ok(0) };
        let segments = self.segments_between(born, up_to);
        let bound = self.working_set_at(SegmentSeq(*segments.end())) + 1;
        report.segments_bound = report.segments_bound.max(bound);
        // Read at most W+1 segments that end at P, and none from before the image's birth.
        let oldest = SegmentSeq(*segments.start());
        let mut scan = Scan { image, lsn: up_to, oldest, nowhere, last: None, touched: 0, entries_of: 0 };
        let mut up_to = up_to;
        for anchor in self.anchors_for(ranges, builder).await {
            let head = self.begin_anchor(anchor.id, AnchorRead::Head(anchor.parts))?;
            self.scan_stretch(&mut scan, (anchor.id.lsn, up_to), builder, report).await?;
            up_to = anchor.id.lsn;
            if self.take_anchor(&anchor, head, builder, report).await {
                break;
            }
        }
        if report.anchor_lsn.is_none() {
            self.scan_stretch(&mut scan, (born, up_to), builder, report).await?;
        }
        assert!(scan.touched <= bound, "a scan stays within W+1 segments");
        report.segments_touched = report.segments_touched.max(scan.touched);
        Ok(scan.entries_of)
    }

    /// Feeds the entries of an image after one position, and at or before another.
    async fn scan_stretch(
        &self,
        scan: &mut Scan,
        (above, up_to): (Lsn, Lsn),
        builder: &mut IndexBuilder,
        report: &mut ScanReport,
    ) -> Result<(), VolumeError> {
        if above >= up_to {
            return Ok(());
        }
        let geometry = self.log.borrow().geometry();
        let newest = geometry.sequence_of(up_to);
        let oldest = scan.oldest.max(geometry.sequence_of(above.plus(1))).min(newest);
        let mut ahead = Ahead::new(newest, oldest);
        for sequence in (oldest.0..=newest.0).rev().map(SegmentSeq) {
            let known = match self.next_known(sequence, &mut ahead).await {
                Err(VolumeError::NoSuchPoint { .. }) if scan.nowhere == Nowhere::Skip => continue,
                Err(VolumeError::NoSuchPoint { .. })
                    if scan.nowhere == Nowhere::Hole && !self.may_come_back(sequence) =>
                {
                    Known::nothing(LsnRange {
                        start: geometry.first_lsn(sequence),
                        end: geometry.first_lsn(sequence.next()),
                    })
                }
                known => known?,
            };
            // Two stretches may share a segment.
            scan.touched += u64::from(scan.last.replace(sequence) != Some(sequence));
            let mut soon = Soon::new();
            known.entries.visit_backward(up_to, |placed| {
                report.entries_scanned += 1;
                if placed.entry.image().0 == scan.image && placed.lsn > above {
                    scan.entries_of += 1;
                    builder.prefetch(placed.entry.block().0);
                    soon.push(placed);
                    if soon.len() == SEEN_TOGETHER {
                        soon.drain(..).for_each(|placed| see(builder, &placed));
                    }
                }
                placed.lsn > above
            });
            soon.drain(..).for_each(|placed| see(builder, &placed));
            if let Some(hole) = known.hole_between(above, up_to) {
                self.note_hole(scan, sequence, hole, report)?;
            }
            if let Some(loading) = &mut report.loading {
                loading.read += 1;
                let mut state = self.state.borrow_mut();
                if let Some(volume) = state.volumes.get_mut(loading.volume) {
                    volume.note_loading(loading.read, loading.of);
                }
            }
            yield_now().await;
        }
        Ok(())
    }

    /// Notes that entries of a scan are not known.
    fn note_hole(
        &self,
        scan: &Scan,
        sequence: SegmentSeq,
        hole: LsnRange,
        report: &mut ScanReport,
    ) -> Result<(), VolumeError> {
        // A range that left the device unarchived is not damage: such a point is refused. An
        // existing volume serves what is not in the range.
        if scan.nowhere != Nowhere::Hole && self.is_in_gap(hole) {
            return if scan.nowhere == Nowhere::Skip { Ok(()) } else { Err(self.gone(sequence)) };
        }
        self.note_problem(format!(
            "the records at LSN {} to {} are not known; what is older in images that they may have changed is not served. Points before them are whole",
            hole.start, hole.end
        ));
        report.uncertain_below = report.uncertain_below.max(hole.end.min(scan.lsn.plus(1)));
        Ok(())
    }
}

/// How many entries of a scan are prefetched together. In the index of a large volume each entry is
/// two cache misses, and a processor waits for about this many at once.
const SEEN_TOGETHER: usize = 16;

/// Entries whose places in the index are prefetched, in the order in which they count.
type Soon = SmallVec<[PlacedEntry; SEEN_TOGETHER]>;

/// The scan of a range.
struct Scan {
    image: u32,
    /// Its newest position.
    lsn: Lsn,
    /// The oldest segment that it may read.
    oldest: SegmentSeq,
    nowhere: Nowhere,
    /// The segment that was read last.
    last: Option<SegmentSeq>,
    /// How many segments were read.
    touched: u64,
    /// How many entries of the image were found.
    entries_of: u64,
}

/// The error for a point that may be in an unknown range.
pub(in crate::volume) fn in_hole(point: &str, hole: LsnRange) -> VolumeError {
    let (before, behind) = (hole.start.0.saturating_sub(1), hole.end);
    VolumeError::NoSuchPoint {
        point: point.to_owned(),
        reason: format!(
            "it may lie in the records at LSN {} to {}, which cannot be read; choose lsn:{before} or one before it, or one behind lsn:{behind}",
            hole.start, hole.end
        ),
    }
}

/// The position at which the content of a block's entry was first written.
pub(in crate::volume) fn origin_of(placed: &PlacedEntry) -> Lsn {
    let origin = Lsn(placed.entry.value());
    let is_known = placed.entry.kind() == Some(EntryKind::Copied) && origin.0 > 0 && origin <= placed.lsn;
    if is_known { origin } else { placed.lsn }
}

/// Passes an entry to a builder.
pub(in crate::volume) fn see(builder: &mut IndexBuilder, placed: &PlacedEntry) {
    match placed.entry.kind() {
        Some(EntryKind::Write | EntryKind::Copied) => {
            let lsn = if builder.is_of_origins() { origin_of(placed) } else { placed.lsn };
            builder.see_write(placed.entry.block().0, Mapping::new(lsn, placed.entry.crc()));
        }
        Some(EntryKind::Trim) => builder.see_trim(placed.entry.block().0, placed.entry.value()),
        Some(EntryKind::Mask) => {
            builder.see_mask(placed.entry.block().0, placed.entry.value());
        }
        Some(EntryKind::Event | EntryKind::Opening) | None => {}
    }
}
