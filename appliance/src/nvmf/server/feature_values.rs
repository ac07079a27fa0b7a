//! The values of the features in one controller. See `feature`.

/// Bytes of the host behavior support structure.
pub(super) const HOST_BEHAVIOR_BYTES: usize = 512;
/// A threshold that no temperature reaches from below.
const THRESHOLD_NEVER: u32 = 0xFFFF;

/// The values of the features in one controller.
#[derive(Debug)]
pub(super) struct FeatureValues {
    pub(super) arbitration: u32,
    pub(super) over_temperature: u32,
    pub(super) under_temperature: u32,
    pub(super) error_recovery: u32,
    pub(super) write_atomicity: u32,
    /// The host's clock minus ours, in milliseconds. Wraps.
    pub(super) timestamp_offset_ms: Option<u64>,
    pub(super) host_behavior: Box<[u8; HOST_BEHAVIOR_BYTES]>,
}

impl Default for FeatureValues {
    fn default() -> Self {
        FeatureValues {
            arbitration: 0,
            over_temperature: THRESHOLD_NEVER,
            under_temperature: 0,
            error_recovery: 0,
            write_atomicity: 0,
            timestamp_offset_ms: None,
            host_behavior: Box::new([0; HOST_BEHAVIOR_BYTES]),
        }
    }
}

impl FeatureValues {
    /// Resets to the defaults, but keeps the clock (Base section 5.27.1.11).
    pub(super) fn reset(&mut self) {
        *self = FeatureValues { timestamp_offset_ms: self.timestamp_offset_ms, ..FeatureValues::default() };
    }
}
