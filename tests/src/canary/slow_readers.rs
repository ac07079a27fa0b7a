//! Two honest hosts on a slow network: 48 queues each, full of reads of 128 KiB, whose data they
//! take at 4 KiB/s per queue. They send their keep-alives and break no rule.

use std::io;
use std::time::{Duration, Instant};

use varve::nvmf::wire::command::{Rw, Sqe};
use varve::nvmf::wire::opcode::{AdminOpcode, IoOpcode};
use varve::nvmf::wire::sgl::SglDescriptor;

use super::Told;
use super::bed::{BLOCK_BYTES, Bed, Until, besiege};
use super::error::CanaryError;
use super::line::{Host, Identity, QUEUE_ENTRIES};

/// The hosts.
const HOSTS: u64 = 2;
/// Queues of each.
const QUEUES: u64 = 48;
/// Blocks of a read: 128 KiB.
const READ_BLOCKS: u32 = 32;
/// What is read from each queue, four times a second.
const TAKEN_BYTES: usize = 1024;
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// The volume's data, in pieces of 128 KiB.
const PIECES: u64 = 128;
pub(super) const VOLUME: &str = "slow";

/// Makes a volume with data to read.
pub(super) fn prepare(bed: &Bed) -> Result<(), CanaryError> {
    bed.make_volume(VOLUME, "64MiB")?;
    bed.fill(VOLUME, PIECES, u64::from(READ_BLOCKS), u64::from(READ_BLOCKS))
}

pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let queues = bed.scaled(QUEUES) as u16;
    let open = || {
        let mut who = Identity::new(VOLUME);
        who.keep_alive_ms = 15_000;
        let mut host = Host::connect(bed.address(), &who, queues)?;
        ask(&mut host)?;
        Ok((host, Instant::now()))
    };
    let mut taken_bytes = 0;
    let siege = besiege(until, HOSTS, open, |(host, kept_alive)| {
        if kept_alive.elapsed() > KEEP_ALIVE {
            host.admin.send(&[Sqe::admin(AdminOpcode::KeepAlive)])?;
            *kept_alive = Instant::now();
        }
        host.admin.take(TAKEN_BYTES)?;
        for queue in &host.queues {
            taken_bytes += queue.take(TAKEN_BYTES)?;
        }
        Ok(())
    });
    let told = format!("{}, {} KiB taken", siege.told("hosts"), taken_bytes >> 10);
    Told { told, is_harmless: siege.opened == 0 }
}

/// Fills every queue with reads.
pub(super) fn ask(host: &mut Host) -> io::Result<()> {
    let reads: Vec<Sqe> = (0..u64::from(QUEUE_ENTRIES) - 1)
        .map(|index| {
            let lba = index % PIECES * u64::from(READ_BLOCKS);
            let mut read = Rw::new(IoOpcode::Read, 1, lba, READ_BLOCKS);
            read.sgl = SglDescriptor::transport(READ_BLOCKS * BLOCK_BYTES as u32);
            read.into()
        })
        .collect();
    host.queues.iter_mut().try_for_each(|queue| queue.send(&reads))
}
