//! Faults that are injected into the file system calls of a real program: it runs as it is, and
//! what it asks of its files fails, is late, or is done by half, as the test says.
//!
//! ```no_run
//! use rustix::io::Errno;
//! use varve_tests::appliance::{Appliance, ApplianceConfig};
//! use varve_tests::faults::{Faults, Operation, Rule};
//! let faults = Faults::new().expect("the kernel lets system calls be supervised");
//! let config = ApplianceConfig { faults: Some(faults.clone()), ..ApplianceConfig::default() };
//! let appliance = Appliance::start(&config).expect("it starts");
//! let bad = faults.add(Rule::on("pool.varve", &[Operation::Read]).within(8192..12_288).fail(Errno::IO));
//! // ... the device has a bad sector ...
//! println!("it was read {} times", faults.hits(bad));
//! faults.remove(bad); // ... and now it has none
//! # drop(appliance);
//! ```
//!
//! The program is started under a seccomp filter (see `filter.rs`) that hands its file system
//! calls, and only those, to a thread of the test (`supervisor.rs`), which has the kernel go on
//! with them unless a rule says otherwise. No privileges are needed: the program gives up gaining
//! any. It has no `io_uring` then, so what it would do through a ring it does with ordinary system
//! calls. Its threads and children are watched as it is. It can be killed at any time; it ends with
//! the test, for a call that nobody answers fails.
//!
//! `fault_injector --rules FILE PROGRAM` does the same by hand, with rules in a file (`text.rs`).
//!
//! Where the kernel refuses all this, [`Faults::new`] is an error that says so: a test that cannot
//! inject must fail.

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
    /// The kernel does not know the way.
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
        /// The system's reason.
        source: io::Error,
    },
    /// The program did not say where its system calls are to be answered.
    #[error("the program cannot be supervised: {0}")]
    NoListener(io::Error),
    /// The system gives no descriptors or threads.
    #[error("supervising a program: {0}")]
    System(#[from] io::Error),
}

/// Rules of what is to fail, for the programs that are started under them. Cheap to clone; all
/// clones are one.
#[derive(Debug, Clone)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Told when a rule has applied.
    changed: Condvar,
    /// Of each supervisor: written to when rules go.
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
            // Full means that it is readable.
            let _ = rustix::io::write(wake, &1_u64.to_ne_bytes());
        }
    }
}

impl Faults {
    /// No faults yet.
    ///
    /// # Errors
    /// [`FaultsError::Unsupported`] where the kernel cannot do it.
    pub fn new() -> Result<Self, FaultsError> {
        filter::probe().map_err(FaultsError::Unsupported)?;
        let state = Mutex::new(State::new());
        let shared = Shared { state, changed: Condvar::new(), wakes: Mutex::default() };
        Ok(Faults { shared: Arc::new(shared) })
    }

    /// Adds a rule, for programs that run and for those to come. Of several rules that are about
    /// one call, the oldest applies.
    pub fn add(&self, rule: Rule) -> RuleId {
        self.shared.state().add(rule)
    }

    /// Removes a rule; the calls that it holds go on.
    pub fn remove(&self, rule: RuleId) {
        self.shared.state().remove(rule);
        self.shared.wake();
    }

    /// Removes all rules: everything works again.
    pub fn clear(&self) {
        self.shared.state().clear();
        self.shared.wake();
    }

    /// How often a rule has applied, also after its removal.
    ///
    /// # Panics
    /// When the program could not be supervised after all, so that the count means nothing.
    pub fn hits(&self, rule: RuleId) -> u64 {
        let state = self.shared.state();
        assert!(state.trouble.is_none(), "{:?}", state.trouble);
        state.hits(rule)
    }

    /// Waits until a rule has applied so many times; whether it has within the time.
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

    /// What was done, oldest first; the first ten thousand.
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
    /// It does not start, or does not come under supervision.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, FaultsError> {
        let armed = self.arm(command)?;
        let child = command.spawn().map_err(|source| FaultsError::Start {
            program: command.get_program().to_string_lossy().into_owned(),
            source,
        })?;
        armed.attach()?;
        Ok(child)
    }

    /// Has a program that is about to be started put itself under supervision; [`Armed::attach`]
    /// once it is. A command starts one supervised program, and no second.
    ///
    /// # Errors
    /// The system gives no sockets.
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

/// A program's place under supervision.
#[must_use = "a program that nobody answers waits for ever"]
#[derive(Debug)]
pub struct Armed {
    shared: Arc<Shared>,
    socket: OwnedFd,
}

impl Armed {
    /// Supervises the program, which was spawned meanwhile, until it has ended.
    ///
    /// # Errors
    /// It did not come under supervision.
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
        // The program has sent it before it was executed, so this does not wait.
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        recvmsg(&self.socket, &mut [io::IoSliceMut::new(&mut byte)], &mut ancillary, flags)?;
        let descriptors = ancillary.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        descriptors.last().ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}
