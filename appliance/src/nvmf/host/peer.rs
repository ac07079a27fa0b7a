//! A minimal NVMe/TCP target in a thread, to test the host against: one subsystem, one namespace in
//! memory.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::raw::{RawConnection, RawPdu};
use crate::nvmf::wire::command::{Cns, Cqe, DatasetRange, Features, GetLogPage, Identify, Rw, Sqe};
use crate::nvmf::wire::discovery::{DiscoveryEntry, DiscoveryHeader};
use crate::nvmf::wire::fabrics::{
    Connect, ConnectData, ConnectResult, DISCOVERY_NQN, PropertyGet, PropertySet,
};
use crate::nvmf::wire::feature::{AsyncEvent, FeatureId, QueueCounts, event_mask};
use crate::nvmf::wire::identify::{
    IdentifyController, IdentifyNamespace, LbaFormat, NamespaceDescriptors, NamespaceIds, NamespaceList,
    controller_bits as bits,
};
use crate::nvmf::wire::log_page::LogPageId;
use crate::nvmf::wire::opcode::{AdminOpcode, DataDirection, FabricsType, IoOpcode};
use crate::nvmf::wire::pdu::{
    C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, H2cData, IcReq, IcResp, PduType, R2t, flags,
};
use crate::nvmf::wire::pdu_check::{
    PduLimits, Receiver, check_data, check_header, check_header_digest, digest, digest_bytes,
};
use crate::nvmf::wire::property::{Cap, Cc, Csts, Property};
use crate::nvmf::wire::sgl::SglKind;
use crate::nvmf::wire::status::Status;

pub(super) const SUBSYSTEM: &str = "nqn.2024-01.test:peer";
pub(super) const BLOCK_BYTES: u32 = 4096;
pub(super) const SIZE_BLOCKS: u64 = 1024;
const CONTROLLER_ID: u16 = 7;

/// How the peer behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Behaviour {
    /// The most in-capsule data of an I/O command.
    pub(super) in_capsule_bytes: u32,
    /// MAXH2CDATA.
    pub(super) h2c_data_bytes_max: u32,
    /// CPDA.
    pub(super) alignment: u8,
    /// The most bytes that it requests with one R2T.
    pub(super) r2t_bytes: u32,
    /// The most bytes that it sends in one `C2HData`.
    pub(super) c2h_bytes: u32,
    /// Use the SUCCESS flag instead of response capsules for reads.
    pub(super) success_flag: bool,
    /// Close an I/O connection instead of answering this command (counted from 0).
    pub(super) close_at: Option<usize>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            in_capsule_bytes: 8192,
            h2c_data_bytes_max: 65_536,
            alignment: 0,
            r2t_bytes: u32::MAX,
            c2h_bytes: u32::MAX,
            success_flag: true,
            close_at: None,
        }
    }
}

type Memory = Arc<Mutex<Vec<u8>>>;

/// Serves `connections` connections. Each has a thread that ends with it.
pub(super) fn serve(behaviour: Behaviour, connections: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let memory: Memory = Arc::new(Mutex::new(vec![0; SIZE_BLOCKS as usize * BLOCK_BYTES as usize]));
        for stream in listener.incoming().take(connections) {
            let memory = memory.clone();
            let stream = stream.unwrap();
            thread::spawn(move || {
                // Most tests end with the host closing in the middle.
                let _ = Peer::serve(stream, behaviour, memory);
            });
        }
    });
    address
}

/// Accepts one connection, answers `ICReq` with `response`, and passes the connection to `script`.
pub(super) fn script(
    response: IcResp,
    script: impl FnOnce(&mut RawConnection) -> io::Result<()> + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut connection = RawConnection::from_stream(stream);
        let request = connection.read_pdu().unwrap();
        assert_eq!(request.header.pdu_type, PduType::IcReq as u8);
        connection.send_bytes(response.as_bytes()).unwrap();
        // The test checks the host's side, whatever the script provokes.
        let _ = script(&mut connection);
        let _ = connection.close_write();
        let _ = connection.read_until_closed();
    });
    address
}

struct Pending {
    sqe: Sqe,
    data: Vec<u8>,
    received: usize,
    asked: usize,
}

struct Peer {
    connection: RawConnection,
    behaviour: Behaviour,
    memory: Memory,
    digests: Digests,
    limits: PduLimits,
    pending: HashMap<u16, Pending>,
    queue_id: Option<u16>,
    is_discovery: bool,
    cc: Cc,
    events: VecDeque<u16>,
    commands: usize,
}

impl Peer {
    fn serve(stream: TcpStream, behaviour: Behaviour, memory: Memory) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut connection = RawConnection::from_stream(stream);
        let request = connection.read_pdu()?;
        let request = *request.view::<IcReq>().unwrap();
        let digests = Digests::from_bits(request.digest);
        let mut response = IcResp::new(digests, behaviour.h2c_data_bytes_max);
        response.controller_data_alignment = behaviour.alignment;
        connection.send_bytes(response.as_bytes())?;
        let mut peer = Self {
            connection,
            behaviour,
            memory,
            digests,
            limits: PduLimits {
                receiver: Receiver::Controller,
                digests,
                data_alignment_bytes: (behaviour.alignment + 1) * 4,
                in_capsule_bytes_max: 8192,
                data_bytes_max: behaviour.h2c_data_bytes_max,
            },
            pending: HashMap::new(),
            queue_id: None,
            is_discovery: false,
            cc: Cc::default(),
            events: VecDeque::new(),
            commands: 0,
        };
        loop {
            let pdu = peer.connection.read_pdu()?;
            peer.take(&pdu)?;
        }
    }

    fn take(&mut self, pdu: &RawPdu) -> io::Result<()> {
        let layout = check_header(&pdu.header, &self.limits).expect("the host's header");
        check_header_digest(&pdu.bytes, &layout).expect("the host's header digest");
        let start = layout.data_offset as usize;
        let end = start + layout.data_bytes as usize;
        let data = &pdu.bytes[start..end];
        if layout.data_digest {
            assert_eq!(digest(data).to_le_bytes(), pdu.bytes[end..], "the host's data digest");
        }
        match layout.pdu_type {
            PduType::CapsuleCmd => {
                let sqe = pdu.view::<CapsuleCmd>().unwrap().sqe;
                self.command(sqe, data)
            }
            PduType::H2cData => {
                let header = pdu.view::<H2cData>().unwrap();
                check_data(&layout, header.data_bytes.get()).expect("the host's DATAL");
                let command_id = header.command_id.get();
                let pending = self.pending.get_mut(&command_id).expect("a pending write");
                assert_eq!(header.transfer_tag.get(), command_id ^ 0x5555);
                assert_eq!(header.data_offset.get() as usize, pending.received);
                let at = pending.received;
                pending.data[at..at + data.len()].copy_from_slice(data);
                pending.received += data.len();
                let is_last = header.header.flags & flags::LAST != 0;
                assert_eq!(is_last, pending.received == pending.asked);
                if is_last { self.ask_or_finish(command_id) } else { Ok(()) }
            }
            other => panic!("{other:?} from a host"),
        }
    }

    fn command(&mut self, sqe: Sqe, data: &[u8]) -> io::Result<()> {
        self.commands += 1;
        if self.queue_id.is_some_and(|id| id > 0) && self.behaviour.close_at == Some(self.commands - 2) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let command_id = sqe.command_id.get();
        let kind = if sqe.opcode == 0x7F { sqe.fabrics_type() } else { sqe.opcode };
        if DataDirection::of_opcode(kind) == DataDirection::HostToController && data.is_empty() {
            let SglKind::Transport { length_bytes } = sqe.sgl.kind() else {
                panic!("{:?}", sqe.sgl);
            };
            if length_bytes > 0 {
                let data = vec![0; length_bytes as usize];
                self.pending.insert(command_id, Pending { sqe, data, received: 0, asked: 0 });
                return self.ask_or_finish(command_id);
            }
        }
        self.execute(sqe, data)
    }

    fn ask_or_finish(&mut self, command_id: u16) -> io::Result<()> {
        let pending = self.pending.get_mut(&command_id).unwrap();
        let rest = pending.data.len() - pending.received;
        if rest == 0 {
            let pending = self.pending.remove(&command_id).unwrap();
            return self.execute(pending.sqe, &pending.data);
        }
        let bytes = rest.min(self.behaviour.r2t_bytes as usize);
        pending.asked += bytes;
        let offset = pending.received as u32;
        let r2t = R2t::new(command_id, command_id ^ 0x5555, offset, bytes as u32, self.digests.header);
        self.connection.send_pdu(&r2t, &[])
    }

    fn execute(&mut self, sqe: Sqe, data: &[u8]) -> io::Result<()> {
        let queue_id = self.queue_id;
        match (sqe.opcode, queue_id) {
            (0x7F, _) => self.fabrics(sqe, data),
            (_, Some(0)) => self.admin(sqe),
            (_, Some(_)) => self.io(sqe, data),
            (_, None) => panic!("a command before Connect"),
        }
    }

    fn respond(&mut self, sqe: Sqe, status: Status, result: u64) -> io::Result<()> {
        let cqe = Cqe::new(sqe.command_id.get(), 0, status, result);
        self.connection.send_pdu(&CapsuleResp::new(cqe, self.digests.header), &[])
    }

    fn send_data(&mut self, sqe: Sqe, data: &[u8]) -> io::Result<()> {
        let mut offset = 0;
        let pieces = data.chunks(self.behaviour.c2h_bytes.min(1 << 20) as usize);
        let count = pieces.len();
        for (index, piece) in pieces.enumerate() {
            let mut header = CommonHeader::with_data(PduType::C2hData, self.digests, 4, piece.len() as u32);
            if index + 1 == count {
                header.flags |= flags::LAST;
                if self.behaviour.success_flag {
                    header.flags |= flags::SUCCESS;
                }
            }
            let pdu = C2hData {
                header,
                command_id: sqe.command_id,
                data_offset: U32::new(offset),
                data_bytes: U32::new(piece.len() as u32),
                ..C2hData::default()
            };
            let mut tail = piece.to_vec();
            if self.digests.data {
                tail.extend_from_slice(&digest_bytes(piece));
            }
            self.connection.send_pdu(&pdu, &tail)?;
            offset += piece.len() as u32;
        }
        if self.behaviour.success_flag { Ok(()) } else { self.respond(sqe, Status::SUCCESS, 0) }
    }

    fn fabrics(&mut self, sqe: Sqe, data: &[u8]) -> io::Result<()> {
        match FabricsType::try_from(sqe.fabrics_type()).unwrap() {
            FabricsType::Connect => {
                let data = ConnectData::read_from_bytes(data).unwrap();
                let nqn = data.subsystem_nqn().unwrap();
                self.is_discovery = nqn == DISCOVERY_NQN;
                if nqn != SUBSYSTEM && !self.is_discovery {
                    return self.respond(sqe, Status::CONNECT_INVALID_PARAMETERS.do_not_retry(), 0x0001_0100);
                }
                self.queue_id = Some(sqe.view::<Connect>().queue_id.get());
                let result = ConnectResult::new(CONTROLLER_ID).to_result();
                self.respond(sqe, Status::SUCCESS, result)
            }
            FabricsType::PropertyGet => {
                let value = match Property::try_from(sqe.view::<PropertyGet>().offset.get()) {
                    Ok(Property::Capabilities) => {
                        let cap = Cap::default().with_queue_entries_less_one(127);
                        cap.with_timeout_500ms(2).with_nvm_command_set(1).0
                    }
                    Ok(Property::Version) => 0x0002_0000,
                    Ok(Property::Configuration) => self.cc.0.into(),
                    Ok(Property::Status) => {
                        let mut csts = Csts::default().with_ready(self.cc.enable());
                        if self.cc.shutdown() != 0 {
                            csts = csts.with_shutdown_status(Csts::SHUTDOWN_COMPLETE);
                        }
                        csts.0.into()
                    }
                    _ => return self.respond(sqe, Status::INVALID_FIELD, 0),
                };
                self.respond(sqe, Status::SUCCESS, value)
            }
            FabricsType::PropertySet => {
                self.cc = Cc(sqe.view::<PropertySet>().value.get() as u32);
                self.respond(sqe, Status::SUCCESS, 0)
            }
            other => panic!("{other:?}"),
        }
    }

    fn admin(&mut self, sqe: Sqe) -> io::Result<()> {
        match AdminOpcode::try_from(sqe.opcode).unwrap() {
            AdminOpcode::Identify => {
                let Some(data) = self.identify(*sqe.view::<Identify>()) else {
                    return self.respond(sqe, Status::INVALID_FIELD.do_not_retry(), 0);
                };
                self.send_data(sqe, &data)
            }
            AdminOpcode::GetLogPage => {
                let command = *sqe.view::<GetLogPage>();
                if command.log_page != LogPageId::Discovery as u8 {
                    return self.respond(sqe, Status::INVALID_LOG_PAGE.do_not_retry(), 0);
                }
                let page = discovery_page();
                let start = command.offset_bytes.get() as usize;
                let end = start + command.length_bytes() as usize;
                self.send_data(sqe, &page[start..end])
            }
            AdminOpcode::SetFeatures => {
                let command = *sqe.view::<Features>();
                let result = if command.feature == FeatureId::NumberOfQueues as u8 {
                    let asked = QueueCounts::from_dword(command.value.get()).queues();
                    QueueCounts::new(asked.min(2) as u16).to_dword()
                } else {
                    0
                };
                self.respond(sqe, Status::SUCCESS, result.into())
            }
            AdminOpcode::KeepAlive => {
                if let Some(command_id) = self.events.pop_front() {
                    let event = Sqe { command_id: U16::new(command_id), ..Sqe::default() };
                    let dword = AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED.to_dword();
                    self.respond(event, Status::SUCCESS, dword.into())?;
                }
                self.respond(sqe, Status::SUCCESS, 0)
            }
            AdminOpcode::AsyncEventRequest => {
                self.events.push_back(sqe.command_id.get());
                Ok(())
            }
            _ => self.respond(sqe, Status::INVALID_OPCODE.do_not_retry(), 0),
        }
    }

    fn identify(&self, command: Identify) -> Option<Vec<u8>> {
        Some(match Cns::try_from(command.cns).ok()? {
            Cns::Controller => {
                let mut data = IdentifyController::new_zeroed();
                data.controller_id = U16::new(CONTROLLER_ID);
                data.controller_type = if self.is_discovery { bits::TYPE_DISCOVERY } else { bits::TYPE_IO };
                data.sgl_support = U32::new(bits::SGLS_SUPPORTED | bits::SGLS_OFFSET | bits::SGLS_TRANSPORT);
                data.outstanding_commands_max = U16::new(128);
                data.keep_alive_granularity_100ms = U16::new(1);
                data.io_command_capsule_16b = U32::new((64 + self.behaviour.in_capsule_bytes) / 16);
                data.io_response_capsule_16b = U32::new(1);
                data.async_events = U32::new(event_mask::NAMESPACE_ATTRIBUTE);
                data.async_event_requests_less_one = 3;
                data.as_bytes().to_vec()
            }
            Cns::ActiveNamespaces => {
                let mut data = NamespaceList::new_zeroed();
                if command.nsid.get() < 1 {
                    data.nsids[0] = U32::new(1);
                }
                data.as_bytes().to_vec()
            }
            Cns::NamespaceDescriptors => {
                let ids = NamespaceIds { uuid: Some([3; 16]), ..NamespaceIds::default() };
                NamespaceDescriptors::from(ids).as_bytes().to_vec()
            }
            Cns::Namespace => {
                let mut data = IdentifyNamespace::new_zeroed();
                data.size_blocks = U64::new(SIZE_BLOCKS);
                data.formats[0] = LbaFormat::new(12);
                data.as_bytes().to_vec()
            }
            _ => return None,
        })
    }

    fn io(&mut self, sqe: Sqe, data: &[u8]) -> io::Result<()> {
        let command = *sqe.view::<Rw>();
        let memory = self.memory.clone();
        let mut memory = memory.lock().unwrap();
        let opcode = IoOpcode::try_from(sqe.opcode).unwrap();
        let status = match opcode {
            IoOpcode::Flush => Status::SUCCESS,
            IoOpcode::DatasetManagement => {
                for range in <[DatasetRange]>::ref_from_bytes(data).unwrap() {
                    let start = range.start_lba.get() as usize * BLOCK_BYTES as usize;
                    let bytes = range.blocks.get() as usize * BLOCK_BYTES as usize;
                    memory[start..start + bytes].fill(0);
                }
                Status::SUCCESS
            }
            _ if command.start_lba.get() + u64::from(command.blocks()) > SIZE_BLOCKS => {
                Status::LBA_OUT_OF_RANGE.do_not_retry()
            }
            _ => {
                let start = command.start_lba.get() as usize * BLOCK_BYTES as usize;
                let range = start..start + command.blocks() as usize * BLOCK_BYTES as usize;
                match opcode {
                    IoOpcode::Read => {
                        let data = memory[range].to_vec();
                        drop(memory);
                        return self.send_data(sqe, &data);
                    }
                    IoOpcode::Write => memory[range].copy_from_slice(data),
                    IoOpcode::WriteZeroes => memory[range].fill(0),
                    IoOpcode::Compare if memory[range] != *data => {
                        return self.respond(sqe, Status::COMPARE_FAILURE, 0);
                    }
                    _ => {}
                }
                Status::SUCCESS
            }
        };
        drop(memory);
        self.respond(sqe, status, 0)
    }
}

fn discovery_page() -> Vec<u8> {
    const ENTRIES: u16 = 6;
    let mut header = DiscoveryHeader::new_zeroed();
    header.generation = U64::new(9);
    header.records = U64::new(ENTRIES.into());
    let mut page = header.as_bytes().to_vec();
    for port_id in 0..ENTRIES {
        let mut entry = DiscoveryEntry::new_zeroed();
        entry.port_id = U16::new(port_id);
        crate::nvmf::wire::text::set_nul_terminated(&mut entry.subsystem_nqn, SUBSYSTEM).unwrap();
        page.extend_from_slice(entry.as_bytes());
    }
    page
}
