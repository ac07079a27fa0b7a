//! Volumes: views of a pool's log. [`Pool`] is the whole interface.
//!
//! A volume is a name, a size and an image; an image is an index, a map from block number to a position in the log. Requests of hosts go through
//! [`Pool::submit`] and [`Pool::poll`]; operations of the management plane are futures that run on the pool's reactor.

mod archive;
mod capacity;
pub(crate) mod catalog;
mod cleaner;
mod clock;
mod clone;
mod copies;
mod error;
mod event;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod history;
mod hydrate;
mod image_ids;
pub mod index;
mod info;
pub(crate) mod inspect;
mod known;
mod lineage;
mod manage;
mod open;
mod ownership;
mod point;
mod pool;
mod recover;
mod request;
mod scrub;
mod working_set;

pub use archive::{ArchivePolicy, ArchiveStatus, BackPressure, Forgotten, KnownObjects};
pub use capacity::{OVERPROVISIONING_PERCENT_DEFAULT, OVERPROVISIONING_PERCENT_RANGE};
pub use clock::clock_problem;
pub use error::VolumeError;
pub use info::{
    CloneInfo, ImageParent, PointKind, PoolInfo, PoolStats, ResolvedPoint, SegmentInfo, SegmentState,
    SnapshotInfo, SynchInfo, VolumeAt, VolumeEvent, VolumeInfo, VolumeState, VolumeStats,
};
pub use lineage::Lineage;
pub use manage::{
    CreateVolume, DETAILS_BYTES_MAX, LABEL_BYTES_MAX, NAME_BYTES_MAX, VOLUME_BLOCKS_MAX, VOLUMES_MAX,
};
pub use open::PoolOptions;
pub use ownership::Ownership;
pub use point::{Point, PointParseError};
pub use pool::{Operation, Pool, READ_AHEAD_BLOCKS_DEFAULT, READ_AHEAD_BLOCKS_MAX};
pub use recover::{RecoverFrom, RecoveryReport, TakeOver, WAY_WITHOUT_UNREADABLE};
pub use request::{
    IoCompletion, IoError, MAX_IO_BLOCKS, MAX_TRIM_RANGES, Request, Sink, Submitted, VolumeId,
};
pub use scrub::{BATCH_BLOCKS as SCRUB_BATCH_BLOCKS, PrimaryScrub};
pub use working_set::WORKING_SET_MIN;
