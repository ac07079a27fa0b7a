//! Stores, which hold the archived objects: one trait, several kinds, and one conformance suite
//! that all of them pass.
//!
//! The rules of every kind:
//! - an object is visible whole or not at all: it appears with [`Put::commit`]. A put that is
//!   dropped, or that a crash cuts off, leaves nothing visible, and no space in use after the next
//!   start;
//! - an object is never overwritten and never changes; after a delete its name is free again;
//! - when `commit` has returned, the object survives a power loss; the same holds for `delete`;
//! - lists are in the order of the names' bytes, in pages of a bounded size, and contain every
//!   object that existed from the beginning of the list to its end;
//! - calls block; a store may be used from several threads at once.
//!
//! Every failure is a [`StoreError`]: its kind determines the reaction, its context says where it
//! happened.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod away;
mod check;
mod device;
mod directory;
mod error;
pub mod faulty;
mod medium;
mod name;
mod probe;
mod s3;
pub mod tape;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;

use std::io::Read;

use super::object::RangedRead;

pub use away::AwayStore;
pub use check::Check;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use device::fuzz as fuzz_device;
pub use device::{DeviceProblem, DeviceStore};
pub use directory::{DirectoryOptions, DirectoryStore};
pub use error::{LockEnd, Reason, StoreError, StoreErrorKind};
pub use medium::{FileMedium, Medium};
pub use name::{InvalidName, NAME_BYTES_MAX, Name};
pub use probe::{CheckOutcome, ProbeReport, probe};
pub use s3::{S3Config, S3Store, Secret};

/// The most objects of one page of a list.
pub const PAGE_OBJECTS_MAX: usize = 100_000;

/// The receiver of an object's bytes.
pub trait Sink {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// The store's.
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
}

impl Sink for Vec<u8> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.extend_from_slice(bytes);
        Ok(())
    }
}

/// An object that is being put. Dropped without a commit, it leaves nothing.
pub trait Put: Sink {
    /// Makes the object stable and visible.
    ///
    /// # Errors
    /// `Exists` when another put of the name was faster, or the store's; the object then does not
    /// exist.
    fn commit(self: Box<Self>) -> Result<ObjectStat, StoreError>;
}

/// The name and the size of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStat {
    /// Its name.
    pub name: Name,
    /// Its size in bytes.
    pub len_bytes: u64,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The objects, in the order of their names.
    pub objects: Vec<ObjectStat>,
    /// Whether more objects follow after the last one.
    pub more: bool,
}

/// The space of a store, in bytes. Values that a kind cannot determine are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The total.
    pub total_bytes: Option<u64>,
    /// Used by objects and their metadata.
    pub used_bytes: u64,
}

/// What a store can do. Its kind declares it; [`probe()`] checks whether it is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The kind: `directory`, `device`, `tape`, `s3`.
    pub kind: &'static str,
    /// Ranges can be read without reading what precedes them.
    pub random_access: bool,
    /// Of two puts of one name exactly one is committed, whichever processes make them.
    pub conditional_put: bool,
    /// A commit is a rename in a file system.
    pub rename: bool,
    /// Objects can be written only one at a time.
    pub sequential_only: bool,
    /// A delete frees the object's space.
    pub reclaims_space: bool,
    /// The largest object that can be put, in bytes, if there is such a bound.
    pub object_bytes_max: Option<u64>,
}

/// A store of objects. See the module's documentation for the rules.
pub trait Store: Send + Sync {
    /// A label for messages: the kind and the place.
    fn label(&self) -> &str;

    /// What the store can do.
    fn capabilities(&self) -> Capabilities;

    /// Begins an object of at most `max_bytes`; space is reserved if the kind can do that.
    ///
    /// # Errors
    /// `Exists`, `NoSpace`, `Unavailable` (a sequential store has another put open), or the kind's.
    fn put_start<'a>(&'a self, name: &Name, max_bytes: u64) -> Result<Box<dyn Put + 'a>, StoreError>;

    /// Puts everything that `source` returns, at most `max_bytes`.
    ///
    /// # Errors
    /// Those of [`put_start`](Self::put_start) and [`Put::commit`]; `Unavailable` when `source`
    /// fails.
    fn put(&self, name: &Name, max_bytes: u64, source: &mut dyn Read) -> Result<ObjectStat, StoreError> {
        let mut put = self.put_start(name, max_bytes)?;
        let mut buffer = vec![0; COPY_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return put.commit(),
                Ok(len) => put.write(buffer.get(..len).unwrap_or_default())?,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(StoreError::io(self.label(), "put (its source)", &error).of(name)),
            }
        }
    }

    /// The name and the size of an object.
    ///
    /// # Errors
    /// `NotFound`, or the kind's.
    fn stat(&self, name: &Name) -> Result<ObjectStat, StoreError>;

    /// Fills the whole `buffer` with the object's bytes from `offset` on, or returns an error. An
    /// empty buffer may begin at the object's end.
    ///
    /// # Errors
    /// `NotFound`, `OutOfRange`, `Corrupt`, or the kind's.
    fn get_range(&self, name: &Name, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError>;

    /// Passes the whole object to `sink`, with every check that the kind has; returns its size in
    /// bytes.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, the sink's, or the kind's.
    fn get(&self, name: &Name, sink: &mut dyn Sink) -> Result<u64, StoreError> {
        let len_bytes = self.stat(name)?.len_bytes;
        in_pieces(len_bytes, COPY_BYTES, |offset, piece| {
            self.get_range(name, offset, piece)?;
            sink.write(piece)
        })?;
        Ok(len_bytes)
    }

    /// The first `limit` objects (at most [`PAGE_OBJECTS_MAX`]) whose names begin with `prefix` and
    /// come after `after`, in order.
    ///
    /// # Errors
    /// The kind's.
    fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Page, StoreError>;

    /// Returns when an existing object is stable with its bytes, its name, and every directory
    /// above it, even if it was put by a process that died before its commit returned. A caller
    /// that accepts an object that it finds calls this before it relies on the object.
    ///
    /// # Errors
    /// `NotFound`, or the kind's.
    fn make_durable(&self, name: &Name) -> Result<(), StoreError> {
        self.stat(name)?;
        self.sync()
    }

    /// Announces that objects are about to be deleted, for stores where a delete requires ownership
    /// (see [`owner`](super::owner)). The call is optional; it saves one step for each delete.
    ///
    /// # Errors
    /// `Overtaken`, or the kind's.
    fn announce_deletes(&self, _names: &[Name]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Keeps an object that holds `bytes` where it can be read whatever part of the store is away.
    /// It replaces the earlier one of the same folder. May be repeated after an error.
    ///
    /// # Errors
    /// The kind's.
    fn keep_at_hand(&self, _name: &Name, _bytes: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    /// Deletes an object. If it is already gone, the error is `NotFound`, and the earlier delete is
    /// then stable; a caller that only wants it gone can treat this as success.
    ///
    /// # Errors
    /// `NotFound`, or the kind's.
    fn delete(&self, name: &Name) -> Result<(), StoreError>;

    /// Returns when everything that was committed is stable. Commits are stable by themselves; this
    /// is for a store's own records.
    ///
    /// # Errors
    /// The kind's.
    fn sync(&self) -> Result<(), StoreError>;

    /// Reports that a check of the probe found a false promise. A kind that has a slower way
    /// without that promise uses it from now on, and no longer declares the capability.
    fn distrust(&self, _check: Check) {}

    /// The space of the store.
    ///
    /// # Errors
    /// The kind's.
    fn space(&self) -> Result<Space, StoreError>;
}

/// The first `bytes_max` bytes of an object, or all of it: for small objects, which a hostile store
/// may have made large.
///
/// # Errors
/// The store's.
pub fn read_front(store: &dyn Store, name: &Name, bytes_max: usize) -> Result<Vec<u8>, StoreError> {
    struct Front(Vec<u8>, usize);
    impl Sink for Front {
        fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
            let room = self.1.saturating_sub(self.0.len());
            self.0.extend(bytes.iter().take(room));
            Ok(())
        }
    }
    let mut front = Front(Vec::new(), bytes_max);
    store.get(name, &mut front)?;
    Ok(front.0)
}

/// Bytes that are copied at a time.
const COPY_BYTES: usize = 256 << 10;

/// An object in a store, for an [`ObjectReader`](super::object::ObjectReader).
pub struct StoredObject<'a> {
    store: &'a dyn Store,
    stat: ObjectStat,
}

impl<'a> StoredObject<'a> {
    /// Looks up an object.
    ///
    /// # Errors
    /// `NotFound`, or the store's.
    pub fn open(store: &'a dyn Store, name: &Name) -> Result<Self, StoreError> {
        Ok(StoredObject { store, stat: store.stat(name)? })
    }

    /// An object whose length is known; makes no call to the store.
    pub fn known(store: &'a dyn Store, stat: ObjectStat) -> Self {
        StoredObject { store, stat }
    }
}

impl RangedRead for StoredObject<'_> {
    fn len_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.stat.len_bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.store.get_range(&self.stat.name, offset, buffer)
    }
}

/// Checks a range against an object's length.
fn check_range(stat: &ObjectStat, label: &str, offset: u64, len: usize) -> Result<(), StoreError> {
    match offset.checked_add(len as u64) {
        Some(end) if end <= stat.len_bytes => Ok(()),
        _ => Err(StoreError::out_of_range(label, "get").of(&stat.name)),
    }
}

/// Passes `len_bytes` in pieces of at most `piece_bytes`: `piece` gets the offset of each and a
/// buffer to fill.
fn in_pieces<E>(
    len_bytes: u64,
    piece_bytes: usize,
    mut piece: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut buffer = vec![0; len_bytes.min(piece_bytes as u64) as usize];
    let mut offset = 0;
    while let Some(left) = len_bytes.checked_sub(offset).filter(|&left| left > 0) {
        buffer.truncate(left.min(buffer.len() as u64) as usize);
        piece(offset, &mut buffer)?;
        offset = offset.saturating_add(buffer.len() as u64);
    }
    Ok(())
}

/// The length of an object after adding `more` bytes. A sum beyond a u64 saturates, so that it
/// exceeds every bound.
fn longer(len_bytes: u64, more: usize) -> u64 {
    len_bytes.saturating_add(more as u64)
}

/// Splits `bytes` into the part that fits into a block of `block_bytes` with `used` bytes in it,
/// and the rest.
fn split_for(bytes: &[u8], block_bytes: usize, used: usize) -> (&[u8], &[u8]) {
    bytes.split_at(bytes.len().min(block_bytes.saturating_sub(used)))
}

/// Takes one page from objects that are in order and already after the cursor.
fn page(objects: impl Iterator<Item = ObjectStat>, limit: usize) -> Page {
    let limit = limit.min(PAGE_OBJECTS_MAX);
    let mut objects: Vec<ObjectStat> = objects.take(limit.saturating_add(1)).collect();
    let more = objects.len() > limit;
    objects.truncate(limit);
    Page { objects, more }
}
