//! A responder on plain sockets.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsRawFd;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use varve::nvmf::target::TargetConfig;

use super::answers::Answers;
use super::refused;
use crate::floor::tcp::{Shape, read_some};
use crate::spin::Spin;

/// Receives in one turn, as the target has it.
const RECEIVES_PER_TURN: usize = 4;
/// How long the kernel looks at a device for a socket, in microseconds.
const BUSY_POLL_US: libc::c_int = 50;
/// Not to sleep in an epoll that is only looked at.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// How a responder learns that a socket is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// From an epoll that it asks each turn, as the reactor does.
    Epoll,
    /// By trying.
    Trying,
}

/// Answers until the other side closes.
///
/// # Errors
/// The system's.
pub(super) fn serve(mut stream: TcpStream, shape: Shape, readiness: Readiness) -> io::Result<()> {
    let mut readiness = match readiness {
        Readiness::Epoll => Some(Epoll::new(&stream)?),
        Readiness::Trying => None,
    };
    let mut answers = Answers::new(shape);
    let mut input = vec![0; TargetConfig::default().receive_buffer_bytes];
    let mut spin = Spin::new();
    loop {
        let ready = readiness.as_mut().map_or(Ok(Ready { read: true, write: true }), Epoll::look)?;
        let mut found = false;
        for _ in 0..if ready.read { RECEIVES_PER_TURN } else { 0 } {
            let Some(count) = read_some(&mut stream, &mut input)? else { break };
            if count == 0 {
                return Ok(());
            }
            found = true;
            answers.received(count);
            if count < input.len() {
                break;
            }
        }
        let blocked = readiness.as_ref().is_some_and(|epoll| epoll.blocked);
        if answers.owed() > 0 && (!blocked || ready.write) {
            found = true;
            let sent = send(&stream, &answers)?;
            answers.sent(sent);
            if let Some(epoll) = &mut readiness {
                epoll.set_blocked(&stream, answers.owed() > 0)?;
            }
        }
        spin.looked(found);
    }
}

/// Has the kernel poll the device of a socket instead of waiting for its interrupts.
///
/// # Errors
/// The kernel's refusal; more than the system's default takes a privilege.
pub(super) fn set_busy_poll(stream: &TcpStream) -> io::Result<()> {
    for (option, name, value) in [
        (libc::SO_BUSY_POLL, "SO_BUSY_POLL", BUSY_POLL_US),
        (libc::SO_PREFER_BUSY_POLL, "SO_PREFER_BUSY_POLL", 1),
    ] {
        // SAFETY: the option's value is an int that lives until the call returns, and its length is given.
        let result = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(refused(name)(io::Error::last_os_error()));
        }
    }
    Ok(())
}

/// Sends what the socket takes with one call.
fn send(stream: &TcpStream, answers: &Answers) -> io::Result<usize> {
    let slices = answers.slices();
    loop {
        match sendmsg(stream, &slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
            Ok(sent) => return Ok(sent),
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

struct Ready {
    read: bool,
    write: bool,
}

/// A level-triggered epoll with one socket in it.
struct Epoll {
    fd: rustix::fd::OwnedFd,
    events: Vec<Event>,
    /// The socket took not all; whether it takes more is asked for too.
    blocked: bool,
}

impl Epoll {
    fn new(stream: &TcpStream) -> io::Result<Self> {
        let fd = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&fd, stream, EventData::new_u64(0), EventFlags::IN)?;
        Ok(Epoll { fd, events: Vec::with_capacity(8), blocked: false })
    }

    fn look(&mut self) -> io::Result<Ready> {
        self.events.clear();
        epoll::wait(&self.fd, rustix::buffer::spare_capacity(&mut self.events), Some(&AT_ONCE))?;
        let any = |flags: EventFlags| self.events.iter().any(|event| { event.flags }.intersects(flags));
        let broken = EventFlags::HUP | EventFlags::ERR;
        Ok(Ready { read: any(EventFlags::IN | broken), write: any(EventFlags::OUT | broken) })
    }

    fn set_blocked(&mut self, stream: &TcpStream, blocked: bool) -> io::Result<()> {
        if self.blocked != blocked {
            self.blocked = blocked;
            let flags = if blocked { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.fd, stream, EventData::new_u64(0), flags)?;
        }
        Ok(())
    }
}
