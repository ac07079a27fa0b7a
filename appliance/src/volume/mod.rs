//! Volumes: views of a pool's log. [`Pool`] is the whole interface.
//!
//! A volume is a name, a size and an image; an image is an index, a map from block number to a
//! position in the log. Hosts' requests go through [`Pool::submit`] and [`Pool::poll`]; operations
//! of the management plane are futures that run on the pool's reactor.

mod archiving;
mod blocks;
pub(crate) mod catalog;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod history;
mod hosts;
mod image;
mod info;
mod manage;
mod pool;
mod problems;
mod request;
mod session;
mod space;

pub use archiving::{
    AnchorPolicy, ArchivePolicy, ArchiveStatus, BackPressure, Forgotten, KnownAnchor, KnownObjects,
};
pub use blocks::diff::DiffRequest;
pub use blocks::history::HistoryRequest;
pub use blocks::info::{
    BlockChange, BlockPlace, BlockRestoreInfo, BlockRestoreState, BlockVersion, BlockWho, DiffEnd, DiffKind,
    DiffPage, DiffRange, HistoryPage, HistoryPosition,
};
pub use blocks::restore::BlockRestoreRequest;
pub use catalog::{
    GROUP_VOLUMES_MAX, GROUPS_MAX, OVERPROVISIONING_PERCENT_DEFAULT, Ownership, SESSIONS_MAX, VERDICTS_MAX,
    Verdict,
};
pub use error::VolumeError;
pub use history::anchor_check::AnchorCheck;
pub use history::clock::clock_problem;
pub(crate) use history::inspect;
pub use history::point::{NamedPoint, Point, PointParseError};
pub use history::point_info::{
    BurstInfo, CommandInfo, GapInfo, GapReason, MarkInfo, MarkKind, Place, PlaceBytes, PlanEstimate,
    PlanSegment, PointAt, RestorePlan, TimeLine,
};
pub use history::point_time::span_ns;
pub use history::roll_back_info::{RollBackInfo, RollBacks, RolledBack};
pub use history::synch_table::{SynchDetails, SynchRef, SynchTable};
pub use history::time_line::TimeLineRequest;
pub use history::walk::WalkReport;
pub use history::walk_check::WalkCheck;
pub use hosts::HostGuard;
pub use image::index;
pub use image::lineage::Lineage;
pub use image::volumes::VOLUMES_MAX;
pub use info::{
    CloneInfo, CloneSpace, ImageParent, PointKind, PoolInfo, PoolStats, ResolvedPoint, ScanCost, SegmentInfo,
    SegmentState, SnapshotInfo, SynchInfo, SynchVolume, VolumeAt, VolumeEvent, VolumeInfo, VolumeOrigin,
    VolumeState, VolumeStats,
};
pub use manage::checks::{NAME_BYTES_MAX, VOLUME_BLOCKS_MAX};
pub use manage::group_info::{GroupCloneInfo, GroupInfo, GroupVolume};
pub use manage::marks::{DETAILS_BYTES_MAX, LABEL_BYTES_MAX};
pub use manage::open::PoolOptions;
pub use manage::operations::CreateVolume;
pub use manage::recover::{RecoverFrom, RecoveryReport, TakeOver, WAY_WITHOUT_UNREADABLE};
pub use manage::synchs::{SynchFilter, WantedSynchs};
pub use pool::{Pool, READ_AHEAD_BLOCKS_DEFAULT, READ_AHEAD_BLOCKS_MAX, RequestKind};
pub use request::{
    IoCompletion, IoError, MAX_IO_BLOCKS, MAX_TRIM_RANGES, Request, Sink, Submitted, VolumeId,
};
pub use session::info::{
    BisectInfo, ChangedBlocks, FoundCommand, MemberInfo, Position, SessionInfo, StepInfo, StepTo, VerdictInfo,
};
pub use session::open::OpenSession;
pub use space::capacity::OVERPROVISIONING_PERCENT_RANGE;
pub use space::scrub::BATCH_BLOCKS as SCRUB_BATCH_BLOCKS;
pub use space::scrubbed::PrimaryScrub;
pub use space::working_set::WORKING_SET_MIN;
