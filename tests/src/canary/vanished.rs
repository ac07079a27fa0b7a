//! Hosts that connected to the innocent host's own volume, without a keep alive timeout, and then
//! vanished: they neither read nor write nor close.

use super::Told;
use super::bed::{Bed, INNOCENT_VOLUME, Until, besiege};
use super::line::{Host, Identity};

/// The maximum number of controllers of a volume.
const HOSTS: u64 = 64;

pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let open = || Host::connect(bed.address(), &Identity::new(INNOCENT_VOLUME), 1);
    let siege = besiege(until, bed.scaled(HOSTS), open, |host| host.check());
    Told { told: siege.told("hosts"), is_harmless: siege.opened == 0 }
}
