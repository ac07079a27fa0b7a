//! The byte stream of one connection: buffered sending, buffered receiving, `ICReq`/`ICResp`.

use std::io::{self, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvAncillaryBuffer, RecvFlags, recv, recvmsg};
use zerocopy::{FromBytes, IntoBytes};

use super::error::{HostError, Loss, Negotiation, Violation};
use crate::nvmf::output::Output;
use crate::nvmf::wire::pdu::{
    COMMON_HEADER_BYTES, Digests, H2C_DATA_BYTES_MAX_LEAST, IcReq, IcResp, PDU_FORMAT_VERSION, PduType,
    TermReq,
};
use crate::nvmf::wire::pdu_check::{PduLimits, Receiver, check_header, common_header};

/// Bytes of the receive buffer: many responses, or two data PDUs of the usual largest size.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;
/// When the free space at the buffer's end is below this, the content moves to the front.
const RECEIVE_SPACE_BYTES_LEAST: usize = 64 * 1024;
/// Payload size from which receiving directly into the command's buffer pays off.
const DIRECT_BYTES_LEAST: usize = 4096;

/// How long a receive may block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Not at all.
    No,
    /// Up to this long.
    Upto(Duration),
}

/// The result of a receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// Nothing in the time allowed.
    Nothing,
    /// This many bytes are in the direct buffer. The rest is in the receive buffer.
    Direct(usize),
}

/// The values from the controller's `ICResp`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Negotiated {
    /// Digests in use.
    pub(super) digests: Digests,
    /// Alignment of data in PDUs to the controller, 4 to 128 bytes.
    pub(super) alignment_bytes: u8,
    /// Most data in one `H2CData` PDU.
    pub(super) h2c_data_bytes_max: u32,
}

/// One connection after its initialization.
#[derive(Debug)]
pub(super) struct Transport {
    stream: TcpStream,
    pub(super) negotiated: Negotiated,
    /// The last value set for `SO_RCVTIMEO`.
    receive_timeout: Duration,
    /// Bytes to send. Bounded by what the queue's slots can produce.
    pub(super) output: Output<Bytes>,
    /// Bytes sent since the beginning.
    sent_bytes: u64,
    receive_buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Transport {
    /// Connects and initializes.
    pub(super) fn open(address: SocketAddr, digests: Digests, timeout: Duration) -> Result<Self, HostError> {
        let connect = |source| HostError::Connect { address, source };
        let stream = TcpStream::connect_timeout(&address, timeout).map_err(connect)?;
        stream.set_nodelay(true).map_err(connect)?;
        stream.set_read_timeout(Some(timeout)).map_err(connect)?;
        let negotiated = initialize(&stream, digests)?;
        Ok(Self {
            stream,
            negotiated,
            receive_timeout: timeout,
            output: Output::default(),
            sent_bytes: 0,
            receive_buffer: vec![0; RECEIVE_BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
        })
    }

    /// Bytes received and not consumed.
    pub(super) fn received(&self) -> &[u8] {
        &self.receive_buffer[self.start..self.end]
    }

    /// Drops the first `bytes` of [`Self::received`].
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// The position in the stream of the next byte that will be appended to the output.
    pub(super) fn append_position(&self) -> u64 {
        self.sent_bytes + self.output.len() as u64
    }

    /// The position in the stream of the next byte that the socket will accept.
    pub(super) fn sent_position(&self) -> u64 {
        self.sent_bytes
    }

    /// Whether bytes wait for space in the socket.
    pub(super) fn has_unsent(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what the socket accepts immediately.
    pub(super) fn send_pending(&mut self) -> Result<(), Loss> {
        match self.output.send(&self.stream, usize::MAX) {
            Ok(sent) => self.sent_bytes += sent.bytes as u64,
            Err(source) => return Err(socket_loss("send", source)),
        }
        Ok(())
    }

    /// Receives once. When nothing is buffered and `direct` is large, it is filled first.
    pub(super) fn receive(&mut self, direct: &mut [u8], block: Block) -> Result<Received, Loss> {
        let flags = match block {
            Block::No => RecvFlags::DONTWAIT,
            // The socket would take a timeout of zero as no timeout.
            Block::Upto(timeout) if timeout.is_zero() => RecvFlags::DONTWAIT,
            Block::Upto(timeout) if self.has_unsent() => {
                // Both directions must be watched. Afterwards the receive finds data or not.
                if !self.wait_ready(timeout)? {
                    return Ok(Received::Nothing);
                }
                self.send_pending()?;
                RecvFlags::DONTWAIT
            }
            Block::Upto(timeout) => {
                self.set_receive_timeout(timeout)?;
                RecvFlags::empty()
            }
        };
        if self.receive_buffer.len() - self.end < RECEIVE_SPACE_BYTES_LEAST {
            self.receive_buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let use_direct = self.start == self.end && direct.len() >= DIRECT_BYTES_LEAST;
        let space = &mut self.receive_buffer[self.end..];
        let count = loop {
            let outcome = if use_direct {
                let mut parts = [IoSliceMut::new(direct), IoSliceMut::new(space)];
                recvmsg(&self.stream, &mut parts, &mut RecvAncillaryBuffer::default(), flags)
                    .map(|message| message.bytes)
            } else {
                recv(&self.stream, &mut *space, flags).map(|(count, _)| count)
            };
            match outcome {
                Ok(count) => break count,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return Ok(Received::Nothing),
                Err(errno) => return Err(socket_loss("receive", errno.into())),
            }
        };
        if count == 0 {
            return Err(Loss::Closed);
        }
        let direct_bytes = if use_direct { count.min(direct.len()) } else { 0 };
        self.end += count - direct_bytes;
        Ok(Received::Direct(direct_bytes))
    }

    /// Sends a termination request, as far as the socket accepts it, and closes.
    pub(super) fn terminate(&mut self, request: &TermReq, offender: &[u8]) {
        let length = request.header.plen.get() as usize - size_of::<TermReq>();
        self.output.header(|arena| {
            arena.extend_from_slice(request.as_bytes());
            arena.extend_from_slice(&offender[..length.min(offender.len())]);
        });
        // The connection is given up, so it does not matter if the peer does not read this.
        let _ = self.send_pending();
        self.close();
    }

    /// Closes both directions.
    pub(super) fn close(&self) {
        // A connection that the peer closed first cannot be shut down again.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    fn wait_ready(&self, timeout: Duration) -> Result<bool, Loss> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN | PollFlags::OUT)];
        let timeout = Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(errno) => Err(socket_loss("poll", errno.into())),
        }
    }

    fn set_receive_timeout(&mut self, timeout: Duration) -> Result<(), Loss> {
        if timeout != self.receive_timeout {
            self.stream
                .set_read_timeout(Some(timeout))
                .map_err(|source| socket_loss("set the receive timeout", source))?;
            self.receive_timeout = timeout;
        }
        Ok(())
    }
}

fn socket_loss(operation: &'static str, source: io::Error) -> Loss {
    Loss::Socket { operation, source }
}

fn initialize(mut stream: &TcpStream, digests: Digests) -> Result<Negotiated, Negotiation> {
    let exchange = |source: io::Error| {
        Negotiation::Exchange(match source.kind() {
            io::ErrorKind::UnexpectedEof => Loss::Closed,
            _ => socket_loss("exchange ICReq and ICResp", source),
        })
    };
    stream.write_all(IcReq::new(digests).as_bytes()).map_err(exchange)?;
    let mut bytes = [0_u8; size_of::<IcResp>()];
    stream.read_exact(&mut bytes[..COMMON_HEADER_BYTES]).map_err(exchange)?;
    let limits = PduLimits {
        receiver: Receiver::Host,
        digests: Digests::default(),
        data_alignment_bytes: 4,
        in_capsule_bytes_max: 0,
        data_bytes_max: 0,
    };
    let bad = |loss: Loss| Negotiation::Exchange(loss);
    let Some(header) = common_header(&bytes) else {
        return Err(bad(Loss::Closed));
    };
    let layout = check_header(header, &limits).map_err(|error| bad(error.into()))?;
    if layout.pdu_type == PduType::C2hTermReq {
        let head = &mut bytes[..size_of::<TermReq>()];
        stream.read_exact(&mut head[COMMON_HEADER_BYTES..]).map_err(exchange)?;
        let request = TermReq::read_from_bytes(head).unwrap_or_default();
        return Err(bad(Loss::Terminated {
            fatal_error: request.fatal_error.get(),
            information: request.information.get(),
        }));
    }
    if layout.pdu_type != PduType::IcResp {
        let pdu_type = layout.pdu_type.into();
        return Err(bad(Violation::UnexpectedPdu { pdu_type }.into()));
    }
    stream.read_exact(&mut bytes[COMMON_HEADER_BYTES..]).map_err(exchange)?;
    check_response(&zerocopy::transmute!(bytes), digests)
}

/// The checks of the Linux host on `ICResp`.
fn check_response(response: &IcResp, asked: Digests) -> Result<Negotiated, Negotiation> {
    if response.format_version.get() != PDU_FORMAT_VERSION {
        return Err(Negotiation::FormatVersion { found: response.format_version.get() });
    }
    if response.digest != asked.to_bits() {
        return Err(Negotiation::Digests { found: response.digest, asked: asked.to_bits() });
    }
    let alignment = response.controller_data_alignment;
    if alignment > 31 {
        return Err(Negotiation::Alignment { found: alignment });
    }
    let h2c_data_bytes_max = response.h2c_data_bytes_max.get();
    if h2c_data_bytes_max < H2C_DATA_BYTES_MAX_LEAST || !h2c_data_bytes_max.is_multiple_of(4) {
        return Err(Negotiation::H2cDataMax { found: h2c_data_bytes_max });
    }
    Ok(Negotiated { digests: asked, alignment_bytes: (alignment + 1) * 4, h2c_data_bytes_max })
}
