//! Opening a point from an anchor: its index in the archive, and the entries after it.
//!
//! **Why it is right.** An index is changed by the entries of its own image alone, from the birth
//! of the image on. So the state at P is the state at an earlier A with the image's entries after A
//! over it. What the image inherited is in the anchor, with every mask applied; a mask after A only
//! repeats a trim that is in the anchor or among these entries. So a scan that has reached A, and
//! has taken the anchor, is at its end, whatever the image inherits from.
//!
//! **When it may be used.** The image was born before A, by the catalog of the point. All of the
//! state at A counts, which is not so for a part of an ancestor ([`ImageRange::is_partial`]). The
//! scan that it replaces would not find that a segment is gone: blocks may lie there, and the point
//! is refused then. Mappings are to positions, not to origins.
//!
//! **Which history.** An anchor names the record that ended at its position. It is used only if the
//! log has this record there, with the same time and the same epoch: no other history has.
//!
//! **A failure costs time.** What was taken of an anchor is right, so the same scan goes on behind
//! it, down to an older anchor or to its end.
//!
//! **Bounds:** [`ANCHORS_MAX`] anchors are tried; [`PARTS_AHEAD`] parts are in flight or ready, 4
//! MiB each; the reactor runs other work between pieces of [`PIECE_LEAVES`] leaves.

use std::collections::VecDeque;

use crate::archive::anchor::{AnchorHead, AnchorPart};
use crate::archive::service::{AnchorContent, AnchorRead, ArchiveError, StoredAnchor};
use crate::log::reader::LsnRange;
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::archiving::{ComingAnchor, KnownAnchor};
use crate::volume::catalog::ImageRange;
use crate::volume::history::past::ScanReport;
use crate::volume::image::index::IndexBuilder;
use crate::volume::pool::Pool;

/// How many anchors one scan tries.
const ANCHORS_MAX: usize = 3;
/// How many parts are requested before they are needed.
const PARTS_AHEAD: usize = 4;
/// How many leaves are taken in one piece.
const PIECE_LEAVES: usize = 64;
/// How many segments are looked up in one piece.
const PIECE_SEGMENTS: usize = 1024;

/// Why an anchor was not taken to its end.
enum Unusable {
    /// It is damaged, or its objects are not what they say.
    Damaged(String),
    /// It is of another history.
    Foreign,
    /// It cannot be read now.
    Away(String),
}

impl From<ArchiveError> for Unusable {
    fn from(error: ArchiveError) -> Self {
        let reason = error.to_string();
        match error {
            ArchiveError::Store { retry: true, .. } => Unusable::Away(reason),
            _ => Unusable::Damaged(reason),
        }
    }
}

impl Pool {
    /// The anchors from which the scan of the first of these ranges may begin, newest first;
    /// the others are its ancestors.
    pub(super) async fn anchors_for(
        &self,
        ranges: &[ImageRange],
        builder: &IndexBuilder,
    ) -> Vec<KnownAnchor> {
        let Some(&ImageRange { image, above, up_to, is_partial }) = ranges.first() else {
            return Vec::new();
        };
        if is_partial || !builder.takes_leaves() {
            return Vec::new();
        }
        let first = Lsn(above.0.max(self.window_before(up_to).0));
        let found: Vec<KnownAnchor> = {
            let state = self.state.borrow();
            let archive = state.archive.get().filter(|archive| !archive.is_away());
            let found = archive.into_iter().flat_map(|archive| archive.anchors_of(image, first, up_to));
            found.take(ANCHORS_MAX).collect()
        };
        if found.is_empty() || !self.are_whole(ranges).await {
            return Vec::new();
        }
        found
    }

    /// Whether no segment of these ranges is gone, or was never archived.
    async fn are_whole(&self, ranges: &[ImageRange]) -> bool {
        let geometry = self.log.borrow().geometry();
        let mut seen = 0;
        for range in ranges {
            for sequence in self.segments_between(range.above, range.up_to).map(SegmentSeq) {
                let range = LsnRange {
                    start: geometry.first_lsn(sequence),
                    end: geometry.first_lsn(sequence.next()),
                };
                let is_there = self.log.borrow().table().slot(sequence).is_some()
                    || self.state.borrow().archive.get().is_some_and(|archive| archive.has_any(sequence));
                if !is_there || self.is_in_gap(range) {
                    return false;
                }
                seen += 1;
                if seen % PIECE_SEGMENTS == 0 {
                    yield_now().await;
                }
            }
        }
        true
    }

    /// Passes an anchor to a builder that has seen all entries after it. Returns whether it was
    /// taken to its end: then nothing older is needed.
    pub(super) async fn take_anchor(
        &self,
        anchor: &KnownAnchor,
        head: ComingAnchor,
        builder: &mut IndexBuilder,
        report: &mut ScanReport,
    ) -> bool {
        let (image, lsn) = (anchor.id.image, anchor.id.lsn);
        let (why, is_damaged) = match self.feed_anchor(anchor, head, builder, report).await {
            Ok(()) => {
                report.anchor_lsn = Some(lsn);
                return true;
            }
            Err(Unusable::Away(why)) => {
                tracing::warn!(image, lsn = lsn.0, why, "an anchor cannot be read; entries are read instead");
                return false;
            }
            Err(Unusable::Damaged(why)) => (why, true),
            Err(Unusable::Foreign) => ("the log has another record there".to_owned(), false),
        };
        tracing::warn!(image, lsn = lsn.0, why, "an anchor is not used any more; entries are read instead");
        self.forget_anchor(&anchor.id, is_damaged);
        false
    }

    async fn feed_anchor(
        &self,
        anchor: &KnownAnchor,
        head: ComingAnchor,
        builder: &mut IndexBuilder,
        report: &mut ScanReport,
    ) -> Result<(), Unusable> {
        let arrived = head.arrive().await?;
        let AnchorContent::Head(head) = &*arrived else { unreachable!("a head was requested") };
        self.check_record(anchor, head).await?;
        report.anchor_bytes += AnchorHead::bytes_of(anchor.parts) as u64;
        // What is hidden does not change while the anchor is taken.
        let takes = |number: &u32| {
            let (start, end) = head.blocks_of(*number);
            builder.takes_any(start, end)
        };
        let wanted: Vec<u32> = (0..anchor.parts).filter(takes).collect();
        let mut wanted = wanted.into_iter();
        let mut coming: VecDeque<(u32, ComingAnchor)> = VecDeque::new();
        loop {
            while coming.len() < PARTS_AHEAD
                && let Some(number) = wanted.next()
            {
                let AnchorPart { bytes, digest, .. } = head.parts[number as usize];
                let read = AnchorRead::Part(number, StoredAnchor { bytes, digest });
                let read = self.begin_anchor(anchor.id, read);
                let read = read.map_err(|error| Unusable::Away(error.to_string()))?;
                coming.push_back((number, read));
            }
            let Some((number, part)) = coming.pop_front() else { return Ok(()) };
            let arrived = part.arrive().await?;
            let AnchorContent::Leaves(leaves) = &*arrived else { unreachable!("a part was requested") };
            let damaged = |damage| Unusable::Damaged(format!("part {number}: {damage}"));
            head.check_part(number, leaves).map_err(damaged)?;
            report.anchor_bytes += u64::from(head.parts[number as usize].bytes);
            for place in (0..leaves.len()).step_by(PIECE_LEAVES) {
                for (number, mappings) in leaves.iter_from(place).take(PIECE_LEAVES) {
                    builder.see_leaf(number, mappings);
                }
                yield_now().await;
            }
            drop(arrived);
        }
    }

    /// Whether the log has the record that an anchor names.
    async fn check_record(&self, anchor: &KnownAnchor, head: &AnchorHead) -> Result<(), Unusable> {
        let sequence = self.log.borrow().geometry().sequence_of(anchor.id.lsn);
        let known = self.known_of(sequence).await;
        let known = known.map_err(|error| Unusable::Away(error.to_string()))?;
        let Some(line) = known.entries.line_at(head.record.lsn) else {
            // It may only be unknown.
            let is_unknown = known.hole_between(Lsn(head.record.lsn.0.saturating_sub(1)), head.record.lsn);
            let why = || Unusable::Away("the record before it is not known".to_owned());
            return Err(is_unknown.map_or(Unusable::Foreign, |_| why()));
        };
        let is_same = line.time_ns() == head.record.time_ns
            && line.epoch() == head.record.epoch
            && line.end_lsn() == anchor.id.lsn.plus(1);
        if is_same { Ok(()) } else { Err(Unusable::Foreign) }
    }
}
