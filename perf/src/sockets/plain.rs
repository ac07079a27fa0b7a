//! A responder on plain sockets.

use std::io;
use std::net::TcpStream;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags, sendmsg};
use varve::nvmf::server::TargetConfig;

use super::answers::Answers;
use crate::floor::tcp::{Shape, read_some};
use crate::spin::Spin;

/// Receives in one turn, as in the target.
const RECEIVES_PER_TURN: usize = 16;
/// A zero timeout, so that the epoll only checks and never sleeps.
const AT_ONCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// How a responder learns that a socket is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Readiness {
    /// From an epoll that it polls each turn, as the reactor does.
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

/// Sends with one call as much as the socket accepts.
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
    /// Whether the socket did not accept everything, so that the epoll also waits for it to become
    /// writable.
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
