//! The demand for copies: how many must go into the current segment, kept from one count to the
//! next.
//!
//! To count the demand takes a look at each segment in use, so the last count is kept. It is `None`
//! until somebody asks for it ([`Demand::watch`]): in a pool in which no block is live twice, the
//! demand is never more than what must leave now, which is cheap to count.
//!
//! **Invariant:** a count that is kept is not less than the demand. Only two things raise the
//! demand: a block that becomes live in an older segment, and the next segment. Both count anew.

use std::cell::Cell;

/// The last count. See the module's documentation.
#[derive(Debug, Default)]
pub(in crate::log) struct Demand {
    /// A cell, because readers of the log count anew too.
    blocks: Cell<Option<u64>>,
}

impl Demand {
    /// From now on the demand is counted.
    pub(in crate::log) fn watch(&self) {
        self.blocks.set(Some(0));
    }

    /// Whether the demand is counted at all.
    pub(in crate::log) fn is_watched(&self) -> bool {
        self.blocks.get().is_some()
    }

    /// The last count; 0 while the demand is not counted.
    pub(in crate::log) fn blocks(&self) -> u64 {
        self.blocks.get().unwrap_or(0)
    }

    /// Keeps a new count.
    pub(in crate::log) fn set(&self, blocks: u64) {
        debug_assert!(self.is_watched(), "nobody asked for the demand");
        self.blocks.set(Some(blocks));
    }
}
