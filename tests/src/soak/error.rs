//! Why a soak failed.

use std::path::PathBuf;

use varve::nvmf::host::HostError;

use super::model::Violation;

/// Why a soak failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoakError {
    /// The guarantee is violated.
    #[error("{0}")]
    Violation(#[from] Violation),
    /// A command failed that must not.
    #[error("{operation} failed: {status}")]
    Status {
        /// The command.
        operation: &'static str,
        /// Its status.
        status: String,
    },
    /// The host failed for another reason than the kill.
    #[error("the host failed while the appliance should have been alive: {}; cause: {}", .0, cause(.0))]
    Host(#[from] HostError),
    /// The host did not reconnect in time.
    #[error(
        "no connection within {waited_ms} ms of the restart; the last refusal: {last}; the appliance said: {said}"
    )]
    NoReconnect {
        /// How long it tried.
        waited_ms: u64,
        /// The last error.
        last: String,
        /// The end of the appliance's error output.
        said: String,
    },
    /// The appliance ended by itself.
    #[error("the appliance ended by itself ({status}); it said: {said}")]
    Ended {
        /// Its exit status.
        status: String,
        /// The end of its error output.
        said: String,
    },
    /// The program is not built.
    #[error("the varve program is not found (looked at {}); build it with `cargo build --release --package varve`, or set VARVE_BINARY", looked.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    NoBinary {
        /// The searched paths.
        looked: Vec<PathBuf>,
    },
    /// The appliance did not print the address that it listens on.
    #[error("the appliance did not say where it listens; it said: {said}")]
    NoAddress {
        /// Its error output.
        said: String,
    },
    /// The volume is not as configured.
    #[error(
        "the volume has {found_blocks} blocks of {block_bytes} bytes instead of {expected_blocks} of 4096"
    )]
    Volume {
        /// Blocks.
        found_blocks: u64,
        /// Bytes of a block.
        block_bytes: u32,
        /// Commands did not complete.
        expected_blocks: u64,
    },
    /// Commands did not complete.
    #[error("commands are without answer after {waited_ms} ms")]
    Stuck {
        /// How long.
        waited_ms: u64,
    },
    /// A system operation failed.
    #[error("{what}: {source}")]
    Io {
        /// The operation.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl SoakError {
    pub(super) fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> SoakError {
        move |source| SoakError::Io { what, source }
    }
}

fn cause(error: &HostError) -> String {
    let mut source = std::error::Error::source(error);
    let mut text = String::from("none given");
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}
