//! The output of one connection, in order: headers and small data in a reusable arena, large data
//! as shared buffers that are not copied.
//!
//! The output of a turn is sent with `sendmsg`, up to [`SLICES_MAX`] pieces per call. A partial
//! send keeps the rest, and the data's memory, until the socket accepts more.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::TcpStream;
use std::ops::{ControlFlow, Deref};

use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};

/// The most pieces of one system call.
const SLICES_MAX: usize = 256;
const SLICES_FEW: usize = 8;
/// When the sent front of the arena is at least this long, in bytes, it is dropped.
const ARENA_COMPACT_BYTES: usize = 64 * 1024;
/// An empty arena with a larger capacity than this is freed.
const ARENA_KEPT_BYTES: usize = 64 * 1024;

/// The result of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sent {
    /// Bytes that the socket accepted.
    pub(super) bytes: usize,
    /// Whether the socket accepts no more for now.
    pub(super) filled: bool,
}

#[derive(Debug)]
enum Piece<B> {
    /// The next `len` bytes of the arena.
    Header { len: usize },
    /// The bytes of `buffer` from `sent` on. `charge_bytes` are freed when all of them are sent.
    Data { buffer: B, sent: usize, charge_bytes: usize },
}

/// The output of one connection, whose data is in buffers `B`. Its owner bounds its length by
/// accepting no commands while it is long.
#[derive(Debug)]
pub(super) struct Output<B> {
    arena: Vec<u8>,
    arena_sent: usize,
    pieces: VecDeque<Piece<B>>,
    bytes: usize,
    freed_bytes: usize,
}

impl<B> Default for Output<B> {
    fn default() -> Self {
        Output { arena: Vec::new(), arena_sent: 0, pieces: VecDeque::new(), bytes: 0, freed_bytes: 0 }
    }
}

impl<B: Deref<Target = [u8]>> Output<B> {
    /// Reserves space for `arena_bytes` of headers.
    pub(super) fn reserve(&mut self, arena_bytes: usize) {
        self.arena.reserve(arena_bytes);
    }

    /// Bytes waiting to be sent.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends what `write` appends to the arena.
    pub(super) fn header(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let before = self.arena.len();
        write(&mut self.arena);
        let added = self.arena.len() - before;
        if added == 0 {
            return;
        }
        self.bytes += added;
        match self.pieces.back_mut() {
            Some(Piece::Header { len }) => *len += added,
            _ => self.pieces.push_back(Piece::Header { len: added }),
        }
    }

    /// Appends data, which is kept until it is sent.
    pub(super) fn data(&mut self, buffer: B) {
        self.charged_data(buffer, 0);
    }

    /// The same, with the charge that its owner pays for it: see
    /// [`take_freed_bytes`](Self::take_freed_bytes).
    pub(super) fn charged_data(&mut self, buffer: B, charge_bytes: usize) {
        if buffer.is_empty() {
            self.freed_bytes += charge_bytes;
            return;
        }
        self.bytes += buffer.len();
        self.pieces.push_back(Piece::Data { buffer, sent: 0, charge_bytes });
    }

    /// The charges of the data that was sent since the last call.
    pub(super) fn take_freed_bytes(&mut self) -> usize {
        std::mem::take(&mut self.freed_bytes)
    }

    /// Calls `other` with each buffer, and replaces the buffer if it returns another one with the
    /// same bytes. Stops at its first `Break`.
    pub(super) fn replace_data<E>(
        &mut self,
        mut other: impl FnMut(&B) -> ControlFlow<E, Option<B>>,
    ) -> ControlFlow<E> {
        for piece in &mut self.pieces {
            if let Piece::Data { buffer, .. } = piece
                && let Some(other) = other(buffer)?
            {
                debug_assert_eq!(other.len(), buffer.len());
                *buffer = other;
            }
        }
        ControlFlow::Continue(())
    }

    /// Sends as much as the socket accepts, but not much more than `len_max` bytes. If
    /// [`Sent::filled`] is set, the rest waits for the socket to become writable.
    pub(super) fn send(&mut self, socket: &TcpStream, len_max: usize) -> std::io::Result<Sent> {
        const FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
        let mut total = 0;
        let mut filled = false;
        while !self.pieces.is_empty() && total < len_max {
            let (result, length) = if self.pieces.len() == 1
                && let Some(Piece::Header { len }) = self.pieces.front()
            {
                // The usual case, small responses, needs no list.
                let bytes = &self.arena[self.arena_sent..self.arena_sent + *len];
                (rustix::net::send(socket, bytes, FLAGS), bytes.len())
            } else {
                // A long list is expensive to build and rarely needed.
                let rest = len_max - total;
                match self.pieces.len() {
                    ..=SLICES_FEW => self.send_pieces::<SLICES_FEW>(socket, FLAGS, rest),
                    _ => self.send_pieces::<SLICES_MAX>(socket, FLAGS, rest),
                }
            };
            match result {
                Ok(sent) => {
                    self.advance(sent);
                    total += sent;
                    if sent < length {
                        // The socket is full. Another try would be refused.
                        filled = true;
                        break;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    filled = true;
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Sent { bytes: total, filled })
    }

    /// One `sendmsg` of pieces with `len_max` bytes in total, if there are as many: the last one is
    /// cut. Also returns how many bytes it was given.
    fn send_pieces<const SLICES: usize>(
        &self,
        socket: &TcpStream,
        flags: SendFlags,
        len_max: usize,
    ) -> (rustix::io::Result<usize>, usize) {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let mut count = 0;
        let mut length = 0;
        let mut header_at = self.arena_sent;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            let bytes = match piece {
                Piece::Header { len } => {
                    header_at += len;
                    &self.arena[header_at - len..header_at]
                }
                Piece::Data { buffer, sent, .. } => &buffer[*sent..],
            };
            let bytes = &bytes[..bytes.len().min(len_max - length)];
            length += bytes.len();
            *slice = IoSlice::new(bytes);
            count += 1;
            if length >= len_max {
                break;
            }
        }
        let mut control = SendAncillaryBuffer::default();
        (rustix::net::sendmsg(socket, &slices[..count], &mut control, flags), length)
    }

    fn advance(&mut self, mut sent: usize) {
        self.bytes -= sent;
        while sent > 0 {
            let Some(piece) = self.pieces.front_mut() else { break };
            let done = match piece {
                Piece::Header { len } => {
                    let taken = sent.min(*len);
                    self.arena_sent += taken;
                    *len -= taken;
                    sent -= taken;
                    *len == 0
                }
                Piece::Data { buffer, sent: before, charge_bytes } => {
                    let taken = sent.min(buffer.len() - *before);
                    *before += taken;
                    sent -= taken;
                    let is_sent = *before == buffer.len();
                    if is_sent {
                        self.freed_bytes += *charge_bytes;
                    }
                    is_sent
                }
            };
            if done {
                self.pieces.pop_front();
            }
        }
        if self.pieces.is_empty() {
            self.arena.clear();
            self.arena_sent = 0;
            if self.arena.capacity() > ARENA_KEPT_BYTES {
                self.arena = Vec::new();
            }
        } else if self.arena_sent >= ARENA_COMPACT_BYTES {
            self.arena.drain(..self.arena_sent);
            self.arena_sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;
    use crate::dma::DmaPool;

    #[test]
    fn partial_sends_keep_order_and_give_memory_back() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let sender = TcpStream::connect(listener.local_addr().expect("bound")).expect("a listener");
        let (mut receiver, _) = listener.accept().expect("a connection");
        sender.set_nonblocking(true).expect("a socket");
        receiver.set_nonblocking(true).expect("a socket");
        let pool = DmaPool::new(64 << 20);
        let mut output = Output::default();
        let mut expected = Vec::new();
        for round in 0..100_u32 {
            output.header(|arena| arena.extend_from_slice(&round.to_le_bytes().repeat(300)));
            expected.extend_from_slice(&round.to_le_bytes().repeat(300));
            let mut buffer = pool.allocate(128 * 1024).expect("within the budget");
            buffer.as_mut_slice().fill(round as u8);
            expected.extend_from_slice(buffer.as_slice());
            output.charged_data(buffer.freeze(), 128 * 1024);
        }
        assert_eq!(output.len(), expected.len());
        let mut received = Vec::new();
        let mut buffer = vec![0; 1 << 20];
        while received.len() < expected.len() {
            output.send(&sender, 300_000).expect("an open socket");
            if let Ok(count) = receiver.read(&mut buffer) {
                received.extend_from_slice(&buffer[..count]);
            }
        }
        assert!(output.is_empty());
        assert!(received == expected);
        assert_eq!(output.take_freed_bytes(), 100 * 128 * 1024);
        assert_eq!(pool.stats().in_use_bytes, 0);
    }
}
