//! Garbage: valid streams of PDUs, damaged at random, against a target in the test's own thread.
//! Whatever arrives, the target does not panic, releases all memory after the connections are gone,
//! and serves the next host.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use zerocopy::IntoBytes;

use super::{BLOCK, pattern};
use crate::dma::DmaPool;
use crate::nvmf::nqn;
use crate::nvmf::server::memory::{Behavior, MemoryStorage};
use crate::nvmf::server::{Target, TargetConfig};
use crate::nvmf::wire::command::{Cns, GetLogPage, Identify, Rw, Sqe};
use crate::nvmf::wire::fabrics::{CONTROLLER_ID_DYNAMIC, Connect, ConnectData, DISCOVERY_NQN, PropertySet};
use crate::nvmf::wire::opcode::IoOpcode;
use crate::nvmf::wire::pdu::{CapsuleCmd, CommonHeader, Digests, H2cData, IcReq, PduType, flags};
use crate::nvmf::wire::pdu_check::{append_header, digest_bytes};
use crate::nvmf::wire::property::{Cc, Property};
use crate::nvmf::wire::sgl::SglDescriptor;
use crate::reactor::{IdlePolicy, Reactor, ReactorConfig};

/// The longest that the target may take to become idle.
const LIMIT: Duration = Duration::from_secs(20);

/// The parts that a host sends, before damage.
#[derive(Debug, Clone)]
pub(super) enum Part {
    Connect { queue_id: u16, discovery: bool },
    Enable,
    Write { lba: u16, blocks: u8 },
    WriteTransport { lba: u16, blocks: u8 },
    Data { tag: u8, command_id: u8, offset_blocks: u8, blocks: u8, last: bool },
    Read { lba: u16, blocks: u8 },
    Compare { lba: u16, blocks: u8 },
    Trim { ranges: u8 },
    Identify { cns: u8, nsid: u8 },
    Log { page: u8, offset: u16, dwords: u16 },
    Sqe { bytes: Vec<u8> },
    Bytes { bytes: Vec<u8> },
}

/// Damage at a position of the stream, in thousandths of its length.
#[derive(Debug, Clone)]
enum Damage {
    Flip { at: u16, bits: u8 },
    Cut { at: u16 },
    Insert { at: u16, bytes: Vec<u8> },
    Remove { at: u16, count: u8 },
}

fn part() -> impl Strategy<Value = Part> {
    prop_oneof![
        2 => (0..3_u16, any::<bool>()).prop_map(|(queue_id, discovery)| Part::Connect { queue_id, discovery }),
        1 => Just(Part::Enable),
        4 => (any::<u16>(), 1..6_u8).prop_map(|(lba, blocks)| Part::Write { lba: lba % 300, blocks }),
        4 => (any::<u16>(), 1..130_u8).prop_map(|(lba, blocks)| Part::WriteTransport { lba: lba % 300, blocks }),
        6 => (0..4_u8, 0..12_u8, 0..3_u8, 1..20_u8, any::<bool>()).prop_map(
            |(tag, command_id, offset_blocks, blocks, last)| Part::Data { tag, command_id, offset_blocks, blocks, last }
        ),
        4 => (any::<u16>(), 1..130_u8).prop_map(|(lba, blocks)| Part::Read { lba: lba % 300, blocks }),
        2 => (any::<u16>(), 1..4_u8).prop_map(|(lba, blocks)| Part::Compare { lba: lba % 300, blocks }),
        1 => any::<u8>().prop_map(|ranges| Part::Trim { ranges }),
        1 => (any::<u8>(), 0..3_u8).prop_map(|(cns, nsid)| Part::Identify { cns, nsid }),
        1 => (any::<u8>(), any::<u16>(), any::<u16>()).prop_map(|(page, offset, dwords)| Part::Log { page, offset, dwords }),
        2 => proptest::collection::vec(any::<u8>(), 64).prop_map(|bytes| Part::Sqe { bytes }),
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| Part::Bytes { bytes }),
    ]
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        6 => (0..1000_u16, 1..=255_u8).prop_map(|(at, bits)| Damage::Flip { at, bits }),
        1 => (0..1000_u16).prop_map(|at| Damage::Cut { at }),
        1 => (0..1000_u16, proptest::collection::vec(any::<u8>(), 1..64)).prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
        1 => (0..1000_u16, 1..64_u8).prop_map(|(at, count)| Damage::Remove { at, count }),
    ]
}

/// The bytes of a stream: initialization, Connect to an admin or I/O queue, then the parts.
pub(super) fn stream(id: u16, queue_id: u16, digests: Digests, parts: &[Part]) -> Vec<u8> {
    let mut bytes = IcReq::new(digests).as_bytes().to_vec();
    let mut command_id = 0_u16;
    let mut first = vec![Part::Connect { queue_id, discovery: false }];
    if queue_id == 0 {
        first.push(Part::Enable);
    }
    for part in first.iter().chain(parts) {
        command_id += 1;
        append(&mut bytes, id, command_id, digests, part);
    }
    bytes
}

pub(super) fn append(bytes: &mut Vec<u8>, id: u16, command_id: u16, digests: Digests, part: &Part) {
    let (mut sqe, data): (Sqe, Vec<u8>) = match part {
        Part::Connect { queue_id, discovery } => {
            let mut command = Connect::new(*queue_id, 32, 0);
            command.sgl = SglDescriptor::in_capsule(1024);
            let subsystem = if *discovery { DISCOVERY_NQN.to_owned() } else { nqn::of_volume("one") };
            let controller = if *queue_id == 0 { CONTROLLER_ID_DYNAMIC } else { id };
            let data = ConnectData::new([1; 16], controller, &subsystem, "nqn.host").expect("short names");
            (command.into(), data.as_bytes().to_vec())
        }
        Part::Enable => {
            let command = PropertySet::new(Property::Configuration, Cc::enabled().0.into());
            (command.into(), Vec::new())
        }
        Part::Write { lba, blocks } | Part::Compare { lba, blocks } => {
            let opcode = if matches!(part, Part::Write { .. }) { IoOpcode::Write } else { IoOpcode::Compare };
            let mut command = Rw::new(opcode, 1, u64::from(*lba), u32::from(*blocks));
            let data = pattern(u64::from(*lba), usize::from(*blocks) * BLOCK);
            command.sgl = SglDescriptor::in_capsule(data.len() as u32);
            (command.into(), data)
        }
        Part::WriteTransport { lba, blocks } | Part::Read { lba, blocks } => {
            let opcode = if matches!(part, Part::Read { .. }) { IoOpcode::Read } else { IoOpcode::Write };
            let mut command = Rw::new(opcode, 1, u64::from(*lba), u32::from(*blocks));
            command.sgl = SglDescriptor::transport(u32::from(*blocks) * BLOCK as u32);
            (command.into(), Vec::new())
        }
        Part::Trim { ranges } => {
            let mut command = Sqe::new(IoOpcode::DatasetManagement.into(), 1);
            command.cdw10.set(u32::from(*ranges));
            command.cdw11.set(4);
            let data = pattern(3, (usize::from(*ranges) + 1) * 16);
            command.sgl = SglDescriptor::in_capsule(data.len() as u32);
            (command, data)
        }
        Part::Identify { cns, nsid } => {
            let mut command = Identify::new(Cns::Controller, u32::from(*nsid));
            command.cns = *cns;
            command.sgl = SglDescriptor::transport(4096);
            (command.into(), Vec::new())
        }
        Part::Log { page, offset, dwords } => {
            let length = (u32::from(*dwords) + 1) * 4;
            let mut command = GetLogPage::new(*page, u32::MAX, u64::from(*offset), length);
            command.sgl = SglDescriptor::transport(length);
            (command.into(), Vec::new())
        }
        Part::Sqe { bytes } => {
            let mut sqe = Sqe::default();
            sqe.as_mut_bytes().copy_from_slice(bytes);
            (sqe, Vec::new())
        }
        Part::Data { tag, command_id, offset_blocks, blocks, last } => {
            let data = pattern(9, usize::from(*blocks) * BLOCK);
            let mut header = CommonHeader::with_data(PduType::H2cData, digests, 4, data.len() as u32);
            if *last {
                header.flags |= flags::LAST;
            }
            let pdu = H2cData {
                header,
                command_id: u16::from(*command_id).into(),
                transfer_tag: (31 - u16::from(*tag)).into(),
                data_offset: (u32::from(*offset_blocks) * BLOCK as u32).into(),
                data_bytes: (data.len() as u32).into(),
                reserved: [0; 4],
            };
            append_header(bytes, &pdu);
            bytes.extend_from_slice(&data);
            if digests.data {
                bytes.extend_from_slice(&digest_bytes(&data));
            }
            return;
        }
        Part::Bytes { bytes: garbage } => return bytes.extend_from_slice(garbage),
    };
    sqe.command_id.set(command_id);
    let header = if data.is_empty() {
        CommonHeader::without_data(PduType::CapsuleCmd, digests.header)
    } else {
        CommonHeader::with_data(PduType::CapsuleCmd, digests, 4, data.len() as u32)
    };
    append_header(bytes, &CapsuleCmd { header, sqe });
    bytes.extend_from_slice(&data);
    if digests.data && !data.is_empty() {
        bytes.extend_from_slice(&digest_bytes(&data));
    }
}

fn apply(bytes: &mut Vec<u8>, damage: &Damage) {
    let place = |at: u16| bytes.len() * usize::from(at) / 1000;
    match damage {
        Damage::Flip { at, bits } => {
            let at = place(*at);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= bits;
            }
        }
        Damage::Cut { at } => bytes.truncate(place(*at)),
        Damage::Insert { at, bytes: more } => {
            let at = place(*at);
            bytes.splice(at..at, more.iter().copied());
        }
        Damage::Remove { at, count } => {
            let at = place(*at);
            let end = (at + usize::from(*count)).min(bytes.len());
            bytes.drain(at..end);
        }
    }
}

/// A target whose turns this thread runs.
pub(super) struct Local {
    reactor: Reactor<()>,
    pub(super) storage: Rc<MemoryStorage>,
    pub(super) target: Target,
    dma: DmaPool,
    pub(super) address: SocketAddr,
}

impl Local {
    fn new(behavior: Behavior) -> Self {
        let config = TargetConfig {
            host_memory_bytes_max: 3 << 20,
            staging_bytes_per_connection_max: 512 << 10,
            output_bytes_max: 512 << 10,
            ..TargetConfig::default()
        };
        Local::with_config(behavior, config, 4 << 20)
    }

    pub(super) fn with_config(behavior: Behavior, target: TargetConfig, dma_bytes: usize) -> Self {
        let config = ReactorConfig { idle: IdlePolicy::Poll, ..ReactorConfig::default() };
        let reactor: Reactor<()> = Reactor::new(config).expect("a reactor");
        let storage = MemoryStorage::new();
        storage.create("one", 256 * BLOCK as u64, false);
        storage.set_behavior(behavior);
        let dma = DmaPool::new(dma_bytes);
        let target = Target::new(reactor.local(), Rc::<MemoryStorage>::clone(&storage), dma.clone(), target);
        let address = target.listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
        Local { reactor, storage, target, dma, address }
    }

    pub(super) fn turn(&mut self) -> usize {
        self.reactor.turn(&());
        self.target.poll_receive() + self.storage.poll() + self.target.poll_send()
    }

    fn turn_until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            self.turn();
            assert!(start.elapsed() < LIMIT, "{what}");
        }
    }

    /// Sends bytes in pieces and takes whatever comes, until the target closes or becomes idle.
    /// Then hangs up.
    pub(super) fn feed(&mut self, sockets: &mut [TcpStream], streams: &[Vec<u8>], piece: usize) {
        let mut sent = vec![0; streams.len()];
        let mut buffer = vec![0; 1 << 20];
        let mut quiet = 0;
        let start = Instant::now();
        while quiet < 50 {
            let mut progress = self.turn();
            for (index, socket) in sockets.iter_mut().enumerate() {
                let rest = &streams[index][sent[index]..];
                if let Ok(count @ 1..) = socket.write(&rest[..rest.len().min(piece)]) {
                    sent[index] += count;
                    progress += 1;
                }
                if let Ok(count @ 1..) = socket.read(&mut buffer) {
                    progress += count;
                }
            }
            quiet = if progress == 0 { quiet + 1 } else { 0 };
            assert!(start.elapsed() < LIMIT, "the target does not come to rest");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn damaged_streams_do_no_harm(
        parts in proptest::collection::vec(part(), 0..24),
        io_parts in proptest::collection::vec(part(), 0..40),
        damages in proptest::collection::vec(damage(), 0..6),
        digests in (any::<bool>(), any::<bool>()),
        piece in prop_oneof![1..200_usize, 1000..200_000_usize],
        (delay_polls, reverse, busy) in (0..4_u32, any::<bool>(), 0..3_u32),
    ) {
        let digests = Digests { header: digests.0, data: digests.1 };
        let mut local = Local::new(Behavior { delay_polls, reverse, busy, busy_of: 4, ..Behavior::default() });
        let mut admin = stream(1, 0, digests, &parts);
        let mut io = stream(1, 1, digests, &io_parts);
        for (index, one) in damages.iter().enumerate() {
            apply(if index % 3 == 0 { &mut admin } else { &mut io }, one);
        }
        let mut sockets: Vec<TcpStream> = (0..2)
            .map(|_| {
                let socket = TcpStream::connect(local.address).expect("it connects");
                socket.set_nonblocking(true).expect("a socket");
                socket
            })
            .collect();
        // The association first, so that the I/O queue finds it.
        local.feed(&mut sockets[..1], &[admin], 1 << 20);
        local.feed(&mut sockets[1..], &[io], piece);
        drop(sockets);
        local.turn_until("connections stay", |local| local.target.stats().connections == 0);
        local.turn_until("memory is lost", |local| {
            local.dma.stats().in_use_bytes == 0
                && local.storage.dma_in_use_bytes() == 0
                && local.target.stats().staging_bytes == 0
                && local.target.stats().host_memory_bytes == 0
                && local.target.stats().waiting_for_memory == 0
        });
        prop_assert!(local.target.controllers().is_empty());
        prop_assert!(local.target.subsystems().iter().all(|one| one.controllers == 0));
    }
}
