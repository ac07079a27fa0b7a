//! Writes an object to the device.

use super::super::{Medium, Name, ObjectStat, Put, Sink, StoreError, StoreErrorKind, longer, split_for};
use super::DeviceStore;
use super::format::{BLOCK, Content, Extent, blocks_for};

/// A put into a free extent that is reserved for it.
struct DevicePut<'a, M: Medium> {
    store: &'a DeviceStore<M>,
    name: Name,
    extent: Extent,
    max_bytes: u64,
    len_bytes: u64,
    // Bytes that do not fill a block yet.
    partial: Vec<u8>,
    digest: crc_fast::Digest,
}

impl<M: Medium> DeviceStore<M> {
    /// Begins a put into `extent`, which the caller has reserved.
    pub(super) fn put_into(&self, name: Name, extent: Extent, max_bytes: u64) -> Box<dyn Put + '_> {
        Box::new(DevicePut {
            store: self,
            name,
            extent,
            max_bytes,
            len_bytes: 0,
            partial: Vec::with_capacity(BLOCK),
            digest: crate::log::checksum::running(),
        })
    }
}

impl<M: Medium> DevicePut<'_, M> {
    /// The offset of the partial block.
    fn partial_offset(&self) -> u64 {
        let whole_bytes = self.len_bytes.saturating_sub(self.partial.len() as u64);
        self.extent.data_offset().saturating_add(whole_bytes)
    }
}

impl<M: Medium> Sink for DevicePut<'_, M> {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        if longer(self.len_bytes, bytes.len()) > self.max_bytes {
            return Err(self.store.error("put", StoreErrorKind::OutOfRange, &self.name));
        }
        self.digest.update(bytes);
        let failed = self.store.failed("put", &self.name);
        while !bytes.is_empty() {
            if self.partial.is_empty() && bytes.len() >= BLOCK {
                let (whole, rest) = bytes.as_chunks::<BLOCK>();
                let whole = whole.as_flattened();
                self.store.medium.write_at(self.partial_offset(), whole).map_err(&failed)?;
                self.len_bytes = longer(self.len_bytes, whole.len());
                bytes = rest;
                continue;
            }
            let (now, rest) = split_for(bytes, BLOCK, self.partial.len());
            self.partial.extend_from_slice(now);
            self.len_bytes = longer(self.len_bytes, now.len());
            bytes = rest;
            if self.partial.len() == BLOCK {
                self.store.medium.write_at(self.partial_offset(), &self.partial).map_err(&failed)?;
                self.partial.clear();
            }
        }
        Ok(())
    }
}

impl<M: Medium> Put for DevicePut<'_, M> {
    fn commit(mut self: Box<Self>) -> Result<ObjectStat, StoreError> {
        let failed = self.store.failed("put", &self.name);
        if !self.partial.is_empty() {
            let offset = self.partial_offset();
            self.partial.resize(BLOCK, 0);
            self.store.medium.write_at(offset, &self.partial).map_err(&failed)?;
        }
        self.store.medium.flush().map_err(&failed)?;
        let mut table = self.store.table();
        if table.objects.contains_key(&self.name) {
            drop(table);
            return Err(self.store.error("put", StoreErrorKind::Exists, &self.name));
        }
        let crc = self.digest.finalize() as u32;
        let content = Content { name: self.name.clone(), len_bytes: self.len_bytes, crc };
        let block = self.extent.block;
        let len_blocks = blocks_for(self.len_bytes).unwrap_or(self.extent.len_blocks);
        self.store.cut(&mut table, block, len_blocks, Some(content)).map_err(&failed)?;
        table.objects.insert(self.name.clone(), block);
        // The object is committed; if the rest cannot be merged now, the next open merges it.
        let rest = table.extents.get(&block).map(Extent::end);
        if let Some(rest) = rest {
            let _ = self.store.merge_behind(&mut table, rest);
        }
        Ok(ObjectStat { name: self.name.clone(), len_bytes: self.len_bytes })
    }
}

impl<M: Medium> Drop for DevicePut<'_, M> {
    fn drop(&mut self) {
        let mut table = self.store.table();
        table.reserved.remove(&self.extent.block);
        // If this fails, the next open merges it.
        let _ = self.store.merge_around(&mut table, self.extent.block);
    }
}
