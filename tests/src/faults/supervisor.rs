//! The thread that answers the system calls of one watched program, until the program has ended.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Shared;
use super::call::{Thread, Watched, pieces_of};
use super::notify::{Answer, Listener, Notification};
use super::rule::{Operation, Outcome, Patience};
use super::state::{Decision, RuleId};

/// A call that waits before its outcome.
struct Waiting {
    notification: Notification,
    outcome: Outcome,
    until: Until,
}

enum Until {
    Instant(Instant),
    Removed(RuleId),
}

/// Answers calls until no process is left to make them.
pub(super) struct Supervisor {
    listener: Listener,
    shared: Arc<Shared>,
    /// Readable when rules have changed.
    wake: Arc<OwnedFd>,
    waiting: VecDeque<Waiting>,
}

impl Supervisor {
    pub(super) fn new(listener: Listener, shared: Arc<Shared>, wake: Arc<OwnedFd>) -> Self {
        Supervisor { listener, shared, wake, waiting: VecDeque::new() }
    }

    /// Runs until the program has ended.
    pub(super) fn run(mut self) {
        if let Err(error) = self.supervise() {
            self.shared.trouble(format!("the supervisor ended: {error}"));
        }
    }

    fn supervise(&mut self) -> io::Result<()> {
        loop {
            let timeout = self.timeout();
            let mut sources =
                [PollFd::new(&self.listener, PollFlags::IN), PollFd::new(&*self.wake, PollFlags::IN)];
            match poll(&mut sources, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [news, wake] = sources.map(|source| source.revents());
            if wake.contains(PollFlags::IN) {
                // It may be empty: an earlier iteration has read it.
                let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
            }
            self.end_waits();
            if news.contains(PollFlags::IN) {
                if let Some(notification) = self.listener.receive()? {
                    self.handle(notification);
                }
            } else if news.intersects(PollFlags::HUP | PollFlags::ERR) {
                return Ok(());
            }
        }
    }

    /// How long until the first wait ends by itself.
    fn timeout(&self) -> Option<Timespec> {
        let instants = self.waiting.iter().filter_map(|waiting| match waiting.until {
            Until::Instant(instant) => Some(instant),
            Until::Removed(_) => None,
        });
        let left = instants.min()?.saturating_duration_since(Instant::now());
        // Rounded up, so that an iteration does not wake slightly too early again and again.
        let left = left + Duration::from_micros(50);
        Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() })
    }

    fn end_waits(&mut self) {
        let now = Instant::now();
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else { return };
            let over = match waiting.until {
                Until::Instant(instant) => instant <= now,
                Until::Removed(rule) => !self.shared.state().holds(rule),
            };
            if over {
                self.finish(&waiting.notification, waiting.outcome);
            } else {
                self.waiting.push_back(waiting);
            }
        }
    }

    fn handle(&mut self, notification: Notification) {
        let outcome = match self.decide(&notification) {
            None => Outcome::Proceed,
            Some(Decision { rule, patience, outcome }) => match patience {
                Patience::None => outcome,
                Patience::Time(time) => {
                    let until = Until::Instant(Instant::now() + time);
                    return self.waiting.push_back(Waiting { notification, outcome, until });
                }
                Patience::UntilRemoved => {
                    let until = Until::Removed(rule);
                    return self.waiting.push_back(Waiting { notification, outcome, until });
                }
            },
        };
        self.finish(&notification, outcome);
    }

    fn decide(&self, notification: &Notification) -> Option<Decision> {
        let mut state = self.shared.state();
        state.calls += 1;
        let watched = Watched::find(notification.number)?;
        if !state.concerns(watched.operation(&notification.arguments)) {
            return None;
        }
        let call = match watched.decode(Thread(notification.thread), &notification.arguments) {
            Ok(call) if self.listener.still_waits(notification.id) => call,
            Err(error) if self.listener.still_waits(notification.id) => {
                state.trouble.get_or_insert(format!("a call of the program cannot be looked at: {error}"));
                return None;
            }
            // It was killed in the meantime: the data that was read may belong to another thread.
            _ => return None,
        };
        let decision = state.decide(notification.thread, &call);
        drop(state);
        self.shared.changed.notify_all();
        decision
    }

    fn finish(&self, notification: &Notification, outcome: Outcome) {
        let answer = match outcome {
            Outcome::Proceed => Answer::Proceed,
            Outcome::Fail(errno) => Answer::Fail(errno.raw_os_error()),
            Outcome::Short(bytes) => move_bytes(notification, bytes).unwrap_or_else(|error| {
                self.shared.trouble(format!("a short transfer is not possible: {error}"));
                Answer::Proceed
            }),
            Outcome::Kill => {
                // SAFETY: plain numbers. The thread waits for this answer, so its ID still belongs
                // to it; a signal to it reaches its whole process.
                unsafe { libc::kill(notification.thread as i32, libc::SIGKILL) };
                return;
            }
        };
        self.listener.answer(notification.id, answer);
    }
}

/// Executes the first `limit` bytes of a read or a write for the program.
fn move_bytes(notification: &Notification, limit: u64) -> io::Result<Answer> {
    let (thread, arguments) = (Thread(notification.thread), &notification.arguments);
    let Some(watched) = Watched::find(notification.number) else { return Ok(Answer::Proceed) };
    let operation = watched.operation(arguments);
    if !matches!(operation, Operation::Read | Operation::Write) {
        return Ok(Answer::Proceed);
    }
    let pieces = pieces_of(watched, thread, arguments)?;
    let (path, offset) = (thread.descriptor(arguments[0]), arguments[3]);
    let mut left = limit as usize;
    let mut bytes = Vec::new();
    let mut places = Vec::new();
    for piece in pieces {
        let len = piece.len.min(left);
        places.push((piece.address, bytes.len()..bytes.len() + len));
        bytes.resize(bytes.len() + len, 0);
        left -= len;
    }
    let moved = if operation == Operation::Read {
        let moved = File::open(path)?.read_at(&mut bytes, offset)?;
        for (address, place) in places {
            thread.write(address, &bytes[place])?;
        }
        moved
    } else {
        for (address, place) in places {
            thread.read(address, &mut bytes[place])?;
        }
        File::options().write(true).open(path)?.write_at(&bytes, offset)?
    };
    Ok(Answer::Moved(moved as u64))
}
