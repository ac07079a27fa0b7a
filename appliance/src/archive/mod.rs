//! The archive: stores the history of the log in objects, and decides how long to keep it.
//!
//! [`object`] is the format of one archived segment, or of a part of one. [`store`] is where
//! objects are stored: one trait and several implementations. [`service`] is the interface for the
//! pool's reactor, and the threads that do the work. [`anchor`] is the format of stored indexes.
//! [`retention`] decides what is kept. [`owner`] records which appliance owns an archive.
//! [`catalog`] is a local cache of what the store holds. Nothing here touches the running log: the
//! caller passes descriptors and the trailer's units, and receives blocks and units.
//!
//! ```text
//! ObjectWriter --bytes--> Sink: a store's Put --commit--> object, whole or not at all
//! ObjectReader <--ranges-- RangedRead: an object in a store
//! ```

pub mod anchor;
pub mod catalog;
pub mod object;
pub mod owner;
pub mod retention;
pub mod service;
pub mod store;
