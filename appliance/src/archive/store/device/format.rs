//! The structures on the device: superblock and extent headers.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::{NAME_BYTES_MAX, Name};
use crate::log::frame::{Framed, framed};

/// The unit of every position and size on the device.
pub(super) const BLOCK: usize = 4096;
/// The same as a `u64`.
const BLOCK_LEN: u64 = BLOCK as u64;
/// The number of copies of the superblock and of each extent header.
pub(super) const COPIES: u64 = 2;
/// The smallest extent: two headers and one block.
pub(super) const EXTENT_BLOCKS_MIN: u64 = COPIES + 1;

const VERSION: u32 = 1;
const SUPER_MAGIC: [u8; 8] = *b"VARVE-DS";
const EXTENT_MAGIC: [u8; 8] = *b"VARVE-DX";
const FREE: u32 = 1;
const USED: u32 = 2;

/// Layout, in bytes, the same in blocks 0 and 1:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-DS` |
/// | 8 | 4 | format version |
/// | 12 | 4 | zero |
/// | 16 | 16 | UUID of the store |
/// | 32 | 8 | size in blocks |
/// | 40 | 4052 | zero |
/// | 4092 | 4 | CRC32C of bytes 0 to 4091 |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawSuper {
    magic: [u8; 8],
    version: U32,
    zero: U32,
    store: [u8; 16],
    len_blocks: U64,
    rest: [u8; 4052],
    crc: U32,
}

/// Layout, in bytes; two copies in the first two blocks of an extent, the one with the higher
/// generation holds:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-DX` |
/// | 8 | 4 | format version |
/// | 12 | 4 | state: 1 free, 2 used |
/// | 16 | 16 | UUID of the store |
/// | 32 | 8 | block of the extent: where this header's first copy is |
/// | 40 | 8 | length of the extent in blocks, headers included |
/// | 48 | 8 | generation |
/// | 56 | 8 | bytes of the object |
/// | 64 | 4 | CRC32C of the object |
/// | 68 | 2 | bytes of the name |
/// | 70 | 200 | name |
/// | 270 | 1 | 1 when a change is done only once both copies say it (older versions: 0) |
/// | 271 | 3821 | zero |
/// | 4092 | 4 | CRC32C of bytes 0 to 4091 |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawExtent {
    magic: [u8; 8],
    version: U32,
    state: U32,
    store: [u8; 16],
    block: U64,
    len_blocks: U64,
    generation: U64,
    len_bytes: U64,
    crc_data: U32,
    name_bytes: U16,
    name: [u8; NAME_BYTES_MAX],
    paired: u8,
    rest: [u8; 3821],
    crc: U32,
}

const _: () = assert!(size_of::<RawSuper>() == BLOCK);
const _: () = assert!(size_of::<RawExtent>() == BLOCK);

framed!(RawSuper, SUPER_MAGIC, VERSION..=VERSION, owner: store);
framed!(RawExtent, EXTENT_MAGIC, VERSION..=VERSION, owner: store);

/// The object in an extent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Content {
    pub name: Name,
    pub len_bytes: u64,
    pub crc: u32,
}

/// An extent header, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Extent {
    /// Its first block.
    pub block: u64,
    /// Its length in blocks, headers included.
    pub len_blocks: u64,
    /// Increases with each change of the header.
    pub generation: u64,
    /// The object; `None` when it is free.
    pub content: Option<Content>,
    /// The other copy has the same content, or the change was never reported as done.
    pub paired: bool,
}

/// Encodes the superblock.
pub(super) fn encode_super(store: Uuid, len_blocks: u64) -> [u8; BLOCK] {
    let raw = RawSuper {
        magic: SUPER_MAGIC,
        version: VERSION.into(),
        zero: 0.into(),
        store: *store.as_bytes(),
        len_blocks: len_blocks.into(),
        rest: [0; 4052],
        crc: 0.into(),
    };
    zerocopy::transmute!(raw.sealed())
}

/// The store and the size in a superblock; `None` when it is none, or of another version.
pub(super) fn decode_super(block: &[u8]) -> Option<(Uuid, u64)> {
    let raw = RawSuper::view(block).ok()?;
    Some((Uuid::from_bytes(raw.store), raw.len_blocks.get()))
}

impl Extent {
    /// A free extent.
    pub(super) fn free(block: u64, len_blocks: u64, generation: u64) -> Self {
        Extent { block, len_blocks, generation, content: None, paired: true }
    }

    /// The block after it.
    pub(super) fn end(&self) -> u64 {
        self.block.saturating_add(self.len_blocks)
    }

    /// The offset of a copy of its header, in bytes.
    pub(super) fn copy_offset(&self, copy: u64) -> u64 {
        bytes_of(self.block.saturating_add(copy))
    }

    /// The generation of its next header. No header is rewritten 2^64 times.
    pub(super) fn next_generation(&self) -> u64 {
        self.generation.saturating_add(1)
    }

    /// The offset of its data, in bytes.
    pub(super) fn data_offset(&self) -> u64 {
        bytes_of(self.block.saturating_add(COPIES))
    }

    /// The number of bytes that it can hold.
    pub(super) fn room_bytes(&self) -> u64 {
        bytes_of(self.len_blocks.saturating_sub(COPIES))
    }

    /// Encodes the header.
    pub(super) fn encode(&self, store: Uuid) -> [u8; BLOCK] {
        let (name, name_bytes) =
            self.content.as_ref().map_or(([0; NAME_BYTES_MAX], 0), |content| content.name.padded());
        let raw = RawExtent {
            magic: EXTENT_MAGIC,
            version: VERSION.into(),
            state: (if self.content.is_some() { USED } else { FREE }).into(),
            store: *store.as_bytes(),
            block: self.block.into(),
            len_blocks: self.len_blocks.into(),
            generation: self.generation.into(),
            len_bytes: self.content.as_ref().map_or(0, |content| content.len_bytes).into(),
            crc_data: self.content.as_ref().map_or(0, |content| content.crc).into(),
            name_bytes: name_bytes.into(),
            name,
            paired: 1,
            rest: [0; 3821],
            crc: 0.into(),
        };
        zerocopy::transmute!(raw.sealed())
    }

    /// Decodes the header at `block` of a device of `device_blocks`, from one of its copies; `None`
    /// when it is not valid.
    pub(super) fn decode(bytes: &[u8], store: Uuid, block: u64, device_blocks: u64) -> Option<Self> {
        let raw = RawExtent::view(bytes).ok()?;
        if !raw.is_of(store) || raw.block.get() != block {
            return None;
        }
        let mut extent = Extent::free(block, raw.len_blocks.get(), raw.generation.get());
        extent.paired = raw.paired == 1;
        let end = block.checked_add(extent.len_blocks)?;
        if extent.len_blocks < EXTENT_BLOCKS_MIN || end > device_blocks {
            return None;
        }
        if raw.state.get() == USED {
            let name = raw.name.get(..usize::from(raw.name_bytes.get()))?;
            let name = Name::new(std::str::from_utf8(name).ok()?).ok()?;
            extent.content = Some(Content { name, len_bytes: raw.len_bytes.get(), crc: raw.crc_data.get() });
            if raw.len_bytes.get() > extent.room_bytes() {
                return None;
            }
        } else if raw.state.get() != FREE {
            return None;
        }
        Some(extent)
    }
}

/// The number of whole blocks in `bytes`; also the block that contains a byte offset.
pub(super) const fn blocks_of(bytes: u64) -> u64 {
    bytes / BLOCK_LEN
}

/// The number of bytes in `blocks`; also the byte offset of a block. Every block of a device has
/// one, since the device's length is a count of bytes.
pub(super) const fn bytes_of(blocks: u64) -> u64 {
    blocks.saturating_mul(BLOCK_LEN)
}

/// The blocks of an extent for `len_bytes`; at least the smallest extent. `None` on overflow.
pub(super) fn blocks_for(len_bytes: u64) -> Option<u64> {
    len_bytes.div_ceil(BLOCK as u64).max(1).checked_add(COPIES)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::layout!(
        the_document_has_the_bytes_of_a_superblock,
        "Superblock, the same in blocks 0 and 1",
        RawSuper { magic: "magic", version: "version, 1", zero: "zero", store: "UUID of the store", len_blocks: "size in blocks", rest: "zero", crc: "CRC32C of bytes 0 to 4091" },
        magic SUPER_MAGIC
    );

    crate::document::layout!(
        the_document_has_the_bytes_of_an_extent_header,
        "Extent header, two copies",
        RawExtent { magic: "magic", version: "version", state: "state", store: "UUID of the store", block: "block of the extent", len_blocks: "length in blocks", generation: "generation", len_bytes: "bytes of the object", crc_data: "CRC32C of the object", name_bytes: "bytes of the name", name: "name", paired: "1: a change is done only once both copies say it", rest: "zero", crc: "CRC32C of bytes 0 to 4091" },
        magic EXTENT_MAGIC
    );

    crate::document::numbers!(
        the_document_has_these_values,
        VERSION => "| device store: superblock, extent header | `version` in each | {} |",
        FREE => "| state | {} free, 2 used |",
        USED => "| state | 1 free, {} used |",
        EXTENT_BLOCKS_MIN => "at least {}; ends within the device",
        NAME_BYTES_MAX => "1 to {} if used",
        NAME_BYTES_MAX => "An object name has 1 to {} bytes",
    );
}
