//! Random small archives.

use proptest::prelude::*;

use crate::archive::retention::*;
use crate::log::reader::LsnRange;
use crate::log::types::{ImageId, Lsn, SegmentSeq};

pub(super) const SEGMENT_BLOCKS: u64 = 10;
/// More segments than any archive in these tests has.
pub(super) const SEQUENCES: u64 = 64;
pub(super) const SECOND_NS: u64 = 1_000_000_000;
/// All times are below this, in seconds.
pub(super) const END_S: u64 = 120;

/// An archive.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) segments: Vec<ArchivedSegment>,
    pub(super) synchs: Vec<SynchPoint<'static>>,
    pub(super) snapshots: Vec<SnapshotPoint<'static>>,
    pub(super) sessions: Vec<SessionPoints>,
    pub(super) births: Vec<ImageBirth>,
    pub(super) gaps: Vec<LsnRange>,
    pub(super) never_before: SegmentSeq,
    /// Segments after the oldest on the primary device that have left it.
    pub(super) released: Vec<SegmentSeq>,
    /// For each sequence; the last value is for all that follow.
    pub(super) working_sets: Vec<u64>,
}

impl World {
    pub(super) fn with<T>(&self, look: impl FnOnce(&ArchiveView<'_>) -> T) -> T {
        look(&ArchiveView {
            on_primary: &self.on_primary(),
            segment_blocks: SEGMENT_BLOCKS,
            segments: &self.segments,
            named: self,
            sessions: &self.sessions,
            births: &self.births,
            gaps: &self.gaps,
            never_before: self.never_before,
            working_set: &|sequence| self.working_set(sequence),
        })
    }

    /// Whether a segment is on the primary device. All segments after the archive's are.
    pub(super) fn is_on_primary(&self, sequence: SegmentSeq) -> bool {
        sequence >= self.never_before && !self.released.contains(&sequence)
    }

    fn on_primary(&self) -> Vec<SegmentRange> {
        let mut ranges: Vec<SegmentRange> = Vec::new();
        for sequence in (self.never_before.0..SEQUENCES).map(SegmentSeq) {
            match ranges.last_mut() {
                _ if !self.is_on_primary(sequence) => {}
                Some(range) if range.last.next() == sequence => range.last = sequence,
                _ => ranges.push(SegmentRange { first: sequence, last: sequence }),
            }
        }
        ranges
    }

    pub(super) fn working_set(&self, sequence: SegmentSeq) -> u64 {
        self.working_sets[(sequence.0 as usize).min(self.working_sets.len() - 1)]
    }
}

impl NamedPoints for World {
    fn synchs(&self) -> Box<dyn Iterator<Item = SynchPoint<'_>> + '_> {
        Box::new(self.synchs.iter().copied())
    }

    fn snapshots(&self) -> Box<dyn Iterator<Item = SnapshotPoint<'_>> + '_> {
        Box::new(self.snapshots.iter().copied())
    }
}

/// The seed of a segment: how long after the previous one it begins and how long it lasts, in half
/// seconds, and which special case it is.
type Seed = (u64, u64, u8);

fn segments(seeds: Vec<Seed>) -> Vec<ArchivedSegment> {
    let mut time_ns = 0;
    let mut segments = Vec::new();
    for (sequence, (wait, lasts, odd)) in seeds.into_iter().enumerate() {
        let first_ns = time_ns + wait * SECOND_NS / 2;
        time_ns = first_ns + lasts * SECOND_NS / 2;
        let sequence = SegmentSeq(sequence as u64);
        let end = (sequence.0 + 1) * SEGMENT_BLOCKS;
        let whole = odd != 1;
        if odd != 0 {
            segments.push(ArchivedSegment {
                sequence,
                archived_to: Lsn(if whole { end } else { end - 4 }),
                whole,
                times: (odd != 2).then_some(TimeRange { first_ns, last_ns: time_ns }),
            });
        }
    }
    segments
}

pub(super) fn any_world() -> impl Strategy<Value = World> {
    let seeds = proptest::collection::vec((0..6_u64, 0..6_u64, 0..24_u8), 1..18);
    seeds.prop_flat_map(|seeds| {
        let head = seeds.len() as u64 * SEGMENT_BLOCKS + 15;
        let synchs =
            proptest::collection::vec((0..head, 0..END_S, proptest::sample::select(vec!["a", "b"])), 0..5);
        let snapshots = proptest::collection::vec(0..head, 0..2);
        let sessions = proptest::collection::vec((0..head, 0..head), 0..2);
        let birth = (1..head, 0..=100_u64, proptest::option::weighted(0.6, 0..head), 0..100_usize);
        let births = proptest::collection::vec(birth, 0..5);
        let gaps = proptest::collection::vec((0..head, 1..8_u64), 0..2);
        let never_before = 0..=seeds.len() as u64 + 1;
        let released = proptest::collection::vec(1..6_u64, 0..3);
        let working_sets = proptest::collection::vec(0..5_u64, 1..18);
        let primary = (never_before, released, working_sets);
        let pinned = (snapshots, sessions);
        (Just(segments(seeds)), synchs, pinned, births, gaps, primary).prop_map(
            |(segments, synchs, pinned, mut births, gaps, (never_before, released, working_sets))| {
                let (snapshots, sessions) = pinned;
                births.sort_by_key(|&(born, ..)| born);
                World {
                    segments,
                    synchs: synchs
                        .into_iter()
                        .enumerate()
                        .map(|(id, (lsn, time_s, label))| SynchPoint {
                            lsn: Lsn(lsn),
                            time_ns: time_s * SECOND_NS,
                            label,
                            id: id as u64,
                        })
                        .collect(),
                    snapshots: snapshots
                        .into_iter()
                        .map(|lsn| SnapshotPoint { lsn: Lsn(lsn), name: "s" })
                        .collect(),
                    sessions: sessions
                        .into_iter()
                        .map(|(one, other)| SessionPoints {
                            oldest: Lsn(one.min(other)),
                            newest: Lsn(one.max(other)),
                            name: "t".to_owned(),
                        })
                        .collect(),
                    births: births
                        .into_iter()
                        .enumerate()
                        .map(|(index, (born, percent, gone, parent))| ImageBirth {
                            // Image 1 has no parent; each of the others is made from one of the
                            // images before it.
                            image: ImageId(index as u32 + 2),
                            parent_image: ImageId((parent % (index + 1)) as u32 + 1),
                            parent_lsn: Lsn(born * percent / 100),
                            born_lsn: Lsn(born),
                            gone_lsn: gone.map(|after| Lsn(born + after)),
                        })
                        .collect(),
                    gaps: gaps
                        .into_iter()
                        .map(|(start, len)| LsnRange { start: Lsn(start), end: Lsn(start + len) })
                        .collect(),
                    never_before: SegmentSeq(never_before),
                    released: released.into_iter().map(|after| SegmentSeq(never_before + after)).collect(),
                    working_sets,
                }
            },
        )
    })
}

pub(super) fn any_rules() -> impl Strategy<Value = Vec<KeepRule>> {
    let seconds = |range| Strategy::prop_map(range, |count: u32| Span::new(count, SpanUnit::Second).unwrap());
    let keep = move || prop_oneof![8 => seconds(1..60_u32).prop_map(Keep::For), 1 => Just(Keep::Forever)];
    let label = proptest::option::of("[ab*]".prop_map(|text| LabelGlob::new(&text)));
    let rule = prop_oneof![
        keep().prop_map(KeepRule::EveryWrite),
        (label, keep()).prop_map(|(label, keep)| KeepRule::Synch { label, keep }),
        (seconds(1..30_u32), keep()).prop_map(|(step, keep)| KeepRule::Every { step, keep }),
    ];
    proptest::collection::vec(rule, 1..4)
}
