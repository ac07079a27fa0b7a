//! The receive buffer of one connection.

use std::net::TcpStream;

use std::io::{IoSliceMut, Read};

/// The result of an attempt to receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes were received.
    Bytes {
        /// How many.
        count: usize,
        /// Whether the space for them was filled, so that more may be waiting.
        filled: bool,
    },
    /// Nothing now.
    Nothing,
    /// The peer has closed.
    Closed,
}

/// Bytes received and not yet consumed: `bytes[start..end]`.
pub(super) struct Input {
    pub(super) bytes: Vec<u8>,
    pub(super) start: usize,
    pub(super) end: usize,
    /// The size that the buffer must have. It grows at the next receive.
    wanted_bytes: usize,
}

impl Input {
    pub(super) fn new(len_bytes: usize) -> Self {
        Input { bytes: Vec::new(), start: 0, end: 0, wanted_bytes: len_bytes }
    }

    /// Makes the buffer grow. It never shrinks.
    pub(super) fn grow(&mut self, len_bytes: usize) {
        self.wanted_bytes = self.wanted_bytes.max(len_bytes);
    }

    /// Whether no unconsumed bytes are there.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    fn make_room(&mut self) {
        if self.bytes.len() < self.wanted_bytes {
            self.bytes.resize(self.wanted_bytes, 0);
        }
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        } else if self.start > 0 && self.bytes.len() - self.end < self.bytes.len() / 2 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
    }

    /// Receives into the buffer, at most `room_max` bytes.
    pub(super) fn receive(&mut self, socket: &TcpStream, room_max: usize) -> std::io::Result<Received> {
        self.make_room();
        let room = (self.bytes.len() - self.end).min(room_max);
        if room == 0 {
            return Ok(Received::Nothing);
        }
        let mut socket = socket;
        let received = outcome(socket.read(&mut self.bytes[self.end..self.end + room]), room)?;
        if let Received::Bytes { count, .. } = received {
            self.end += count;
        }
        Ok(received)
    }

    /// Receives into `payload` first and then into the buffer, which must be empty, at most
    /// `room_max` bytes there. Also returns how many bytes went to `payload`.
    pub(super) fn receive_payload(
        &mut self,
        socket: &TcpStream,
        payload: &mut [u8],
        room_max: usize,
    ) -> std::io::Result<(Received, usize)> {
        debug_assert!(self.is_empty(), "payload comes first");
        self.make_room();
        let payload_bytes = payload.len();
        let behind = self.bytes.len().min(room_max);
        let room = payload_bytes + behind;
        let mut socket = socket;
        let mut slices = [IoSliceMut::new(payload), IoSliceMut::new(&mut self.bytes[..behind])];
        let received = outcome(socket.read_vectored(&mut slices), room)?;
        let Received::Bytes { count, .. } = received else { return Ok((received, 0)) };
        let taken = count.min(payload_bytes);
        self.end = count - taken;
        Ok((received, taken))
    }

    /// Drops all bytes in the buffer.
    pub(super) fn discard(&mut self) {
        self.start = 0;
        self.end = 0;
    }
}

fn outcome(result: std::io::Result<usize>, room: usize) -> std::io::Result<Received> {
    match result {
        Ok(0) => Ok(Received::Closed),
        Ok(count) => Ok(Received::Bytes { count, filled: count == room }),
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) =>
        {
            Ok(Received::Nothing)
        }
        Err(error) => Err(error),
    }
}
