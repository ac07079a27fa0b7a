//! Explains one point: whether it can be restored, what it needs, and what keeps it.

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::gather::{Endpoint, endpoints, parent, segment_until, timed};
use super::span::time_text;
use super::{ArchiveView, Cause, KeepRule, KeepRules, SegmentRange, SessionPoints, TimeRange, Until};
use crate::log::reader::LsnRange;
use crate::log::types::{ImageId, Lsn, SegmentSeq};

/// Something that keeps a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// The rule as it is written, or the other reason.
    pub by: String,
    /// How long it is kept.
    pub until: Until,
}

/// The explanation of a point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The point.
    pub lsn: Lsn,
    /// Its segment.
    pub sequence: SegmentSeq,
    /// The times of its segment, if they are known.
    pub times: Option<TimeRange>,
    /// Whether it can be restored now.
    pub restorable: bool,
    /// The segments it needs, including those that the parents of its images need; disjoint, and in
    /// the order of the log.
    pub needs: Vec<SegmentRange>,
    /// The needed segments that are missing, or not archived far enough.
    pub missing: Vec<SegmentRange>,
    /// Gaps in the needed segments.
    pub gaps: Vec<LsnRange>,
    /// What keeps points of its segment, and so keeps the point.
    pub retained_by: Vec<Retention>,
    /// How long everything it needs is kept at least, also for other points. `None` when part of it
    /// is missing or may be deleted now.
    pub until: Option<Until>,
}

/// Explains a point. It has the cost and follows the rules of [`plan`](super::plan()).
pub fn explain(rules: &KeepRules, now_ns: u64, view: &ArchiveView<'_>, lsn: Lsn) -> Explanation {
    let sequence = view.sequence_of(lsn);
    let index = view.segments.partition_point(|segment| segment.sequence < sequence);
    let segment = view.segments.get(index).filter(|segment| segment.sequence == sequence);
    let points = needed_points(view, lsn);
    let windows: Vec<SegmentRange> =
        points.iter().map(|&point| view.window(view.sequence_of(point))).collect();
    let needs = joined(windows.clone());
    let mut missing = Vec::new();
    for (window, &point) in windows.iter().zip(&points) {
        find_missing(view, *window, point, &mut missing);
    }
    let missing = joined(missing);
    let is_needed = |gap: &&LsnRange| {
        windows.iter().zip(&points).any(|(window, &point)| {
            let first = window.first.0.saturating_mul(view.segment_blocks);
            gap.start <= point && gap.end.0 > first
        })
    };
    let gaps: Vec<LsnRange> = view.gaps.iter().filter(is_needed).copied().collect();
    let until = if !missing.is_empty() || !gaps.is_empty() {
        None
    } else if rules.keep_everything() {
        Some(Until::Forever)
    } else {
        kept_until(view, &needs, endpoints(rules, now_ns, view))
    };
    Explanation {
        lsn,
        sequence,
        times: segment.and_then(|segment| segment.times),
        restorable: missing.is_empty() && gaps.is_empty(),
        needs,
        missing,
        gaps,
        retained_by: retained_by(rules, now_ns, view, sequence, index),
        until,
    }
}

/// The point itself, and the points of parents that the images existing at this point need.
fn needed_points(view: &ArchiveView<'_>, lsn: Lsn) -> Vec<Lsn> {
    let by_image: HashMap<ImageId, usize> =
        view.births.iter().enumerate().map(|(index, birth)| (birth.image, index)).collect();
    let mut points = vec![lsn];
    let mut seen = HashSet::new();
    for (root, birth) in view.births.iter().enumerate() {
        if birth.born_lsn > lsn || birth.gone_lsn.is_some_and(|gone| gone <= lsn) {
            continue;
        }
        let mut next = Some(root);
        while let Some(index) = next.filter(|&index| seen.insert(index)) {
            points.push(view.births[index].parent_lsn);
            next = parent(view.births, &by_image, &view.births[index]);
        }
    }
    points
}

/// Sorts ranges and merges those that overlap or touch.
fn joined(mut ranges: Vec<SegmentRange>) -> Vec<SegmentRange> {
    ranges.sort_by_key(|range| range.first);
    let mut joined: Vec<SegmentRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if range.first.0 <= last.last.0.saturating_add(1) => {
                last.last = last.last.max(range.last);
            }
            _ => joined.push(range),
        }
    }
    joined
}

/// Appends the segments of a window that are neither archived nor on the primary device.
fn find_missing(view: &ArchiveView<'_>, window: SegmentRange, point: Lsn, missing: &mut Vec<SegmentRange>) {
    let from = view.segments.partition_point(|segment| segment.sequence < window.first);
    let archived = view.segments[from..].iter().take_while(|segment| segment.sequence <= window.last);
    let archived = archived
        .filter(|segment| segment.whole || (segment.sequence == window.last && segment.archived_to > point));
    let from = view.on_primary.partition_point(|range| range.last < window.first);
    let on_primary = view.on_primary[from..].iter().take_while(|range| range.first <= window.last);
    let archived = archived.map(|segment| SegmentRange { first: segment.sequence, last: segment.sequence });
    let mut next = window.first;
    for range in joined(archived.chain(on_primary.copied()).collect()) {
        if range.first > next {
            missing.push(SegmentRange { first: next, last: SegmentSeq(range.first.0 - 1) });
        }
        next = next.max(range.last.next());
    }
    if next <= window.last {
        missing.push(SegmentRange { first: next, last: window.last });
    }
}

/// How long all of `needs` is kept: for each of its segments the latest end among the windows that
/// contain it, and the earliest of these. `endpoints` are in the order of their segments.
fn kept_until(view: &ArchiveView<'_>, needs: &[SegmentRange], mut endpoints: Vec<Endpoint>) -> Option<Until> {
    let mut earliest = Until::Forever;
    // Windows found so far, the latest end first. A window that does not reach back to the current
    // segment is dropped when it reaches the top.
    let mut met: BinaryHeap<(Until, SegmentSeq)> = BinaryHeap::new();
    for segment in view.segments.iter().rev() {
        let sequence = segment.sequence;
        while let Some(endpoint) = endpoints.pop_if(|endpoint| endpoint.sequence >= sequence) {
            met.push((endpoint.until, view.window(endpoint.sequence).first));
        }
        while met.peek().is_some_and(|&(_, first)| first > sequence) {
            met.pop();
        }
        let after = needs.partition_point(|range| range.last < sequence);
        if needs.get(after).is_none_or(|range| range.first > sequence) {
            continue;
        }
        let in_working_set = (sequence >= view.never_before).then_some(Until::Held);
        earliest = earliest.min(met.peek().map(|&(until, _)| until).or(in_working_set)?);
    }
    // Segments that are only on the primary device are not in the list. They exist as long as they
    // are in the working set.
    let only_primary = needs.iter().any(|range| {
        range.last >= view.never_before && view.segments.last().is_none_or(|last| last.sequence < range.last)
    });
    Some(if only_primary { earliest.min(Until::Held) } else { earliest })
}

/// What keeps points of a segment directly.
fn retained_by(
    rules: &KeepRules,
    now_ns: u64,
    view: &ArchiveView<'_>,
    sequence: SegmentSeq,
    index: usize,
) -> Vec<Retention> {
    let mut retained = Vec::new();
    if rules.keep_everything() {
        retained.push(Retention { by: "no rules: everything is kept".to_owned(), until: Until::Forever });
    }
    let is_here = |lsn: Lsn| view.sequence_of(lsn) == sequence;
    let here = view.segments.get(index).filter(|segment| segment.sequence == sequence);
    let timed = here.and_then(|_| timed(view.segments, index, now_ns));
    for rule in rules.rules() {
        if let Some(until) = timed.and_then(|timed| segment_until(rule, timed, now_ns)) {
            retained.push(Retention { by: rule.to_string(), until });
        }
        let KeepRule::Synch { label, keep } = rule else { continue };
        for synch in view.named.synchs().filter(|synch| is_here(synch.lsn)) {
            let Some(until) = Until::of(keep.until_ns(synch.time_ns), now_ns) else { continue };
            if label.as_ref().is_none_or(|label| label.matches(synch.label)) {
                let by = format!("{rule} (synch {} '{}' at LSN {})", synch.id, synch.label, synch.lsn);
                retained.push(Retention { by, until });
            }
        }
    }
    for snapshot in view.named.snapshots().filter(|snapshot| is_here(snapshot.lsn)) {
        let by = format!("snapshot '{}' at LSN {}", snapshot.name, snapshot.lsn);
        retained.push(Retention { by, until: Until::Held });
    }
    let is_between = |session: &&SessionPoints| {
        (view.sequence_of(session.oldest)..=view.sequence_of(session.newest)).contains(&sequence)
    };
    for session in view.sessions.iter().filter(is_between) {
        let by = format!("session '{}', LSN {} to {}", session.name, session.oldest, session.newest);
        retained.push(Retention { by, until: Until::Held });
    }
    for endpoint in endpoints(rules, now_ns, view).iter().filter(|endpoint| endpoint.sequence == sequence) {
        let by = match endpoint.cause {
            Cause::Base(image) => format!("image {image} was made from a point of this segment"),
            Cause::Newest => "the newest archived point".to_owned(),
            Cause::NotArchived => "it is on the primary device and not archived yet".to_owned(),
            Cause::TimesUnknown => "the times of its segment are not known yet".to_owned(),
            _ => continue,
        };
        retained.push(Retention { by, until: endpoint.until });
    }
    if sequence >= view.never_before {
        retained.push(Retention { by: "the primary's working set".to_owned(), until: Until::Held });
    }
    // Several images, or several endpoints, may have the same reason.
    let mut said: HashSet<String> = HashSet::new();
    retained.retain(|retention| said.insert(format!("{}, {}", retention.by, retention.until)));
    retained
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LSN {} is in segment {}", self.lsn, self.sequence)?;
        if let Some(times) = self.times {
            write!(f, ", written from {} to {}", time_text(times.first_ns), time_text(times.last_ns))?;
        }
        write!(f, ".\nIt needs the segments {}.\n", list(&self.needs))?;
        if self.restorable {
            f.write_str("It can be restored.\n")?;
        } else {
            f.write_str("It cannot be restored:")?;
            if !self.missing.is_empty() {
                write!(f, " segments {} are not in the archive", list(&self.missing))?;
            }
            for (index, gap) in self.gaps.iter().enumerate() {
                let comma = if index > 0 || !self.missing.is_empty() { "," } else { "" };
                write!(f, "{comma} LSN {} to {} is a gap", gap.start, gap.end)?;
            }
            f.write_str(".\n")?;
        }
        for retention in &self.retained_by {
            writeln!(f, "Kept by: {}, {}.", retention.by, retention.until)?;
        }
        if self.retained_by.is_empty() {
            f.write_str("No rule keeps it for its own sake.\n")?;
        }
        match self.until {
            Some(Until::Time(time_ns)) => write!(f, "It goes after {}.", time_text(time_ns)),
            Some(Until::Held) => f.write_str("It stays as long as something that exists now needs it."),
            Some(Until::Forever) => f.write_str("It stays for ever."),
            None if self.restorable => f.write_str("It may go at any time."),
            None => f.write_str("What is left of it may go at any time, unless other points need it."),
        }
    }
}

fn list(ranges: &[SegmentRange]) -> String {
    let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
