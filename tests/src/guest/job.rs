//! One command in a guest: starts it, waits for it, kills it, and returns its output.

use super::GuestError;
use super::host::{tail, write_file};
use super::machine::Machine;
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How much of a command's output goes into an error, in bytes.
const OUTPUT_TAIL_BYTES: usize = 8192;

/// How long a killed command may take to end before it is abandoned.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Its exit status as a shell reports it: 128 and above is a signal.
    pub status: i32,
    /// Its standard output and standard error, in the order in which they were written.
    pub stdout: Vec<u8>,
}

impl Output {
    /// The output as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// The output of a command that must have succeeded.
    pub(super) fn into_text(self, command: &str) -> Result<String, GuestError> {
        if self.status == 0 {
            return Ok(self.text().into_owned());
        }
        Err(GuestError::CommandFailed {
            command: command.to_owned(),
            status: self.status,
            output: tail(&self.stdout, OUTPUT_TAIL_BYTES),
        })
    }
}

/// A command that runs in the background of a guest. If this is dropped, the command runs on and
/// nothing waits for it.
#[derive(Debug)]
pub struct Job {
    machine: Arc<Machine>,
    id: u64,
    command: String,
    script: PathBuf,
    output: PathBuf,
}

impl Job {
    pub(super) fn start(
        machine: &Arc<Machine>,
        control_share: &Path,
        command: &str,
    ) -> Result<Self, GuestError> {
        let id = machine.new_job()?;
        // From here on a failure drops the job, which frees its number.
        let job = Self {
            machine: Arc::clone(machine),
            id,
            command: command.to_owned(),
            script: control_share.join(format!("{id}.sh")),
            output: control_share.join(format!("{id}.out")),
        };
        write_file(&job.script, format!("{command}\n"))?;
        job.machine.say(&format!("run {id}"))?;
        Ok(job)
    }

    /// Waits for the end of the command.
    ///
    /// # Errors
    /// [`GuestError::TimedOut`] after `limit`: the command is then killed with its process group. A
    /// command that hangs in the kernel is abandoned. [`GuestError::Panicked`] or
    /// [`GuestError::Ended`] when the guest has ended.
    pub fn wait(self, limit: Duration) -> Result<Output, GuestError> {
        if let Some(status) = self.machine.wait_job(self.id, limit)? {
            let stdout = std::fs::read(&self.output).map_err(GuestError::host("reading", &self.output))?;
            return Ok(Output { status, stdout });
        }
        let output = tail(&self.output_so_far(), OUTPUT_TAIL_BYTES);
        self.kill()?;
        self.machine.wait_job(self.id, KILL_LIMIT)?;
        Err(GuestError::TimedOut { command: self.command.clone(), after: limit, output })
    }

    /// The exit status if the command has ended. Does not wait.
    ///
    /// # Errors
    /// The guest has ended.
    pub fn status(&self) -> Result<Option<i32>, GuestError> {
        self.machine.wait_job(self.id, Duration::ZERO)
    }

    /// What the command has written so far.
    pub fn output_so_far(&self) -> Vec<u8> {
        // The file does not exist before the first output.
        std::fs::read(&self.output).unwrap_or_default()
    }

    /// Sends SIGKILL to the command and its process group. The job can still be waited for; it ends
    /// with status 137.
    ///
    /// # Errors
    /// The guest has ended.
    pub fn kill(&self) -> Result<(), GuestError> {
        self.machine.say(&format!("kill {}", self.id))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let has_ended = matches!(self.status(), Ok(Some(_)));
        self.machine.forget_job(self.id);
        if has_ended {
            // A command that still runs may need its files; they are removed with the guest.
            let _ = std::fs::remove_file(&self.script);
            let _ = std::fs::remove_file(&self.output);
        }
    }
}
