//! A connection without rules, for negative tests: sends any bytes and reads any PDUs.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::nvmf::wire::command::Sqe;
use crate::nvmf::wire::pdu::{
    COMMON_HEADER_BYTES, CapsuleCmd, CommonHeader, Digests, IcReq, IcResp, PduType,
};
use crate::nvmf::wire::pdu_check::{append_header, digest_bytes};

/// The longest PDU that is read. A longer PLEN is an error of kind `InvalidData`.
const PDU_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A PDU as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawPdu {
    /// Its common header.
    pub header: CommonHeader,
    /// All of its bytes, including the common header.
    pub bytes: Vec<u8>,
}

impl RawPdu {
    /// The header as one of the PDU structures, if the PDU is long enough for it.
    pub fn view<T: FromBytes + KnownLayout + Immutable + Unaligned>(&self) -> Option<&T> {
        T::ref_from_prefix(&self.bytes).ok().map(|(pdu, _)| pdu)
    }

    /// The bytes from PDO on, including a data digest. Empty if PDO is 0 or beyond the end.
    pub fn data(&self) -> &[u8] {
        match self.header.pdo {
            0 => &[],
            offset => self.bytes.get(usize::from(offset)..).unwrap_or(&[]),
        }
    }
}

/// A TCP connection to a controller, on which nothing has been sent.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
}

impl RawConnection {
    /// Connects. Every read and write then fails after `timeout`.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Self { stream })
    }

    /// Uses an existing connection. Its timeouts stay unchanged.
    pub fn from_stream(stream: TcpStream) -> Self {
        Self { stream }
    }

    /// Sends `ICReq` and reads the answer as `ICResp`.
    ///
    /// # Errors
    /// When the socket fails, or the answer is another PDU (kind `InvalidData`).
    pub fn initialize(&mut self, digests: Digests) -> io::Result<IcResp> {
        self.send_bytes(IcReq::new(digests).as_bytes())?;
        let answer = self.read_pdu()?;
        answer
            .view::<IcResp>()
            .filter(|response| response.header.pdu_type == PduType::IcResp as u8)
            .copied()
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends a PDU structure followed by `tail`. Adds the header digest if the header is flagged
    /// for it.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_pdu<H: IntoBytes + Immutable>(&mut self, pdu: &H, tail: &[u8]) -> io::Result<()> {
        let mut bytes = Vec::new();
        append_header(&mut bytes, pdu);
        bytes.extend_from_slice(tail);
        self.send_bytes(&bytes)
    }

    /// Sends a well-formed command capsule with the given entry, and in-capsule data if it is not
    /// empty.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn send_command(&mut self, sqe: Sqe, data: &[u8], digests: Digests) -> io::Result<()> {
        if data.is_empty() {
            let header = CommonHeader::without_data(PduType::CapsuleCmd, digests.header);
            return self.send_pdu(&CapsuleCmd { header, sqe }, &[]);
        }
        let length = data.len() as u32;
        let header = CommonHeader::with_data(PduType::CapsuleCmd, digests, 4, length);
        let mut tail = data.to_vec();
        if digests.data {
            tail.extend_from_slice(&digest_bytes(data));
        }
        self.send_pdu(&CapsuleCmd { header, sqe }, &tail)
    }

    /// Reads one PDU of PLEN bytes, unchecked.
    ///
    /// # Errors
    /// When the socket fails or times out, is closed (kind `UnexpectedEof`), or PLEN is below 8 or
    /// above 16 MiB (kind `InvalidData`).
    pub fn read_pdu(&mut self) -> io::Result<RawPdu> {
        let mut head = [0_u8; COMMON_HEADER_BYTES];
        self.stream.read_exact(&mut head)?;
        let header: CommonHeader = zerocopy::transmute!(head);
        let length = header.plen.get() as usize;
        if !(COMMON_HEADER_BYTES..=PDU_BYTES_MAX).contains(&length) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length];
        bytes[..COMMON_HEADER_BYTES].copy_from_slice(&head);
        self.stream.read_exact(&mut bytes[COMMON_HEADER_BYTES..])?;
        Ok(RawPdu { header, bytes })
    }

    /// Reads PDUs until the controller closes, and returns them. A reset counts as a close.
    ///
    /// # Errors
    /// When the socket times out or fails in another way.
    pub fn read_until_closed(&mut self) -> io::Result<Vec<RawPdu>> {
        let mut pdus = Vec::new();
        loop {
            match self.read_pdu() {
                Ok(pdu) => pdus.push(pdu),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(pdus);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Closes the sending half: the controller sees the end of the stream.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn close_write(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }
}
