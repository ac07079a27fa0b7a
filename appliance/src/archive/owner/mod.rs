//! Records who owns a pool's archive, and which history its objects belong to.
//!
//! **A claim** is a random number that an owner takes: a pool when it starts, a recovery, a fork.
//! Each object has in its name the claim of the owner that stored it. **A generation** is an object
//! that states who owns the archive from now on; the one with the highest number is in force.
//! Generations are made by create-if-absent, the one primitive that every kind of store has, so
//! that exactly one of two competing owners makes the next one.
//!
//! ```text
//! v1/POOL/owner/GENERATION     16 hexadecimal digits; see `record`
//! v1/POOL/seg/...CLAIM...      see `object::name`
//! v1/POOL/anc/...CLAIM...      see `anchor`
//! ```
//!
//! | a generation contains | consequence |
//! |---|---|
//! | its claim | only objects of that claim may still be added |
//! | acknowledged claims, each with an end | their objects up to that end belong to this history; all others never count |
//! | other histories | what a fork or a recovery left out is kept, and can be recovered by its id |
//! | tombstones | only these objects may be deleted, so an overtaken owner deletes nothing |
//! | retention rules | a recovery restores them |
//!
//! **Order of a start.** The pool writes the claim that it is about to take into its own log; then
//! it makes the next generation; then its log records that it has the claim. So after a crash at
//! any point the generation in force has the claim that the pool has, or the one that it was about
//! to take. A pool with other claims was overtaken, or is a copy of an older state: it takes
//! nothing.
//!
//! **Being overtaken** is detected before each put and each delete: a generation with a higher
//! number exists. From then on nothing is put or deleted any more ([`StoreErrorKind::Overtaken`]),
//! and the pool accepts no more writes. A put that was under way at that moment may still appear;
//! it is never acknowledged.
//!
//! Older generations are removed except for the last two, so a number can become free again.
//! Whoever makes a generation therefore lists the generations again afterwards: if there is a
//! higher number, it was overtaken.
//!
//! [`StoreErrorKind::Overtaken`]: super::store::StoreErrorKind::Overtaken

mod chain;
mod claim;
mod lineage;
mod record;
mod store;

#[cfg(test)]
pub(in crate::archive) mod tests;

pub use chain::{Chain, ChainError, read_chain};
pub use claim::{Claimant, Conflict, Inheritance, Recovered, Settled};
pub use lineage::{Acknowledged, Lineage};
pub use record::{Generation, HistoryId, Parent, RecordDamage, SideHistory};
pub use store::{OwnedStore, Standing};
