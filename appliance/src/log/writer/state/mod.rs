//! The parts of [`Log`](super::Log). Each part owns its fields, and only its file writes them; the
//! head of the file documents their invariants. The parts do not know the log, and know little of
//! each other: operations on several parts are methods of `Log`, in the files beside this folder.

pub(super) mod beginning;
pub(super) mod catalog;
pub(super) mod current;
pub(super) mod damage;
pub(super) mod demand;
pub(super) mod health;
pub(super) mod identity;
pub(super) mod memory;
pub(super) mod orders;
pub(super) mod port;
pub(super) mod positions;
pub(super) mod record_clock;
pub(super) mod records;
pub(super) mod starved;
pub(super) mod stats;
pub(super) mod trailers;
pub(super) mod waiters;
pub(super) mod why_busy;
