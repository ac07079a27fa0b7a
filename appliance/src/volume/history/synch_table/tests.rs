//! Tests of the table, and of the synchs that a pool keeps in one.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;
use uuid::Uuid;

use super::super::synchs::Synchs;
use super::*;
use crate::volume::info::SynchVolume;

fn synch(lsn: u64, id: u64, details_bytes: usize) -> SynchInfo {
    let details = match details_bytes {
        0 => serde_json::Value::Null,
        _ => json!("x".repeat(details_bytes)),
    };
    SynchInfo {
        id,
        label: format!("label-{}", id % 7),
        lsn,
        time_ns: lsn * 1000,
        volume: id.is_multiple_of(3).then(|| SynchVolume { uuid: Uuid::from_u128(7), name: "v".to_owned() }),
        group: (id % 30 == 1).then(|| SynchVolume { uuid: Uuid::from_u128(8), name: "g".to_owned() }),
        details,
        details_unread: None,
    }
}

/// As a table shows it.
fn shown(synch: &SynchInfo) -> SynchInfo {
    let text = synch.details.to_string();
    if text.len() <= DETAILS_KEPT_BYTES_MAX {
        return synch.clone();
    }
    let reason = format!("{} bytes that are not in memory", text.len());
    SynchInfo { details: serde_json::Value::Null, details_unread: Some(reason), ..synch.clone() }
}

fn insert(table: &mut SynchTable, synch: &SynchInfo) {
    with_ref(synch, |synch| table.insert(synch));
}

fn check(table: &SynchTable, model: &BTreeMap<u64, SynchInfo>) {
    assert_eq!(table.infos(), model.values().map(shown).collect::<Vec<_>>());
    assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
    let pages = table.pages.iter();
    assert!(pages.clone().all(|page| (1..=PAGE_ENTRIES_MAX).contains(&page.entries.len())));
    assert!(pages.clone().zip(pages.skip(1)).all(|(one, next)| one.last() < next.first()));
}

proptest! {
    #[test]
    fn it_is_a_map_and_copies_stay_as_they_were(
        runs in proptest::collection::vec((0_u8..4, 0_u64..2000, 1_u64..700, 0_usize..600), 1..10),
    ) {
        let (mut table, mut model) = (SynchTable::default(), BTreeMap::new());
        for (number, (kind, start, count, details_bytes)) in runs.into_iter().enumerate() {
            let (before, was) = (table.clone(), model.clone());
            let range = start..start + count;
            if kind == 0 {
                let is_near = |first: Lsn, last: Lsn| first.0 < range.end && last.0 >= range.start;
                table.retain(is_near, |lsn| !range.contains(&lsn.0));
                model.retain(|lsn, _| !range.contains(lsn));
            } else {
                // In order, backward, or with gaps.
                let step = if kind == 3 { 3 } else { 1 };
                for at in range.clone().step_by(step) {
                    let lsn = if kind == 2 { range.end - (at - start) } else { at };
                    let new = synch(lsn, 1 + number as u64, details_bytes);
                    insert(&mut table, &new);
                    model.insert(lsn, new);
                }
            }
            check(&table, &model);
            check(&before, &was);
            let behind: Vec<u64> = table.iter_from(Lsn(start)).map(|synch| synch.lsn.0).collect();
            prop_assert!(behind.iter().eq(model.range(start..).map(|(lsn, _)| lsn)));
            let found = table.get(Lsn(start)).map(|synch| synch.to_info());
            prop_assert_eq!(found, model.get(&start).map(shown));
        }
    }

    #[test]
    fn many_are_learned_as_one_by_one(
        known in proptest::collection::btree_map(0_u64..3000, any::<bool>(), 0..1500),
        news in proptest::collection::btree_map(0_u64..6000, any::<bool>(), 0..1500),
    ) {
        let infos = |synchs: &BTreeMap<u64, bool>, id: u64| -> Vec<SynchInfo> {
            let info = |(&lsn, &is_whole): (&u64, &bool)| {
                if is_whole { synch(lsn, id, 5) } else { SynchInfo::damaged(lsn, lsn * 1000) }
            };
            synchs.iter().map(info).collect()
        };
        let (mut at_once, mut each) = (Synchs::default(), Synchs::default());
        for known in infos(&known, 1) {
            at_once.push(&known);
            each.push(&known);
        }
        let mut table = SynchTable::default();
        let mut healed = Vec::new();
        for new in infos(&news, 2) {
            table.push(&new);
            healed.extend(each.learn(&new));
        }
        prop_assert_eq!(at_once.learn_all(&table), healed);
        prop_assert_eq!(at_once.infos(), each.infos());
        prop_assert_eq!(at_once.len(), each.iter().count());
    }
}

#[test]
fn a_hundred_thousand_synchs_fit_into_eight_mebibytes() {
    const COUNT: u64 = 100_000;
    let fill = |details: &dyn Fn(u64) -> serde_json::Value| {
        let mut table = SynchTable::default();
        for number in 0..COUNT {
            let (label, details) = (format!("canary-{}-{number}", number % 8), details(number));
            table.push(&SynchInfo { label, details, group: None, ..synch(number, number + 1, 0) });
        }
        table
    };
    let usual = fill(&|number| json!({"by": number % 8, "at": number}));
    assert!(usual.memory_bytes() < 8 << 20, "{} bytes", usual.memory_bytes());
    // Long details take nothing.
    let text = "x".repeat(16_000);
    let long = fill(&|_| json!({"text": text}));
    assert!(long.memory_bytes() < 6 << 20, "{} bytes", long.memory_bytes());
    assert!(matches!(long.iter().next().map(|synch| synch.details), Some(SynchDetails::Elsewhere { .. })));
}

#[test]
fn pages_between_others_are_taken_and_pages_that_stay_are_shared() {
    let fill = |lsns: Range<u64>| {
        let mut table = SynchTable::default();
        lsns.for_each(|lsn| table.push(&synch(lsn, lsn + 1, 5)));
        table
    };
    let mut table = fill(10_000..20_000);
    let old = fill(0..5000);
    assert!(table.take_pages(&old).is_empty());
    assert!(Arc::ptr_eq(&table.pages[0], &old.pages[0]), "a page is not copied");
    // Of these, pages that overlap known ones come back.
    let rest = table.take_pages(&fill(9000..20_100));
    assert!(table.iter().map(|synch| synch.lsn.0).eq((0..5000).chain(table_lsns(&table))));
    assert!(rest.iter().any(|synch| synch.lsn == Lsn(15_000)) && rest.len() >= 10_000);
    let before = table.clone();
    table.retain(|first, _| first.0 < 300, |lsn| lsn.0 >= 300);
    assert_eq!(table.iter().next().map(|synch| synch.lsn), Some(Lsn(300)));
    let same = table.pages.iter().filter(|page| before.pages.iter().any(|known| Arc::ptr_eq(page, known)));
    assert_eq!(same.count(), table.pages.len() - 1, "only one page was changed");
}

/// The positions from 5000 on.
fn table_lsns(table: &SynchTable) -> impl Iterator<Item = u64> {
    table.iter_from(Lsn(5000)).map(|synch| synch.lsn.0)
}

#[test]
fn a_label_of_any_length_is_kept_or_cut_between_characters() {
    let mut table = SynchTable::default();
    let label = "ä".repeat(40_000);
    table.push(&SynchInfo { label: label.clone(), ..synch(1, 1, 5) });
    table.push(&synch(2, 2, 5));
    let kept = table.iter().next().map(|synch| synch.label.to_owned()).unwrap_or_default();
    assert!(label.starts_with(&kept) && kept.len() == 510, "{}", kept.len());
    assert_eq!(table.get(Lsn(2)).map(|found| found.to_info()), Some(synch(2, 2, 5)));
}
