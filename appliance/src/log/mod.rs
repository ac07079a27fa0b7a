//! The log: one endless, append-only sequence of blocks per pool (`docs/FORMAT.md`).
//!
//! | room or file | what it does |
//! |---|---|
//! | [`mod@format`] | the structures on the device |
//! | `writer` | [`Log`]: appends, and keeps the guarantees about durability; its state is in `writer/state`, one part to a file |
//! | [`table`] | which segment is in which slot, and how much of it is live |
//! | [`read`], [`reader`], [`scan`], [`load`] | blocks, structures and records of segments, read by tasks |
//! | [`recovery`] | creates the log, finds it again after a stop of any kind, closes it |
//! | [`inspect`] | shows the log of a device without opening the pool |
//! | [`time`] | the time that records carry |
//! | [`environment`] | time, randomness and memory, which a simulator replaces |
//!
//! For the log, images and block numbers are only numbers in entries. The volume layer gives them a
//! meaning.

pub mod checksum;
pub mod clock;
pub mod environment;
pub mod error;
pub mod format;
pub(crate) mod frame;
pub mod geometry;
pub mod inspect;
pub mod load;
pub mod read;
pub mod reader;
pub mod recovery;
pub mod scan;
pub mod table;
pub mod time;
pub mod types;

mod entries;
mod failure;
mod first_record;
mod record;
mod wait;
mod window;
mod writer;

pub use clock::Clock;
pub(crate) use environment::system_now_ns;
pub use environment::{Environment, Random};
pub use error::LogError;
pub use failure::{FailureCause, LogFailure};
pub use geometry::Geometry;
pub use recovery::{CreateLog, Recovered, create, recover};
pub use types::{BlockNumber, ImageId, Lsn, SegmentSeq, Slot};
pub use writer::{
    AppendClass, AppendError, CLOSED_RECORDS_MAX, Log, LogStats, RECORDS_IN_FLIGHT_MAX, ReadDone, Recycling,
    SegmentCatalog, SharedLog, Starved, WhyBusy,
};
