//! What can go wrong with an appliance under test.

use std::path::PathBuf;
use std::time::Duration;
use varve::cli::ClientError;

use crate::faults::FaultsError;

/// Why an appliance did not start, answer or stop.
///
/// `Debug` prints the same text as `Display`, so a test that returns this error prints the
/// appliance's output.
#[derive(thiserror::Error)]
pub enum ApplianceError {
    /// The host's operating system refused something.
    #[error("{doing} {path}: {source}", path = path.display())]
    Host {
        /// The operation.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// The program cannot be built.
    #[error("`{command}` failed with {status}: {output}")]
    Build {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
        /// Its output.
        output: String,
    },
    /// The program ended by itself, or with a failure.
    #[error("varve ended ({status}): {output}")]
    Ended {
        /// How it ended.
        status: String,
        /// Its output.
        output: String,
    },
    /// It did not report in time that hosts can connect.
    #[error("varve did not start within {after:?}: {output}")]
    StartTimedOut {
        /// The limit.
        after: Duration,
        /// Its output.
        output: String,
    },
    /// It did not end in time after SIGTERM.
    #[error("varve did not stop within {after:?}: {output}")]
    StopTimedOut {
        /// The limit.
        after: Duration,
        /// Its output.
        output: String,
    },
    /// It started but did not print the address that hosts connect to.
    #[error("varve names no address to connect to: {output}")]
    NoAddress {
        /// Its output.
        output: String,
    },
    /// The parameters of a call are not a JSON object.
    #[error("the parameters of a call are an object, not {params}")]
    Parameters {
        /// The parameters.
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
        /// Its output.
        output: String,
    },
}

impl std::fmt::Debug for ApplianceError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, formatter)
    }
}

impl ApplianceError {
    /// An adapter for `map_err`: adds the operation and the file to the operating system's error.
    pub(super) fn host(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Host { doing, path, source }
    }
}
