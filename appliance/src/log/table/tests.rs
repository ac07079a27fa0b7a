//! Applies random steps to the table, and checks its invariants after each.

use proptest::prelude::*;

use super::*;

/// Random writes, trims, copies and archiving over a table: it only makes the transitions of R4.
#[derive(Debug, Clone, Copy)]
enum Step {
    Write(u64),
    Trim(u64),
    Seal,
    Retire { stable: bool },
    Archive,
    Release,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..40_u64).prop_map(Step::Write),
        1 => (0..40_u64).prop_map(Step::Trim),
        2 => Just(Step::Seal),
        2 => any::<bool>().prop_map(|stable| Step::Retire { stable }),
        2 => Just(Step::Archive),
        2 => Just(Step::Release),
    ]
}

proptest! {
    #[test]
    fn segments_take_only_legal_steps(steps in prop::collection::vec(step(), 1..400)) {
        const SLOTS: u64 = 8;
        let mut table = SegmentTable::new(SegmentSeq(0), (0..SLOTS).map(Slot));
        let mut current = table.open(1, 0, Lsn(0)).map(|(sequence, _)| sequence);
        let mut homes: std::collections::HashMap<u64, SegmentSeq> = std::collections::HashMap::new();
        let mut phases: std::collections::HashMap<SegmentSeq, Phase> = std::collections::HashMap::new();
        let mut head = 1;
        for step in steps {
            head += 1;
            let now = current.expect("one is always open");
            match step {
                Step::Write(block) => {
                    if let Some(old) = homes.insert(block, now) { table.count_dead(old); }
                    table.count_live(now);
                }
                Step::Trim(block) => {
                    if let Some(old) = homes.remove(&block) { table.count_dead(old); }
                    table.note_trim(now);
                }
                Step::Seal => {
                    if table.free_len() > 0 {
                        table.note_sealed(now);
                        current = table.open(1, 0, Lsn(head)).map(|(sequence, _)| sequence);
                    }
                }
                Step::Retire { stable } => {
                    let stable = if stable { Lsn(head) } else { Lsn(0) };
                    table.retire(current, Lsn(head), stable);
                }
                Step::Archive => {
                    let sealed = table.iter().find(|(_, segment)| segment.sealed && !segment.archived).map(|(sequence, _)| sequence);
                    if let Some(sequence) = sealed { table.note_archived(sequence); }
                }
                Step::Release => {
                    if let Some(sequence) = table.next_to_release(|_, segment| segment.archived) {
                        let trims = table.get(sequence).map_or(0, |segment| segment.trims);
                        prop_assert!(trims == 0 || sequence == table.oldest());
                        table.release(sequence);
                    }
                }
            }
            // Every slot is in exactly one place; live blocks are in segments that are in use and
            // on the device.
            let mut slots: Vec<u64> = table.free().map(|slot| slot.0).collect();
            slots.extend(table.iter().filter_map(|(_, segment)| segment.slot).map(|slot| slot.0));
            slots.sort_unstable();
            prop_assert_eq!(slots, (0..SLOTS).collect::<Vec<_>>());
            for (sequence, segment) in table.iter() {
                let live = homes.values().filter(|&&home| home == sequence).count() as u64;
                prop_assert_eq!(segment.live, live);
                prop_assert!(live == 0 || (segment.phase == Phase::InUse && segment.slot.is_some()));
                prop_assert!(sequence < table.first_in_use() || segment.phase != Phase::Released || segment.trims == 0);
                let before = phases.insert(sequence, segment.phase).unwrap_or(Phase::InUse);
                let legal = before == segment.phase
                    || (before == Phase::InUse && segment.phase == Phase::Inactive)
                    || (before == Phase::Inactive && segment.phase == Phase::Released);
                prop_assert!(legal, "{:?} to {:?}", before, segment.phase);
            }
            for home in homes.values() {
                prop_assert!(*home >= table.first_in_use() && *home >= table.oldest());
            }
        }
    }
}
