//! What can go wrong with an appliance under test.

use std::path::PathBuf;
use std::time::Duration;
use varve::cli::ClientError;

use crate::faults::FaultsError;

/// Why an appliance did not start, answer or stop.
///
/// `Debug` is the same text as `Display`: a test that returns this error prints what the appliance said.
#[derive(thiserror::Error)]
pub enum ApplianceError {
    /// The host's operating system refused something.
    #[error("{doing} {path}: {source}", path = path.display())]
    Host {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// The answer.
        source: std::io::Error,
    },
    /// The program cannot be built.
    #[error("`{command}` failed with {status}: {output}")]
    Build {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote.
        output: String,
    },
    /// The program has ended by itself, or not well.
    #[error("varve ended ({status}): {output}")]
    Ended {
        /// How it ended.
        status: String,
        /// What it wrote.
        output: String,
    },
    /// It did not say in time that hosts can connect.
    #[error("varve did not start within {after:?}: {output}")]
    StartTimedOut {
        /// The limit.
        after: Duration,
        /// What it wrote.
        output: String,
    },
    /// It did not end in time after SIGTERM.
    #[error("varve did not stop within {after:?}: {output}")]
    StopTimedOut {
        /// The limit.
        after: Duration,
        /// What it wrote.
        output: String,
    },
    /// It started and did not say where hosts connect.
    #[error("varve names no address to connect to: {output}")]
    NoAddress {
        /// What it wrote.
        output: String,
    },
    /// Parameters of a call that are no JSON object.
    #[error("the parameters of a call are an object, not {params}")]
    Parameters {
        /// What was given.
        params: String,
    },
    /// A call failed.
    #[error("{0}")]
    Call(#[from] ClientError),
    /// It cannot be started under faults.
    #[error("{0}")]
    Faults(#[from] FaultsError),
    /// A command of the command line failed.
    #[error("`varve {command}` ended with {status}: {output}")]
    CommandFailed {
        /// Its arguments.
        command: String,
        /// How it ended.
        status: String,
        /// What it wrote.
        output: String,
    },
}

impl std::fmt::Debug for ApplianceError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, formatter)
    }
}

impl ApplianceError {
    /// An adapter for `map_err`: the operating system's error with what was being done to which file.
    pub(super) fn host(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Host { doing, path, source }
    }
}
