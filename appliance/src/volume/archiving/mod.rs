//! The pool's side of its archive: when data is archived, what is in the archive, and how it is
//! read back.
//!
//! **States of a range of the log:** unarchived → (sealed, by size, by time or by command) job in
//! progress → archived and verified. A segment is archived as one object when it is sealed. The
//! stable part of the current segment is archived as a part at a fixed interval, so that the
//! age of the archive's recovery point is bounded. When the whole segment is archived, its
//! parts are deleted.
//!
//! **Invariants.** Only stable data is archived, so nothing in the archive is ever cut off by a
//! crash. A slot is reassigned only after the segment's object was verified. A gap, if the policy
//! allows one, is recorded in the catalog before the next segment is written.
//!
//! **Failures.** A store that fails is tried again, with growing pauses of up to half a minute. The
//! operator is informed once, and once more when it works again. As unarchived segments fill the
//! slots, writes slow down (`throttle`; see the module of that name). When no slot is free they
//! wait, at most [`ArchivePolicy::wait_ns`] before they are refused with "capacity exceeded", or
//! history gets a gap (`degrade`).
//!
//! **Anchors** are indexes beside the segments (`anchoring`). They never matter for what is
//! correct, only for how long it takes to open a point.
//!
//! **Bounds:** two jobs in progress (`flights`), and one part of an anchor; one request of each
//! waiting task, and as many of each read as it has frames; two caches with a budget in bytes.

// The parts, each with the state that only its file writes, are below `state`, which lists them.
// `fetch`, `lost`, `seal`, `adopt` and `recovery_point` add operations on several parts, and `turn`
// runs them all. Operations on the whole pool come last: `attach`, `read_back`, `ahead`,
// `seal_now`, `lost_objects`, `expire`, `status`.
mod adopt;
mod ahead;
mod alarm;
mod anchoring;
mod anchors;
mod attach;
mod away;
mod expire;
mod fetch;
mod flights;
mod losses;
mod lost;
mod lost_objects;
mod objects;
mod policy;
mod rate;
mod read_anchor;
mod read_back;
mod receivers;
mod recovery_point;
mod reported;
mod requests;
mod retries;
mod seal;
mod seal_now;
mod sealing;
mod side;
mod slot;
mod state;
mod status;
mod throttle;
mod turn;

pub(super) use ahead::Ahead;
pub use anchors::KnownAnchor;
pub use expire::Forgotten;
pub(super) use fetch::{ArchivedBlocks, BlockAnswer, Fetched};
pub use objects::KnownObjects;
pub use policy::{AnchorPolicy, ArchivePolicy, BackPressure};
pub(super) use read_anchor::ComingAnchor;
pub(super) use side::PoolSide;
pub(super) use slot::ArchiveSlot;
pub(super) use state::Archive;
pub use status::ArchiveStatus;
