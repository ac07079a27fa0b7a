//! Looks up synchs by what operators call them.

use std::ops::Range;

use crate::volume::history::synchs::Synchs;
use crate::volume::info::SynchInfo;

/// How many synchs of one label are named to the operator.
const NAMED_MAX: usize = 4;

/// A synch that was found by its name, and what the operator should know about the name.
pub(in crate::volume) struct NamedSynch {
    pub(in crate::volume) synch: SynchInfo,
    pub(in crate::volume) note: Option<String>,
}

/// The synch that a text names: by its id, or else the newest with the label.
pub(in crate::volume) fn by_name(synchs: &Synchs, name: &str) -> Option<NamedSynch> {
    let id = name.parse::<u64>().ok();
    let by_id = id.and_then(|id| synchs.iter().find(|synch| synch.id == id));
    let labelled: Vec<&SynchInfo> =
        synchs.iter().rev().filter(|synch| synch.label == name).take(NAMED_MAX + 1).collect();
    if let Some(synch) = by_id {
        let others: Vec<&SynchInfo> =
            labelled.into_iter().filter(|labelled| labelled.lsn != synch.lsn).collect();
        let note = (!others.is_empty()).then(|| {
            format!("it is taken as the id of a synch; there is also the label '{name}': {}", ids(&others))
        });
        return Some(NamedSynch { synch: synch.clone(), note });
    }
    let (newest, others) = labelled.split_first()?;
    let note = match (others.is_empty(), id) {
        (true, None) => None,
        (true, Some(_)) => {
            Some(format!("no synch has the id {name}; it is taken as a label: id {}", newest.id))
        }
        (false, _) => Some(format!(
            "several synchs have the label '{name}'; the newest is taken: id {}. Others: {}",
            newest.id,
            ids(others)
        )),
    };
    Some(NamedSynch { synch: SynchInfo::clone(newest), note })
}

fn ids(synchs: &[&SynchInfo]) -> String {
    let named: Vec<String> =
        synchs.iter().take(NAMED_MAX).map(|synch| format!("id {} (lsn:{})", synch.id, synch.lsn)).collect();
    let more = if synchs.len() > NAMED_MAX { ", and more" } else { "" };
    format!("{}{more}", named.join(", "))
}

/// The synch at a position.
pub(in crate::volume) fn at(synchs: &Synchs, lsn: u64) -> Option<SynchInfo> {
    let place = synchs.binary_search_by_key(&lsn, |synch| synch.lsn).ok()?;
    synchs.get(place).cloned()
}

/// The synchs whose times are in a range, oldest first; at most four, the newest ones.
pub(in crate::volume) fn within(synchs: &Synchs, times_ns: Range<u64>) -> Vec<SynchInfo> {
    let first = synchs.partition_point(|synch| synch.time_ns < times_ns.start);
    let end = synchs.partition_point(|synch| synch.time_ns < times_ns.end).max(first);
    synchs[first.max(end.saturating_sub(NAMED_MAX))..end].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn synchs(labels: &[&str]) -> Synchs {
        let mut synchs = Synchs::default();
        for (index, label) in labels.iter().enumerate() {
            let number = index as u64 + 1;
            synchs.push(SynchInfo {
                id: number,
                label: (*label).to_owned(),
                lsn: number * 10,
                time_ns: number * 100,
                volume: None,
                details: serde_json::Value::Null,
            });
        }
        synchs
    }

    #[test]
    fn what_a_name_means_is_never_hidden() {
        let synchs = synchs(&["a", "b", "a", "1", "9"]);
        let named = |name: &str| by_name(&synchs, name).map(|found| (found.synch.id, found.note));
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
    fn times_find_their_synchs() {
        let synchs = synchs(&["a", "b", "c", "d", "e", "f"]);
        let ids = |range| within(&synchs, range).iter().map(|synch| synch.id).collect::<Vec<_>>();
        assert_eq!(ids(100..101), [1]);
        assert_eq!(ids(101..200), [0_u64; 0]);
        assert_eq!(ids(100..1000), [3, 4, 5, 6]);
        assert_eq!(at(&synchs, 20).map(|synch| synch.id), Some(2));
        assert_eq!(at(&synchs, 21), None);
    }
}
