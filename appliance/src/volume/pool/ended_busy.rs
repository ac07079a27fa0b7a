//! Commands of hosts that ended with an error because the pool had been busy for too long.
//!
//! **States:** quiet → reported, for [`TOLD_NS`] after the newest such command → quiet.

use crate::volume::image::volumes::Volumes;
use crate::volume::request::VolumeId;

/// How long it is reported to the operator.
const TOLD_NS: u64 = 300_000_000_000;

/// The newest such command. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct EndedBusy {
    /// When it ended, in monotonic ns, and its volume.
    newest: Option<(u64, VolumeId)>,
}

impl EndedBusy {
    /// Notes such a command. Returns whether it must be newly reported.
    pub(super) fn note(&mut self, now_ns: u64, volume: VolumeId) -> bool {
        let is_new = self.newest.is_none_or(|(at_ns, _)| at_ns + TOLD_NS < now_ns);
        self.newest = Some((now_ns, volume));
        is_new
    }

    /// The message for the operator.
    pub(super) fn problem(&self, now_ns: u64, volumes: &Volumes) -> Option<String> {
        let (at_ns, volume) = self.newest?;
        let since_ns = now_ns.saturating_sub(at_ns);
        let volume = volumes.get(volume)?;
        (since_ns <= TOLD_NS).then(|| {
            format!(
                "commands of hosts on volume '{}' were ended with a request for another try, the last one {} s ago: the pool was busy for so long that they would have timed out; `varve pool stats` shows what memory and segments are taken by",
                volume.name(),
                since_ns / 1_000_000_000
            )
        })
    }
}
