//! Hosts that request more data than anybody could buffer for them, and then never read their
//! sockets.

use super::Told;
use super::bed::{Bed, Until, besiege};
use super::line::{Host, Identity};
use super::slow_readers::{VOLUME, ask};

const HOSTS: u64 = 2;
const QUEUES: u64 = 48;

pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let queues = bed.scaled(QUEUES) as u16;
    let open = || {
        let mut host = Host::connect(bed.address(), &Identity::new(VOLUME), queues)?;
        ask(&mut host)?;
        Ok(host)
    };
    let siege = besiege(until, HOSTS, open, |host| host.check());
    Told { told: siege.told("hosts"), is_harmless: siege.opened == 0 }
}
