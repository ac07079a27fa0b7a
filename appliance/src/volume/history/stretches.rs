//! Which points can be opened: the stretches of the log that are there without a hole, on the
//! primary device or in the archive, and the gaps between them.
//!
//! A point needs the segments of its working set before it, so the first segments of a stretch are
//! only there for the points after them. Data that clones inherited, and blocks that cannot be
//! read, are not looked at here.
//!
//! **Cost:** one pass over the names of the archived segments, in pieces.

use crate::log::reader::LsnRange;
use crate::log::table::Phase;
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::text::units::format_time;
use crate::volume::error::VolumeError;
use crate::volume::history::past::Boundary;
use crate::volume::history::point::NamedPoint;
use crate::volume::history::point_info::{GapInfo, GapReason, PointAt};
use crate::volume::pool::Pool;

/// How many archived segments one turn of the reactor passes.
const PIECE_SEGMENTS: usize = 2048;

/// Segments that follow each other, all of them there, at least in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) struct Stretch {
    pub(in crate::volume) first: SegmentSeq,
    pub(in crate::volume) last: SegmentSeq,
    /// The first segment whose points can be opened; after `last` if there is none.
    pub(in crate::volume) opens_from: SegmentSeq,
}

impl Stretch {
    fn can_be_opened(&self) -> bool {
        self.opens_from <= self.last
    }
}

impl Pool {
    /// The stretches of the log, oldest first. The last one ends with the log, if anything is
    /// there.
    pub(in crate::volume) async fn stretches(&self) -> Vec<Stretch> {
        let on_device: Vec<SegmentSeq> = {
            // A segment that is lost is none that is gone: points after it can be opened, and tell
            // what is not certain.
            let log = self.log.borrow();
            let kept = log.table().iter().filter(|(_, segment)| segment.phase != Phase::Released);
            kept.map(|(sequence, _)| sequence).collect()
        };
        let mut on_device = on_device.into_iter().peekable();
        let mut stretches: Vec<Stretch> = Vec::new();
        let mut from = SegmentSeq(0);
        loop {
            let archived = self.archived_from(from, PIECE_SEGMENTS);
            let is_last = archived.len() < PIECE_SEGMENTS;
            for &sequence in &archived {
                while let Some(here) = on_device.next_if(|here| *here < sequence) {
                    add(&mut stretches, here);
                }
                add(&mut stretches, sequence);
            }
            if is_last {
                on_device.for_each(|here| add(&mut stretches, here));
                break;
            }
            from = archived.last().map_or(from, |last| last.next());
            yield_now().await;
        }
        for stretch in &mut stretches {
            stretch.opens_from = self.opens_from(stretch.first, stretch.last);
        }
        stretches
    }

    /// The first segment from `first` to `last` whose points need nothing before `first`.
    fn opens_from(&self, first: SegmentSeq, last: SegmentSeq) -> SegmentSeq {
        let needs = |sequence: u64| sequence.saturating_sub(self.working_set_at(SegmentSeq(sequence)));
        // What a point needs never moves back along the log.
        let (mut low, mut high) = (first.0, last.0 + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if needs(middle) >= first.0 {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        SegmentSeq(low)
    }

    /// The oldest and the newest point that can be opened.
    pub(in crate::volume) async fn ends_of(
        &self,
        stretches: &[Stretch],
    ) -> Result<(Option<PointAt>, Option<PointAt>), VolumeError> {
        let mut openable = stretches.iter().filter(|stretch| stretch.can_be_opened());
        let earliest = match openable.next() {
            Some(stretch) => self.first_point_in(*stretch).await?,
            None => None,
        };
        let newest = match stretches.iter().rfind(|stretch| stretch.can_be_opened()) {
            Some(stretch) => self.newest_point_in(*stretch, Lsn::MAX).await?,
            None => None,
        };
        Ok((earliest, newest))
    }

    /// The first point of a stretch that can be opened.
    async fn first_point_in(&self, stretch: Stretch) -> Result<Option<PointAt>, VolumeError> {
        if stretch.opens_from.0 == 0 {
            return Ok(Some(PointAt { lsn: 0, time_ns: self.log.borrow().created_ns() }));
        }
        self.point_after(stretch.opens_from, stretch.last, Lsn(0)).await
    }

    /// The first end of a command after `lsn` in the segments from `first` to `last`.
    async fn point_after(
        &self,
        first: SegmentSeq,
        last: SegmentSeq,
        lsn: Lsn,
    ) -> Result<Option<PointAt>, VolumeError> {
        for sequence in (first.0..=last.0).map(SegmentSeq) {
            let known = self.known_of(sequence).await?;
            let mut found = None;
            known.entries.visit_backward(Lsn::MAX, |placed| {
                if placed.entry.is_last() && placed.lsn > lsn {
                    found = Some(PointAt { lsn: placed.lsn.0, time_ns: placed.time_ns });
                }
                placed.lsn > lsn
            });
            if found.is_some() {
                return Ok(found);
            }
            yield_now().await;
        }
        Ok(None)
    }

    /// The newest point of a stretch that can be opened, at or before `lsn`.
    async fn newest_point_in(&self, stretch: Stretch, lsn: Lsn) -> Result<Option<PointAt>, VolumeError> {
        let (first, end) = {
            let log = self.log.borrow();
            let geometry = log.geometry();
            let end = geometry.first_lsn(stretch.last.next()).min(log.commit_lsn());
            (geometry.first_lsn(stretch.opens_from), end)
        };
        self.close_up_to_now();
        let up_to = lsn.min(Lsn(end.0.saturating_sub(1)));
        let Boundary { lsn, time_ns, .. } = self.boundary_and_hole(up_to).await?.0;
        Ok((lsn >= first).then_some(PointAt { lsn: lsn.0, time_ns }))
    }

    /// What an operator may choose instead of a point near `near`: the two nearest points that can
    /// be opened, and the earliest one; the empty text if there is none, or it cannot be read now.
    pub(in crate::volume) async fn instead_of(&self, near: Option<Lsn>) -> String {
        let stretches = self.stretches().await;
        let Ok((earliest, newest)) = self.ends_of(&stretches).await else { return String::new() };
        let (Some(earliest), Some(newest)) = (earliest, newest) else {
            return "; no point can be opened now".to_owned();
        };
        let around = match near {
            Some(near) => self.around(&stretches, near).await.unwrap_or_default(),
            None => [None, Some(newest)],
        };
        let near: Vec<String> = around.iter().flatten().map(describe).collect();
        let near = match near.len() {
            0 => String::new(),
            1 => format!("; the nearest point that can be opened is {}", near[0]),
            _ => format!("; the nearest points that can be opened are {}", near.join(" and ")),
        };
        format!("{near}; the earliest is {}", describe(&earliest))
    }

    /// The nearest points before and after a position.
    async fn around(&self, stretches: &[Stretch], near: Lsn) -> Result<[Option<PointAt>; 2], VolumeError> {
        let geometry = self.log.borrow().geometry();
        let openable = || stretches.iter().filter(|stretch| stretch.can_be_opened());
        let mut before = None;
        for stretch in openable().rev().filter(|stretch| geometry.first_lsn(stretch.opens_from) <= near) {
            before = self.newest_point_in(*stretch, near).await?;
            if before.is_some() {
                break;
            }
        }
        let sequence = geometry.sequence_of(near);
        let after = match openable().find(|stretch| stretch.last >= sequence) {
            Some(stretch) => {
                let first = stretch.opens_from.max(sequence);
                self.point_after(first, stretch.last, near).await?
            }
            None => None,
        };
        Ok([before, after])
    }

    /// Refuses a point whose segments are not all there.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchPoint`] with what may be chosen instead.
    pub(in crate::volume) async fn check_openable(
        &self,
        point: &NamedPoint,
        lsn: Lsn,
    ) -> Result<(), VolumeError> {
        let sequence = self.log.borrow().geometry().sequence_of(lsn);
        let stretches = self.stretches().await;
        let is_open = |stretch: &Stretch| stretch.opens_from <= sequence && sequence <= stretch.last;
        if lsn.0 == 0 || stretches.iter().any(is_open) {
            return Ok(());
        }
        self.check_reached()?;
        let choices = self.instead_of(Some(lsn)).await;
        let reason = format!("parts of the log that it needs are no longer kept{choices}");
        Err(VolumeError::NoSuchPoint { point: point.text.clone(), reason })
    }

    /// The ranges of the log whose points cannot be opened, oldest first: those before, between and
    /// after the stretches. Nothing is read.
    pub(in crate::volume) fn gaps_between(&self, stretches: &[Stretch]) -> Vec<GapInfo> {
        let geometry = self.log.borrow().geometry();
        let mut gaps: Vec<GapInfo> = Vec::new();
        let mut next = SegmentSeq(0);
        for stretch in stretches.iter().filter(|stretch| stretch.can_be_opened()) {
            if stretch.opens_from > next {
                let range =
                    LsnRange { start: geometry.first_lsn(next), end: geometry.first_lsn(stretch.opens_from) };
                gaps.push(GapInfo {
                    from_lsn: range.start.0,
                    to_lsn: range.end.0,
                    reason: self.reason_of(range),
                });
            }
            next = stretch.last.next();
        }
        gaps
    }

    /// Why the points of a range cannot be opened.
    fn reason_of(&self, range: LsnRange) -> GapReason {
        let state = self.state.borrow();
        let touches = |known: &LsnRange| known.start < range.end && known.end > range.start;
        if state.catalog.gaps.iter().any(touches) {
            GapReason::NotArchived
        } else if state.catalog.lost.iter().any(touches) {
            GapReason::Lost
        } else if !state.archive.is_attached() {
            GapReason::NoArchive
        } else {
            GapReason::Expired
        }
    }
}

fn add(stretches: &mut Vec<Stretch>, sequence: SegmentSeq) {
    match stretches.last_mut() {
        Some(last) if sequence <= last.last => {}
        Some(last) if sequence == last.last.next() => last.last = sequence,
        _ => stretches.push(Stretch { first: sequence, last: sequence, opens_from: sequence }),
    }
}

fn describe(point: &PointAt) -> String {
    format!("lsn:{} ({})", point.lsn, format_time(point.time_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_that_follow_each_other_are_one_stretch() {
        let mut stretches = Vec::new();
        for sequence in [0, 1, 1, 2, 5, 6, 9] {
            add(&mut stretches, SegmentSeq(sequence));
        }
        let ends: Vec<_> = stretches.iter().map(|stretch| (stretch.first.0, stretch.last.0)).collect();
        assert_eq!(ends, [(0, 2), (5, 6), (9, 9)]);
    }
}
