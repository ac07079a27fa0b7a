//! How a pool uses its archive, as the operator chooses it.

use crate::log::Geometry;

/// What happens to writes when the archive cannot keep up and no slot is free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackPressure {
    /// They slow down, then wait, and are refused with "capacity exceeded" if that takes too long.
    #[default]
    Throttle,
    /// They continue; the oldest segment's history is lost, and the gap is recorded.
    Degrade,
}

/// How often anchors are made: indexes in the archive that shorten the opening of a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnchorPolicy {
    /// As often as a working set of this size needs; never for a small one.
    #[default]
    Auto,
    /// Whenever so many segments have been opened.
    Every(u64),
    /// None is made or deleted; those that exist are used.
    Never,
}

/// A working set of fewer blocks needs no anchors: its entries are read in a fraction of a second.
const ANCHORED_BLOCKS_MIN: u64 = 4 << 20;
/// How many rounds of anchors there are in a working set.
const ROUNDS: u64 = 32;

impl AnchorPolicy {
    /// How many segments a round of anchors is; `None`: there are none.
    pub(super) fn interval(self, geometry: &Geometry) -> Option<u64> {
        let is_large = geometry.working_set.saturating_mul(geometry.segment_blocks) >= ANCHORED_BLOCKS_MIN;
        match self {
            AnchorPolicy::Auto => is_large.then(|| (geometry.working_set / ROUNDS).max(1)),
            AnchorPolicy::Every(segments) => Some(segments.max(1)),
            AnchorPolicy::Never => None,
        }
    }
}

/// How a pool uses its archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivePolicy {
    /// How often new data is archived as a part, in ns; 0: only whole segments.
    pub seal_interval_ns: u64,
    /// What happens when the archive cannot keep up.
    pub back_pressure: BackPressure,
    /// How long writes wait before they are refused, in ns.
    pub wait_ns: u64,
    /// The age of the recovery point from which on it is reported as a problem, in ns; 0: never.
    pub rpo_alarm_ns: u64,
    /// Budget of the cache for blocks, in bytes.
    pub blocks_cache_bytes: usize,
    /// Budget of the cache for entries, in bytes.
    pub entries_cache_bytes: usize,
    /// How often anchors are made.
    pub anchors: AnchorPolicy,
}

impl Default for ArchivePolicy {
    fn default() -> Self {
        ArchivePolicy {
            seal_interval_ns: 20_000_000_000,
            back_pressure: BackPressure::default(),
            wait_ns: 15_000_000_000,
            rpo_alarm_ns: 0,
            blocks_cache_bytes: 64 << 20,
            entries_cache_bytes: 64 << 20,
            anchors: AnchorPolicy::default(),
        }
    }
}
