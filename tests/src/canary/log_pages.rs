//! Hosts that request log pages of the maximum length, as many as their admin queues hold, and read
//! the answers at 4 KiB/s.

use std::io;

use varve::nvmf::wire::admin_command::GetLogPage;
use varve::nvmf::wire::command::Sqe;
use varve::nvmf::wire::log_page::LogPageId;
use varve::nvmf::wire::sgl::SglDescriptor;

use super::Told;
use super::bed::{Bed, Until, besiege};
use super::error::CanaryError;
use super::line::{Host, Identity};

const HOSTS: u64 = 48;
/// The commands that an admin queue of 32 entries holds.
const COMMANDS: usize = 31;
/// The maximum size of one transfer.
const PAGE_BYTES: u32 = 512 << 10;
/// What each host reads, four times a second.
const TAKEN_BYTES: usize = 1024;
const VOLUME: &str = "pages";

pub(super) fn prepare(bed: &Bed) -> Result<(), CanaryError> {
    bed.make_volume(VOLUME, "64MiB")
}

pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let open = || {
        let mut host = Host::connect(bed.address(), &Identity::new(VOLUME), 0)?;
        ask(&mut host)?;
        Ok(host)
    };
    let mut taken_bytes = 0;
    let siege = besiege(until, bed.scaled(HOSTS), open, |host| {
        taken_bytes += host.admin.take(TAKEN_BYTES)?;
        Ok(())
    });
    let told = format!("{}, {} KiB taken", siege.told("hosts"), taken_bytes >> 10);
    Told { told, is_harmless: taken_bytes == 0 }
}

fn ask(host: &mut Host) -> io::Result<()> {
    let mut command = GetLogPage::new(LogPageId::CommandEffects.into(), u32::MAX, 0, PAGE_BYTES);
    command.sgl = SglDescriptor::transport(PAGE_BYTES);
    let command = Sqe::from(command);
    host.admin.send(&[command; COMMANDS])
}
