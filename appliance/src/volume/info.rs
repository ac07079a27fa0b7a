//! The data that the management plane reports, serialised as it is shown in JSON. Sizes are in
//! bytes unless named otherwise, times in nanoseconds since the Unix epoch.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::log::time::{ClockStatus, SpanBy};

use super::VolumeId;

/// A pool as `pool_list` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PoolInfo {
    /// Its UUID, from its superblock.
    pub uuid: Uuid,
    /// The primary device.
    pub device: String,
    /// The kind of the primary device: `memory`, `uring`, `threads`.
    pub device_kind: String,
    /// Size of the primary device.
    pub device_bytes: u64,
    /// Size of a segment.
    pub segment_bytes: u64,
    /// Slots on the device.
    pub slots: u64,
    /// Slots that the device has room for; more than `slots` if the device has grown.
    #[serde(default)]
    pub device_slots: u64,
    /// Working set: how many segments the live data may span (W).
    pub working_set_segments: u64,
    /// The target of a working set that is being shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub working_set_target_segments: Option<u64>,
    /// When it was created.
    pub created_ns: u64,
    /// How many volumes it holds.
    pub volumes: u64,
    /// `online`, or `failed` once a log write has failed.
    pub state: String,
    /// The time that records carry and the machine's time.
    #[serde(default)]
    pub clock: ClockStatus,
    /// Why it is not `online`, and what recovery found damaged, as text for the operator.
    pub problems: Vec<String>,
}

/// Counters and gauges as `pool_stats` shows them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PoolStats {
    /// The next position that the log will assign.
    pub head_lsn: u64,
    /// The newest point: the end of the newest command.
    #[serde(default)]
    pub newest_point_lsn: u64,
    /// The newest change of the volumes, images or snapshots since start; 0: none.
    #[serde(default)]
    pub newest_change_lsn: u64,
    /// Every entry before this position has been written.
    pub written_lsn: u64,
    /// Every entry before this position survives loss of power.
    pub stable_lsn: u64,
    /// Blocks of the log used, headers and trailers included: those of segments in use, if slots
    /// are reused.
    pub log_used_blocks: u64,
    /// Blocks of the log that can be used before writes are refused.
    pub log_capacity_blocks: u64,
    /// Data blocks that hosts wrote since start.
    pub host_written_blocks: u64,
    /// Data blocks read for hosts since start.
    pub host_read_blocks: u64,
    /// Blocks written to the device since start: data, headers, trailers.
    pub device_written_blocks: u64,
    /// Data blocks copied forward since start.
    #[serde(default)]
    pub copied_blocks: u64,
    /// Of these, inherited blocks that were hydrated; they do not count as write amplification.
    #[serde(default)]
    pub hydrated_blocks: u64,
    /// Write amplification since start: data blocks appended (hosts' and copies) over data blocks
    /// that hosts wrote; 0 before the first write.
    #[serde(default)]
    pub write_amplification: f64,
    /// Header blocks of records written since start.
    #[serde(default)]
    pub header_blocks: u64,
    /// Blocks of trailers written since start.
    #[serde(default)]
    pub trailer_blocks: u64,
    /// Data blocks that may be live; 0 if the pool never reuses slots and ends when its log is
    /// full.
    #[serde(default)]
    pub capacity_blocks: u64,
    /// Blocks reserved for volumes that are not thin.
    #[serde(default)]
    pub reserved_blocks: u64,
    /// Live blocks of thin volumes and clones.
    #[serde(default)]
    pub thin_blocks: u64,
    /// Masks: ranges in which clones have trimmed inherited data. Each takes as much of the
    /// capacity as a block.
    #[serde(default)]
    pub masks: u64,
    /// Segments that contain live blocks, or may: the working set and what is leaving it.
    #[serde(default)]
    pub segments_in_use: u64,
    /// Segments without live blocks that still have a slot.
    #[serde(default)]
    pub segments_inactive: u64,
    /// Slots that are free.
    #[serde(default)]
    pub segments_recycle: u64,
    /// Segments whose slot was reassigned since start.
    #[serde(default)]
    pub released_segments: u64,
    /// Of these, those that were released early, because they no longer contained live blocks.
    #[serde(default)]
    pub released_early_segments: u64,
    /// Records written since start.
    pub records: u64,
    /// Device flushes since start.
    pub flushes: u64,
    /// Device reads for hosts that failed and were retried, since start.
    pub checksum_errors: u64,
    /// Device reads of hosts that failed and were tried again, since start.
    #[serde(default)]
    pub retried_reads: u64,
    /// Of these, reads in which a retry of the device succeeded; reads from the archive do not
    /// count.
    #[serde(default)]
    pub rescued_reads: u64,
    /// How many times a host's read ended in a media error because of an unreadable block, since
    /// start.
    #[serde(default)]
    pub unreadable_blocks: u64,
    /// Blocks read from the device before a sequential reader asked for them, since start.
    #[serde(default)]
    pub read_ahead_blocks: u64,
    /// Of these, blocks that hosts then read.
    #[serde(default)]
    pub read_ahead_used_blocks: u64,
    /// Memory of all indexes.
    pub index_bytes: u64,
    /// DMA memory in use.
    pub dma_in_use_bytes: u64,
    /// The limit of DMA memory.
    pub dma_budget_bytes: u64,
    /// Mapped blocks of all volumes.
    pub mapped_blocks: u64,
}

/// The state of a segment (R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SegmentState {
    /// Being written.
    Current,
    /// Sealed and in the working set.
    Active,
    /// Contains no live blocks.
    Inactive,
    /// Free to become current.
    Recycle,
}

/// A segment as `pool_segments` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SegmentInfo {
    /// Its sequence; `None` for a free slot.
    pub sequence: Option<u64>,
    /// The slot on the device.
    pub slot: u64,
    /// Its state.
    pub state: SegmentState,
    /// First position.
    pub first_lsn: u64,
    /// Blocks used by records so far.
    pub used_blocks: u64,
    /// When it was opened.
    pub opened_ns: u64,
    /// Entries in it.
    pub entries: u64,
    /// Live blocks in it.
    #[serde(default)]
    pub live_blocks: u64,
    /// Whether its object is in the archive.
    #[serde(default)]
    pub archived: bool,
    /// What recovery or a reader found wrong with it.
    pub problems: Vec<String>,
}

/// The state of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// Served.
    Online,
    /// Its inherited index is being rebuilt; requests wait.
    Loading,
    /// Damaged: parts of it read as media errors.
    Degraded,
}

/// The origin of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageParent {
    /// The parent image.
    pub image: u32,
    /// The point of the parent at which it starts.
    pub lsn: u64,
}

/// A volume as `volume_list` shows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its id while the appliance runs.
    #[serde(skip, default = "no_volume")]
    pub id: VolumeId,
    /// Its name.
    pub name: String,
    /// Its UUID, which is also the namespace's.
    pub uuid: Uuid,
    /// Its size.
    pub size_bytes: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Its state.
    pub state: VolumeState,
    /// Its image.
    pub image: u32,
    /// For a clone: its origin, while it inherits from there.
    pub parent: Option<ImageParent>,
    /// For a clone: the point that was asked for when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<VolumeOrigin>,
    /// When it was created.
    pub created_ns: u64,
    /// Blocks that have contents.
    pub mapped_blocks: u64,
    /// Of them, inherited blocks, which are read from the point of the past from which the volume
    /// was made.
    #[serde(default)]
    pub inherited_blocks: u64,
    /// Of the blocks that have contents, those that were not certain when the volume was opened:
    /// the data that replaced them may be lost. They read as media errors until they are written
    /// again.
    #[serde(default)]
    pub uncertain_blocks: u64,
    /// Its problem, as text for the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Whether the inherited blocks are being hydrated.
    #[serde(default)]
    pub hydrating: bool,
    /// Whether no capacity was reserved for it.
    #[serde(default)]
    pub thin: bool,
    /// Activity since start.
    pub stats: VolumeStats,
    /// Whether the latencies of its requests are measured (`bdev_enable_histogram`).
    #[serde(default)]
    pub histogram: bool,
}

/// The point from which a clone was asked for. Its parent's point may be a later one at which the
/// origin was the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeOrigin {
    /// Its position.
    pub lsn: u64,
    /// How it was named, if that name means the same later: `None` for a span before now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
}

fn no_volume() -> VolumeId {
    VolumeId(u32::MAX)
}

/// A volume's activity since start.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct VolumeStats {
    /// Read requests completed.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Write requests completed.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Trim and write-zeroes requests.
    pub trims: u64,
    /// Bytes they covered.
    pub trimmed_bytes: u64,
    /// Flush requests.
    pub flushes: u64,
    /// Requests that ended in an error.
    pub errors: u64,
}

/// A synch event as `synch_list` shows it (R25).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SynchInfo {
    /// Its number, unique in the pool.
    pub id: u64,
    /// Its label.
    pub label: String,
    /// Its position: the state of every volume at this LSN is the state at the synch.
    pub lsn: u64,
    /// Its time.
    pub time_ns: u64,
    /// The volume that it is a mark of; `None`: all volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<SynchVolume>,
    /// The group that it is a mark of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<SynchVolume>,
    /// The caller's details.
    pub details: serde_json::Value,
    /// Why the details cannot be read now; `details` is then `null`. Only in answers, never in the
    /// log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details_unread: Option<String>,
}

/// The volume or the group that a synch is a mark of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SynchVolume {
    /// Its UUID.
    pub uuid: Uuid,
    /// The name that it had then.
    pub name: String,
}

impl SynchInfo {
    /// A synch from its text in the log; `None` if the text is not valid.
    pub fn of_text(lsn: u64, text: &[u8]) -> Option<Self> {
        let synch = serde_json::from_slice::<SynchInfo>(text).ok()?;
        Some(SynchInfo { lsn, details_unread: None, ..synch })
    }

    /// What it is a mark of; `None`: all volumes.
    pub fn of(&self) -> Option<&SynchVolume> {
        self.volume.as_ref().or(self.group.as_ref())
    }

    /// A synch whose text is lost: still a point, because its position and time are in the entry.
    pub fn damaged(lsn: u64, time_ns: u64) -> Self {
        SynchInfo {
            id: 0,
            label: "damaged".to_owned(),
            lsn,
            time_ns,
            volume: None,
            group: None,
            details: serde_json::Value::Null,
            details_unread: None,
        }
    }

    /// The message for the operator if its text is lost.
    pub(crate) fn damage(&self) -> String {
        format!("the text of the synch at LSN {} is damaged", self.lsn)
    }

    /// Whether its text is lost; the ids of others begin with 1.
    pub(crate) fn is_damaged(&self) -> bool {
        self.id == 0
    }
}

/// A snapshot as `snapshot_list` shows it: an LSN with a name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its name.
    pub name: String,
    /// Its position.
    pub lsn: u64,
    /// When it was taken.
    pub time_ns: u64,
}

/// The kind of a resolved point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PointKind {
    /// The end of a host's command.
    Write,
    /// A change of the pool's volumes, or another event of the pool itself.
    Event,
    /// A synch event.
    Synch(SynchInfo),
    /// A snapshot.
    Snapshot(SnapshotInfo),
    /// The creation of the pool: everything is empty.
    Beginning,
}

/// A resolved point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResolvedPoint {
    /// The requested point, as text.
    pub point: String,
    /// The LSN: the state there holds every entry at or before it.
    pub lsn: u64,
    /// The time of the record at the point.
    pub time_ns: u64,
    /// Its kind.
    pub kind: PointKind,
    /// The clock that measured a span before now (`time:-10m`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_by: Option<SpanBy>,
    /// The volumes that existed there: name and size in bytes.
    pub volumes: Vec<VolumeAt>,
    /// What the operator should know about the way in which the point was understood.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A volume as it was at a point.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VolumeAt {
    /// Its name then.
    pub name: String,
    /// Its size then.
    pub size_bytes: u64,
}

/// What building an index from the log read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScanCost {
    /// The maximum number of segments that the scan of one image read; never above W+1 (R30).
    pub segments_touched: u64,
    /// The bound: W+1.
    pub segments_bound: u64,
    /// Entries read.
    pub entries_scanned: u64,
    /// The anchor from which the scan began; `None`: it used none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor_lsn: Option<u64>,
    /// Bytes of anchors read.
    #[serde(default)]
    pub anchor_bytes: u64,
}

/// The answer of `restore_clone`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloneInfo {
    /// The new volume.
    pub volume: VolumeInfo,
    /// The point at which it starts.
    pub point: ResolvedPoint,
    /// What was read to build its index.
    #[serde(flatten)]
    pub scan: ScanCost,
    /// How long the index took to build.
    pub elapsed_us: u64,
}

/// A clone as `clone_list` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloneSpace {
    /// Its name.
    pub name: String,
    /// The present name of the volume whose state it began with; `None`: it was deleted, or has
    /// another image now.
    pub origin: Option<String>,
    /// Where it began.
    pub parent: ImageParent,
    /// Its state.
    pub state: VolumeState,
    /// While it is loading: how much of what it inherited was looked up, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loading_percent: Option<u64>,
    /// Whether what it inherited is being copied.
    pub hydrating: bool,
    /// Whether hosts may not write.
    pub read_only: bool,
    /// Blocks that only it has: they become free when it is deleted.
    pub own_blocks: u64,
    /// Blocks that it inherited, and that take no room for it.
    pub shared_blocks: u64,
}

/// A change of the set of volumes, for the target that serves them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeEvent {
    /// A volume can be served.
    Created(VolumeId),
    /// A volume was deleted.
    Deleted(VolumeId),
    /// A volume has another size.
    Resized(VolumeId),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_the_keys_of_a_synch() {
        let synch = SynchInfo {
            id: 1,
            label: "a".to_owned(),
            lsn: 0,
            time_ns: 1,
            volume: Some(SynchVolume { uuid: Uuid::nil(), name: "v".to_owned() }),
            group: Some(SynchVolume { uuid: Uuid::nil(), name: "g".to_owned() }),
            details: serde_json::json!({"a": 1}),
            details_unread: None,
        };
        crate::document::check_keys("### Synch", "| key |", &synch);
        let damaged = SynchInfo::damaged(7, 8);
        assert_eq!((damaged.id, damaged.label.as_str()), (0, "damaged"));
        crate::document::check_says("It then has id 0 and the label `damaged`.");
    }
}
