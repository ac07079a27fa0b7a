//! Listening sockets: what is listened on, and who has connected.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use super::config::{ACCEPTS_PER_TURN, LISTENERS_MAX};
use crate::reactor::{Interest, Local, Source};

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody, perhaps this target, listens there.
    #[error(
        "cannot listen on {address}: the address is in use; stop the other listener or choose another port"
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// There are as many listeners as there can be.
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
    /// The address with the port that was given.
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

    /// Hands every connection that waits to `take`, within the bound of a turn. Returns how many there were.
    pub(super) fn accept(&self, mut take: impl FnMut(TcpStream, SocketAddr)) -> usize {
        if !self.source.take_readable() {
            return 0;
        }
        for count in 0..ACCEPTS_PER_TURN {
            match self.socket.accept() {
                Ok((socket, peer)) => take(socket, peer),
                Err(error) => {
                    if error.kind() != std::io::ErrorKind::WouldBlock {
                        self.pause(&error);
                    }
                    return count;
                }
            }
        }
        ACCEPTS_PER_TURN
    }

    /// Out of descriptors or memory: asking again at once would only keep the reactor busy. [`resume`](Self::resume) ends it.
    fn pause(&self, error: &std::io::Error) {
        tracing::warn!(address = %self.address, %error, "cannot accept a connection");
        // If it cannot be paused, it is merely busy.
        let _ = self.source.set_interest(Interest::Nothing);
    }

    /// Listens again after a pause; called a few times a second.
    pub(super) fn resume(&self) {
        let _ = self.source.set_interest(Interest::Read);
    }
}
