//! Connections that say nothing at all, more than the appliance takes.

use super::Told;
use super::bed::{Bed, Until, besiege};
use super::line::Line;

/// More than the 1024 connections that the appliance has room for.
const CONNECTIONS: u64 = 1100;

pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let open = || Line::open(bed.address());
    let siege = besiege(until, bed.scaled(CONNECTIONS), open, |line| line.check());
    Told { told: siege.told("connections"), is_harmless: siege.opened == 0 }
}
