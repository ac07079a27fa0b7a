//! Mail between threads: closures that run on the reactor, with its state.
//!
//! Many threads may send (the RPC plane, other reactors). One reactor receives. The queue is
//! bounded at [`MAIL_BOUND`]. At the bound a sender is refused immediately and decides itself
//! whether to try again.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};

/// The most messages that wait for a reactor.
pub const MAIL_BOUND: usize = 1024;

/// What a reactor's thread does in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// It asks which descriptors are ready, or sleeps.
    Waiting,
    /// It processes mail.
    Mail,
    /// It fires timers.
    Timers,
    /// It runs local tasks.
    Tasks,
    /// It polls the poller at this position in the order.
    Poller(u32),
}

pub(super) const WAITING: u32 = 0;
pub(super) const MAIL: u32 = 1;
pub(super) const TIMERS: u32 = 2;
pub(super) const TASKS: u32 = 3;
pub(super) const FIRST_POLLER: u32 = 4;

/// A message: work to do on the reactor with its state.
pub(super) type Mail<S> = Box<dyn FnOnce(&S) + Send>;

pub(super) struct Mailbox<S> {
    queue: ArrayQueue<Mail<S>>,
    wake: OwnedFd,
    sleeping: AtomicBool,
    /// A thread requests a turn and has no work to send.
    woken: AtomicBool,
    pub(super) stop: AtomicBool,
    gone: AtomicBool,
    born: Instant,
    turn_started_ns: AtomicU64,
    doing: AtomicU32,
    /// The system's ID of the reactor's thread. 0 until [`Reactor::run`](super::Reactor::run)
    /// starts.
    thread: AtomicU32,
}

impl<S> Mailbox<S> {
    pub(super) fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Mailbox {
            queue: ArrayQueue::new(MAIL_BOUND),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            sleeping: AtomicBool::new(false),
            woken: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            born: Instant::now(),
            turn_started_ns: AtomicU64::new(0),
            doing: AtomicU32::new(WAITING),
            thread: AtomicU32::new(0),
        }))
    }

    pub(super) fn pop(&self) -> Option<Mail<S>> {
        self.queue.pop()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && !self.woken.load(Ordering::SeqCst) && !self.stop.load(Ordering::SeqCst)
    }

    /// Clears the request for a turn: this turn satisfies it.
    pub(super) fn take_woken(&self) {
        self.woken.store(false, Ordering::SeqCst);
    }

    pub(super) fn announce_sleep(&self) {
        self.sleeping.store(true, Ordering::SeqCst);
    }

    pub(super) fn announce_wake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    pub(super) fn note_turn(&self, now: Instant) {
        self.turn_started_ns.store(now.duration_since(self.born).as_nanos() as u64, Ordering::Relaxed);
    }

    pub(super) fn note_doing(&self, doing: u32) {
        self.doing.store(doing, Ordering::Relaxed);
    }

    pub(super) fn note_thread(&self) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        self.thread.store(thread.unsigned_abs(), Ordering::Relaxed);
    }

    pub(super) fn close(&self) {
        self.gone.store(true, Ordering::SeqCst);
        while self.queue.pop().is_some() {}
    }

    pub(super) fn clear_wake(&self) {
        let mut counter = [0; 8];
        // Nothing to read means that it was cleared before. Both are fine.
        let _ = rustix::io::read(&self.wake, &mut counter);
    }

    fn wake(&self) {
        // A swap, so that of many senders only one makes the system call.
        if self.sleeping.swap(false, Ordering::SeqCst) {
            // The counter cannot overflow: the reactor slept before each write of 1.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }
}

impl<S> AsFd for Mailbox<S> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

/// Why a message was not delivered or not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// [`MAIL_BOUND`] messages are already waiting.
    #[error("the reactor's mailbox is full ({MAIL_BOUND} messages wait); try again")]
    Full,
    /// The reactor has stopped.
    #[error("the reactor has stopped")]
    Stopped,
    /// No answer in time.
    #[error("the reactor did not answer within {timeout_ms} ms")]
    TimedOut {
        /// How long the caller waited.
        timeout_ms: u64,
    },
}

/// A way to reach a reactor from any thread.
pub struct ReactorHandle<S> {
    pub(super) mailbox: Arc<Mailbox<S>>,
}

impl<S> Clone for ReactorHandle<S> {
    fn clone(&self) -> Self {
        ReactorHandle { mailbox: Arc::clone(&self.mailbox) }
    }
}

impl<S: 'static> ReactorHandle<S> {
    /// Runs `work` on the reactor, in its next turn or a later one.
    ///
    /// # Errors
    /// [`CallError::Full`], [`CallError::Stopped`].
    pub fn send(&self, work: impl FnOnce(&S) + Send + 'static) -> Result<(), CallError> {
        if self.mailbox.gone.load(Ordering::SeqCst) {
            return Err(CallError::Stopped);
        }
        self.mailbox.queue.push(Box::new(work)).map_err(|_| CallError::Full)?;
        self.mailbox.wake();
        Ok(())
    }

    /// Runs `work` on the reactor and waits for its answer. `work` gets a [`Reply`] to answer with,
    /// now or later (from a task it spawns).
    ///
    /// # Errors
    /// As [`send`](Self::send); [`CallError::TimedOut`]; [`CallError::Stopped`] when the reply was
    /// dropped.
    pub fn call<T: Send + 'static>(
        &self,
        timeout: Duration,
        work: impl FnOnce(&S, Reply<T>) + Send + 'static,
    ) -> Result<T, CallError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.send(move |state| work(state, Reply { sender }))?;
        receiver.recv_timeout(timeout).map_err(|error| match error {
            std::sync::mpsc::RecvTimeoutError::Timeout => {
                CallError::TimedOut { timeout_ms: timeout.as_millis() as u64 }
            }
            std::sync::mpsc::RecvTimeoutError::Disconnected => CallError::Stopped,
        })
    }

    /// Makes the reactor begin a turn soon, so that its pollers see what another thread has
    /// prepared. Never refused, and cheap while the reactor does not sleep.
    pub fn wake(&self) {
        self.mailbox.woken.store(true, Ordering::SeqCst);
        self.mailbox.wake();
    }

    /// Asks the reactor to stop after its current turn.
    pub fn stop(&self) {
        self.mailbox.stop.store(true, Ordering::SeqCst);
        self.mailbox.wake();
    }

    /// What the reactor does, as it last recorded.
    pub fn doing(&self) -> Doing {
        match self.mailbox.doing.load(Ordering::Relaxed) {
            WAITING => Doing::Waiting,
            MAIL => Doing::Mail,
            TIMERS => Doing::Timers,
            TASKS => Doing::Tasks,
            poller => Doing::Poller(poller - FIRST_POLLER),
        }
    }

    /// The system's ID of the reactor's thread. `None` before [`Reactor::run`](super::Reactor::run)
    /// starts.
    pub fn thread_id(&self) -> Option<u32> {
        Some(self.mailbox.thread.load(Ordering::Relaxed)).filter(|&thread| thread != 0)
    }

    /// Identifies the current turn. `None` while the reactor sleeps, and after it is gone. If two
    /// calls return the same value, they saw the same turn.
    pub fn turn_under_way(&self) -> Option<u64> {
        let is_asleep =
            self.mailbox.sleeping.load(Ordering::SeqCst) || self.mailbox.gone.load(Ordering::SeqCst);
        (!is_asleep).then(|| self.mailbox.turn_started_ns.load(Ordering::Relaxed))
    }

    /// How long ago the current turn began. `None` while the reactor sleeps.
    pub fn turn_age(&self) -> Option<Duration> {
        if self.mailbox.sleeping.load(Ordering::SeqCst) {
            return None;
        }
        let started = Duration::from_nanos(self.mailbox.turn_started_ns.load(Ordering::Relaxed));
        Some(self.mailbox.born.elapsed().saturating_sub(started))
    }
}

/// Takes the answer to a [`ReactorHandle::call`].
pub struct Reply<T> {
    sender: std::sync::mpsc::SyncSender<T>,
}

impl<T> Reply<T> {
    /// Answers. If the caller has given up, the answer is dropped.
    pub fn send(self, answer: T) {
        let _ = self.sender.try_send(answer);
    }
}
