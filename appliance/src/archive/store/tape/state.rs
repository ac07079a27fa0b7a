//! The state of a tape store while it runs: its drive, its cartridges, and what is known of them.

use uuid::Uuid;

use super::at_hand::AtHand;
use super::cartridges::Cartridges;
use super::drive::Library;
use super::ledger::Ledger;
use super::stage::Stage;

/// The drive, the cartridges and the cache.
pub(super) struct Tape<L: Library> {
    pub library: L,
    pub store: Uuid,
    pub cartridges: Cartridges,
    pub current: Option<usize>,
    pub next_file: u64,
    /// The mounted cartridge whose label has been read.
    pub verified: Option<usize>,
    /// Barcodes of cartridges that do not belong to this store.
    pub foreign: Vec<String>,
    pub ledger: Ledger,
    pub at_hand: AtHand,
    pub stage: Stage,
    /// A put is open; its blocks must stay together.
    pub writing: bool,
    /// Memory for a block that is read.
    pub block: Vec<u8>,
}
