//! One child process that never outlives the test.
//!
//! `setpriv --pdeathsig KILL` starts it. The kernel ties that signal to the *thread* that forked,
//! so a thread that lives as long as the child starts it. The test's thread does not: it may hand
//! the child to another thread.

use super::ApplianceError;
use crate::faults::{Armed, Faults};
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the keeper checks whether the process has ended.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A started process.
#[derive(Debug)]
pub(super) struct Process {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    child: Mutex<Child>,
    ended: Mutex<Option<Result<ExitStatus, String>>>,
}

impl Process {
    /// Starts `program`, under `faults` if there are any. Its standard output goes to the new file
    /// `said`; its standard error is appended to `complained`.
    ///
    /// # Errors
    /// The system's errors.
    pub(super) fn start(
        program: &Path,
        arguments: &[String],
        environment: &[(String, String)],
        faults: Option<&Faults>,
        [said, complained]: [&Path; 2],
    ) -> Result<Self, ApplianceError> {
        let output = File::create(said).map_err(ApplianceError::host("making", said))?;
        let errors = File::options()
            .append(true)
            .create(true)
            .open(complained)
            .map_err(ApplianceError::host("opening", complained))?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).args(arguments);
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let armed = faults.map(|faults| faults.arm(&mut command)).transpose()?;
        let (sender, receiver) = sync_channel(1);
        let keeper = std::thread::Builder::new()
            .name("appliance-keeper".to_owned())
            .spawn(move || match command.spawn() {
                Ok(child) => {
                    let shared = Arc::new(Shared { child: Mutex::new(child), ended: Mutex::new(None) });
                    // The starter waits for this, so the channel has a receiver.
                    let _ = sender.send(Ok(Arc::clone(&shared)));
                    shared.bury();
                }
                Err(error) => {
                    let _ = sender.send(Err(error));
                }
            })
            .map_err(ApplianceError::host("starting a thread for", program))?;
        let shared = received(&receiver).map_err(ApplianceError::host("starting", program))?;
        armed.map_or(Ok(()), Armed::attach)?;
        Ok(Process { shared, keeper })
    }

    /// The process ID.
    pub(super) fn id(&self) -> u32 {
        self.shared.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// How it ended, after it has ended.
    pub(super) fn status(&self) -> Option<String> {
        let ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.as_ref().map(|ended| match ended {
            Ok(status) => status.to_string(),
            Err(error) => error.clone(),
        })
    }

    /// Whether it has ended with status 0.
    pub(super) fn has_succeeded(&self) -> bool {
        let ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&*ended, Some(Ok(status)) if status.success())
    }

    /// Sends SIGTERM.
    ///
    /// # Errors
    /// The system's error.
    pub(super) fn terminate(&self) -> std::io::Result<()> {
        // Under the lock that `bury` takes, so that the ID still belongs to this process.
        let child = self.shared.child.lock().unwrap_or_else(PoisonError::into_inner);
        if self.status().is_some() {
            return Ok(());
        }
        let id = rustix::process::Pid::from_child(&child);
        Ok(rustix::process::kill_process(id, rustix::process::Signal::TERM)?)
    }

    /// Kills it and waits until it has ended.
    pub(super) fn kill(self) {
        // An error means that it has ended already.
        let _ = self.shared.child.lock().unwrap_or_else(PoisonError::into_inner).kill();
        let _ = self.keeper.join();
    }
}

impl Shared {
    /// Waits for the end, and holds the lock only for moments, so that others can kill the process.
    fn bury(&self) {
        loop {
            let waited = {
                let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
                let waited = child.try_wait().map_err(|error| error.to_string()).transpose();
                if let Some(ended) = waited.clone() {
                    *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
                }
                waited
            };
            if waited.is_some() {
                return;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

fn received(receiver: &Receiver<std::io::Result<Arc<Shared>>>) -> std::io::Result<Arc<Shared>> {
    receiver.recv().unwrap_or_else(|_| Err(std::io::Error::other("the keeper thread ended early")))
}
