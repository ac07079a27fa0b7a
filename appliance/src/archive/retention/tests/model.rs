//! Compares the plan and the explanation with brute force.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::worlds::{END_S, SECOND_NS, SEGMENT_BLOCKS, SEQUENCES, World, any_rules, any_world};
use crate::archive::retention::*;
use crate::log::types::{ImageId, Lsn, SegmentSeq};

/// Segments with a kept point, found by trying every boundary and every segment.
fn kept_points(rules: &[KeepRule], now_ns: u64, world: &World) -> BTreeSet<u64> {
    let young = |keep: &Keep, time_ns: u64| keep.until_ns(time_ns).is_none_or(|end_ns| end_ns > now_ns);
    let times: Vec<(u64, TimeRange)> =
        world.segments.iter().filter_map(|s| Some((s.sequence.0, s.times?))).collect();
    let mut kept: BTreeSet<u64> =
        world.segments.iter().filter(|s| s.times.is_none()).map(|s| s.sequence.0).collect();
    kept.extend(times.last().map(|(sequence, _)| sequence));
    // Segments that are not archived yet, and the segment from which a lost primary device is
    // rebuilt.
    let whole = |sequence: u64| world.segments.iter().any(|s| s.sequence.0 == sequence && s.whole);
    kept.extend((0..SEQUENCES).filter(|&s| world.is_on_primary(SegmentSeq(s)) && !whole(s)));
    let is_gap = |sequence: u64| {
        let mut blocks = sequence * SEGMENT_BLOCKS..(sequence + 1) * SEGMENT_BLOCKS;
        blocks.any(|lsn| world.gaps.iter().any(|gap| gap.start.0 <= lsn && lsn < gap.end.0))
    };
    let restorable = |&sequence: &u64| {
        let first = sequence.saturating_sub(world.working_set(SegmentSeq(sequence)));
        !is_gap(sequence) && (first..sequence).all(|before| whole(before) && !is_gap(before))
    };
    kept.extend(world.segments.iter().map(|s| s.sequence.0).rev().find(restorable));
    kept.extend(world.snapshots.iter().map(|snapshot| snapshot.lsn.0 / SEGMENT_BLOCKS));
    for session in &world.sessions {
        let (first, last) = (session.oldest.0 / SEGMENT_BLOCKS, session.newest.0 / SEGMENT_BLOCKS);
        kept.extend(world.segments.iter().map(|s| s.sequence.0).filter(|s| (first..=last).contains(s)));
        kept.insert(last);
    }
    for rule in rules {
        match rule {
            KeepRule::EveryWrite(keep) => {
                kept.extend(
                    times.iter().filter(|(_, t)| young(keep, t.last_ns)).map(|(sequence, _)| sequence),
                );
            }
            KeepRule::Synch { label, keep } => {
                for synch in &world.synchs {
                    if young(keep, synch.time_ns) && label.as_ref().is_none_or(|l| l.matches(synch.label)) {
                        kept.insert(synch.lsn.0 / SEGMENT_BLOCKS);
                    }
                }
            }
            KeepRule::Every { step, keep } => {
                for second in 0..4 * END_S {
                    let boundary_ns = second * SECOND_NS;
                    if step.boundary_before(boundary_ns) != Some(boundary_ns) || !young(keep, boundary_ns) {
                        continue;
                    }
                    let newest = times.iter().rev().find(|(_, t)| t.first_ns <= boundary_ns);
                    kept.extend(newest.map(|(sequence, _)| sequence));
                }
            }
        }
    }
    kept
}

/// Calls `visit` with each image and parent point in an image's line of parents.
fn ancestors(world: &World, birth: &ImageBirth, visit: &mut dyn FnMut(ImageId, Lsn)) {
    visit(birth.image, birth.parent_lsn);
    let parent = world.births.iter().find(|g| g.image == birth.parent_image);
    if let Some(parent) = parent.filter(|g| g.gone_lsn.is_none_or(|gone| gone > birth.parent_lsn)) {
        ancestors(world, parent, visit);
    }
}

/// The segments that are kept.
fn kept_segments(rules: &[KeepRule], now_ns: u64, world: &World) -> BTreeSet<u64> {
    let points = kept_points(rules, now_ns, world);
    let mut ends = points.clone();
    for birth in &world.births {
        let lives = |lsn: u64| lsn >= birth.born_lsn.0 && birth.gone_lsn.is_none_or(|gone| lsn < gone.0);
        let lives_in =
            |&sequence: &u64| (sequence * SEGMENT_BLOCKS..(sequence + 1) * SEGMENT_BLOCKS).any(lives);
        if birth.gone_lsn.is_none() || points.iter().any(lives_in) {
            ancestors(world, birth, &mut |_, lsn| {
                ends.insert(lsn.0 / SEGMENT_BLOCKS);
            });
        }
    }
    let mut kept = BTreeSet::new();
    for end in ends {
        kept.extend(end.saturating_sub(world.working_set(SegmentSeq(end)))..=end);
    }
    kept.extend(world.segments.iter().map(|s| s.sequence.0).filter(|&s| s >= world.never_before.0));
    kept
}

fn expirable(plan: &Plan) -> BTreeSet<u64> {
    plan.expirable().flat_map(|range| range.first.0..=range.last.0).collect()
}

/// The segments that a point needs, each with the point if it lies within it.
fn needed(world: &World, lsn: u64) -> BTreeSet<(u64, Option<u64>)> {
    let mut points = vec![lsn];
    for birth in &world.births {
        if birth.born_lsn.0 <= lsn && birth.gone_lsn.is_none_or(|gone| gone.0 > lsn) {
            ancestors(world, birth, &mut |_, lsn| points.push(lsn.0));
        }
    }
    let mut needed = BTreeSet::new();
    for point in points {
        let end = point / SEGMENT_BLOCKS;
        let first = end.saturating_sub(world.working_set(SegmentSeq(end)));
        needed.extend((first..end).map(|sequence| (sequence, None)));
        needed.insert((end, Some(point)));
    }
    needed
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_plan_is_that_of_the_model(world in any_world(), rules in any_rules(), now_s in 0..END_S) {
        let now_ns = now_s * SECOND_NS;
        let plan = world.with(|view| plan(&KeepRules::new(rules.clone()), now_ns, view));
        let kept = kept_segments(&rules, now_ns, &world);
        let model: BTreeSet<u64> =
            world.segments.iter().map(|s| s.sequence.0).filter(|s| !kept.contains(s)).collect();
        prop_assert_eq!(expirable(&plan), model);
        // The runs are exactly the archived segments, in order.
        let runs: Vec<u64> =
            plan.runs().iter().flat_map(|run| run.segments.first.0..=run.segments.last.0).collect();
        let segments: Vec<u64> = world.segments.iter().map(|s| s.sequence.0).collect();
        prop_assert_eq!(&runs, &segments);
        for sequence in 0..20 {
            let verdict = plan.verdict(SegmentSeq(sequence));
            prop_assert_eq!(verdict.is_some(), segments.contains(&sequence));
        }
    }

    #[test]
    fn what_may_go_never_comes_back(world in any_world(), rules in any_rules(), now_s in 0..END_S, later_s in 0..END_S) {
        let rules = KeepRules::new(rules);
        let early = world.with(|view| expirable(&plan(&rules, now_s * SECOND_NS, view)));
        let late = world.with(|view| expirable(&plan(&rules, (now_s + later_s) * SECOND_NS, view)));
        prop_assert!(early.is_subset(&late), "{early:?} is not in {late:?}");
    }

    #[test]
    fn one_more_rule_never_lets_more_go(world in any_world(), rules in any_rules(), more in any_rules(), now_s in 0..END_S) {
        let now_ns = now_s * SECOND_NS;
        let few = world.with(|view| expirable(&plan(&KeepRules::new(rules.clone()), now_ns, view)));
        let all = KeepRules::new(rules.into_iter().chain(more).collect());
        let many = world.with(|view| expirable(&plan(&all, now_ns, view)));
        prop_assert!(many.is_subset(&few), "{many:?} is not in {few:?}");
    }

    #[test]
    fn no_rules_keep_everything(world in any_world(), now_s in 0..END_S) {
        let plan = world.with(|view| plan(&KeepRules::default(), now_s * SECOND_NS, view));
        prop_assert_eq!(plan.expirable().count(), 0);
    }

    #[test]
    fn explanations_are_those_of_the_model(world in any_world(), rules in any_rules(), now_s in 0..END_S, at in 0..200_u64) {
        let now_ns = now_s * SECOND_NS;
        let head = world.never_before.0.max(world.segments.len() as u64) * SEGMENT_BLOCKS;
        let lsn = at % head.max(1);
        let rules = KeepRules::new(rules);
        let explain_at = |now_ns| world.with(|view| explain(&rules, now_ns, view, Lsn(lsn)));
        let told = explain_at(now_ns);
        let needed = needed(&world, lsn);
        let told_needs: BTreeSet<u64> = told.needs.iter().flat_map(|r| r.first.0..=r.last.0).collect();
        prop_assert_eq!(&told_needs, &needed.iter().map(|&(sequence, _)| sequence).collect());
        let absent: BTreeSet<u64> = needed
            .iter()
            .filter(|(sequence, point)| {
                !world.is_on_primary(SegmentSeq(*sequence))
                    && !world.segments.iter().any(|s| {
                        s.sequence.0 == *sequence && (s.whole || point.is_some_and(|point| point < s.archived_to.0))
                    })
            })
            .map(|&(sequence, _)| sequence)
            .collect();
        let told_missing: BTreeSet<u64> = told.missing.iter().flat_map(|r| r.first.0..=r.last.0).collect();
        prop_assert_eq!(&told_missing, &absent);
        let in_gap = needed.iter().any(|&(sequence, point)| {
            let end = point.map_or((sequence + 1) * SEGMENT_BLOCKS, |point| point + 1);
            (sequence * SEGMENT_BLOCKS..end).any(|lsn| world.gaps.iter().any(|g| g.start.0 <= lsn && lsn < g.end.0))
        });
        prop_assert_eq!(told.restorable, absent.is_empty() && !in_gap);
        // The promise: none of it may be deleted before that time. If some of it may be deleted
        // now, there is no promise.
        let may_go = |now_ns| {
            let expirable = world.with(|view| expirable(&plan(&rules, now_ns, view)));
            !told_needs.is_disjoint(&expirable)
        };
        match told.until {
            None => prop_assert!(!told.restorable || may_go(now_ns)),
            Some(Until::Time(end_ns)) => {
                prop_assert!(!may_go(end_ns - 1));
                // Segments that are then in the working set stay longer; that end is not given by a
                // rule.
                let left = World { never_before: SegmentSeq(u64::MAX), ..world.clone() };
                let expirable = left.with(|view| expirable(&plan(&rules, end_ns, view)));
                prop_assert!(!told_needs.is_disjoint(&expirable), "{told:?}");
            }
            Some(Until::Held | Until::Forever) => prop_assert!(!may_go(u64::MAX)),
        }
        let json = serde_json::to_string(&told).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Explanation>(&json).unwrap(), &told);
        let text = told.to_string();
        prop_assert_eq!(text.contains("It can be restored."), told.restorable);
    }
}

/// Ten whole segments, one per minute, with W = 2 and the last two on the primary.
fn minutes() -> World {
    World {
        segments: (0..10)
            .map(|sequence| ArchivedSegment {
                sequence: SegmentSeq(sequence),
                archived_to: Lsn((sequence + 1) * SEGMENT_BLOCKS),
                whole: true,
                times: Some(TimeRange {
                    first_ns: sequence * 60 * SECOND_NS,
                    last_ns: (sequence * 60 + 59) * SECOND_NS,
                }),
            })
            .collect(),
        synchs: Vec::new(),
        snapshots: Vec::new(),
        sessions: Vec::new(),
        births: Vec::new(),
        gaps: Vec::new(),
        never_before: SegmentSeq(8),
        released: Vec::new(),
        working_sets: vec![2],
    }
}

fn shown(world: &World, rules: &str, now_s: u64) -> Vec<(u64, u64, Verdict)> {
    let rules = KeepRules::parse(rules).unwrap();
    let plan = world.with(|view| plan(&rules, now_s * SECOND_NS, view));
    plan.runs().iter().map(|run| (run.segments.first.0, run.segments.last.0, run.verdict)).collect()
}

#[test]
fn windows_reach_back_from_what_is_kept() {
    use Verdict::{Expirable, Kept};
    let mut world = minutes();
    assert_eq!(shown(&world, "every-write 3m", 600), [(0, 4, Expirable), (5, 9, Kept(Cause::Rule(0)))]);
    // A snapshot in segment 3, and a clone made from segment 1 that existed there.
    world.snapshots = vec![SnapshotPoint { lsn: Lsn(35), name: "s" }];
    world.births = vec![ImageBirth {
        image: ImageId(2),
        parent_image: ImageId(1),
        parent_lsn: Lsn(10),
        born_lsn: Lsn(25),
        gone_lsn: Some(Lsn(32)),
    }];
    assert_eq!(
        shown(&world, "every-write 1s", 600),
        [
            (0, 1, Kept(Cause::Base(ImageId(2)))),
            (2, 3, Kept(Cause::Snapshot(0))),
            (4, 6, Expirable),
            (7, 9, Kept(Cause::Newest)),
        ]
    );
    // At the snapshot itself the clone is gone: the point needs less than the plan keeps.
    let rules = KeepRules::parse("every-write 1s").unwrap();
    let told = world.with(|view| explain(&rules, 600 * SECOND_NS, view, Lsn(35)));
    assert_eq!(told.needs, [SegmentRange { first: SegmentSeq(1), last: SegmentSeq(3) }]);
    assert_eq!(told.until, Some(Until::Held));
    assert_eq!(told.retained_by[0].by, "snapshot 's' at LSN 35");
}

#[test]
fn an_explanation_is_for_people() {
    let mut world = minutes();
    world.segments.remove(3);
    world.synchs = vec![SynchPoint { lsn: Lsn(74), time_ns: 450 * SECOND_NS, label: "nightly", id: 7 }];
    let rules = KeepRules::parse("every 5m keep 1h; synch night* keep 1M").unwrap();
    let told = world.with(|view| explain(&rules, 600 * SECOND_NS, view, Lsn(74)));
    assert_eq!(
        told.to_string(),
        "LSN 74 is in segment 7, written from 1970-01-01T00:07:00Z to 1970-01-01T00:07:59Z.\n\
         It needs the segments 5 to 7.\n\
         It can be restored.\n\
         Kept by: synch night* keep 1M (synch 7 'nightly' at LSN 74), until 1970-02-01T00:07:30Z.\n\
         It goes after 1970-02-01T00:07:30Z."
    );
    let told = world.with(|view| explain(&rules, 600 * SECOND_NS, view, Lsn(50)));
    assert_eq!(
        told.to_string(),
        "LSN 50 is in segment 5, written from 1970-01-01T00:05:00Z to 1970-01-01T00:05:59Z.\n\
         It needs the segments 3 to 5.\n\
         It cannot be restored: segments 3 are not in the archive.\n\
         Kept by: every 5m keep 1h, until 1970-01-01T01:05:00Z.\n\
         What is left of it may go at any time, unless other points need it."
    );
}

/// A part of the newest segment was archived while earlier segments could not be stored. What
/// those needed used to be deleted, and with it the newest point that the archive alone can restore
/// (seed 503075).
#[test]
fn behind_a_hole_in_the_archive_nothing_goes_that_the_points_in_it_need() {
    use Verdict::{Expirable, Kept};
    let mut world = minutes();
    world.never_before = SegmentSeq(5);
    world.segments.retain(|segment| !(5..9).contains(&segment.sequence.0));
    world.segments.last_mut().unwrap().whole = false;
    // Segment 4 is the newest that can be restored; segments 5 to 8 are on the primary device
    // alone.
    assert_eq!(
        shown(&world, "every-write 1s", 600),
        [(0, 1, Expirable), (2, 4, Kept(Cause::Newest)), (9, 9, Kept(Cause::Newest))]
    );
}

/// A segment that left the primary device before its turn leaves a hole there. Segments before the
/// hole used to be expirable, which the pool refuses (seed 404615).
#[test]
fn before_a_hole_in_the_primary_device_nothing_goes_that_is_there() {
    use Verdict::{Expirable, Kept};
    let mut world = minutes();
    world.never_before = SegmentSeq(4);
    world.released = vec![SegmentSeq(6)];
    assert_eq!(
        shown(&world, "every-write 1s", 600),
        [(0, 3, Expirable), (4, 6, Kept(Cause::WorkingSet)), (7, 9, Kept(Cause::Newest))]
    );
    // A segment that has left the primary device is expected in the archive.
    world.segments.remove(6);
    let rules = KeepRules::parse("every-write 1s").unwrap();
    let told = world.with(|view| explain(&rules, 600 * SECOND_NS, view, Lsn(75)));
    assert_eq!(told.missing, [SegmentRange { first: SegmentSeq(6), last: SegmentSeq(6) }]);
    let told = world.with(|view| explain(&rules, 600 * SECOND_NS, view, Lsn(55)));
    assert!(told.restorable);
}
