//! Readiness of file descriptors: one epoll instance per reactor, level-triggered.
//!
//! A [`Source`] is a registered descriptor. Each turn the reactor sets the flags of the sources
//! that are ready. The owner of a source checks the flags in its poller, which also clears them.
//! Because of level triggering, a flag is set again in the next turn while the descriptor stays
//! ready.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::{Rc, Weak};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// The most events taken by one wait. The next turn takes the rest.
const EVENTS_PER_WAIT: usize = 256;

/// What a source waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Data to read, a hang-up or an error.
    Read,
    /// The same as `Read`, or space to write.
    ReadWrite,
    /// Space to write, or an error. Input is ignored for now.
    Write,
    /// Only errors and a full hang-up: for an owner that can use neither input nor space for now.
    Nothing,
}

struct Shared {
    readable: Cell<bool>,
    writable: Cell<bool>,
}

/// A registered descriptor. Drop it before its descriptor is closed.
pub struct Source {
    shared: Rc<Shared>,
    events: Weak<Events>,
    fd: RawFd,
    slot: usize,
    interest: Cell<Interest>,
}

pub(super) struct Events {
    epoll: OwnedFd,
    slots: RefCell<Slots>,
    ready: RefCell<Vec<Event>>,
}

#[derive(Default)]
struct Slots {
    sources: Vec<Option<Rc<Shared>>>,
    free: Vec<usize>,
}

/// The result of one wait.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Waited {
    /// Number of events, including those of the mail descriptor.
    pub(super) count: usize,
    /// Whether the mail descriptor was ready.
    pub(super) mail: bool,
}

/// Marks the mail descriptor's events.
const MAIL: u64 = u64::MAX;

impl Events {
    pub(super) fn new(mail: BorrowedFd<'_>) -> io::Result<Rc<Self>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, mail, EventData::new_u64(MAIL), EventFlags::IN)?;
        Ok(Rc::new(Events {
            epoll,
            slots: RefCell::new(Slots::default()),
            ready: RefCell::new(Vec::with_capacity(EVENTS_PER_WAIT)),
        }))
    }

    pub(super) fn register(self: &Rc<Self>, fd: BorrowedFd<'_>, interest: Interest) -> io::Result<Source> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.sources.push(None);
            slots.sources.len() - 1
        });
        if let Err(error) = epoll::add(&self.epoll, fd, EventData::new_u64(slot as u64), flags(interest)) {
            slots.free.push(slot);
            return Err(error.into());
        }
        let shared = Rc::new(Shared { readable: Cell::new(false), writable: Cell::new(false) });
        slots.sources[slot] = Some(Rc::clone(&shared));
        Ok(Source {
            shared,
            events: Rc::downgrade(self),
            fd: fd.as_raw_fd(),
            slot,
            interest: Cell::new(interest),
        })
    }

    /// Waits at most `timeout` (`None`: until something happens), and sets the flags of the ready
    /// sources.
    pub(super) fn wait(&self, timeout: Option<Duration>) -> Waited {
        let timeout = timeout.map(|limit| Timespec {
            tv_sec: limit.as_secs() as i64,
            tv_nsec: i64::from(limit.subsec_nanos()),
        });
        let mut ready = self.ready.borrow_mut();
        ready.clear();
        // An interrupted wait counts as an empty one: io_uring's task work ends waits this way.
        if epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut *ready), timeout.as_ref()).is_err() {
            return Waited::default();
        }
        let slots = self.slots.borrow();
        let mut waited = Waited { count: ready.len(), mail: false };
        for event in ready.iter() {
            let (data, flags) = (event.data.u64(), event.flags);
            if data == MAIL {
                waited.mail = true;
            } else if let Some(Some(shared)) = slots.sources.get(data as usize) {
                if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR | EventFlags::RDHUP) {
                    shared.readable.set(true);
                }
                if flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
                    shared.writable.set(true);
                }
            }
        }
        waited
    }
}

impl Source {
    /// Whether the descriptor was readable (or hung up, or failed) at the last wait; clears the
    /// flag.
    pub fn take_readable(&self) -> bool {
        self.shared.readable.replace(false)
    }

    /// Whether the descriptor was writable (or hung up, or failed) at the last wait; clears the
    /// flag.
    pub fn take_writable(&self) -> bool {
        self.shared.writable.replace(false)
    }

    /// Changes what the source waits for. No system call if nothing changes.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn set_interest(&self, interest: Interest) -> io::Result<()> {
        if self.interest.replace(interest) == interest {
            return Ok(());
        }
        let Some(events) = self.events.upgrade() else { return Ok(()) };
        // SAFETY: the owner keeps the descriptor open while the source lives (see the type's
        // documentation).
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        epoll::modify(&events.epoll, fd, EventData::new_u64(self.slot as u64), flags(interest))?;
        Ok(())
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let Some(events) = self.events.upgrade() else { return };
        // SAFETY: the owner keeps the descriptor open while the source lives (see the type's
        // documentation).
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        // The kernel has already removed a closed descriptor. Nothing else can fail here.
        let _ = epoll::delete(&events.epoll, fd);
        let mut slots = events.slots.borrow_mut();
        slots.sources[self.slot] = None;
        slots.free.push(self.slot);
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

fn flags(interest: Interest) -> EventFlags {
    match interest {
        Interest::Read => EventFlags::IN | EventFlags::RDHUP,
        Interest::ReadWrite => EventFlags::IN | EventFlags::RDHUP | EventFlags::OUT,
        Interest::Write => EventFlags::OUT,
        Interest::Nothing => EventFlags::empty(),
    }
}
