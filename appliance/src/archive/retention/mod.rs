//! Retention: which segments of the archive are kept, which may be deleted, and why. It is pure:
//! the caller passes the time and everything else that is needed.
//!
//! - [`KeepRules`] is what an operator wants to keep, as text; with no rules everything is kept.
//! - [`plan()`] decides for each archived segment whether it is kept, and why.
//! - [`explain()`] reports for one point whether it can be restored, what it needs, what keeps it
//!   and until when.
//!
//! **The underlying rule**: a point at LSN P needs the W+1 segments that end at P. For each image
//! that was made from a point of a parent and still needs it, the point also needs the W+1 segments
//! that end at the parent's point, and so on. Retention works on whole segments: what one point of
//! a segment needs is kept for all points of that segment. So the result is never finer than a
//! segment. Data is kept for slightly longer than the rules ask, never shorter.
//!
//! **Always kept**, whatever the rules are:
//! - snapshots, and the points from which the images that exist now were made;
//! - all points between the oldest and the newest at which a session has been;
//! - the newest archived point, and the newest that can be restored from the archive alone, because
//!   the pool is rebuilt from there when its primary device is lost. They differ while a segment
//!   before the newest could not be stored yet;
//! - points on the primary device that are not archived yet;
//! - segments whose times are not known yet, as if every rule kept all their points;
//! - segments of the primary's working set.
//!
//! **Times.** Times never decrease along the log: its writer guarantees that, even when the wall
//! clock steps back. So the order of LSNs is the order of times, and `every` searches for
//! boundaries between the first times of adjacent segments. `now_ns` is compared only with the ends
//! of retention: a clock that is behind the log keeps more, never less. A clock that is ahead lets
//! points expire too early, so the caller passes a time that it trusts.
//!
//! **Invariants** (checked by the tests): with the same input, a later `now_ns` never keeps a
//! segment that could be deleted before, and one more rule never lets more segments be deleted
//! (except the first rule: without rules everything is kept).
//!
//! **Cost** of a plan: in time, rules times segments, plus points and images with one sort each;
//! memory in proportion to segments, points and images. The result is runs of segments, not a set.
//! An explanation costs the same.

mod cause;
mod explain;
mod gather;
mod plan;
mod rules;
mod span;

#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::log::reader::LsnRange;
use crate::log::types::{ImageId, Lsn, SegmentSeq};

pub use cause::Cause;
pub use explain::{Explanation, Retention, explain};
pub use plan::{Plan, PlanRun, Verdict, plan};
pub use rules::{KEEP_RULES_MAX, KeepError, KeepRule, KeepRules, LabelGlob};
pub use span::{Keep, Span, SpanUnit};

/// The times of a segment's records, ns since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRange {
    /// Of the first record.
    pub first_ns: u64,
    /// Of the last record.
    pub last_ns: u64,
}

/// A segment in the archive, whole or in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivedSegment {
    /// The segment.
    pub sequence: SegmentSeq,
    /// The LSN after the last block that is archived without a hole from the segment's first block
    /// on.
    pub archived_to: Lsn,
    /// Whether the whole segment is archived, not only parts of it.
    pub whole: bool,
    /// The times of its records; `None` when they are not known yet.
    pub times: Option<TimeRange>,
}

/// A synch event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SynchPoint<'a> {
    /// Its position.
    pub lsn: Lsn,
    /// Its time, ns since the Unix epoch.
    pub time_ns: u64,
    /// Its label.
    pub label: &'a str,
    /// Its number.
    pub id: u64,
}

/// A snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPoint<'a> {
    /// Its position.
    pub lsn: Lsn,
    /// Its name.
    pub name: &'a str,
}

/// The points of an archive that have names. There may be a million, so they are not copied.
pub trait NamedPoints {
    /// All synchs, in any order; the order of the log is the fastest.
    fn synchs(&self) -> Box<dyn Iterator<Item = SynchPoint<'_>> + '_>;
    /// The snapshots that exist, in any order.
    fn snapshots(&self) -> Box<dyn Iterator<Item = SnapshotPoint<'_>> + '_>;
}

/// A session: it may move to any point between the oldest and the newest at which it has been.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPoints {
    /// The oldest.
    pub oldest: Lsn,
    /// The newest.
    pub newest: Lsn,
    /// Its name.
    pub name: String,
}

/// An image that was made from a point of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageBirth {
    /// The image.
    pub image: ImageId,
    /// The image that it was made from.
    pub parent_image: ImageId,
    /// The point of the parent from which it was made.
    pub parent_lsn: Lsn,
    /// The LSN at which it was made.
    pub born_lsn: Lsn,
    /// From this LSN on the image does not need its parent: it was deleted, or the window of every
    /// later point has the image's own version of all inherited data. `None` while it needs its
    /// parent.
    pub gone_lsn: Option<Lsn>,
}

/// What is known about an archive.
#[derive(Clone, Copy)]
pub struct ArchiveView<'a> {
    /// Size of the pool's segments, in blocks.
    pub segment_blocks: u64,
    /// What is archived, in the order of the log, each segment once.
    pub segments: &'a [ArchivedSegment],
    /// The synchs and snapshots.
    pub named: &'a dyn NamedPoints,
    /// The sessions that exist, in any order.
    pub sessions: &'a [SessionPoints],
    /// All images with a parent, in any order, each image once. Includes deleted images as long as
    /// points at which they existed may be kept.
    pub births: &'a [ImageBirth],
    /// Stretches of the log that were never archived, or whose archive is lost.
    pub gaps: &'a [LsnRange],
    /// The segments on the primary device, in the order of the log; the ranges are disjoint.
    pub on_primary: &'a [SegmentRange],
    /// The oldest segment on the primary device. This one and all newer ones are never expirable,
    /// including those between them whose slots were reused before their turn.
    pub never_before: SegmentSeq,
    /// The length of the working set that was in force at a segment (W).
    pub working_set: &'a dyn Fn(SegmentSeq) -> u64,
}

/// Consecutive segments; both ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRange {
    /// The first one.
    pub first: SegmentSeq,
    /// The last one.
    pub last: SegmentSeq,
}

/// How long something is kept. Later ends compare as greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Until {
    /// Until this time, ns since the Unix epoch.
    Time(u64),
    /// As long as the reason exists: a snapshot, an image, the working set, or that nothing newer
    /// exists.
    Held,
    /// Forever.
    Forever,
}

impl ArchiveView<'_> {
    fn sequence_of(&self, lsn: Lsn) -> SegmentSeq {
        SegmentSeq(lsn.0 / self.segment_blocks.max(1))
    }

    /// The segments that a point in `sequence` needs.
    fn window(&self, sequence: SegmentSeq) -> SegmentRange {
        let working_set = (self.working_set)(sequence);
        SegmentRange { first: SegmentSeq(sequence.0.saturating_sub(working_set)), last: sequence }
    }
}

impl SegmentRange {
    /// The number of segments.
    pub fn count(&self) -> u64 {
        self.last.0 - self.first.0 + 1
    }
}

impl Until {
    /// The end of a retention that ends at `end_ns` (`None`: never); `None` when it is over.
    fn of(end_ns: Option<u64>, now_ns: u64) -> Option<Self> {
        match end_ns {
            None => Some(Until::Forever),
            Some(end_ns) => (end_ns > now_ns).then_some(Until::Time(end_ns)),
        }
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Until::Time(time_ns) => write!(f, "until {}", span::time_text(*time_ns)),
            Until::Held => f.write_str("as long as that is so"),
            Until::Forever => f.write_str("for ever"),
        }
    }
}

impl fmt::Display for SegmentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{} to {}", self.first, self.last) }
    }
}
