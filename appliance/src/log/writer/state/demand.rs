//! The demand for copies: how many must go into the current segment. The last result is cached.
//!
//! Computing the demand visits every segment in use, so the last result is kept. It is `None` until
//! a caller needs it ([`Demand::watch`]): in a pool in which no block is live twice, the demand is
//! never more than what must leave now, which is cheap to compute.
//!
//! **Invariant:** a kept result is not less than the demand. Only two events raise the demand: a
//! block that becomes live in an older segment, and the next segment. Both recompute it.

use std::cell::Cell;

/// The last result. See the module's documentation.
#[derive(Debug, Default)]
pub(in crate::log) struct Demand {
    /// A cell, because readers of the log recompute it too.
    blocks: Cell<Option<u64>>,
}

impl Demand {
    /// Starts to compute the demand.
    pub(in crate::log) fn watch(&self) {
        self.blocks.set(Some(0));
    }

    /// Whether the demand is computed at all.
    pub(in crate::log) fn is_watched(&self) -> bool {
        self.blocks.get().is_some()
    }

    /// The last result; 0 while the demand is not computed.
    pub(in crate::log) fn blocks(&self) -> u64 {
        self.blocks.get().unwrap_or(0)
    }

    /// Stores a new result.
    pub(in crate::log) fn set(&self, blocks: u64) {
        debug_assert!(self.is_watched(), "nobody asked for the demand");
        self.blocks.set(Some(blocks));
    }
}
