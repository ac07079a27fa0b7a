//! What can go wrong with a test guest: making its image, booting it, running commands in it.

use std::path::PathBuf;
use std::time::Duration;

/// Why a guest could not be made, or did not do what it was asked.
///
/// `Debug` prints the same text as `Display`, so a test that returns this error prints a readable
/// console.
#[derive(thiserror::Error)]
pub enum GuestError {
    /// A program that the tests need is not on this machine.
    #[error("program `{program}` is not installed; run scripts/install-test-packages")]
    MissingProgram {
        /// Its name.
        program: String,
    },
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
    /// A program that makes a part of the image failed.
    #[error("`{command}` failed with {status}: {output}")]
    BuildStep {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote to its standard error and output.
        output: String,
    },
    /// A program's output does not have the expected form.
    #[error("`{program}` answered something unexpected: {detail}")]
    UnexpectedAnswer {
        /// The program.
        program: &'static str,
        /// What is wrong with the output.
        detail: String,
    },
    /// The guest did not answer in time after power-on.
    #[error("the guest did not boot within {after:?}; end of its console:\n{console}")]
    BootTimedOut {
        /// The limit.
        after: Duration,
        /// The end of its console.
        console: String,
    },
    /// The guest's kernel panicked.
    #[error("the guest's kernel panicked; end of its console:\n{console}")]
    Panicked {
        /// The end of its console.
        console: String,
    },
    /// QEMU ended: it refused its arguments, the guest powered off, or someone killed it.
    #[error("the guest ended ({status}); QEMU said: {qemu}; end of its console:\n{console}")]
    Ended {
        /// How QEMU ended.
        status: String,
        /// What QEMU wrote to its standard error.
        qemu: String,
        /// The end of the guest's console.
        console: String,
    },
    /// A command did not end in time. It and its process group got SIGKILL; the guest goes on.
    #[error("`{command}` did not end within {after:?}; its output so far:\n{output}")]
    TimedOut {
        /// The command.
        command: String,
        /// The limit.
        after: Duration,
        /// The end of its output so far, which may be cut in the middle of a line.
        output: String,
    },
    /// A command that had to succeed ended with a status other than 0.
    #[error("`{command}` ended with status {status}:\n{output}")]
    CommandFailed {
        /// The command.
        command: String,
        /// Its exit status.
        status: i32,
        /// The end of its output.
        output: String,
    },
    /// More commands were started than the guest tracks at one time.
    #[error("{limit} commands are running in the guest already")]
    TooManyJobs {
        /// The bound.
        limit: usize,
    },
    /// A subsystem is connected, but its block device did not appear.
    #[error("no block device of {nqn} appeared within {after:?}:\n{detail}")]
    NoBlockDevice {
        /// The subsystem.
        nqn: String,
        /// The limit.
        after: Duration,
        /// What the guest reports about its `NVMe` subsystems.
        detail: String,
    },
}

impl std::fmt::Debug for GuestError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, formatter)
    }
}

impl GuestError {
    /// An adapter for `map_err`: adds the operation and the file to the operating system's error.
    pub(super) fn host(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Host { doing, path, source }
    }
}
