//! The reactor itself: its turn, its idle policy, its thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::events::{Events, Interest, Source, Waited};
use super::executor::{Executor, JoinHandle};
use super::mail::{self, Mailbox, ReactorHandle};
use super::timers::{Sleep, Timers};
use crate::histogram::Histogram;

/// The most messages taken in one turn.
const MAIL_PER_TURN: usize = 64;

/// The most time for messages in one turn. After it the pollers run, and the rest waits.
const MAIL_TIME_MAX: Duration = Duration::from_micros(200);

/// The most consecutive turns that may skip the check for events.
const EVENTS_SKIPPED_MAX: u32 = 16;

/// What a reactor does when there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdlePolicy {
    /// Never sleeps: for dedicated cores.
    Poll,
    /// Sleeps after some time without work, until something happens.
    Adaptive {
        /// How long it continues to poll without work.
        spin: Duration,
    },
}

impl Default for IdlePolicy {
    fn default() -> Self {
        IdlePolicy::Adaptive { spin: Duration::from_micros(50) }
    }
}

/// How a reactor runs.
#[derive(Debug, Clone)]
pub struct ReactorConfig {
    /// Its name, which is also the name of its thread.
    pub name: String,
    /// The core it is pinned to; `None` lets the system choose.
    pub core: Option<usize>,
    /// What it does when idle.
    pub idle: IdlePolicy,
    /// A turn that takes longer is counted and reported.
    pub turn_limit: Duration,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        ReactorConfig {
            name: "reactor0".to_owned(),
            core: None,
            idle: IdlePolicy::default(),
            turn_limit: Duration::from_millis(100),
        }
    }
}

/// Counters of a reactor since it started.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReactorStats {
    /// Turns taken.
    pub turns: u64,
    /// Turns that did work.
    pub busy_turns: u64,
    /// Nanoseconds of turns that did work.
    pub busy_ns: u64,
    /// Nanoseconds polling without work or asleep.
    pub idle_ns: u64,
    /// How often it went to sleep.
    pub sleeps: u64,
    /// Turns longer than the limit.
    pub long_turns: u64,
    /// Tasks that have not ended.
    pub tasks: usize,
}

/// Identifies a poller, to remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PollerId(u64);

type PollFn = Box<dyn FnMut() -> usize>;

struct Poller {
    id: PollerId,
    poll: PollFn,
}

/// What code on the reactor uses to register descriptors, pollers, tasks and timers. Cheap to
/// clone, never leaves the thread.
#[derive(Clone)]
pub struct Local {
    inner: Rc<LocalInner>,
}

struct LocalInner {
    events: Rc<Events>,
    executor: Executor,
    timers: Rc<Timers>,
    added: RefCell<Vec<Poller>>,
    removed: RefCell<Vec<PollerId>>,
    next_poller: Cell<u64>,
    stats: Cell<ReactorStats>,
    turn_times: RefCell<Histogram>,
    /// The next turn may skip the check for events.
    skips_events: Cell<bool>,
}

impl Local {
    /// Registers a descriptor. The [`Source`] must be dropped before the descriptor is closed.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn register(&self, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<Source> {
        self.inner.events.register(fd, interest)
    }

    /// Allows the next turn to skip asking the kernel for events, because the caller itself polls
    /// the only descriptor that is likely to be ready. At most 16 consecutive turns skip it, and
    /// none that may sleep.
    pub fn skip_events(&self) {
        self.inner.skips_events.set(true);
    }

    /// Adds a poller. Each turn polls it once, after the pollers added before it. It returns how
    /// much work it did: 0 counts as idle.
    pub fn add_poller(&self, poll: impl FnMut() -> usize + 'static) -> PollerId {
        let id = PollerId(self.inner.next_poller.get());
        self.inner.next_poller.set(id.0 + 1);
        self.inner.added.borrow_mut().push(Poller { id, poll: Box::new(poll) });
        id
    }

    /// Removes a poller at the end of the turn.
    pub fn remove_poller(&self, id: PollerId) {
        self.inner.removed.borrow_mut().push(id);
    }

    /// Starts a task.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        self.inner.executor.spawn(future)
    }

    /// A future that is ready after `span`.
    pub fn sleep(&self, span: Duration) -> Sleep {
        Sleep::new(Rc::clone(&self.inner.timers), Instant::now() + span)
    }

    /// Counters since the start.
    pub fn stats(&self) -> ReactorStats {
        ReactorStats { tasks: self.inner.executor.live(), ..self.inner.stats.get() }
    }

    /// Durations in nanoseconds of the turns that did work, since the start.
    pub fn turn_times(&self) -> Histogram {
        self.inner.turn_times.borrow().clone()
    }
}

/// A reactor whose mail gets a state of type `S`.
pub struct Reactor<S: 'static> {
    config: ReactorConfig,
    local: Local,
    mailbox: Arc<Mailbox<S>>,
    pollers: Vec<Poller>,
    last_work: Instant,
    /// Whether the last turn did work.
    worked: bool,
    /// When the last turn ended.
    ended: Instant,
    /// Consecutive turns that skipped the check for events.
    skipped: u32,
}

impl<S: 'static> Reactor<S> {
    /// Makes a reactor for the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses an epoll or event descriptor.
    pub fn new(config: ReactorConfig) -> io::Result<Self> {
        let mailbox = Mailbox::new()?;
        let events = Events::new(std::os::fd::AsFd::as_fd(&*mailbox))?;
        let inner = LocalInner {
            events,
            executor: Executor::default(),
            timers: Rc::new(Timers::default()),
            added: RefCell::default(),
            removed: RefCell::default(),
            next_poller: Cell::new(0),
            stats: Cell::default(),
            turn_times: RefCell::default(),
            skips_events: Cell::new(false),
        };
        let local = Local { inner: Rc::new(inner) };
        let now = Instant::now();
        Ok(Reactor {
            config,
            local,
            mailbox,
            pollers: Vec::new(),
            last_work: now,
            worked: false,
            ended: now,
            skipped: 0,
        })
    }

    /// What code on this reactor uses.
    pub fn local(&self) -> Local {
        self.local.clone()
    }

    /// The handle with which other threads reach this reactor.
    pub fn handle(&self) -> ReactorHandle<S> {
        ReactorHandle { mailbox: Arc::clone(&self.mailbox) }
    }

    /// Pins the calling thread to the configured core, if there is one. A refusal is logged and is
    /// not fatal.
    pub fn pin(&self) {
        let Some(core) = self.config.core else { return };
        let mut set = rustix::thread::CpuSet::new();
        set.set(core);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            tracing::warn!(reactor = %self.config.name, core, %error, "cannot pin the reactor to its core; it runs unpinned");
        }
    }

    /// Runs until [`ReactorHandle::stop`], with `state` for the mail.
    pub fn run(&mut self, state: &S) {
        self.mailbox.note_thread();
        while !self.mailbox.stop.load(Ordering::SeqCst) {
            self.turn(state);
        }
    }

    /// Runs until `future` is ready, and returns its result. For start and stop.
    ///
    /// # Panics
    /// When the future was dropped, which only stopping this reactor from inside the future could
    /// cause.
    pub fn run_until<T: 'static>(&mut self, state: &S, future: impl Future<Output = T> + 'static) -> T {
        let handle = self.local.spawn(future);
        loop {
            if let Some(result) = handle.try_take() {
                return result;
            }
            assert!(!handle.is_done(), "the future ended without a result");
            self.turn(state);
        }
    }

    /// Runs one turn. It sleeps only under [`IdlePolicy::Adaptive`], and only if there is nothing
    /// to do.
    pub fn turn(&mut self, state: &S) {
        // Uses the end of the previous turn: reading the clock is a large part of a turn without
        // work.
        let started = self.ended;
        let (timeout, slept) = self.timeout(started);
        let may_skip = self.local.inner.skips_events.take() && timeout == Some(Duration::ZERO);
        let waited = if may_skip && self.skipped < EVENTS_SKIPPED_MAX {
            self.skipped += 1;
            Waited::default()
        } else {
            self.skipped = 0;
            self.local.inner.events.wait(timeout)
        };
        let woke = if slept {
            self.mailbox.announce_wake();
            Instant::now()
        } else {
            started
        };
        self.mailbox.note_turn(woke);
        if waited.mail {
            self.mailbox.clear_wake();
        }
        // Done before the pollers run: a request made from here on gets another turn.
        self.mailbox.take_woken();
        self.mailbox.note_doing(mail::MAIL);
        let mut work = waited.count;
        for _ in 0..MAIL_PER_TURN {
            let Some(message) = self.mailbox.pop() else { break };
            message(state);
            work += 1;
            if woke.elapsed() >= MAIL_TIME_MAX {
                break;
            }
        }
        self.mailbox.note_doing(mail::TIMERS);
        work += self.local.inner.timers.fire(woke);
        self.mailbox.note_doing(mail::TASKS);
        work += self.local.inner.executor.run();
        for (index, poller) in (mail::FIRST_POLLER..).zip(&mut self.pollers) {
            self.mailbox.note_doing(index);
            work += (poller.poll)();
        }
        // A new poller has not been polled yet. It counts as work, so that the reactor does not
        // sleep before the first poll.
        work += self.change_pollers();
        self.mailbox.note_doing(mail::WAITING);
        self.account(started, woke, work, slept);
    }

    /// How long this turn may wait, and whether the wait is a sleep.
    fn timeout(&self, now: Instant) -> (Option<Duration>, bool) {
        let IdlePolicy::Adaptive { spin } = self.config.idle else { return (Some(Duration::ZERO), false) };
        // The last turn may have made work for a poller that ran earlier in that turn. So another
        // turn follows, however much time has passed: on a slow machine that may be more than
        // `spin`.
        if self.worked || now.duration_since(self.last_work) < spin || self.local.inner.executor.has_ready() {
            return (Some(Duration::ZERO), false);
        }
        self.mailbox.announce_sleep();
        if !self.mailbox.is_empty() {
            self.mailbox.announce_wake();
            return (Some(Duration::ZERO), false);
        }
        let deadline = self.local.inner.timers.next_deadline();
        (deadline.map(|deadline| deadline.saturating_duration_since(now)), true)
    }

    /// Adds and removes pollers as requested. Returns how many were added.
    fn change_pollers(&mut self) -> usize {
        let added = self.local.inner.added.borrow().len();
        self.pollers.append(&mut self.local.inner.added.borrow_mut());
        for id in self.local.inner.removed.borrow_mut().drain(..) {
            self.pollers.retain(|poller| poller.id != id);
        }
        added
    }

    fn account(&mut self, started: Instant, woke: Instant, work: usize, slept: bool) {
        let ended = Instant::now();
        self.ended = ended;
        let mut stats = self.local.inner.stats.get();
        stats.turns += 1;
        stats.sleeps += u64::from(slept);
        let turn = ended.duration_since(woke);
        stats.idle_ns += woke.duration_since(started).as_nanos() as u64;
        self.worked = work > 0;
        if work > 0 {
            self.last_work = ended;
            stats.busy_turns += 1;
            stats.busy_ns += turn.as_nanos() as u64;
            self.local.inner.turn_times.borrow_mut().record(turn.as_nanos() as u64);
        } else {
            stats.idle_ns += turn.as_nanos() as u64;
        }
        if turn > self.config.turn_limit {
            stats.long_turns += 1;
            tracing::warn!(
                reactor = %self.config.name,
                turn_ms = turn.as_millis() as u64,
                limit_ms = self.config.turn_limit.as_millis() as u64,
                "a turn of the reactor took longer than its limit"
            );
        }
        self.local.inner.stats.set(stats);
    }
}

impl<S: 'static> Drop for Reactor<S> {
    fn drop(&mut self) {
        self.mailbox.close();
        self.pollers.clear();
        self.local.inner.added.borrow_mut().clear();
        self.local.inner.executor.clear();
    }
}

/// Runs a future to its end on the calling thread and calls `drive` between polls. For tools and
/// tests without a reactor. Time decides nothing here: how many polls come between two calls
/// depends on the future alone.
pub fn block_on<T: 'static>(future: impl Future<Output = T> + 'static, mut drive: impl FnMut()) -> T {
    let executor = Executor::default();
    let handle = executor.spawn(future);
    loop {
        executor.run_by_count();
        if let Some(result) = handle.try_take() {
            return result;
        }
        drive();
    }
}

/// How many cores this process may run on, at least 1.
pub fn current_core_count() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}
