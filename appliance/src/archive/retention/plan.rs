//! The plan: which segments are kept and which may be deleted.

use serde::{Deserialize, Serialize};

use super::cause::Cause;
use super::gather::endpoints;
use super::{ArchiveView, KeepRules, SegmentRange};
use crate::log::types::SegmentSeq;

/// The decision about a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is kept.
    Kept(Cause),
    /// Nothing that is kept needs it, so it may be deleted.
    Expirable,
}

/// Consecutive archived segments with the same verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRun {
    /// The segments; all of them are archived.
    pub segments: SegmentRange,
    /// The decision about them.
    pub verdict: Verdict,
}

/// The decision about each segment of an archive.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Plan {
    runs: Vec<PlanRun>,
}

impl Plan {
    /// The runs, in the order of the log.
    pub fn runs(&self) -> &[PlanRun] {
        &self.runs
    }

    /// The decision about a segment; `None` when it is not archived.
    pub fn verdict(&self, sequence: SegmentSeq) -> Option<Verdict> {
        let index = self.runs.partition_point(|run| run.segments.last < sequence);
        self.runs.get(index).filter(|run| run.segments.first <= sequence).map(|run| run.verdict)
    }

    /// The segments that nothing needs, in the order of the log. Delete the oldest first: then a
    /// crash in between leaves no hole.
    pub fn expirable(&self) -> impl Iterator<Item = SegmentRange> {
        self.runs.iter().filter(|run| run.verdict == Verdict::Expirable).map(|run| run.segments)
    }

    /// Adds the next older segment. Segments are added newest first; the runs are reversed at the
    /// end.
    fn push_older(&mut self, sequence: SegmentSeq, verdict: Verdict) {
        match self.runs.last_mut() {
            Some(run) if run.verdict == verdict && sequence.next() == run.segments.first => {
                run.segments.first = sequence;
            }
            _ => {
                let segments = SegmentRange { first: sequence, last: sequence };
                self.runs.push(PlanRun { segments, verdict });
            }
        }
    }
}

/// Decides for each archived segment whether it is kept. The module's documentation describes what
/// is always kept, and the cost.
pub fn plan(rules: &KeepRules, now_ns: u64, view: &ArchiveView<'_>) -> Plan {
    let mut plan = Plan::default();
    let mut endpoints = if rules.keep_everything() { Vec::new() } else { endpoints(rules, now_ns, view) };
    // From the newest segment back: one number holds how far back the windows of all points so far
    // reach.
    let mut reach: Option<(SegmentSeq, Cause)> = None;
    for segment in view.segments.iter().rev() {
        let sequence = segment.sequence;
        while let Some(endpoint) = endpoints.pop_if(|endpoint| endpoint.sequence >= sequence) {
            let first = view.window(endpoint.sequence).first;
            if reach.is_none_or(|(reached, _)| first < reached) {
                reach = Some((first, endpoint.cause));
            }
        }
        let verdict = match reach {
            _ if rules.keep_everything() => Verdict::Kept(Cause::Everything),
            Some((reached, cause)) if reached <= sequence => Verdict::Kept(cause),
            _ if sequence >= view.never_before => Verdict::Kept(Cause::WorkingSet),
            _ => Verdict::Expirable,
        };
        plan.push_older(sequence, verdict);
    }
    plan.runs.reverse();
    plan
}
