//! The parts of [`Log`](super::Log). Each owns its fields, and its file is the only one that writes
//! them; its first lines say what always holds between them. The parts know nothing of the log and
//! little of each other: what takes several of them is done by the methods of `Log`, in the files
//! beside this folder.

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
