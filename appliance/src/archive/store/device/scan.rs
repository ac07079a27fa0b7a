//! Finds the extents of a device when it is opened: by their headers, each of which leads to the
//! next, and by a search where a header is lost.

use std::io;

use super::format::{BLOCK, COPIES, EXTENT_BLOCKS_MIN, Extent, bytes_of};
use super::{DeviceProblem, DeviceStore, READ_BYTES};
use crate::archive::store::Medium;

/// Blocks that are searched for a header at a time.
const SEARCH_BLOCKS: u64 = (READ_BYTES / BLOCK) as u64;

impl<M: Medium> DeviceStore<M> {
    /// Fills a buffer; returns whether the medium could read it. Unreadable blocks count as
    /// damaged.
    fn can_read(&self, block: u64, buffer: &mut [u8]) -> bool {
        self.medium.read_at(bytes_of(block), buffer).is_ok()
    }

    /// The valid copies of the header at `block`.
    fn read_copies(&self, block: u64) -> [Option<Extent>; COPIES as usize] {
        let mut copies = [const { None }; COPIES as usize];
        if block.saturating_add(EXTENT_BLOCKS_MIN) <= self.device_blocks {
            let mut bytes = [0; BLOCK];
            for (copy, number) in copies.iter_mut().zip(block..) {
                if self.can_read(number, &mut bytes) {
                    *copy = Extent::decode(&bytes, self.store, block, self.device_blocks);
                }
            }
        }
        copies
    }

    /// The header at `block`, and whether its copies have the same content. `None` when it is lost,
    /// or when the lost copy may have named an object.
    fn read_header(&self, block: u64) -> Option<(Extent, bool)> {
        match self.read_copies(block) {
            [Some(one), Some(other)] => {
                let same = (one.len_blocks, &one.content, one.paired)
                    == (other.len_blocks, &other.content, other.paired);
                Some((if one.generation > other.generation { one } else { other }, same))
            }
            [Some(one), None] | [None, Some(one)] => {
                (one.paired || one.content.is_some()).then_some((one, false))
            }
            [None, None] => None,
        }
    }

    /// The first block from `from` on where a header begins. One pass over the range in large
    /// reads.
    fn find_header(&self, from: u64) -> u64 {
        let mut bytes = vec![0; READ_BYTES];
        let mut base = from;
        while base < self.device_blocks {
            let len = SEARCH_BLOCKS.min(self.device_blocks.saturating_sub(base));
            bytes.truncate(bytes_of(len) as usize);
            let chunk = &mut bytes[..];
            if !self.can_read(base, chunk) {
                for (number, block) in (base..).zip(chunk.chunks_exact_mut(BLOCK)) {
                    if !self.can_read(number, block) {
                        block.fill(0);
                    }
                }
            }
            for (number, block) in (base..).zip(chunk.chunks_exact(BLOCK)) {
                // A first copy, or a second one whose first copy is lost.
                for begin in [number.saturating_sub(1), number] {
                    let is_header = Extent::decode(block, self.store, begin, self.device_blocks).is_some();
                    if begin >= from && is_header && self.read_header(begin).is_some() {
                        return begin;
                    }
                }
            }
            base = base.saturating_add(len);
        }
        self.device_blocks
    }

    /// Builds the directory, writes each header found to both copies, and merges the free extents
    /// that a crash left unmerged.
    pub(super) fn scan(&self) -> io::Result<()> {
        let mut table = self.table();
        let mut block = COPIES;
        let mut halves = Vec::new();
        while block < self.device_blocks {
            let Some((extent, same)) = self.read_header(block) else {
                let next = self.find_header(block.saturating_add(1));
                table.problems.push(DeviceProblem { block, len_blocks: next.saturating_sub(block) });
                block = next;
                continue;
            };
            block = extent.end();
            if let Some(content) = &extent.content {
                // A name is committed only once; after damage the first extent found is used.
                table.objects.entry(content.name.clone()).or_insert(extent.block);
            }
            if !same {
                halves.push(extent.block);
            }
            table.extents.insert(extent.block, extent);
        }
        for block in halves {
            let Some(mut extent) = table.extents.get(&block).cloned() else { continue };
            // The newer copy is not touched until the other one is stable.
            extent.generation = extent.next_generation();
            self.write_copy(&extent)?;
            table.extents.insert(block, extent);
        }
        // Changes of an earlier process are visible from here on, so they must be stable.
        self.medium.flush()?;
        let free: Vec<u64> =
            table.extents.values().filter(|e| e.content.is_none()).map(|e| e.block).collect();
        for block in free {
            self.merge_behind(&mut table, block)?;
        }
        Ok(())
    }
}
