//! Looks up synchs by what operators call them. There may be a million synchs: they are compared in
//! pieces that each fit into a short turn.

use crate::log::Lsn;
use crate::reactor::yield_now;
use crate::volume::history::synch_table::{SynchRef, SynchTable};
use crate::volume::info::SynchInfo;

/// How many synchs of one label are named to the operator.
const NAMED_MAX: usize = 4;
/// How many pages of synchs are compared with a name in one turn: about 100 us.
const FIND_PAGES: usize = 32;

/// A synch that was found by its name, and what the operator should know about the name.
pub(in crate::volume) struct NamedSynch {
    pub(in crate::volume) synch: SynchInfo,
    pub(in crate::volume) note: Option<String>,
}

/// The synch that a text names: by its id, or else the newest with the label.
pub(in crate::volume) async fn by_name(synchs: &SynchTable, name: &str) -> Option<NamedSynch> {
    let id = name.parse::<u64>().ok();
    let by_id = match id {
        Some(id) => with_id(synchs, id).await,
        None => None,
    };
    let labelled = labelled(synchs, name, NAMED_MAX + 2).await;
    if let Some(synch) = by_id {
        let others: Vec<&SynchInfo> = labelled.iter().filter(|labelled| labelled.lsn != synch.lsn).collect();
        let note = (!others.is_empty()).then(|| {
            format!("it is taken as the id of a synch; there is also the label '{name}': {}", ids(&others))
        });
        return Some(NamedSynch { synch, note });
    }
    let mut labelled = labelled.into_iter();
    let newest = labelled.next()?;
    let others: Vec<SynchInfo> = labelled.collect();
    let note = match (others.is_empty(), id) {
        (true, None) => None,
        (true, Some(_)) => {
            Some(format!("no synch has the id {name}; it is taken as a label: id {}", newest.id))
        }
        (false, _) => Some(format!(
            "several synchs have the label '{name}'; the newest is taken: id {}. Others: {}",
            newest.id,
            ids(&others.iter().collect::<Vec<_>>())
        )),
    };
    Some(NamedSynch { synch: newest, note })
}

fn ids(synchs: &[&SynchInfo]) -> String {
    let named: Vec<String> =
        synchs.iter().take(NAMED_MAX).map(|synch| format!("id {} (lsn:{})", synch.id, synch.lsn)).collect();
    let more = if synchs.len() > NAMED_MAX { ", and more" } else { "" };
    format!("{}{more}", named.join(", "))
}

/// The synch with an id.
pub(in crate::volume) async fn with_id(synchs: &SynchTable, id: u64) -> Option<SynchInfo> {
    let mut end = synchs.page_count();
    while end > 0 {
        let start = end.saturating_sub(FIND_PAGES);
        if let Some(found) = synchs.with_id(start..end, id) {
            return Some(found.to_info());
        }
        end = start;
        yield_now().await;
    }
    None
}

/// At most `max` synchs with a label, newest first.
pub(in crate::volume) async fn labelled(synchs: &SynchTable, label: &str, max: usize) -> Vec<SynchInfo> {
    let (mut found, mut end) = (Vec::new(), synchs.page_count());
    while end > 0 && found.len() < max {
        let start = end.saturating_sub(FIND_PAGES);
        let left = max - found.len();
        found.extend(synchs.labelled(start..end, label).take(left).map(|synch| synch.to_info()));
        end = start;
        yield_now().await;
    }
    found
}

/// The synch at a position.
pub(in crate::volume) fn at(synchs: &SynchTable, lsn: Lsn) -> Option<SynchInfo> {
    synchs.get(lsn).map(|synch| synch.to_info())
}

/// The synchs whose times are in a range, oldest first; at most four, the newest ones.
pub(in crate::volume) fn within(synchs: &SynchTable, times_ns: std::ops::Range<u64>) -> Vec<SynchInfo> {
    let mut newest = std::collections::VecDeque::with_capacity(NAMED_MAX + 1);
    for synch in synchs.within_times(times_ns) {
        if newest.len() == NAMED_MAX {
            newest.pop_front();
        }
        newest.push_back(synch);
    }
    newest.iter().map(SynchRef::to_info).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::block_on;

    fn synchs(labels: &[&str]) -> SynchTable {
        let mut synchs = SynchTable::default();
        for (index, label) in labels.iter().enumerate() {
            let number = index as u64 + 1;
            synchs.push(&SynchInfo {
                id: number,
                label: (*label).to_owned(),
                lsn: number * 10,
                time_ns: number * 100,
                volume: None,
                group: None,
                details: serde_json::Value::Null,
                details_unread: None,
            });
        }
        synchs
    }

    #[test]
    fn what_a_name_means_is_never_hidden() {
        let synchs = synchs(&["a", "b", "a", "1", "9"]);
        let named = |name: &'static str| {
            let synchs = synchs.clone();
            let found = block_on(async move { by_name(&synchs, name).await }, || {});
            found.map(|found| (found.synch.id, found.note))
        };
        assert_eq!(named("b"), Some((2, None)));
        assert_eq!(named("2"), Some((2, None)));
        assert_eq!(named("c"), None);
        let (id, note) = named("a").expect("a synch");
        assert!(id == 3 && note.expect("a note").contains("id 1 (lsn:10)"));
        let (id, note) = named("1").expect("a synch");
        assert!(id == 1 && note.expect("a note").contains("also the label '1': id 4"));
        let (id, note) = named("9").expect("a synch");
        assert!(id == 5 && note.expect("a note").contains("taken as a label: id 5"));
    }

    #[test]
    fn the_newest_of_a_label_and_the_one_of_an_id_are_found_among_thousands() {
        let labels: Vec<String> = (0..20_000).map(|number| format!("label-{}", number % 7)).collect();
        let synchs = synchs(&labels.iter().map(String::as_str).collect::<Vec<_>>());
        let found = |label: &'static str, max| {
            let synchs = synchs.clone();
            let found = block_on(async move { labelled(&synchs, label, max).await }, || {});
            found.iter().map(|synch| synch.id).collect::<Vec<_>>()
        };
        let by_id = |id| {
            let synchs = synchs.clone();
            block_on(async move { with_id(&synchs, id).await }, || {}).map(|synch| synch.lsn)
        };
        assert_eq!(found("label-3", 2), [19_996, 19_989]);
        assert_eq!(found("label-3", usize::MAX).len(), 2857);
        assert_eq!(found("label-9", 9), [0_u64; 0]);
        assert_eq!((by_id(77), by_id(20_001)), (Some(770), None));
    }

    #[test]
    fn times_find_their_synchs() {
        let synchs = synchs(&["a", "b", "c", "d", "e", "f"]);
        let ids = |range| within(&synchs, range).iter().map(|synch| synch.id).collect::<Vec<_>>();
        assert_eq!(ids(100..101), [1]);
        assert_eq!(ids(101..200), [0_u64; 0]);
        assert_eq!(ids(100..1000), [3, 4, 5, 6]);
        assert_eq!(at(&synchs, Lsn(20)).map(|synch| synch.id), Some(2));
        assert_eq!(at(&synchs, Lsn(21)), None);
    }
}
