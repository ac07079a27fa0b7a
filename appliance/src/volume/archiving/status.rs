//! The status of a pool's archive, as the operator sees it.

use serde::{Deserialize, Serialize};

use super::policy::BackPressure;
use crate::archive::service::VerifyPolicy;
use crate::dma::BLOCK_BYTES;
use crate::log::reader::LsnRange;
use crate::log::table::Phase;
use crate::volume::pool::Pool;
use crate::volume::space::scrubbed::PrimaryScrub;

/// The archive as `archive_get_status` shows it. Sizes in bytes, counters since start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArchiveStatus {
    /// The store: its kind and its location.
    pub store: String,
    /// `idle`, `working`, `waiting` (a failure is retried later), `away` (it was not reached since
    /// the start) or `refusing` (writes are refused until it works again).
    pub state: String,
    /// The problem, if there is one: why it does not continue, or what it has lost.
    pub problem: Option<String>,
    /// What happens to writes when it cannot keep up.
    pub back_pressure: BackPressure,
    /// How an object is verified before the primary's copy may be dropped.
    pub verify: VerifyPolicy,
    /// Milliseconds per second in which a host's write was delayed because the archive is behind.
    pub throttled_ms_per_s: f64,
    /// Seconds between parts; 0: only whole segments.
    pub seal_interval_s: f64,
    /// A recovery from the archive alone would restore everything before this position. After a
    /// gap, this stays before the gap until the archive has a whole working set after it.
    pub archived_to_lsn: u64,
    /// Everything before this position is in the archive, except for the gaps.
    #[serde(default)]
    pub stored_to_lsn: u64,
    /// Where the log ends, without copies of older blocks that nobody waits for.
    pub head_lsn: u64,
    /// Sealed segments that are not in the archive.
    pub backlog_segments: u64,
    /// Bytes of the log that are not in the archive.
    pub backlog_bytes: u64,
    /// The age in seconds of the newest state that could be restored if the primary device were
    /// lost now.
    pub recovery_point_age_s: f64,
    /// The age from which on it is reported as a problem, in seconds; 0: never.
    #[serde(default)]
    pub rpo_alarm_s: f64,
    /// Whether it is older than that.
    #[serde(default)]
    pub rpo_alarm: bool,
    /// Segments with at least one object in the archive.
    pub segments: u64,
    /// The oldest of them.
    pub oldest_segment: Option<u64>,
    /// Anchors in the store: indexes that shorten the opening of a point.
    #[serde(default)]
    pub anchors: u64,
    /// Bytes of them.
    #[serde(default)]
    pub anchor_bytes: u64,
    /// Objects written.
    pub objects_written: u64,
    /// Bytes of the log in them.
    pub content_bytes: u64,
    /// Bytes of the objects.
    pub object_bytes: u64,
    /// Content bytes divided by object bytes; 0 before the first object.
    pub compression_ratio: f64,
    /// Content bytes a second of the archivist's time, in the last minute; 0 if it did nothing.
    pub throughput_bytes_per_s: f64,
    /// Jobs that failed.
    pub failures: u64,
    /// Ranges that left the primary device without being archived.
    pub gaps: Vec<LsnRange>,
    /// The findings of the primary device's scrub.
    #[serde(default)]
    pub primary_scrub: PrimaryScrub,
}

impl Pool {
    /// The status of the archive; `None` if there is none.
    pub fn archive_status(&self) -> Option<ArchiveStatus> {
        let state = self.state.borrow();
        let log = self.log.borrow();
        let archive = state.archive.get()?;
        let clock = &log.environment().clock;
        let (head, stored_to) = (log.commit_lsn(), archive.archived_to(&log));
        let (age_ns, archived_to) = archive.recovery_point(&state.catalog, &log);
        let waiting = log.table().iter().filter(|(_, segment)| {
            segment.sealed && !segment.archived && segment.phase != Phase::Released && segment.slot.is_some()
        });
        let service = archive.requests.service();
        let (policy, totals) = (archive.policy(), service.stats());
        let name = match () {
            () if archive.refuses_writes(clock.monotonic_ns()) => "refusing",
            () if archive.is_away() => "away",
            () if archive.reported.problem().is_some() => "waiting",
            () if !archive.flights.is_empty() => "working",
            () => "idle",
        };
        let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
        Some(ArchiveStatus {
            store: service.store().label().to_owned(),
            state: name.to_owned(),
            problem: archive
                .reported
                .problem()
                .or_else(|| archive.lost.told())
                .or_else(|| archive.alarm.told())
                .map(str::to_owned),
            back_pressure: policy.back_pressure,
            verify: service.verify(),
            throttled_ms_per_s: archive.throttle.held_ms_per_s(),
            seal_interval_s: policy.seal_interval_ns as f64 / 1e9,
            archived_to_lsn: archived_to.0,
            stored_to_lsn: stored_to.0,
            head_lsn: head.0,
            backlog_segments: waiting.count() as u64,
            backlog_bytes: head.0.saturating_sub(archived_to.0) * BLOCK_BYTES as u64,
            recovery_point_age_s: age_ns as f64 / 1e9,
            rpo_alarm_s: policy.rpo_alarm_ns as f64 / 1e9,
            rpo_alarm: archive.alarm.told().is_some(),
            segments: archive.objects.iter().count() as u64,
            oldest_segment: archive.objects.first().map(|sequence| sequence.0),
            anchors: archive.anchors.totals().0,
            anchor_bytes: archive.anchors.totals().1,
            objects_written: totals.objects,
            content_bytes: totals.content_bytes,
            object_bytes: totals.object_bytes,
            compression_ratio: ratio(totals.content_bytes, totals.object_bytes),
            throughput_bytes_per_s: archive.recent.bytes_per_s(clock.monotonic_ns()),
            failures: totals.failures,
            gaps: state.catalog.gaps.clone(),
            primary_scrub: state.scrubbed.found(),
        })
    }
}
