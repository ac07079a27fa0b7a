//! Chooses a host's next step at random: mostly correct, often in the wrong state, sometimes
//! slightly wrong itself.

use varve::nvmf::nqn;
use varve::nvmf::wire::admin_command::{GetLogPage, Identify};
use varve::nvmf::wire::command::{FLAGS_SGL, Rw, Sqe};
use varve::nvmf::wire::fabrics::{
    CONTROLLER_ID_DYNAMIC, Connect, ConnectData, DISCOVERY_NQN, Disconnect, PropertyGet, PropertySet,
};
use varve::nvmf::wire::opcode::{AdminOpcode, FabricsType, IoOpcode};
use varve::nvmf::wire::pdu::{CommonHeader, FatalError, IcReq, PduType, TermReq};
use varve::nvmf::wire::pdu_check::append_header;
use varve::nvmf::wire::property::{Cc, Property};
use varve::nvmf::wire::sgl::SglDescriptor;
use zerocopy::IntoBytes;

use super::local::{FUZZED, VOLUME_BLOCKS};
use super::peer::{Asked, Peer};
use crate::sim::rng::Rng;

const BLOCK_BYTES: u32 = 4096;

/// Executes one step on a connection. `controllers` are the controllers so far, the newest last.
pub(super) fn step(peer: &mut Peer, rng: &mut Rng, controllers: &[u16]) {
    match rng.below(40) {
        0 => initialize(peer, rng),
        1 => connect(peer, rng, controllers),
        2..6 => configure(peer, rng),
        6 => get_property(peer, rng),
        7..9 => identify(peer, rng),
        9 => get_log(peer, rng),
        10 => feature(peer, rng),
        11 => simple(peer, rng, AdminOpcode::KeepAlive.into()),
        12 => simple(peer, rng, AdminOpcode::AsyncEventRequest.into()),
        13 => abort(peer, rng),
        14..18 => write_in_capsule(peer, rng),
        18..23 => write_by_request(peer, rng),
        23..28 => read(peer, rng),
        28 => simple(peer, rng, IoOpcode::Flush.into()),
        29 => trim(peer, rng),
        30 => write_zeroes(peer, rng),
        31..36 => honest_data(peer, rng),
        36 => wrong_data(peer, rng),
        37 => random_command(peer, rng),
        38 if rng.one_in(4) => garbage(peer, rng),
        38 => disconnect(peer),
        _ if rng.one_in(4) => peer.close_write(),
        _ => {}
    }
}

/// Starts a connection, nearly always correctly.
pub(super) fn initialize(peer: &mut Peer, rng: &mut Rng) {
    let mut request = IcReq::new(peer.digests);
    if rng.one_in(20) {
        let at = 8 + rng.below(120) as usize;
        request.as_mut_bytes()[at] ^= 1 << rng.below(8);
        peer.is_confused = true;
    }
    peer.send(request.as_bytes());
}

/// Connects as a queue, mostly with possible parameters.
pub(super) fn connect(peer: &mut Peer, rng: &mut Rng, controllers: &[u16]) {
    let queue_id = match rng.below(20) {
        0..6 => 0,
        6..18 => 1 + rng.below(8) as u16,
        _ => [64, 65, 0xFFFF][rng.below(3) as usize],
    };
    let entries = [2, 8, 32, 32, 32, 32, 128, 128, 129, 65_536][rng.below(10) as usize];
    let keep_alive_ms = if queue_id == 0 { [0, 0, 1000, 15_000][rng.below(4) as usize] } else { 0 };
    let mut command = Connect::new(queue_id, entries, keep_alive_ms);
    command.attributes = [0, 0, 0, 0, 4, 4, 8, 0xFF][rng.below(8) as usize];
    if rng.one_in(20) {
        command.record_format.set(1);
    }
    if rng.one_in(20) {
        command.queue_size_less_one.set(0);
    }
    let subsystem = match rng.below(25) {
        0 => DISCOVERY_NQN.to_owned(),
        1 => nqn::of_volume("nobody"),
        _ => nqn::of_volume(FUZZED),
    };
    let is_dynamic = (queue_id == 0) != rng.one_in(20);
    let newest = controllers.last().copied().filter(|_| !rng.one_in(10));
    let any = newest.unwrap_or_else(|| rng.below(8) as u16);
    let controller = if is_dynamic { CONTROLLER_ID_DYNAMIC } else { any };
    let data = ConnectData::new([1; 16], controller, &subsystem, "nqn.host").expect("short names");
    if rng.one_in(8) {
        command.sgl = SglDescriptor::transport([1024, 1024, 8192, 524_288][rng.below(4) as usize]);
        peer.command(command.into(), &[]);
    } else {
        command.sgl = SglDescriptor::in_capsule(1024);
        peer.command(command.into(), data.as_bytes());
    }
}

/// Writes CC: enabled, disabled, shut down, or any value.
pub(super) fn configure(peer: &mut Peer, rng: &mut Rng) {
    let value = match rng.below(8) {
        0 | 1 => 0,
        2 => Cc::enabled().with_shutdown(Cc::SHUTDOWN_NORMAL).0,
        3 => rng.next_u64() as u32,
        _ => Cc::enabled().0,
    };
    let command = PropertySet::new(Property::Configuration, u64::from(value));
    send(peer, rng, command.into(), &[]);
}

fn get_property(peer: &mut Peer, rng: &mut Rng) {
    let command = PropertyGet {
        opcode: AdminOpcode::Fabrics.into(),
        flags: FLAGS_SGL,
        fabrics_type: FabricsType::PropertyGet.into(),
        size: rng.below(3) as u8,
        offset: (rng.below(20) as u32 * 4).into(),
        ..PropertyGet::default()
    };
    send(peer, rng, command.into(), &[]);
}

fn identify(peer: &mut Peer, rng: &mut Rng) {
    let mut command = Identify::new(varve::nvmf::wire::command::Cns::Controller, rng.below(3) as u32);
    command.cns = rng.below(0x20) as u8;
    command.sgl = SglDescriptor::transport(4096);
    send(peer, rng, command.into(), &[]);
}

fn get_log(peer: &mut Peer, rng: &mut Rng) {
    let len_bytes = (rng.below(1024) as u32 + 1) * 4;
    let mut command = GetLogPage::new(rng.below(0x16) as u8, u32::MAX, rng.below(64) * 4, len_bytes);
    command.sgl = SglDescriptor::transport(len_bytes);
    send(peer, rng, command.into(), &[]);
}

fn feature(peer: &mut Peer, rng: &mut Rng) {
    let opcode = if rng.one_in(2) { AdminOpcode::SetFeatures } else { AdminOpcode::GetFeatures };
    let mut command = Sqe::admin(opcode);
    command.cdw10.set(rng.below(0x20) as u32);
    command.cdw11.set(rng.next_u64() as u32 & 0x00FF_00FF);
    command.sgl = SglDescriptor::transport(if rng.one_in(2) { 8 } else { 0 });
    send(peer, rng, command, &[]);
}

fn simple(peer: &mut Peer, rng: &mut Rng, opcode: u8) {
    let command = Sqe::new(opcode, 1);
    send(peer, rng, command, &[]);
}

fn abort(peer: &mut Peer, rng: &mut Rng) {
    let mut command = Sqe::admin(AdminOpcode::Abort);
    command.cdw10.set((rng.below(64) as u32) << 16 | rng.below(3) as u32);
    send(peer, rng, command, &[]);
}

/// A block that is mostly within the volume.
fn place(rng: &mut Rng, blocks: u32) -> u64 {
    if rng.one_in(30) { rng.next_u64() } else { rng.below(VOLUME_BLOCKS - u64::from(blocks) + 2) }
}

fn write_in_capsule(peer: &mut Peer, rng: &mut Rng) {
    // More than 8 KiB may be sent only on an I/O queue; anywhere else it ends the connection.
    let most = if rng.one_in(8) { 4 } else { 2 };
    let blocks = rng.below(most) as u32 + 1;
    let opcode = if rng.one_in(4) { IoOpcode::Compare } else { IoOpcode::Write };
    let mut command = Rw::new(opcode, 1, place(rng, blocks), blocks);
    command.sgl = SglDescriptor::in_capsule(blocks * BLOCK_BYTES);
    let data = vec![rng.below(2) as u8; (blocks * BLOCK_BYTES) as usize];
    send(peer, rng, command.into(), &data);
}

fn write_by_request(peer: &mut Peer, rng: &mut Rng) {
    let blocks = rng.below(130) as u32 + 1;
    let opcode = if rng.one_in(8) { IoOpcode::Compare } else { IoOpcode::Write };
    let mut command = Rw::new(opcode, 1, place(rng, blocks), blocks);
    command.sgl = SglDescriptor::transport(blocks * BLOCK_BYTES);
    send(peer, rng, command.into(), &[]);
}

fn read(peer: &mut Peer, rng: &mut Rng) {
    let blocks = rng.below(130) as u32 + 1;
    let mut command = Rw::new(IoOpcode::Read, 1, place(rng, blocks), blocks);
    command.sgl = SglDescriptor::transport(blocks * BLOCK_BYTES);
    send(peer, rng, command.into(), &[]);
}

fn trim(peer: &mut Peer, rng: &mut Rng) {
    let ranges = rng.below(256) as u32 + 1;
    let mut command = Sqe::new(IoOpcode::DatasetManagement.into(), 1);
    command.cdw10.set(ranges - 1);
    command.cdw11.set(4);
    let data = vec![0; ranges as usize * 16];
    command.sgl = SglDescriptor::in_capsule(data.len() as u32);
    send(peer, rng, command, &data);
}

fn write_zeroes(peer: &mut Peer, rng: &mut Rng) {
    let blocks = rng.below(200) as u32 + 1;
    let mut command = Rw::new(IoOpcode::WriteZeroes, 1, place(rng, blocks), blocks);
    command.sgl = SglDescriptor::transport(0);
    send(peer, rng, command.into(), &[]);
}

/// Sends data that was requested, in one piece or in two.
fn honest_data(peer: &mut Peer, rng: &mut Rng) {
    if peer.asked.is_empty() {
        return;
    }
    let asked = peer.asked.swap_remove(rng.below(peer.asked.len() as u64) as usize);
    let blocks = asked.len_bytes / BLOCK_BYTES;
    if blocks < 2 || rng.one_in(2) {
        return peer.data_pdu(asked, true);
    }
    let first_bytes = (rng.below(u64::from(blocks) - 1) as u32 + 1) * BLOCK_BYTES;
    peer.data_pdu(Asked { len_bytes: first_bytes, ..asked }, false);
    let rest =
        Asked { offset: asked.offset + first_bytes, len_bytes: asked.len_bytes - first_bytes, ..asked };
    // The rest is sent now, or when everything is settled.
    if rng.one_in(2) { peer.data_pdu(rest, true) } else { peer.asked.push(rest) }
}

/// Sends data that does not match a request.
fn wrong_data(peer: &mut Peer, rng: &mut Rng) {
    let first = peer.asked.first().copied();
    let mut part = first.unwrap_or(Asked { command_id: 0, tag: 0, offset: 0, len_bytes: BLOCK_BYTES });
    let is_last = !rng.one_in(4);
    match rng.below(4) {
        0 => part.tag ^= 1 << rng.below(16),
        1 => part.command_id ^= 1 << rng.below(16),
        2 => part.offset ^= BLOCK_BYTES << rng.below(6),
        _ => part.len_bytes = rng.below(64) as u32 * 1024 + 4,
    }
    peer.is_confused = true;
    peer.data_pdu(part, is_last);
}

fn random_command(peer: &mut Peer, rng: &mut Rng) {
    let mut command = Sqe::default();
    for byte in command.as_mut_bytes() {
        *byte = if rng.one_in(3) { rng.next_u64() as u8 } else { 0 };
    }
    peer.command(command, &[]);
}

fn disconnect(peer: &mut Peer) {
    peer.command(Disconnect::new().into(), &[]);
}

/// A PDU that is invalid, or that no host may send.
fn garbage(peer: &mut Peer, rng: &mut Rng) {
    peer.is_confused = true;
    match rng.below(3) {
        0 => {
            let request = TermReq::new(PduType::H2cTermReq, FatalError::InvalidHeaderField, 0, 0);
            peer.send(request.as_bytes());
        }
        1 => {
            let kinds = [PduType::IcResp, PduType::CapsuleResp, PduType::C2hData, PduType::R2t];
            let kind = kinds[rng.below(4) as usize];
            let header = CommonHeader::without_data(kind, false);
            let mut bytes = Vec::new();
            append_header(&mut bytes, &header);
            bytes.resize(usize::from(kind.header_bytes()), 0);
            peer.send(&bytes);
        }
        _ => {
            let bytes: Vec<u8> = (0..rng.below(200)).map(|_| rng.next_u64() as u8).collect();
            peer.send(&bytes);
        }
    }
}

/// Sends a command; one in ten has an error in its fields.
fn send(peer: &mut Peer, rng: &mut Rng, mut command: Sqe, data: &[u8]) {
    match rng.below(40) {
        0 => command.flags = (rng.below(4) << 6) as u8,
        1 => command.flags |= rng.below(4) as u8,
        2 => command.sgl.as_mut_bytes()[rng.below(16) as usize] ^= 1 << rng.below(8),
        3 => command.nsid.set(rng.below(4) as u32),
        _ => {}
    }
    peer.command(command, data);
}
