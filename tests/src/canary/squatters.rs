//! Hosts that announce data and never send what the appliance requests (R2T), so that the memory
//! reserved for it stays in use: strangers, whose Connect itself announces it, and hosts that are
//! connected.

use varve::nvmf::wire::command::{Rw, Sqe};
use varve::nvmf::wire::fabrics::Connect;
use varve::nvmf::wire::opcode::IoOpcode;
use varve::nvmf::wire::sgl::SglDescriptor;

use super::Told;
use super::bed::{BLOCK_BYTES, Bed, Until, besiege};
use super::error::CanaryError;
use super::line::{Host, Identity, Line};

/// Connections without a Connect: at 512 KiB each, they need more than all memory for write data.
const STRANGERS: u64 = 140;
/// Hosts that are connected, and queues of each.
const HOSTS: u64 = 2;
const QUEUES: u64 = 8;
/// Writes announced on each queue.
const WRITES: usize = 64;
/// Blocks of a write: 512 KiB, the maximum of one command.
const WRITE_BLOCKS: u32 = 128;
const VOLUME: &str = "squat";

pub(super) fn prepare(bed: &Bed) -> Result<(), CanaryError> {
    bed.make_volume(VOLUME, "64MiB")
}

fn announcement() -> Sqe {
    let mut write = Rw::new(IoOpcode::Write, 1, 0, WRITE_BLOCKS);
    write.sgl = SglDescriptor::transport(WRITE_BLOCKS * BLOCK_BYTES as u32);
    write.into()
}

/// These hosts are not connected: the appliance refuses their writes, but has to accept the data of
/// a Connect.
pub(super) fn attack_as_strangers(bed: &Bed, until: Until) -> Told {
    let open = || {
        let mut line = Line::open(bed.address())?;
        line.initialize()?;
        let mut connect = Connect::new(0, 32, 0);
        connect.sgl = SglDescriptor::transport(WRITE_BLOCKS * BLOCK_BYTES as u32);
        line.send(&[announcement(), connect.into()])?;
        Ok(line)
    };
    let siege = besiege(until, bed.scaled(STRANGERS), open, |line| line.check());
    Told { told: siege.told("strangers"), is_harmless: siege.opened == 0 }
}

/// These hosts have connected their queues.
pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let queues = bed.scaled(QUEUES) as u16;
    let open = || {
        let mut host = Host::connect(bed.address(), &Identity::new(VOLUME), queues)?;
        let writes = vec![announcement(); WRITES];
        host.queues.iter_mut().try_for_each(|queue| queue.send(&writes))?;
        Ok(host)
    };
    let siege = besiege(until, HOSTS, open, |host| host.check());
    Told { told: siege.told("hosts"), is_harmless: siege.opened == 0 }
}
