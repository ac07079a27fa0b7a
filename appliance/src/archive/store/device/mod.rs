//! The device store: objects one after another on a self-describing file or block device.
//!
//! ```text
//! | superblock | superblock | extent | extent | ... |
//! extent: | header | header | data ... |
//! ```
//!
//! Extents, free and used, cover the device without gaps, so each header leads to the next one. A
//! header has two copies. A change is written with a higher generation over the older copy, so that
//! a torn write leaves the previous state, and then over the other copy. A change that was reported
//! as done is in both copies, so losing one of them does no harm. Each change of the layout is the
//! change of one header, and everything that it makes visible was written and flushed before:
//! - *split*: the header of the second part is written inside the free extent, where it is not yet
//!   reachable, then the first part is shortened;
//! - *commit*: the data is written into a free extent, then its header is changed to used;
//! - *delete*: the header is changed to free (a tombstone in place);
//! - *merge*: the first header takes in the free extent after it; then both copies of that extent's
//!   header are wiped.
//!
//! Space is allocated first-fit, for the most bytes that a put announces; the unused part is free
//! again after the commit. Adjacent free extents are merged at once, so the next open finds them
//! merged. The directory is in memory: about 200 bytes for each object.
//!
//! If both copies of a header are damaged, the store searches for the next header block by block
//! and reports it ([`DeviceProblem`]): the objects after it are served, and the space in between is
//! not used. It does the same if one copy is damaged and the other one, of an older version,
//! declares the extent free: older versions changed only one copy, so the lost one may have named
//! an object. The headers that an open finds are written to both copies.

mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod put;
mod scan;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::{Mutex, MutexGuard};

use uuid::Uuid;

use super::error::Reason;
use super::{
    Capabilities, Medium, Name, ObjectStat, Page, Put, Sink, Space, Store, StoreError, StoreErrorKind,
    check_range,
};
use format::{
    BLOCK, COPIES, Content, EXTENT_BLOCKS_MIN, Extent, blocks_for, blocks_of, bytes_of, decode_super,
    encode_super,
};

/// A range of the device whose header is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceProblem {
    /// Its first block.
    pub block: u64,
    /// Its length in blocks, up to the next header found or the end of the device.
    pub len_blocks: u64,
}

/// Why no more changes are allowed.
#[derive(Debug, thiserror::Error)]
#[error("an earlier write of a header failed; open the store again")]
struct Broken;

/// A store on a medium. After a failed write of a header it is read-only until it is opened again.
pub struct DeviceStore<M: Medium> {
    label: String,
    medium: M,
    store: Uuid,
    device_blocks: u64,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    // By first block.
    extents: BTreeMap<u64, Extent>,
    // Used extents by name.
    objects: BTreeMap<Name, u64>,
    // Free extents that a put writes to, and used ones that are being read: not merged or reused.
    reserved: HashSet<u64>,
    readers: BTreeMap<u64, usize>,
    problems: Vec<DeviceProblem>,
    // A write of a header failed: the state of the medium is unknown, so nothing is changed before
    // the next open.
    broken: bool,
}

impl Table {
    fn is_mergeable(&self, block: u64) -> bool {
        self.extents.get(&block).is_some_and(|extent| extent.content.is_none())
            && !self.reserved.contains(&block)
            && !self.readers.contains_key(&block)
    }
}

impl<M: Medium> DeviceStore<M> {
    /// Writes an empty store with the identity `store` to the medium, whatever it held before.
    ///
    /// # Errors
    /// `Unsupported` when the medium is too small, or the medium's.
    pub fn format(medium: &M, label: &str, store: Uuid) -> Result<(), StoreError> {
        let failed = |error: io::Error| StoreError::io(label, "format", &error);
        let device_blocks = blocks_of(medium.len_bytes());
        if device_blocks < COPIES + EXTENT_BLOCKS_MIN {
            let kind = StoreErrorKind::Unsupported("the device is too small");
            return Err(StoreError::new(label, "format", kind));
        }
        // The superblocks are written last: an interrupted format leaves no store, rather than a
        // wrong one.
        for copy in 0..COPIES {
            medium.write_at(bytes_of(copy), &[0; BLOCK]).map_err(failed)?;
        }
        medium.flush().map_err(failed)?;
        let extent = Extent::free(COPIES, device_blocks.saturating_sub(COPIES), 1);
        for copy in 0..COPIES {
            medium.write_at(extent.copy_offset(copy), &extent.encode(store)).map_err(failed)?;
        }
        medium.flush().map_err(failed)?;
        for copy in 0..COPIES {
            medium.write_at(bytes_of(copy), &encode_super(store, device_blocks)).map_err(failed)?;
        }
        medium.flush().map_err(failed)
    }

    /// Opens a store; `label` is for messages.
    ///
    /// # Errors
    /// `NotFound` when there is no store, `Corrupt` when the medium is smaller than it was, or the
    /// medium's.
    pub fn open(medium: M, label: &str) -> Result<Self, StoreError> {
        let failed = |error: io::Error| StoreError::io(label, "open", &error);
        let mut block = vec![0; BLOCK];
        let (mut found, mut unread) = (None, None);
        for copy in 0..COPIES {
            if blocks_of(medium.len_bytes()) > copy {
                match medium.read_at(bytes_of(copy), &mut block) {
                    Ok(()) => found = found.or_else(|| decode_super(&block)),
                    // The other copy may suffice.
                    Err(error) => unread = Some(error),
                }
            }
        }
        if let (None, Some(error)) = (found, unread) {
            return Err(failed(error));
        }
        let (store, device_blocks) =
            found.ok_or_else(|| StoreError::new(label, "open", StoreErrorKind::NotFound))?;
        if device_blocks > blocks_of(medium.len_bytes()) {
            return Err(StoreError::new(
                label,
                "open",
                StoreErrorKind::Corrupt("the device is smaller than it was"),
            ));
        }
        let store =
            DeviceStore { label: label.to_owned(), medium, store, device_blocks, table: Mutex::default() };
        store.scan().map_err(|error| StoreError::io(label, "open", &error))?;
        Ok(store)
    }

    /// The damage that the open found.
    pub fn problems(&self) -> Vec<DeviceProblem> {
        self.table().problems.clone()
    }

    /// The store's identity.
    pub fn id(&self) -> Uuid {
        self.store
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn error(&self, operation: &'static str, kind: StoreErrorKind, name: &Name) -> StoreError {
        StoreError::new(&self.label, operation, kind).of(name)
    }

    fn failed(&self, operation: &'static str, name: &Name) -> impl Fn(io::Error) -> StoreError {
        move |error| StoreError::io(&self.label, operation, &error).of(name)
    }

    /// Writes the copy of a header that its generation selects.
    fn write_copy(&self, extent: &Extent) -> io::Result<()> {
        let copy = extent.generation % COPIES;
        self.medium.write_at(extent.copy_offset(copy), &extent.encode(self.store))
    }

    /// Changes a header on the medium, its older copy first. Everything that it depends on must
    /// have been flushed.
    fn change(&self, table: &mut Table, extent: &mut Extent) -> io::Result<()> {
        if table.broken {
            return Err(io::Error::other(Broken));
        }
        extent.paired = true;
        let changed = self.write_copy(extent).and_then(|()| self.medium.flush()).and_then(|()| {
            extent.generation = extent.next_generation();
            self.write_copy(extent)?;
            self.medium.flush()
        });
        table.broken = changed.is_err();
        changed
    }

    /// Writes both copies of a header at a place that is not reachable yet.
    fn lay(&self, extent: &Extent) -> io::Result<()> {
        for copy in 0..COPIES {
            self.medium.write_at(extent.copy_offset(copy), &extent.encode(self.store))?;
        }
        self.medium.flush()
    }

    /// Splits a free extent after `len_blocks` if the rest is large enough for an extent. The same
    /// header change gives the first part its `content`.
    fn cut(
        &self,
        table: &mut Table,
        block: u64,
        len_blocks: u64,
        content: Option<Content>,
    ) -> io::Result<()> {
        let Some(old) = table.extents.get(&block).cloned() else { return Ok(()) };
        let rest_blocks = old.len_blocks.saturating_sub(len_blocks);
        let rest = (rest_blocks >= EXTENT_BLOCKS_MIN)
            .then(|| Extent::free(block.saturating_add(len_blocks), rest_blocks, old.next_generation()));
        let mut first = Extent {
            block,
            len_blocks: if rest.is_some() { len_blocks } else { old.len_blocks },
            generation: old.next_generation(),
            content,
            paired: true,
        };
        if rest.is_none() && first.content.is_none() {
            return Ok(());
        }
        if let Some(rest) = &rest {
            self.lay(rest)?;
        }
        self.change(table, &mut first)?;
        table.extents.insert(block, first);
        if let Some(rest) = rest {
            table.extents.insert(rest.block, rest);
        }
        Ok(())
    }

    /// Merges the free extent at `block` with the free ones after it.
    fn merge_behind(&self, table: &mut Table, block: u64) -> io::Result<()> {
        while table.is_mergeable(block) {
            let Some(first) = table.extents.get(&block).cloned() else { return Ok(()) };
            let next_block = first.end();
            if !table.is_mergeable(next_block) {
                return Ok(());
            }
            let Some(next) = table.extents.get(&next_block) else { return Ok(()) };
            let mut merged = Extent {
                len_blocks: first.len_blocks.saturating_add(next.len_blocks),
                generation: first.next_generation(),
                ..first
            };
            self.change(table, &mut merged)?;
            table.extents.insert(block, merged);
            table.extents.remove(&next_block);
            // So that a search after damage does not find it again. It has no other use, so no
            // flush is needed.
            self.medium.write_at(bytes_of(next_block), &[0; COPIES as usize * BLOCK])?;
        }
        Ok(())
    }

    /// Merges an extent that has become free with its free neighbours.
    fn merge_around(&self, table: &mut Table, block: u64) -> io::Result<()> {
        self.merge_behind(table, block)?;
        let before = table.extents.range(..block).next_back().map(|(&before, extent)| (before, extent.end()));
        match before {
            Some((before, end)) if end == block => self.merge_behind(table, before),
            _ => Ok(()),
        }
    }

    /// Looks up an object, and prevents its extent from being reused while it is read.
    fn pin(&self, operation: &'static str, name: &Name) -> Result<Pinned<'_, M>, StoreError> {
        let mut table = self.table();
        let found = table.objects.get(name).and_then(|block| table.extents.get(block)).cloned();
        let (extent, content) = found
            .and_then(|extent| extent.content.clone().map(|content| (extent, content)))
            .ok_or_else(|| self.error(operation, StoreErrorKind::NotFound, name))?;
        let readers = table.readers.entry(extent.block).or_default();
        *readers = readers.saturating_add(1);
        Ok(Pinned { store: self, extent, content })
    }

    /// Reads bytes of an extent's data.
    fn read_data(&self, extent: &Extent, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut position = extent.data_offset().saturating_add(offset);
        let mut rest = buffer;
        let mut aligned = Vec::new();
        while !rest.is_empty() {
            let start = bytes_of(blocks_of(position));
            let within = position.saturating_sub(start) as usize;
            let now = rest.len().min(READ_BYTES.saturating_sub(within));
            let end = within.saturating_add(now);
            aligned.resize(end.div_ceil(BLOCK).saturating_mul(BLOCK), 0);
            self.medium.read_at(start, &mut aligned)?;
            let (head, tail) = rest.split_at_mut(now);
            head.copy_from_slice(aligned.get(within..end).unwrap_or_default());
            position = position.saturating_add(now as u64);
            rest = tail;
        }
        Ok(())
    }
}

/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;

/// A used extent that is being read.
struct Pinned<'a, M: Medium> {
    store: &'a DeviceStore<M>,
    extent: Extent,
    content: Content,
}

impl<M: Medium> Drop for Pinned<'_, M> {
    fn drop(&mut self) {
        let mut table = self.store.table();
        if let Some(count) = table.readers.get_mut(&self.extent.block) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                table.readers.remove(&self.extent.block);
            }
        }
    }
}

impl<M: Medium> Store for DeviceStore<M> {
    fn label(&self) -> &str {
        &self.label
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: "device",
            random_access: true,
            conditional_put: true,
            rename: false,
            sequential_only: false,
            reclaims_space: true,
            object_bytes_max: Some(bytes_of(self.device_blocks.saturating_sub(2 * COPIES))),
        }
    }

    fn put_start<'a>(&'a self, name: &Name, max_bytes: u64) -> Result<Box<dyn Put + 'a>, StoreError> {
        let mut table = self.table();
        if table.objects.contains_key(name) {
            return Err(self.error("put", StoreErrorKind::Exists, name));
        }
        let fitting = blocks_for(max_bytes).and_then(|wanted| {
            table
                .extents
                .values()
                .find(|extent| {
                    extent.content.is_none()
                        && extent.len_blocks >= wanted
                        && table.is_mergeable(extent.block)
                })
                .map(|extent| (wanted, extent.block))
        });
        let Some((wanted, block)) = fitting else {
            return Err(self.error("put", StoreErrorKind::NoSpace, name));
        };
        self.cut(&mut table, block, wanted, None).map_err(self.failed("put", name))?;
        let Some(extent) = table.extents.get(&block).cloned() else {
            return Err(self.error(
                "put",
                StoreErrorKind::Unavailable(Reason::Busy("space was taken")),
                name,
            ));
        };
        table.reserved.insert(block);
        Ok(self.put_into(name.clone(), extent, max_bytes))
    }

    fn stat(&self, name: &Name) -> Result<ObjectStat, StoreError> {
        let pinned = self.pin("stat", name)?;
        Ok(ObjectStat { name: name.clone(), len_bytes: pinned.content.len_bytes })
    }

    fn get_range(&self, name: &Name, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let pinned = self.pin("get", name)?;
        let stat = ObjectStat { name: name.clone(), len_bytes: pinned.content.len_bytes };
        check_range(&stat, &self.label, offset, buffer.len())?;
        self.read_data(&pinned.extent, offset, buffer).map_err(self.failed("get", name))
    }

    fn get(&self, name: &Name, sink: &mut dyn Sink) -> Result<u64, StoreError> {
        let pinned = self.pin("get", name)?;
        let len_bytes = pinned.content.len_bytes;
        let mut digest = crate::log::checksum::running();
        super::in_pieces(len_bytes, READ_BYTES, |offset, piece| {
            self.read_data(&pinned.extent, offset, piece).map_err(self.failed("get", name))?;
            digest.update(piece);
            sink.write(piece)
        })?;
        if digest.finalize() as u32 != pinned.content.crc {
            return Err(self.error("get", StoreErrorKind::Corrupt("checksum mismatch"), name));
        }
        Ok(len_bytes)
    }

    fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Page, StoreError> {
        use std::ops::Bound;
        let table = self.table();
        let prefix_bound = Bound::Included(prefix);
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => prefix_bound,
        };
        let objects = table
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .filter_map(|(name, block)| {
                let len_bytes = table.extents.get(block)?.content.as_ref()?.len_bytes;
                Some(ObjectStat { name: name.clone(), len_bytes })
            });
        Ok(super::page(objects, limit))
    }

    fn make_durable(&self, name: &Name) -> Result<(), StoreError> {
        // The open has rewritten every header that an earlier process wrote to one copy only.
        let _pinned = self.pin("sync", name)?;
        self.medium.flush().map_err(self.failed("sync", name))
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let mut table = self.table();
        let extent = table.objects.get(name).and_then(|block| table.extents.get(block)).cloned();
        let Some(extent) = extent else {
            return Err(self.error("delete", StoreErrorKind::NotFound, name));
        };
        let mut free = Extent { content: None, generation: extent.next_generation(), ..extent };
        let block = free.block;
        self.change(&mut table, &mut free).map_err(self.failed("delete", name))?;
        table.extents.insert(block, free);
        table.objects.remove(name);
        // While it is being read, the extent is not merged; the next delete next to it, or the next
        // open, merges it.
        let _ = self.merge_around(&mut table, block);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.medium.flush().map_err(|error| StoreError::io(&self.label, "sync", &error))
    }

    fn space(&self) -> Result<Space, StoreError> {
        let table = self.table();
        let free_blocks: u64 = table
            .extents
            .values()
            .filter(|extent| extent.content.is_none() && !table.reserved.contains(&extent.block))
            .map(|extent| extent.len_blocks)
            .sum();
        Ok(Space {
            total_bytes: Some(bytes_of(self.device_blocks)),
            used_bytes: bytes_of(self.device_blocks.saturating_sub(free_blocks)),
        })
    }
}
