//! Rules: which system calls to change, and how.

use std::ops::Range;
use std::time::Duration;

use rustix::io::Errno;

use super::call::Call;

/// What a system call does to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `pread64`, `preadv`, `preadv2`.
    Read,
    /// `pwrite64`, `pwritev`, `pwritev2`.
    Write,
    /// `fsync`, `fdatasync`.
    Sync,
    /// `open`, `openat`, for any purpose.
    Open,
    /// `rename`, `renameat`, `renameat2`.
    Rename,
    /// `link`, `linkat`.
    Link,
    /// `unlink`, `unlinkat`, `rmdir`.
    Unlink,
    /// `mkdir`, `mkdirat`.
    MakeDirectory,
    /// `fallocate` that allocates space.
    Allocate,
    /// `fallocate` that frees space.
    Discard,
    /// `truncate`, `ftruncate`.
    Truncate,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is executed as if nobody watched.
    Proceed,
    /// It fails and is not executed.
    Fail(Errno),
    /// It moves at most this many bytes. Only reads and writes can be cut short; other calls
    /// proceed.
    Short(u64),
    /// The process is killed instead.
    Kill,
}

/// How long a call waits before its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// Not at all.
    None,
    /// This long.
    Time(Duration),
    /// Until the rule is removed; then it proceeds.
    UntilRemoved,
}

/// Which system calls to change, and how. Starts from the file and the operations:
///
/// ```
/// use rustix::io::Errno;
/// use varve_tests::faults::{Operation, Rule};
/// let rule = Rule::on("pool.varve", &[Operation::Read]).within(4096..8192);
/// let rule = rule.times(2).fail(Errno::IO);
/// ```
///
/// Without an outcome it only counts.
#[derive(Debug, Clone)]
pub struct Rule {
    file: String,
    operations: Vec<Operation>,
    range: Option<Range<u64>>,
    pub(super) skip: u64,
    pub(super) times: Option<u64>,
    pub(super) patience: Patience,
    pub(super) outcome: Outcome,
}

impl Rule {
    /// A rule for these operations on every file whose path contains `file`.
    pub fn on(file: &str, operations: &[Operation]) -> Self {
        Rule {
            file: file.to_owned(),
            operations: operations.to_vec(),
            range: None,
            skip: 0,
            times: None,
            patience: Patience::None,
            outcome: Outcome::Proceed,
        }
    }

    /// Only calls that access one of these bytes of the file.
    #[must_use]
    pub fn within(mut self, bytes: Range<u64>) -> Self {
        self.range = Some(bytes);
        self
    }

    /// Lets the first `count` matching calls pass.
    #[must_use]
    pub fn skip(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// Applies `count` times and then no more.
    #[must_use]
    pub fn times(mut self, count: u64) -> Self {
        self.times = Some(count);
        self
    }

    /// Each call waits this long first.
    #[must_use]
    pub fn delay(mut self, time: Duration) -> Self {
        self.patience = Patience::Time(time);
        self
    }

    /// Each call waits until the rule is removed, and is then executed.
    #[must_use]
    pub fn hold(mut self) -> Self {
        self.patience = Patience::UntilRemoved;
        self
    }

    /// Each call fails with this error and is not executed.
    #[must_use]
    pub fn fail(mut self, errno: Errno) -> Self {
        self.outcome = Outcome::Fail(errno);
        self
    }

    /// Each read or write moves at most this many bytes.
    #[must_use]
    pub fn short(mut self, bytes: u64) -> Self {
        self.outcome = Outcome::Short(bytes);
        self
    }

    /// The process is killed instead of the call, as by SIGKILL.
    #[must_use]
    pub fn kill(mut self) -> Self {
        self.outcome = Outcome::Kill;
        self
    }

    /// Whether the rule has this operation.
    pub(super) fn concerns(&self, operation: Operation) -> bool {
        self.operations.contains(&operation)
    }

    /// Whether the rule matches this call.
    pub(super) fn matches(&self, call: &Call) -> bool {
        let in_range = match (&self.range, &call.range) {
            (None, _) => true,
            (Some(wanted), Some(touched)) => wanted.start < touched.end && touched.start < wanted.end,
            (Some(_), None) => false,
        };
        in_range && self.concerns(call.operation) && call.paths().any(|path| path.contains(&self.file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(operation: Operation, path: &str, range: Option<Range<u64>>) -> Call {
        Call { operation, path: path.to_owned(), second_path: None, range }
    }

    #[test]
    fn a_rule_is_about_operations_files_and_bytes() {
        let rule = Rule::on("pool.varve", &[Operation::Read, Operation::Sync]).within(100..200);
        assert!(rule.matches(&call(Operation::Read, "/a/pool.varve", Some(199..300))));
        assert!(rule.matches(&call(Operation::Read, "/a/pool.varve", Some(0..101))));
        assert!(!rule.matches(&call(Operation::Read, "/a/pool.varve", Some(200..300))));
        assert!(!rule.matches(&call(Operation::Read, "/a/pool.varve", Some(0..100))));
        assert!(!rule.matches(&call(Operation::Write, "/a/pool.varve", Some(0..300))));
        assert!(!rule.matches(&call(Operation::Read, "/a/other", Some(0..300))));
        assert!(!rule.matches(&call(Operation::Sync, "/a/pool.varve", None)), "a sync has no bytes");
        assert!(Rule::on("pool", &[Operation::Sync]).matches(&call(Operation::Sync, "/a/pool.varve", None)));
    }
}
