//! The QEMU process of one guest and the control line into it.
//!
//! QEMU's standard input and output are the guest's virtio-serial port, so there is no socket to
//! wait for. A keeper thread starts QEMU, reads the port and reaps the process.
//! `setpriv --pdeathsig KILL` starts QEMU, and the kernel ties that signal to the *thread* that
//! forked. So this must be a thread that lives as long as the guest. The thread of the test that
//! happened to boot the guest does not: a process may share a guest between tests.

use super::GuestError;
use super::host::{find_program, tail};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The maximum number of commands per guest that are started and not yet waited for.
pub(super) const MAX_JOBS: usize = 64;

/// How much of a console goes into an error, in bytes.
const CONSOLE_TAIL_BYTES: usize = 8192;

/// A running guest, shared by its [`Guest`](super::Guest), its jobs and its keeper thread.
#[derive(Debug)]
pub(super) struct Machine {
    process: Mutex<Child>,
    control: Mutex<ChildStdin>,
    state: Mutex<State>,
    changed: Condvar,
    console_path: PathBuf,
    errors_path: PathBuf,
}

/// What the keeper thread has read from the guest.
#[derive(Debug, Default)]
struct State {
    ready: bool,
    /// The jobs that a caller may still wait for, each with its exit status after it has ended. At
    /// most [`MAX_JOBS`].
    jobs: HashMap<u64, Option<i32>>,
    last_job: u64,
    /// How QEMU ended, after it has ended.
    ended: Option<String>,
}

impl Machine {
    /// Starts QEMU with `arguments`, which must connect the control port's chardev `control` to
    /// standard input and output, and send the guest's console to `console_path`. QEMU's own errors
    /// go to `errors_path`.
    ///
    /// # Errors
    /// QEMU or setpriv is not installed, or cannot be started.
    pub(super) fn start(
        arguments: Vec<OsString>,
        console_path: PathBuf,
        errors_path: PathBuf,
    ) -> Result<Arc<Self>, GuestError> {
        let qemu = find_program("qemu-system-x86_64")?;
        let errors = File::create(&errors_path).map_err(GuestError::host("making", &errors_path))?;
        let mut command = Command::new(find_program("setpriv")?);
        command.args(["--pdeathsig", "KILL", "--"]).arg(&qemu).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors);

        let (to_starter, from_keeper) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("guest-keeper".to_owned())
            .spawn(move || keep(&mut command, console_path, errors_path, &to_starter))
            .map_err(GuestError::host("starting a thread for", &qemu))?;
        from_keeper
            .recv()
            .unwrap_or_else(|_| Err(std::io::Error::other("the keeper thread ended early")))
            .map_err(GuestError::host("starting", &qemu))
    }

    /// Waits until the guest accepts commands.
    ///
    /// # Errors
    /// [`GuestError::BootTimedOut`], or the guest has panicked or ended.
    pub(super) fn wait_ready(&self, limit: Duration) -> Result<(), GuestError> {
        let (state, in_time) = self.wait_until(limit, |state| state.ready);
        if state.ready {
            return Ok(());
        }
        drop(state);
        if in_time {
            return Err(self.ended_error());
        }
        Err(GuestError::BootTimedOut { after: limit, console: self.console_tail() })
    }

    /// A number for a job that is about to start.
    ///
    /// # Errors
    /// [`GuestError::TooManyJobs`], or the guest has ended.
    pub(super) fn new_job(&self) -> Result<u64, GuestError> {
        let mut state = self.state();
        if state.ended.is_some() {
            drop(state);
            return Err(self.ended_error());
        }
        if state.jobs.len() >= MAX_JOBS {
            return Err(GuestError::TooManyJobs { limit: MAX_JOBS });
        }
        state.last_job += 1;
        let id = state.last_job;
        state.jobs.insert(id, None);
        Ok(id)
    }

    /// Sends one line to the guest.
    ///
    /// # Errors
    /// The guest has ended.
    pub(super) fn say(&self, line: &str) -> Result<(), GuestError> {
        let mut control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let written = control.write_all(format!("{line}\n").as_bytes()).and_then(|()| control.flush());
        drop(control);
        written.map_err(|_| {
            // A broken pipe: the keeper will soon know how QEMU ended.
            self.wait_ended(Duration::from_secs(5));
            self.ended_error()
        })
    }

    /// Waits for the end of a job. Returns its exit status, or none when `limit` passes first.
    ///
    /// # Errors
    /// The guest has panicked or ended.
    pub(super) fn wait_job(&self, id: u64, limit: Duration) -> Result<Option<i32>, GuestError> {
        let (state, _) = self.wait_until(limit, |state| state.jobs.get(&id).is_none_or(Option::is_some));
        if let Some(&Some(status)) = state.jobs.get(&id) {
            return Ok(Some(status));
        }
        let has_ended = state.ended.is_some();
        drop(state);
        if has_ended { Err(self.ended_error()) } else { Ok(None) }
    }

    /// Frees the number of a job that no caller will wait for.
    pub(super) fn forget_job(&self, id: u64) {
        self.state().jobs.remove(&id);
    }

    /// Waits for QEMU to end. Returns whether it has ended.
    pub(super) fn wait_ended(&self, limit: Duration) -> bool {
        self.wait_until(limit, |_| false).0.ended.is_some()
    }

    /// Ends QEMU at once, as a power cut would, and waits until the process has ended.
    pub(super) fn kill(&self) {
        if self.state().ended.is_none() {
            // An error means that it has ended already.
            let _ = self.process.lock().unwrap_or_else(PoisonError::into_inner).kill();
        }
        self.wait_ended(Duration::from_secs(10));
    }

    /// QEMU's process ID.
    pub(super) fn process_id(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// All that the guest has written to its console.
    pub(super) fn console(&self) -> Vec<u8> {
        std::fs::read(&self.console_path).unwrap_or_default()
    }

    /// Why the guest has ended.
    fn ended_error(&self) -> GuestError {
        let console = self.console_tail();
        if console.contains("Kernel panic") {
            return GuestError::Panicked { console };
        }
        let qemu = std::fs::read(&self.errors_path).unwrap_or_default();
        GuestError::Ended {
            status: self.state().ended.clone().unwrap_or_else(|| "it does not listen any more".to_owned()),
            qemu: tail(&qemu, CONSOLE_TAIL_BYTES).trim_end().to_owned(),
            console,
        }
    }

    fn console_tail(&self) -> String {
        tail(&self.console(), CONSOLE_TAIL_BYTES)
    }

    /// Waits until `is_met`, the guest has ended, or `limit` has passed. Returns false in the last
    /// case.
    fn wait_until(&self, limit: Duration, is_met: impl Fn(&State) -> bool) -> (MutexGuard<'_, State>, bool) {
        let (state, waited) = self
            .changed
            .wait_timeout_while(self.state(), limit, |state| !is_met(state) && state.ended.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        (state, !waited.timed_out())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Handles a line from the guest. Other text on the port is ignored.
    fn hear(&self, line: &str) {
        let mut words = line.split_whitespace();
        let mut state = self.state();
        match (words.next(), words.next(), words.next()) {
            (Some("ready"), None, None) => state.ready = true,
            (Some("done"), Some(id), Some(status)) => {
                let (Ok(id), Ok(status)) = (id.parse(), status.parse()) else { return };
                if let Some(job) = state.jobs.get_mut(&id) {
                    *job = Some(status);
                }
            }
            _ => return,
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for QEMU's end, and holds the lock only for moments, so that others can kill the
    /// process.
    fn bury(&self) {
        let status = loop {
            let waited = self.process.lock().unwrap_or_else(PoisonError::into_inner).try_wait();
            match waited {
                Ok(Some(status)) => break status.to_string(),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => break error.to_string(),
            }
        };
        self.state().ended = Some(status);
        self.changed.notify_all();
    }
}

/// The keeper thread: starts QEMU, hands over the machine, and runs until QEMU has ended.
fn keep(
    command: &mut Command,
    console_path: PathBuf,
    errors_path: PathBuf,
    to_starter: &std::sync::mpsc::SyncSender<std::io::Result<Arc<Machine>>>,
) {
    let (process, control, port) = match start_piped(command) {
        Ok(started) => started,
        Err(error) => {
            let _ = to_starter.send(Err(error));
            return;
        }
    };
    let machine = Arc::new(Machine {
        process: Mutex::new(process),
        control: Mutex::new(control),
        state: Mutex::default(),
        changed: Condvar::new(),
        console_path,
        errors_path,
    });
    // The starter waits for this, so the channel has a receiver.
    let _ = to_starter.send(Ok(Arc::clone(&machine)));
    let mut port = BufReader::new(port);
    let mut line = Vec::new();
    while port.read_until(b'\n', &mut line).is_ok_and(|length_bytes| length_bytes > 0) {
        machine.hear(&String::from_utf8_lossy(&line));
        line.clear();
    }
    machine.bury();
}

/// Starts a process with both pipes.
fn start_piped(command: &mut Command) -> std::io::Result<(Child, ChildStdin, ChildStdout)> {
    let mut process = command.spawn()?;
    match (process.stdin.take(), process.stdout.take()) {
        (Some(control), Some(port)) => Ok((process, control, port)),
        _ => Err(std::io::Error::other("the pipes of a process are missing")),
    }
}
