//! Who owns a pool's archive, and which history its objects belong to.
//!
//! **A claim** is a random number that an owner takes: a pool when it starts, a recovery, a fork.
//! Each object has the claim of whoever put it in its name. **A generation** is an object that says
//! who owns the archive from now on; the one with the greatest number is in force. Generations are
//! made by create-if-absent, the one primitive that every kind of store has, so of two that want to
//! be the next exactly one is.
//!
//! ```text
//! v1/POOL/owner/GENERATION     16 hexadecimal digits; see `record`
//! v1/POOL/seg/...CLAIM...      see `object::name`
//! ```
//!
//! | what a generation says | and so |
//! |---|---|
//! | its claim | only objects of that claim may still come |
//! | acknowledged claims, each with an end | their objects up to there are of this history; all others never count |
//! | histories beside it | what a fork or a recovery left out stays, and can be recovered by its name |
//! | tombstones | only these objects may be deleted, so whoever was overtaken deletes nothing |
//! | rules of retention | a recovery brings them back |
//!
//! **Order of a start.** The pool writes the claim that it is about to take into its own log; then
//! it makes the next generation; then its log says that it has the claim. So after a crash anywhere
//! the generation in force names the claim that the pool has, or the one that it was about to take.
//! A pool whose claims are others was overtaken, or is a copy of an older state: it takes nothing.
//!
//! **Being overtaken** is noticed before each put and each delete: a generation with a greater
//! number is there. From then on nothing is put or deleted any more
//! ([`StoreErrorKind::Overtaken`]), and the pool takes no more writes. A put that was under way at
//! that moment may still appear; nobody acknowledges it.
//!
//! Generations of before are removed but for the last, so a number can be free again. Whoever makes
//! a generation therefore looks behind it afterwards: if there is a greater number, it was
//! overtaken.
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
