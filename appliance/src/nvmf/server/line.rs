//! A connection as its controller sees it: the socket, whether its host still exists, and whether
//! the connection must give way.
//!
//! A host that loses its power or its cable sends nothing. With a keep alive timeout, that timeout
//! ends its controller. Without one (KATO 0) the kernel detects the loss: it probes after
//! [`KEEP_ALIVE_IDLE`] of silence, and gives up if data is not acknowledged within
//! [`UNANSWERED_MAX`].

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::net::sockopt;

use crate::descriptors::events_now;

/// The kernel probes whether the host exists after this time without a segment from it.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(10);
/// The time between two probes.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// The number of probes.
const KEEP_ALIVE_COUNT: u32 = 4;
/// Data or a probe that is not acknowledged for this time ends the connection.
const UNANSWERED_MAX: Duration = Duration::from_secs(30);

/// A connection's socket.
pub(super) struct Line {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    cut: Cell<bool>,
}

impl Line {
    /// Prepares an accepted socket for service.
    pub(super) fn new(socket: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        watch(&socket)?;
        let local = socket.local_addr()?;
        Ok(Line { socket, peer, local, cut: Cell::new(false) })
    }

    /// Whether the host has closed the connection, or the kernel has given it up. Its reader may
    /// not have noticed yet.
    pub(super) fn is_gone(&self) -> bool {
        let ends = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        events_now(&self.socket, ends).intersects(ends)
    }

    /// Makes the connection end in its next turn: another one has taken its place.
    pub(super) fn cut(&self) {
        self.cut.set(true);
    }

    /// Whether another connection has taken its place.
    pub(super) fn is_cut(&self) -> bool {
        self.cut.get()
    }
}

/// Makes the kernel detect a host that no longer exists.
fn watch(socket: &TcpStream) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(socket, UNANSWERED_MAX.as_millis() as u32)?;
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A line and its host's end.
    pub(in crate::nvmf::server) fn pair() -> (Line, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let host = TcpStream::connect(listener.local_addr().expect("its address")).expect("connected");
        let (socket, peer) = listener.accept().expect("accepted");
        (Line::new(socket, peer).expect("ready"), host)
    }

    #[test]
    fn the_kernel_asks_after_a_silent_host_and_gives_it_up() {
        let (line, _host) = pair();
        let socket = &line.socket;
        assert!(sockopt::socket_keepalive(socket).expect("an option"));
        assert_eq!(sockopt::tcp_keepidle(socket).expect("an option"), Duration::from_secs(10));
        assert_eq!(sockopt::tcp_keepintvl(socket).expect("an option"), Duration::from_secs(5));
        assert_eq!(sockopt::tcp_keepcnt(socket).expect("an option"), 4);
        assert_eq!(sockopt::tcp_user_timeout(socket).expect("an option"), 30_000);
    }

    #[test]
    fn a_closed_line_is_known_without_reading_what_came_before() {
        use std::io::Write;
        let (line, mut host) = pair();
        assert!(!line.is_gone());
        host.write_all(b"unread").expect("sent");
        assert!(!line.is_gone());
        drop(host);
        while !line.is_gone() {
            std::thread::yield_now();
        }
    }
}
