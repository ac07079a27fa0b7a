//! Finds the segments that contain directly kept points. Each of them keeps its whole window.

use std::collections::HashMap;

use super::{
    ArchiveView, ArchivedSegment, Cause, ImageBirth, KeepRule, KeepRules, SegmentRange, TimeRange, Until,
};
use crate::log::types::{ImageId, Lsn, SegmentSeq};

/// A segment that contains a kept point.
#[derive(Debug, Clone, Copy)]
pub(super) struct Endpoint {
    /// The segment.
    pub(super) sequence: SegmentSeq,
    /// What keeps the point.
    pub(super) cause: Cause,
    /// How long it is kept.
    pub(super) until: Until,
}

/// A segment whose times are known, with the time that decides about boundaries: the newest time
/// before the first time of the next such segment.
#[derive(Clone, Copy)]
pub(super) struct Timed {
    times: TimeRange,
    /// The newest time at which this segment contains the newest point; `None` when the next one
    /// begins at time 0.
    newest_ns: Option<u64>,
}

/// How long a rule keeps some point of a segment; `None` when it keeps none. Synch rules keep none
/// here: see `by_synch`.
pub(super) fn segment_until(rule: &KeepRule, timed: Timed, now_ns: u64) -> Option<Until> {
    match rule {
        KeepRule::EveryWrite(keep) => Until::of(keep.until_ns(timed.times.last_ns), now_ns),
        KeepRule::Every { step, keep } => {
            let boundary_ns = step.boundary_before(timed.newest_ns?)?;
            if boundary_ns < timed.times.first_ns {
                return None;
            }
            Until::of(keep.until_ns(boundary_ns), now_ns)
        }
        KeepRule::Synch { .. } => None,
    }
}

/// The times of the segment at `index`, when they are known. Cost: the segments after it whose
/// times are not known.
pub(super) fn timed(segments: &[ArchivedSegment], index: usize, now_ns: u64) -> Option<Timed> {
    let times = segments.get(index)?.times?;
    let next = segments[index + 1..].iter().find_map(|segment| segment.times);
    Some(Timed {
        times,
        newest_ns: match next {
            Some(next) => next.first_ns.checked_sub(1),
            None => Some(now_ns.max(times.last_ns)),
        },
    })
}

/// All endpoints, in the order of their segments. If several rules keep a segment by its times, it
/// appears once, with the latest of their ends.
pub(super) fn endpoints(rules: &KeepRules, now_ns: u64, view: &ArchiveView<'_>) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    not_archived(view, &mut endpoints);
    endpoints.extend(newest_restorable(view).map(|sequence| Endpoint {
        sequence,
        cause: Cause::Newest,
        until: Until::Held,
    }));
    by_segment(rules, now_ns, view.segments, &mut endpoints);
    by_synch(rules, now_ns, view, &mut endpoints);
    for (index, snapshot) in view.named.snapshots().enumerate() {
        let sequence = view.sequence_of(snapshot.lsn);
        endpoints.push(Endpoint { sequence, cause: Cause::Snapshot(index as u32), until: Until::Held });
    }
    by_session(view, &mut endpoints);
    endpoints.sort_by_key(|endpoint| endpoint.sequence);
    let bases = bases(view, &endpoints);
    endpoints.extend(bases);
    endpoints.sort_by_key(|endpoint| endpoint.sequence);
    endpoints
}

fn by_segment(rules: &KeepRules, now_ns: u64, segments: &[ArchivedSegment], endpoints: &mut Vec<Endpoint>) {
    let mut next_first_ns = None;
    for segment in segments.iter().rev() {
        let sequence = segment.sequence;
        let Some(times) = segment.times else {
            endpoints.push(Endpoint { sequence, cause: Cause::TimesUnknown, until: Until::Held });
            continue;
        };
        if next_first_ns.is_none() {
            endpoints.push(Endpoint { sequence, cause: Cause::Newest, until: Until::Held });
        }
        let newest_ns = match next_first_ns {
            Some(next_ns) => u64::checked_sub(next_ns, 1),
            None => Some(now_ns.max(times.last_ns)),
        };
        next_first_ns = Some(times.first_ns);
        let timed = Timed { times, newest_ns };
        let mut best: Option<Endpoint> = None;
        for (number, rule) in rules.rules().iter().enumerate() {
            let Some(until) = segment_until(rule, timed, now_ns) else { continue };
            if best.is_none_or(|best| until > best.until) {
                best = Some(Endpoint { sequence, cause: Cause::Rule(number as u32), until });
            }
        }
        endpoints.extend(best);
    }
}

fn by_synch(rules: &KeepRules, now_ns: u64, view: &ArchiveView<'_>, endpoints: &mut Vec<Endpoint>) {
    for (number, rule) in rules.rules().iter().enumerate() {
        let KeepRule::Synch { label, keep } = rule else { continue };
        for synch in view.named.synchs() {
            let Some(until) = Until::of(keep.until_ns(synch.time_ns), now_ns) else { continue };
            if label.as_ref().is_none_or(|label| label.matches(synch.label)) {
                let sequence = view.sequence_of(synch.lsn);
                endpoints.push(Endpoint { sequence, cause: Cause::Rule(number as u32), until });
            }
        }
    }
}

/// Every archived segment between the oldest and the newest point of a session.
fn by_session(view: &ArchiveView<'_>, endpoints: &mut Vec<Endpoint>) {
    for (index, session) in view.sessions.iter().enumerate() {
        let (first, last) = (view.sequence_of(session.oldest), view.sequence_of(session.newest));
        let cause = Cause::Session(index as u32);
        let from = view.segments.partition_point(|segment| segment.sequence < first);
        let within = view.segments[from..].iter().take_while(|segment| segment.sequence <= last);
        let within = within.map(|segment| segment.sequence).chain([last]);
        endpoints.extend(within.map(|sequence| Endpoint { sequence, cause, until: Until::Held }));
    }
}

/// Segments on the primary device that are not wholly archived. Their points may be recent, and if
/// the archivist could not store one of them yet, later segments may already be archived.
fn not_archived(view: &ArchiveView<'_>, endpoints: &mut Vec<Endpoint>) {
    let mut whole = view.segments.iter().filter(|segment| segment.whole).map(|segment| segment.sequence);
    let mut next_whole = whole.next();
    for range in view.on_primary {
        for sequence in (range.first.0..=range.last.0).map(SegmentSeq) {
            while next_whole.is_some_and(|next| next < sequence) {
                next_whole = whole.next();
            }
            if next_whole != Some(sequence) {
                endpoints.push(Endpoint { sequence, cause: Cause::NotArchived, until: Until::Held });
            }
        }
    }
}

/// The newest segment of which a point can be restored from the archive alone: everything that it
/// needs before this segment is archived in whole. A pool that loses its primary device is rebuilt
/// from there.
fn newest_restorable(view: &ArchiveView<'_>) -> Option<SegmentSeq> {
    let is_gap = |segment: &ArchivedSegment| {
        let first_lsn = Lsn(segment.sequence.0.saturating_mul(view.segment_blocks));
        let end_lsn = Lsn(first_lsn.0.saturating_add(view.segment_blocks));
        view.gaps.iter().any(|gap| gap.start < end_lsn && gap.end > first_lsn)
    };
    // The run of whole segments that ends directly before the next segment.
    let mut run: Option<SegmentRange> = None;
    let mut newest = None;
    for segment in view.segments {
        let sequence = segment.sequence;
        run = run.filter(|run| run.last.next() == sequence);
        let begins = run.map_or(sequence, |run| run.first);
        let is_gap = is_gap(segment);
        if begins <= view.window(sequence).first && !is_gap {
            newest = Some(sequence);
        }
        run = (segment.whole && !is_gap).then_some(SegmentRange { first: begins, last: sequence });
    }
    newest
}

/// The points of parents that images need: images that exist now, and images that existed in a
/// segment with a kept point. `endpoints` are in the order of their segments.
fn bases(view: &ArchiveView<'_>, endpoints: &[Endpoint]) -> Vec<Endpoint> {
    let by_image: HashMap<ImageId, usize> =
        view.births.iter().enumerate().map(|(index, birth)| (birth.image, index)).collect();
    let latest = Latest::new(endpoints);
    let mut roots: Vec<(Until, usize)> = Vec::new();
    for (index, birth) in view.births.iter().enumerate() {
        let first = view.sequence_of(birth.born_lsn);
        let until = match birth.gone_lsn {
            None => Some(Until::Held),
            Some(gone) if gone > birth.born_lsn => {
                let last = view.sequence_of(Lsn(gone.0 - 1));
                let from = endpoints.partition_point(|endpoint| endpoint.sequence < first);
                let to = endpoints.partition_point(|endpoint| endpoint.sequence <= last);
                latest.of(from, to)
            }
            Some(_) => None,
        };
        roots.extend(until.map(|until| (until, index)));
    }
    // The latest end first: then the first need that reaches an image is also the longest.
    roots.sort_by_key(|&(until, _)| std::cmp::Reverse(until));
    let mut needed = vec![false; view.births.len()];
    let mut bases = Vec::new();
    for (until, root) in roots {
        let mut next = Some(root);
        while let Some(index) = next.filter(|&index| !needed[index]) {
            needed[index] = true;
            let birth = &view.births[index];
            let sequence = view.sequence_of(birth.parent_lsn);
            bases.push(Endpoint { sequence, cause: Cause::Base(birth.image), until });
            next = parent(view.births, &by_image, birth);
        }
    }
    bases
}

/// The birth of an image's parent, if the parent itself needed a parent at the point from
/// which the image was made.
pub(super) fn parent(
    births: &[ImageBirth],
    by_image: &HashMap<ImageId, usize>,
    birth: &ImageBirth,
) -> Option<usize> {
    let &index = by_image.get(&birth.parent_image)?;
    births[index].gone_lsn.is_none_or(|gone| gone > birth.parent_lsn).then_some(index)
}

/// Returns the latest end among consecutive endpoints: a tree of maxima.
struct Latest {
    len: usize,
    tree: Vec<Option<Until>>,
}

impl Latest {
    fn new(endpoints: &[Endpoint]) -> Self {
        let len = endpoints.len();
        let mut tree = vec![None; 2 * len];
        for (leaf, endpoint) in tree[len..].iter_mut().zip(endpoints) {
            *leaf = Some(endpoint.until);
        }
        for node in (1..len).rev() {
            tree[node] = tree[2 * node].max(tree[2 * node + 1]);
        }
        Latest { len, tree }
    }

    /// The latest end of the endpoints `from..to`.
    fn of(&self, from: usize, to: usize) -> Option<Until> {
        let (mut low, mut high) = (from + self.len, to + self.len);
        let mut latest = None;
        while low < high {
            if low % 2 == 1 {
                latest = latest.max(self.tree[low]);
                low += 1;
            }
            if high % 2 == 1 {
                high -= 1;
                latest = latest.max(self.tree[high]);
            }
            low /= 2;
            high /= 2;
        }
        latest
    }
}
