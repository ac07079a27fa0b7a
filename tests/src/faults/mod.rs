//! Injects faults into the file system calls of a real program: the program is not changed, and its
//! file operations fail, are late, or are done in part, as the test requests.
//!
//! ```no_run
//! use rustix::io::Errno;
//! use varve_tests::appliance::{Appliance, ApplianceConfig};
//! use varve_tests::faults::{Faults, Operation, Rule};
//! let faults = Faults::new().expect("the kernel lets system calls be supervised");
//! let config = ApplianceConfig { faults: Some(faults.clone()), ..ApplianceConfig::default() };
//! let appliance = Appliance::start(&config).expect("it starts");
//! let bad = Rule::on("pool.varve", &[Operation::Read]).within(8192..12_288).fail(Errno::IO);
//! let bad = faults.add(bad);
//! // ... the device has a bad sector ...
//! println!("it was read {} times", faults.hits(bad));
//! faults.remove(bad); // ... and now it has none
//! # drop(appliance);
//! ```
//!
//! The program starts under a seccomp filter (see `filter.rs`). The filter passes its file system
//! calls, and only those, to a thread of the test (`supervisor.rs`), which lets the kernel execute
//! them unless a rule says otherwise. This needs no privileges: the program gives up the right to
//! gain any. It has no `io_uring` then, so it uses ordinary system calls instead of a ring. Its
//! threads and children are watched too. It can be killed at any time. It ends with the test,
//! because calls that nobody answers fail.
//!
//! `fault_injector --rules FILE PROGRAM` does the same by hand, with rules in a file (`text.rs`).
//!
//! Where the kernel refuses this, [`Faults::new`] returns an error that says so: a test that cannot
//! inject faults must fail.

pub mod bed;
mod call;
mod filter;
mod notify;
mod rule;
mod state;
mod supervisor;
#[cfg(test)]
mod tests;
mod text;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair,
};

pub use rule::{Operation, Rule};
pub use state::{Event, RuleId};
pub use text::{RuleTextError, parse_rules};

use notify::Listener;
use state::State;
use supervisor::Supervisor;

/// Why faults cannot be injected.
#[derive(Debug, thiserror::Error)]
pub enum FaultsError {
    /// The kernel does not support supervision.
    #[error(
        "system calls cannot be supervised here: {0}; fault injection needs seccomp user notifications (Linux 5.6, CONFIG_SECCOMP_FILTER), which some containers forbid"
    )]
    Unsupported(io::Error),
    /// The program does not start under supervision.
    #[error(
        "{program} does not start under supervision: {source}; if it starts without, the kernel refuses seccomp user notifications to it"
    )]
    Start {
        /// The program.
        program: String,
        /// The system's error.
        source: io::Error,
    },
    /// The program did not send the descriptor on which its system calls are answered.
    #[error("the program cannot be supervised: {0}")]
    NoListener(io::Error),
    /// The system has no descriptors or threads left.
    #[error("supervising a program: {0}")]
    System(#[from] io::Error),
}

/// Rules that say what fails, for the programs that are started under them. Cheap to clone; all
/// clones share the rules.
#[derive(Debug, Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a rule has applied.
    changed: Condvar,
    /// One for each supervisor: written to when rules are removed.
    wakes: Mutex<Vec<Arc<OwnedFd>>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self, text: String) {
        self.state().trouble.get_or_insert(text);
        self.changed.notify_all();
    }

    fn wake(&self) {
        for wake in self.wakes.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            // An error means that the counter is full, so it is readable.
            let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Faults {
    /// Starts with no faults.
    ///
    /// # Errors
    /// [`FaultsError::Unsupported`] where the kernel cannot do it.
    pub fn new() -> Result<Self, FaultsError> {
        filter::probe().map_err(FaultsError::Unsupported)?;
        let state = Mutex::new(State::new());
        let shared = Shared { state, changed: Condvar::new(), wakes: Mutex::default() };
        Ok(Faults { shared: Arc::new(shared) })
    }

    /// Adds a rule, for running programs and for later ones. If several rules match a call, the
    /// oldest applies.
    pub fn add(&self, rule: Rule) -> RuleId {
        self.shared.state().add(rule)
    }

    /// Removes a rule; the calls that it holds then proceed.
    pub fn remove(&self, rule: RuleId) {
        self.shared.state().remove(rule);
        self.shared.wake();
    }

    /// Removes all rules: everything works again.
    pub fn clear(&self) {
        self.shared.state().clear();
        self.shared.wake();
    }

    /// How often a rule has applied; this also works after its removal.
    ///
    /// # Panics
    /// When the supervision of a program failed, so that the count is meaningless.
    pub fn hits(&self, rule: RuleId) -> u64 {
        let state = self.shared.state();
        assert!(state.trouble.is_none(), "{:?}", state.trouble);
        state.hits(rule)
    }

    /// Waits until a rule has applied `count` times. Returns whether it has within the time limit.
    pub fn wait_for_hits(&self, rule: RuleId, count: u64, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.shared.state();
        while state.trouble.is_none() && state.hits(rule) < count {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.trouble.is_none()
    }

    /// The faults that were injected, oldest first; the first 10,000.
    pub fn events(&self) -> Vec<Event> {
        self.shared.state().events().to_vec()
    }

    /// How many system calls were watched.
    pub fn calls(&self) -> u64 {
        self.shared.state().calls
    }

    /// Starts a program under these faults, once for each command. It is not killed when the child
    /// is dropped.
    ///
    /// # Errors
    /// It does not start, or cannot be supervised.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, FaultsError> {
        let armed = self.arm(command)?;
        let child = command.spawn().map_err(|source| FaultsError::Start {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        armed.attach()?;
        Ok(child)
    }

    /// Prepares a command so that its program puts itself under supervision when it starts; call
    /// [`Armed::attach`] after it has started. A command starts one supervised program only.
    ///
    /// # Errors
    /// The system provides no sockets.
    pub fn arm(&self, command: &mut Command) -> Result<Armed, FaultsError> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(io::Error::from)?;
        let program = filter::program();
        // SAFETY: `install` makes system calls and nothing else: no memory, no locks.
        unsafe {
            command.pre_exec(move || filter::install(&program, theirs.as_fd()));
        }
        Ok(Armed { shared: Arc::clone(&self.shared), socket: ours })
    }
}

/// A program that is about to be supervised.
#[must_use = "a program that nobody answers waits for ever"]
#[derive(Debug)]
pub struct Armed {
    shared: Arc<Shared>,
    socket: OwnedFd,
}

impl Armed {
    /// Supervises the program, which was spawned in the meantime, until it has ended.
    ///
    /// # Errors
    /// It cannot be supervised.
    pub fn attach(self) -> Result<(), FaultsError> {
        let listener = Listener::new(self.receive().map_err(FaultsError::NoListener)?);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(io::Error::from)?;
        let wake = Arc::new(wake);
        self.shared.wakes.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&wake));
        let supervisor = Supervisor::new(listener, self.shared, wake);
        std::thread::Builder::new().name("faults".to_owned()).spawn(move || supervisor.run())?;
        Ok(())
    }

    fn receive(&self) -> io::Result<OwnedFd> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        // The program sent it before its exec, so this does not wait.
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(&self.socket, &mut [io::IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
        let descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        descriptors.last().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
