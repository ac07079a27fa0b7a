//! A host that does everything right next to the fuzzed ones: each of its commands must be answered
//! in time, and each read must return what was written.

use varve::nvmf::nqn;
use varve::nvmf::wire::command::{Rw, Sqe};
use varve::nvmf::wire::fabrics::{CONTROLLER_ID_DYNAMIC, Connect, ConnectData, ConnectResult, PropertySet};
use varve::nvmf::wire::opcode::IoOpcode;
use varve::nvmf::wire::pdu::{Digests, IcReq};
use varve::nvmf::wire::property::{Cc, Property};
use varve::nvmf::wire::sgl::SglDescriptor;
use zerocopy::IntoBytes;

use super::local::{INNOCENT, Local, VOLUME_BLOCKS};
use super::peer::{Answer, Peer};
use crate::sim::rng::Rng;

const BLOCK_BYTES: usize = 4096;

/// The host and what it wrote.
pub(super) struct Innocent {
    _admin: Peer,
    queue: Peer,
    /// The byte that fills each block.
    blocks: Vec<u8>,
    pub(super) commands: u64,
}

impl Innocent {
    pub(super) fn connect(local: &mut Local) -> Self {
        let mut admin = open(local);
        let connected = execute(local, &mut admin, connect(0, CONTROLLER_ID_DYNAMIC), &mut []);
        let controller = ConnectResult::from_result(connected.result).controller_id.get();
        let enable = PropertySet::new(Property::Configuration, Cc::enabled().0.into());
        execute(local, &mut admin, (enable.into(), Vec::new()), &mut []);
        let mut queue = open(local);
        execute(local, &mut queue, connect(1, controller), &mut []);
        Innocent { _admin: admin, queue, blocks: vec![0; VOLUME_BLOCKS as usize], commands: 0 }
    }

    /// Writes or reads one block. The other hosts go on in the meantime.
    pub(super) fn command(&mut self, local: &mut Local, rng: &mut Rng, others: &mut [Peer]) {
        let block = rng.below(VOLUME_BLOCKS);
        let is_write = rng.one_in(2);
        let opcode = if is_write { IoOpcode::Write } else { IoOpcode::Read };
        let mut command = Rw::new(opcode, 1, block, 1);
        let mut data = Vec::new();
        if is_write {
            let fill = rng.next_u64() as u8;
            self.blocks[block as usize] = fill;
            data = vec![fill; BLOCK_BYTES];
            command.sgl = SglDescriptor::in_capsule(BLOCK_BYTES as u32);
        } else {
            command.sgl = SglDescriptor::transport(BLOCK_BYTES as u32);
        }
        let answer = execute(local, &mut self.queue, (command.into(), data), others);
        if !is_write {
            let expected = vec![self.blocks[block as usize]; BLOCK_BYTES];
            assert!(answer.data == expected, "block {block} of the innocent host holds something else");
        }
        self.commands += 1;
    }
}

fn open(local: &Local) -> Peer {
    let mut peer = Peer::open(local.address, Digests::default());
    peer.send(IcReq::new(Digests::default()).as_bytes());
    peer
}

fn connect(queue_id: u16, controller: u16) -> (Sqe, Vec<u8>) {
    let mut command = Connect::new(queue_id, 32, 0);
    command.sgl = SglDescriptor::in_capsule(1024);
    let data = ConnectData::new([2; 16], controller, &nqn::of_volume(INNOCENT), "nqn.innocent");
    (command.into(), data.expect("short names").as_bytes().to_vec())
}

fn execute(
    local: &mut Local,
    peer: &mut Peer,
    (command, data): (Sqe, Vec<u8>),
    others: &mut [Peer],
) -> Answer {
    let command_id = peer.command(command, &data);
    local.turn_until("the innocent host is answered", |_| {
        others.iter_mut().for_each(Peer::step);
        peer.step();
        if peer.answers.is_empty() { Err("no answer".to_owned()) } else { Ok(()) }
    });
    let answer = peer.answers.remove(0);
    assert_eq!(answer.command_id, command_id, "another command's answer");
    assert!(answer.status.is_success(), "the innocent host is told {}", answer.status);
    answer
}
