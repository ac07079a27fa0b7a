//! Connections that send nothing at all, more than the appliance accepts.

use super::Told;
use super::bed::{Bed, Until, besiege};
use super::line::Line;

/// More than the appliance's limit of 1024 connections.
const CONNECTIONS: u64 = 1100;

pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let open = || Line::open(bed.address());
    let siege = besiege(until, bed.scaled(CONNECTIONS), open, |line| line.check());
    Told { told: siege.told("connections"), is_harmless: siege.opened == 0 }
}
