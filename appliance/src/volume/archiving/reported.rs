//! The problem with the archive that is reported to the operator, and its cause.
//!
//! **Invariant:** `problem` is exactly what this file has put into the pool's list of problems.

use crate::volume::problems::Problems;

const REFUSED: &str = "writes are refused: the archive cannot keep up, and no segment of the primary device can be given away before it is archived (`varve archive status` shows how far behind it is; --back-pressure degrade lets writes go on, with a gap in history)";

/// The reported problem. See the module's documentation.
#[derive(Default)]
pub(super) struct ReportedProblem {
    /// The reported problem, while it is still true.
    problem: Option<String>,
    /// Why the newest job failed, until one succeeds.
    cause: Option<String>,
}

impl ReportedProblem {
    /// The reported problem.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Notes why the newest job failed; `None`: it succeeded.
    pub(super) fn note_cause(&mut self, cause: Option<String>) {
        self.cause = cause;
    }

    /// Reports that the store fails, or that writes are refused, with the cause: neither hides the
    /// other.
    pub(super) fn tell_failure(&mut self, refuses_writes: bool, problems: &mut Problems) {
        let problem = match (&self.cause, refuses_writes) {
            (Some(cause), true) => format!("{REFUSED}; it does not work, and is tried again: {cause}"),
            (None, true) => REFUSED.to_owned(),
            (Some(cause), false) => format!("the archive does not work, and is tried again: {cause}"),
            (None, false) => return,
        };
        self.tell(problem, problems);
    }

    /// Reports a problem to the operator, once.
    fn tell(&mut self, problem: String, problems: &mut Problems) {
        // A problem that differs only in the object or in the kind of failure is not new, but the
        // newest text is shown.
        if self.problem.as_ref() == Some(&problem) {
            return;
        }
        if self.problem.is_none() {
            tracing::warn!(problem, "the archive has a problem");
        }
        self.tell_no_more(problems);
        problems.add(&problem);
        self.problem = Some(problem);
    }

    /// Withdraws the report. Returns whether there was one.
    pub(super) fn tell_no_more(&mut self, problems: &mut Problems) -> bool {
        let Some(problem) = self.problem.take() else { return false };
        problems.withdraw(&problem);
        true
    }
}
