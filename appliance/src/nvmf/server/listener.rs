//! Listening sockets: the addresses and the connections that hosts make to them.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use rustix::event::PollFlags;

use super::config::LISTENERS_MAX;
use crate::descriptors::events_now;
use crate::reactor::{Interest, Local, Source};

/// Why the target cannot listen on an address.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another socket, perhaps of this target, listens there.
    #[error(
        "cannot listen on {address}: the address is in use; stop the other listener or choose another port"
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The limit on listeners is reached.
    #[error("cannot listen on {address}: there are {LISTENERS_MAX} listeners already")]
    TooMany {
        /// The address.
        address: SocketAddr,
    },
    /// The target has been shut down.
    #[error("cannot listen on {address}: the target has been shut down")]
    ShutDown {
        /// The address.
        address: SocketAddr,
    },
    /// The system refused.
    #[error("cannot listen on {address}: {source}")]
    System {
        /// The address.
        address: SocketAddr,
        /// Its reason.
        source: std::io::Error,
    },
}

/// A listening socket.
pub(super) struct Listener {
    // Before the socket, so that it is dropped before the socket is closed.
    source: Source,
    socket: TcpListener,
    /// The address with the assigned port.
    pub(super) address: SocketAddr,
}

impl Listener {
    pub(super) fn bind(local: &Local, address: SocketAddr) -> Result<Self, ListenError> {
        let system = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::AddrInUse => ListenError::AddressInUse { address },
            _ => ListenError::System { address, source },
        };
        let socket = TcpListener::bind(address).map_err(system)?;
        socket.set_nonblocking(true).map_err(system)?;
        let bound = socket.local_addr().map_err(system)?;
        let source = local.register(socket.as_fd(), Interest::Read).map_err(system)?;
        Ok(Listener { source, socket, address: bound })
    }

    /// Whether connections may be waiting. Clears the flag.
    pub(super) fn take_readable(&self) -> bool {
        self.source.take_readable()
    }

    /// The socket.
    pub(super) fn socket(&self) -> &TcpListener {
        &self.socket
    }

    /// Whether a connection waits.
    pub(super) fn is_pending(&self) -> bool {
        !events_now(&self.socket, PollFlags::IN).is_empty()
    }

    /// The next waiting connection. One that has already ended is skipped.
    pub(super) fn accept(&self) -> std::io::Result<Option<(TcpStream, SocketAddr)>> {
        loop {
            match self.socket.accept() {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => return Ok(None),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// Lets connections wait until [`resume`](Self::resume).
    pub(super) fn pause(&self) {
        // If pausing fails, the only cost is a busy reactor.
        let _ = self.source.set_interest(Interest::Nothing);
    }

    /// Listens again after a pause. Called every 100 ms while there are connections, else every
    /// second.
    pub(super) fn resume(&self) {
        let _ = self.source.set_interest(Interest::Read);
    }
}
