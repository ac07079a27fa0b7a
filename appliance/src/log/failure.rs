//! Why a log takes no more writes until a restart.

use std::fmt;
use std::sync::Arc;

/// What stopped a log, which decides what the operator can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureCause {
    /// The device refused a write or a flush.
    Device,
    /// Another appliance owns the archive and goes on with this history. The device is well.
    Owner,
}

impl FailureCause {
    /// What the operator can do, as a sentence without its full stop.
    pub fn advice(self) -> &'static str {
        match self {
            FailureCause::Device => "Check the device (dmesg), cure it and restart",
            FailureCause::Owner => {
                "The device is not the cause: move the hosts to where the pool is served now, or restart with --fork"
            }
        }
    }
}

/// The first failure of a log. It reads as its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFailure {
    reason: Arc<str>,
    cause: FailureCause,
}

impl LogFailure {
    /// A failure. `reason` names the object and what happened to it.
    pub fn new(cause: FailureCause, reason: &str) -> Self {
        LogFailure { reason: Arc::from(reason), cause }
    }

    /// The reason, without the advice.
    pub fn reason(&self) -> &Arc<str> {
        &self.reason
    }

    /// What stopped the log.
    pub fn cause(&self) -> FailureCause {
        self.cause
    }

    /// The problem for the operator.
    pub fn problem(&self) -> String {
        format!("the log failed: {self}; writes are refused. {}", self.cause.advice())
    }
}

impl fmt::Display for LogFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_failure_of_the_device_asks_to_check_it() {
        let of = |cause| LogFailure::new(cause, "why").problem();
        let (device, owner) = (of(FailureCause::Device), of(FailureCause::Owner));
        assert!(device.starts_with("the log failed: why; writes are refused. Check the device"), "{device}");
        assert!(owner.starts_with("the log failed: why; writes are refused. "), "{owner}");
        assert!(!owner.contains("Check the device") && owner.contains("--fork"), "{owner}");
    }
}
