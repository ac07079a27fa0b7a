//! The archive: where the past of the log lives.
//!
//! [`object`] is the format of one archived segment, or of an increment of one; [`store`] is what
//! objects are kept in, one trait and several kinds; [`service`] is what the pool's reactor talks
//! to, and the threads behind it; [`retention`] decides what is kept; [`owner`] says whose an
//! archive is; [`catalog`] is a local cache of what the store holds. Nothing here touches the
//! running log: the caller hands over descriptors and the trailer's units, and gets blocks and
//! units back.
//!
//! ```text
//! ObjectWriter --bytes--> Sink: a store's Put --commit--> object, whole or not at all
//! ObjectReader <--ranges-- RangedRead: an object in a store
//! ```

pub mod catalog;
pub mod object;
pub mod owner;
pub mod retention;
pub mod service;
pub mod store;
