//! A connection of an adversary: it speaks NVMe/TCP well enough to be accepted, and then does what
//! no sane host does. Nothing is buffered here, so that a thousand of them cost little.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{RecvFlags, recv};
use varve::nvmf::host::RawConnection;
use varve::nvmf::wire::command::Sqe;
use varve::nvmf::wire::fabrics::{CONTROLLER_ID_DYNAMIC, Connect, ConnectData, ConnectResult, PropertySet};
use varve::nvmf::wire::pdu::{CapsuleCmd, CapsuleResp, CommonHeader, Digests, PduType};
use varve::nvmf::wire::pdu_check::append_header;
use varve::nvmf::wire::property::{Cc, Property};
use varve::nvmf::wire::sgl::SglDescriptor;
use zerocopy::IntoBytes;

/// How long the appliance may take for each step of accepting a connection.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// The receive buffer of hosts that do not read their data: what the kernel holds for them does not
/// burden the appliance.
const NARROW_BYTES: usize = 4096;
/// Entries of the queues, the maximum that the appliance allows by default.
pub(super) const QUEUE_ENTRIES: u16 = 128;

/// The identity that a host gives, and the subsystem that it connects to.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    host_nqn: String,
    host_id: [u8; 16],
    subsystem_nqn: String,
    /// The keep alive timeout (KATO); 0 for none.
    pub(super) keep_alive_ms: u32,
}

impl Identity {
    /// A new host, for a volume. It gives no keep alive timeout.
    pub(super) fn new(volume: &str) -> Self {
        let id = uuid::Uuid::new_v4();
        Identity {
            host_nqn: format!("nqn.2014-08.org.nvmexpress:uuid:{id}"),
            host_id: id.into_bytes(),
            subsystem_nqn: varve::nvmf::nqn::of_volume(volume),
            keep_alive_ms: 0,
        }
    }
}

/// One TCP connection.
#[derive(Debug)]
pub(super) struct Line {
    stream: TcpStream,
    next_command_id: u16,
}

impl Line {
    /// Opens only the TCP connection.
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, STEP_LIMIT)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STEP_LIMIT))?;
        stream.set_write_timeout(Some(STEP_LIMIT))?;
        Ok(Line { stream, next_command_id: 0 })
    }

    /// From now on the kernel buffers as little as possible for this end.
    pub(super) fn narrow(&self) -> io::Result<()> {
        Ok(set_socket_recv_buffer_size(&self.stream, NARROW_BYTES)?)
    }

    /// Exchanges `ICReq` and `ICResp`.
    pub(super) fn initialize(&self) -> io::Result<()> {
        self.raw()?.initialize(Digests::default()).map(drop)
    }

    /// Connects as a queue; as the admin queue of a new controller when `controller` is `None`.
    /// Returns the controller's ID.
    pub(super) fn connect_queue(
        &mut self,
        who: &Identity,
        queue_id: u16,
        controller: Option<u16>,
    ) -> io::Result<u16> {
        let entries = if queue_id == 0 { 32 } else { QUEUE_ENTRIES };
        let keep_alive_ms = if queue_id == 0 { who.keep_alive_ms } else { 0 };
        let mut command = Connect::new(queue_id, u32::from(entries), keep_alive_ms);
        let id = controller.unwrap_or(CONTROLLER_ID_DYNAMIC);
        let data = ConnectData::new(who.host_id, id, &who.subsystem_nqn, &who.host_nqn);
        let data = data.map_err(|error| io::Error::other(error.to_string()))?;
        command.sgl = SglDescriptor::in_capsule(data.as_bytes().len() as u32);
        let result = self.execute(command.into(), data.as_bytes())?;
        Ok(ConnectResult::from_result(result).controller_id.get())
    }

    /// Enables the controller; this must be its admin queue.
    pub(super) fn enable(&mut self) -> io::Result<()> {
        let command = PropertySet::new(Property::Configuration, Cc::enabled().0.into());
        self.execute(command.into(), &[]).map(drop)
    }

    /// Sends commands that carry no data in their capsules, all in one call.
    pub(super) fn send(&mut self, commands: &[Sqe]) -> io::Result<()> {
        let mut bytes = Vec::new();
        for &sqe in commands {
            let sqe = self.number(sqe);
            let header = CommonHeader::without_data(PduType::CapsuleCmd, false);
            append_header(&mut bytes, &CapsuleCmd { header, sqe });
        }
        (&self.stream).write_all(&bytes)
    }

    /// Reads and discards at most `most_bytes` of the received data, without waiting. An error when
    /// the appliance has closed the connection.
    pub(super) fn take(&self, most_bytes: usize) -> io::Result<usize> {
        let mut bytes = vec![0; most_bytes];
        match recv(&self.stream, &mut bytes[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((count, _)) => Ok(count),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// An error when the appliance has closed the connection, even if unread data remains.
    pub(super) fn check(&self) -> io::Result<()> {
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        if fds[0].revents().is_empty() { Ok(()) } else { Err(io::ErrorKind::ConnectionReset.into()) }
    }

    fn execute(&mut self, sqe: Sqe, data: &[u8]) -> io::Result<u64> {
        let mut raw = self.raw()?;
        raw.send_command(self.number(sqe), data, Digests::default())?;
        let answer = raw.read_pdu()?;
        let response = answer.view::<CapsuleResp>();
        let is_response = answer.header.pdu_type == PduType::CapsuleResp as u8;
        let Some(response) = response.filter(|_| is_response) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        if !response.cqe.status().is_success() {
            return Err(io::Error::other(response.cqe.status().to_string()));
        }
        Ok(response.cqe.result.get())
    }

    fn number(&mut self, mut sqe: Sqe) -> Sqe {
        sqe.command_id.set(self.next_command_id);
        self.next_command_id = self.next_command_id.wrapping_add(1);
        sqe
    }

    /// For one step of the conversation; the connection stays open when this is dropped.
    fn raw(&self) -> io::Result<RawConnection> {
        Ok(RawConnection::from_stream(self.stream.try_clone()?))
    }
}

/// A complete host of an adversary.
#[derive(Debug)]
pub(super) struct Host {
    /// Its admin queue.
    pub(super) admin: Line,
    /// Its I/O queues.
    pub(super) queues: Vec<Line>,
}

impl Host {
    /// Connects with this many I/O queues; all have small receive buffers.
    pub(super) fn connect(address: SocketAddr, who: &Identity, queues: u16) -> io::Result<Self> {
        let open = || {
            let line = Line::open(address)?;
            line.narrow()?;
            line.initialize()?;
            io::Result::Ok(line)
        };
        let mut admin = open()?;
        let controller = admin.connect_queue(who, 0, None)?;
        admin.enable()?;
        let mut host = Host { admin, queues: Vec::new() };
        for queue_id in 1..=queues {
            let mut line = open()?;
            line.connect_queue(who, queue_id, Some(controller))?;
            host.queues.push(line);
        }
        Ok(host)
    }

    /// An error when the appliance has closed one of its connections.
    pub(super) fn check(&self) -> io::Result<()> {
        self.admin.check()?;
        self.queues.iter().try_for_each(Line::check)
    }
}
