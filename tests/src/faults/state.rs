//! The rules in force, how often each has applied, and the injected faults.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::call::Call;
use super::rule::{Operation, Outcome, Patience, Rule};

/// The maximum number of stored events; counts continue after that.
const EVENTS_MAX: usize = 10_000;

/// The ID of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

/// A rule that applied.
#[derive(Debug, Clone)]
pub struct Event {
    /// When, as the time since the faults were created.
    pub at: Duration,
    /// Which rule.
    pub rule: RuleId,
    /// The thread that made the call. A signal to it reaches its process.
    pub thread: u32,
    /// The operation of the call.
    pub operation: Operation,
    /// The file.
    pub path: String,
    /// Its bytes.
    pub range: Option<Range<u64>>,
}

/// What to do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) rule: RuleId,
    pub(super) patience: Patience,
    pub(super) outcome: Outcome,
}

/// Everything that tests and supervisors share.
#[derive(Debug)]
pub(super) struct State {
    begin: Instant,
    rules: BTreeMap<RuleId, Rule>,
    hits: BTreeMap<RuleId, u64>,
    events: Vec<Event>,
    next: u64,
    /// Calls that the supervisors have answered.
    pub(super) calls: u64,
    /// Why calls could not be inspected: from then on no test may trust its results.
    pub(super) trouble: Option<String>,
}

impl State {
    pub(super) fn new() -> Self {
        State {
            begin: Instant::now(),
            rules: BTreeMap::new(),
            hits: BTreeMap::new(),
            events: Vec::new(),
            next: 0,
            calls: 0,
            trouble: None,
        }
    }

    pub(super) fn add(&mut self, rule: Rule) -> RuleId {
        let id = RuleId(self.next);
        self.next += 1;
        self.rules.insert(id, rule);
        self.hits.insert(id, 0);
        id
    }

    pub(super) fn remove(&mut self, id: RuleId) {
        self.rules.remove(&id);
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn holds(&self, id: RuleId) -> bool {
        self.rules.contains_key(&id)
    }

    pub(super) fn hits(&self, id: RuleId) -> u64 {
        self.hits.get(&id).copied().unwrap_or(0)
    }

    pub(super) fn events(&self) -> &[Event] {
        &self.events
    }

    /// Whether any rule in force has this operation: most calls need no further inspection.
    pub(super) fn concerns(&self, operation: Operation) -> bool {
        self.rules.values().any(|rule| rule.concerns(operation) && rule.times != Some(0))
    }

    /// The first rule that applies to a call; it is counted and recorded.
    pub(super) fn decide(&mut self, thread: u32, call: &Call) -> Option<Decision> {
        for (&id, rule) in &mut self.rules {
            if rule.times == Some(0) || !rule.matches(call) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            rule.times = rule.times.map(|left| left - 1);
            *self.hits.entry(id).or_default() += 1;
            if self.events.len() < EVENTS_MAX {
                let path = call.second_path.as_ref().unwrap_or(&call.path).clone();
                let (at, range) = (self.begin.elapsed(), call.range.clone());
                self.events.push(Event { at, rule: id, thread, operation: call.operation, path, range });
            }
            return Some(Decision { rule: id, patience: rule.patience, outcome: rule.outcome });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn rules_skip_count_and_end() {
        let mut state = State::new();
        let failing = state.add(Rule::on("f", &[Operation::Read]).skip(1).times(2).fail(Errno::IO));
        let counting = state.add(Rule::on("f", &[Operation::Read]));
        let call =
            Call { operation: Operation::Read, path: "/f".to_owned(), second_path: None, range: Some(0..1) };
        assert!(state.concerns(Operation::Read) && !state.concerns(Operation::Write));
        let mut rules = Vec::new();
        for _ in 0..4 {
            rules.push(state.decide(1, &call).expect("one applies").rule);
        }
        assert_eq!(rules, [counting, failing, failing, counting]);
        assert_eq!((state.hits(failing), state.hits(counting), state.events().len()), (2, 2, 4));
        state.remove(counting);
        assert!(state.decide(1, &call).is_none() && !state.concerns(Operation::Read));
        assert_eq!(state.hits(counting), 2, "counts outlive their rule");
    }
}
