//! Stores, reads and deletes the objects of anchors, on the calling thread.
//!
//! An anchor is only an accelerator, so nothing here is tried twice: the pool gives up an anchor
//! that cannot be stored, and makes another one later; it opens a point without one that cannot be
//! read.

use super::delete::delete_names;
use super::failure;
use super::worker::{VerifyPolicy, WorkerOptions};
use super::{AnchorContent, AnchorJob, AnchorPiece, AnchorRead, ArchiveError, StoredAnchor};
use crate::archive::anchor::{AnchorHead, AnchorId, AnchorName, Leaves};
use crate::archive::store::{InvalidName, Name, Store, StoreErrorKind, read_front};

/// Stores an object of an anchor and verifies it. One that has the name already is replaced: an
/// earlier try, which was given up, has left it.
///
/// # Errors
/// [`ArchiveError`]; the object may be in the store.
pub fn store_anchor(
    job: &AnchorJob,
    store: &dyn Store,
    options: &WorkerOptions,
) -> Result<StoredAnchor, ArchiveError> {
    let (name, bytes) = match &job.piece {
        AnchorPiece::Part(number, leaves) => {
            let bytes = leaves.encode(&job.id, *number);
            (job.id.part_name(*number), bytes.map_err(|error| failure::refused(store, error.to_string()))?)
        }
        AnchorPiece::Head(head) => (job.id.head_name(head.parts.len() as u32), head.encode(&job.id)),
    };
    let name = named(store, name)?;
    let put = || {
        options.stop.check(store, "put", &name)?;
        store.put(&name, bytes.len() as u64, &mut &bytes[..])
    };
    match put() {
        Ok(_) => {}
        Err(error) if error.kind == StoreErrorKind::Exists => {
            delete_names(store, std::slice::from_ref(&name), options)?;
            put().map_err(failure::of_store)?;
        }
        Err(error) => return Err(failure::of_store(error)),
    }
    verify(store, &name, &bytes, options)?;
    Ok(StoredAnchor { bytes: bytes.len() as u32, digest: *blake3::hash(&bytes).as_bytes() })
}

/// Whether the store has what was put.
fn verify(store: &dyn Store, name: &Name, bytes: &[u8], options: &WorkerOptions) -> Result<(), ArchiveError> {
    options.stop.check(store, "get", name).map_err(failure::of_store)?;
    let is_there = if options.verify == VerifyPolicy::Stat {
        store.stat(name).map_err(failure::of_store)?.len_bytes == bytes.len() as u64
    } else {
        read_front(store, name, bytes.len() + 1).map_err(failure::of_store)? == bytes
    };
    if is_there {
        return Ok(());
    }
    Err(failure::damaged(store, name, "it is not what was put".to_owned()))
}

/// Reads an object of an anchor.
///
/// # Errors
/// As [`read_anchor_head`] and [`read_anchor_part`].
pub(super) fn read_anchor(
    store: &dyn Store,
    id: &AnchorId,
    read: AnchorRead,
    options: &WorkerOptions,
) -> Result<AnchorContent, ArchiveError> {
    match read {
        AnchorRead::Head(parts) => read_anchor_head(store, id, parts, options).map(AnchorContent::Head),
        AnchorRead::Part(number, listed) => {
            read_anchor_part(store, id, number, &listed, options).map(AnchorContent::Leaves)
        }
    }
}

/// Reads the head of an anchor with so many parts.
///
/// # Errors
/// [`ArchiveError::Damaged`], also for the object of another anchor; [`ArchiveError::Store`].
pub fn read_anchor_head(
    store: &dyn Store,
    id: &AnchorId,
    parts: u32,
    options: &WorkerOptions,
) -> Result<AnchorHead, ArchiveError> {
    let name = named(store, id.head_name(parts))?;
    options.stop.check(store, "get", &name).map_err(failure::of_store)?;
    let bytes = read_front(store, &name, AnchorHead::bytes_of(parts) + 1).map_err(failure::of_store)?;
    let head = AnchorHead::decode(id, &bytes);
    let head = head.map_err(|damage| failure::damaged(store, &name, damage.to_string()))?;
    if head.parts.len() != parts as usize {
        return Err(failure::damaged(store, &name, "its count of parts is wrong".to_owned()));
    }
    Ok(head)
}

/// Reads a part of an anchor. It has the bytes and the digest that the head lists: it is not the
/// one of an earlier try.
///
/// # Errors
/// As [`read_anchor_head`].
pub fn read_anchor_part(
    store: &dyn Store,
    id: &AnchorId,
    number: u32,
    listed: &StoredAnchor,
    options: &WorkerOptions,
) -> Result<Leaves, ArchiveError> {
    let name = named(store, id.part_name(number))?;
    options.stop.check(store, "get", &name).map_err(failure::of_store)?;
    let mut buffer = vec![0; listed.bytes as usize];
    store.get_range(&name, 0, &mut buffer).map_err(failure::of_store)?;
    if *blake3::hash(&buffer).as_bytes() != listed.digest {
        let reason = "its digest is not the one that its head lists".to_owned();
        return Err(failure::damaged(store, &name, reason));
    }
    let leaves = Leaves::decode(id, number, &buffer);
    leaves.map_err(|damage| failure::damaged(store, &name, damage.to_string()))
}

/// Deletes objects of anchors, in this order; returns how many existed.
///
/// # Errors
/// [`ArchiveError::Store`]: the first failure.
pub fn delete_anchors(
    store: &dyn Store,
    names: &[AnchorName],
    options: &WorkerOptions,
) -> Result<u64, ArchiveError> {
    let names = names.iter().map(|name| named(store, name.name())).collect::<Result<Vec<_>, _>>()?;
    delete_names(store, &names, options)
}

fn named(store: &dyn Store, name: Result<Name, InvalidName>) -> Result<Name, ArchiveError> {
    name.map_err(|error| failure::refused(store, error.to_string()))
}
