//! The log: one endless, append-only sequence of blocks per pool (`docs/FORMAT.md`).
//!
//! [`mod@format`] is what stands on the device; [`Log`] writes it and keeps the promises about durability; [`reader`] reads segments;
//! [`recovery`] finds the log again after a stop of any kind; [`inspect`] shows a device's contents without opening the pool.
//! The log knows images and block numbers only as numbers in entries; what they mean is the volume layer's.

pub mod checksum;
pub mod environment;
pub mod format;
pub(crate) mod frame;
pub mod geometry;
pub mod inspect;
pub mod read;
pub mod reader;
pub mod recovery;
pub mod table;
pub mod time;
pub mod types;

mod entries;
mod record;
mod writer;

pub(crate) use environment::system_now_ns;
pub use environment::{Clock, Environment, Random};
pub use geometry::Geometry;
pub use recovery::{CreateLog, LogError, Recovered, create, recover};
pub use types::{BlockNumber, ImageId, Lsn, SegmentSeq, Slot};
pub use writer::{
    AppendClass, AppendError, CLOSED_RECORDS_MAX, Log, LogStats, RECORDS_IN_FLIGHT_MAX, ReadDone, Recycling,
    SegmentCatalog, SharedLog, Starved,
};
