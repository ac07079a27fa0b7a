//! Jobs on the archive that operators and schedules start: list and explain, verify, scrub, expire,
//! and the retention rules.
//!
//! | file | job |
//! |---|---|
//! | `manager` | [`ArchiveManager`], which holds the state of all jobs |
//! | `list` | what the store holds, and why a point is kept |
//! | `keep` | the retention rules and their file |
//! | `expire`, `pace`, `expirer` | deletion of what the rules release: one run, its rate limit, its schedule |
//! | `verify`, `verifications` | reading the archive back on request, and its progress |
//! | `scrub`, `scrub_progress` | reading it back on a schedule, and its progress |
//! | `check`, `anchors` | the check of one object, and of one anchor |
//! | `learner` | what these jobs tell the pool |
//! | `report`, `error` | the answers of calls, and their errors |
//!
//! Everything here blocks on the store and runs on threads that may block. It accesses the pool
//! through [`ExpiryPool`] and [`Learner`], because the pool belongs to a reactor.

mod anchors;
mod check;
mod error;
mod expire;
mod expirer;
mod keep;
mod learner;
mod list;
mod manager;
mod pace;
mod report;
mod scrub;
mod scrub_progress;
mod verifications;
mod verify;

pub use error::ManageError;
pub(crate) use expire::{EXPIRE_OBJECTS_DEFAULT, ExpiryRequest};
pub use expire::{ExpiryPool, ExpiryReport};
pub use expirer::Expirer;
pub use keep::KeepFileError;
pub use learner::Learner;
pub use list::{ArchivedObject, LIST_LIMIT_DEFAULT};
pub use manager::ArchiveManager;
pub use report::{ArchiveReport, Explained, Sealed};
pub(crate) use scrub::RATE_BYTES_PER_S as SCRUB_RATE_BYTES_PER_S;
pub use scrub::Scrubber;
pub use scrub_progress::ScrubStatus;
pub use verifications::{VERIFICATIONS_MAX, Verification, VerificationState};
