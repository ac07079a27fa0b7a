//! The pool's problems, as the operator reads them.
//!
//! **Invariants.** A problem stays in the list until its reporter withdraws it. Adjacent gaps of
//! history are one problem: for each range in `gaps` exactly one text is in the list.
//!
//! **Bounds:** damage may be noted for each of 100,000 synchs. When the list has [`LISTED_MAX`]
//! problems, 8 bytes of each further one are kept, and the list ends with their number.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::log::reader::LsnRange;

/// From this length of the list on, noted problems are only counted.
const LISTED_MAX: usize = 1000;

/// How many gaps of the time before a start are reported one by one.
const OLD_GAPS_MAX: usize = 8;

fn gap_problem(gap: LsnRange, why: &str) -> String {
    format!("history has a gap at LSN {} to {}: {why}", gap.start, gap.end)
}

/// The problems of a pool, oldest first. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Problems {
    list: Vec<String>,
    /// Gaps of history that are in the list, with their texts.
    gaps: Vec<(LsnRange, String)>,
    /// Hashes of the noted problems that are not in the list.
    unlisted: HashSet<u64>,
    /// How many these are, as text.
    more: Option<String>,
}

impl Problems {
    /// All of them.
    pub(in crate::volume) fn iter(&self) -> impl Iterator<Item = &String> {
        self.list.iter().chain(&self.more)
    }

    /// Sets the problems that recovery of the log found, before anything else.
    pub(in crate::volume) fn begin_with(&mut self, problems: Vec<String>) {
        assert!(self.list.is_empty(), "recovery comes first");
        self.list = problems;
    }

    /// Stores a problem, once, and writes it to the journal.
    pub(in crate::volume) fn note(&mut self, problem: String) {
        if self.unlisted.contains(&hash_of(&problem)) || self.list.contains(&problem) {
            return;
        }
        tracing::warn!(problem, "the pool has a problem");
        if self.list.len() < LISTED_MAX {
            self.list.push(problem);
        } else {
            self.unlisted.insert(hash_of(&problem));
            self.count_unlisted();
        }
    }

    fn count_unlisted(&mut self) {
        let count = self.unlisted.len();
        self.more = (count > 0).then(|| format!("{count} more problems are in the journal"));
    }

    /// Adds a problem that its reporter will withdraw.
    pub(in crate::volume) fn add(&mut self, problem: &str) {
        self.list.push(problem.to_owned());
    }

    /// Removes a problem.
    pub(in crate::volume) fn withdraw(&mut self, problem: &str) {
        if self.unlisted.remove(&hash_of(problem)) {
            self.count_unlisted();
        } else {
            self.list.retain(|known| known != problem);
        }
    }

    /// Reports the gaps that the catalog has at a start, oldest first. A long-lived pool may have
    /// many; all of them are in the status of the archive.
    pub(in crate::volume) fn remember_gaps(&mut self, gaps: &[LsnRange]) {
        let older = gaps.len().saturating_sub(OLD_GAPS_MAX);
        if older > 0 {
            self.list.push(format!(
                "history has {older} older gaps: `varve archive status` lists them; points in them, and a working set after them, cannot be opened from the archive"
            ));
        }
        for &gap in &gaps[older..] {
            let problem = gap_problem(gap, "it was recorded before this start");
            self.list.push(problem.clone());
            self.gaps.push((gap, problem));
        }
    }

    /// Reports a gap in history, which may join gaps that were reported before.
    pub(in crate::volume) fn note_gap(&mut self, whole: LsnRange, why: &str) {
        let is_within = |known: &LsnRange| whole.start <= known.start && known.end <= whole.end;
        let list = &mut self.list;
        let before = self.gaps.len();
        self.gaps.retain(|(known, text)| {
            let is_apart = !is_within(known);
            if !is_apart {
                list.retain(|problem| problem != text);
            }
            is_apart
        });
        let problem = gap_problem(whole, why);
        if self.gaps.len() == before {
            tracing::warn!(problem, "the archive cannot keep up");
        }
        self.list.push(problem.clone());
        self.gaps.push((whole, problem));
    }
}

fn hash_of(problem: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    problem.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Lsn;

    #[test]
    fn gaps_that_meet_are_one_problem() {
        let mut problems = Problems::default();
        let gap = |start, end| LsnRange { start: Lsn(start), end: Lsn(end) };
        problems.note_gap(gap(10, 20), "why");
        problems.note_gap(gap(40, 50), "why");
        assert_eq!(problems.iter().count(), 2);
        problems.note_gap(gap(10, 30), "because");
        let texts: Vec<&str> = problems.iter().map(String::as_str).collect();
        assert_eq!(
            texts,
            ["history has a gap at LSN 40 to 50: why", "history has a gap at LSN 10 to 30: because"]
        );
    }

    #[test]
    fn the_newest_gaps_of_the_time_before_a_start_are_listed_and_join_new_ones() {
        let gap = |start, end| LsnRange { start: Lsn(start), end: Lsn(end) };
        let mut problems = Problems::default();
        let old: Vec<LsnRange> = (0..10).map(|index| gap(index * 100, index * 100 + 10)).collect();
        problems.remember_gaps(&old);
        let texts: Vec<&str> = problems.iter().map(String::as_str).collect();
        assert!(texts[0].starts_with("history has 2 older gaps: "), "{texts:?}");
        assert_eq!(texts[8], "history has a gap at LSN 900 to 910: it was recorded before this start");
        assert_eq!(texts.len(), 9);
        problems.note_gap(gap(900, 920), "why");
        let texts: Vec<&str> = problems.iter().map(String::as_str).collect();
        assert_eq!((texts[8], texts.len()), ("history has a gap at LSN 900 to 920: why", 9));
        let mut none = Problems::default();
        none.remember_gaps(&[]);
        assert_eq!(none.iter().count(), 0);
    }

    #[test]
    fn a_problem_is_noted_once_and_goes_when_it_is_withdrawn() {
        let mut problems = Problems::default();
        problems.begin_with(vec!["found".to_owned()]);
        problems.note("again".to_owned());
        problems.note("again".to_owned());
        problems.add("owned");
        assert_eq!(problems.iter().count(), 3);
        problems.withdraw("owned");
        problems.withdraw("again");
        assert_eq!(problems.iter().collect::<Vec<_>>(), ["found"]);
    }

    #[test]
    fn ever_more_problems_make_no_longer_list() {
        let mut problems = Problems::default();
        for _ in 0..2 {
            (0..LISTED_MAX + 500).for_each(|number| problems.note(format!("problem {number}")));
        }
        problems.add("owned");
        assert_eq!(problems.iter().count(), LISTED_MAX + 2);
        assert_eq!(problems.iter().last().map(String::as_str), Some("500 more problems are in the journal"));
        (5..LISTED_MAX + 500).for_each(|number| problems.withdraw(&format!("problem {number}")));
        assert_eq!(problems.iter().count(), 6);
    }
}
