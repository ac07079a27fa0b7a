//! More sockets than the appliance has descriptors.

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::Told;
use super::bed::{Bed, Until, besiege};
use super::error::CanaryError;
use super::line::{Identity, Line};

/// The appliance's limit of descriptors.
const DESCRIPTORS: u64 = 64;
/// Sockets that need one.
const SOCKETS: u64 = 120;
const VOLUME: &str = "many";

/// Lowers the limit while the appliance runs: at its start it would raise a soft limit to the hard
/// one.
pub(super) fn prepare(bed: &Bed) -> Result<(), CanaryError> {
    bed.make_volume(VOLUME, "64MiB")?;
    let process = bed.appliance.process_id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let few = Rlimit { current: Some(DESCRIPTORS), maximum: Some(DESCRIPTORS) };
    prlimit(process, Resource::Nofile, few)
        .map(drop)
        .map_err(CanaryError::system("taking descriptors from the appliance"))
}

/// Every second one of the first 32 sockets becomes a controller; the others send nothing. Sockets
/// for which the appliance has no descriptor wait in the kernel's queue, which still holds them
/// open.
pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let mut count = 0_u64;
    let open = || {
        count += 1;
        let mut line = Line::open(bed.address())?;
        // A socket that is not accepted must not block further attempts.
        if count.is_multiple_of(2) && count <= DESCRIPTORS / 2 {
            line.initialize()?;
            line.connect_queue(&Identity::new(VOLUME), 0, None)?;
        }
        Ok(line)
    };
    let siege = besiege(until, bed.scaled(SOCKETS), open, |line| line.check());
    Told { told: siege.told("sockets"), is_harmless: siege.opened == 0 }
}
