//! The blocks on tape that describe the other blocks: label, file header, file trailer.

use uuid::Uuid;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros as _, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::super::{NAME_BYTES_MAX, Name};
use crate::log::frame::{Framed, framed};

/// The size of each of these blocks in bytes.
pub(super) const MARK_BYTES: usize = 512;

const VERSION: u32 = 1;
const LABEL: u32 = 1;
const OBJECT: u32 = 2;
const TOMBSTONE: u32 = 3;
const TRAILER: u32 = 4;
const LAST: u32 = 1;

/// Layout, in bytes, of a label, a header and a trailer; what a kind does not use is zero:
///
/// | offset | size | field |
/// |---|---|---|
/// | 0 | 8 | magic `VARVE-TP` |
/// | 8 | 4 | format version |
/// | 12 | 4 | kind: 1 label, 2 header of an object, 3 header of a tombstone, 4 trailer |
/// | 16 | 16 | UUID of the store |
/// | 32 | 8 | label: number of the cartridge in its set; otherwise number of the file, which grows over all cartridges |
/// | 40 | 8 | header and trailer: number of the object's first file |
/// | 48 | 4 | header and trailer: part of the object, from 0 |
/// | 52 | 4 | trailer: flags: bit 0, the last part |
/// | 56 | 8 | trailer: bytes of this part |
/// | 64 | 8 | trailer: bytes of the object up to the end of this part |
/// | 72 | 4 | trailer: CRC32C of this part's data |
/// | 76 | 2 | header: bytes of the name |
/// | 78 | 200 | header: name of the object, or of the one deleted |
/// | 278 | 230 | zero |
/// | 508 | 4 | CRC32C of bytes 0 to 507 |
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct Raw {
    magic: [u8; 8],
    version: U32,
    kind: U32,
    store: [u8; 16],
    number: U64,
    first_file: U64,
    part: U32,
    flags: U32,
    part_bytes: U64,
    object_bytes: U64,
    data_crc: U32,
    name_bytes: U16,
    name: [u8; NAME_BYTES_MAX],
    rest: [u8; 230],
    crc: U32,
}

const _: () = assert!(size_of::<Raw>() == MARK_BYTES);
/// The first bytes of each of these blocks.
pub(super) const MAGIC: [u8; 8] = *b"VARVE-TP";

framed!(Raw, MAGIC, VERSION..=VERSION, owner: store);

/// The head of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub file: u64,
    pub first_file: u64,
    pub part: u32,
    pub tombstone: bool,
    pub name: Name,
}

/// The end of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Trailer {
    pub file: u64,
    pub first_file: u64,
    pub part: u32,
    pub last: bool,
    pub part_bytes: u64,
    pub object_bytes: u64,
    pub data_crc: u32,
}

/// A block of one of the three kinds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    Label { number: u64 },
    Header(Header),
    Trailer(Trailer),
}

impl Mark {
    /// The bytes of the block.
    pub(super) fn encode(&self, store: Uuid) -> [u8; MARK_BYTES] {
        let mut raw = Raw::new_zeroed();
        raw.magic = MAGIC;
        raw.version = VERSION.into();
        raw.store = *store.as_bytes();
        match self {
            Mark::Label { number } => {
                raw.kind = LABEL.into();
                raw.number = (*number).into();
            }
            Mark::Header(header) => {
                raw.kind = (if header.tombstone { TOMBSTONE } else { OBJECT }).into();
                raw.number = header.file.into();
                raw.first_file = header.first_file.into();
                raw.part = header.part.into();
                let (name, name_bytes) = header.name.padded();
                raw.name = name;
                raw.name_bytes = name_bytes.into();
            }
            Mark::Trailer(trailer) => {
                raw.kind = TRAILER.into();
                raw.number = trailer.file.into();
                raw.first_file = trailer.first_file.into();
                raw.part = trailer.part.into();
                raw.flags = (if trailer.last { LAST } else { 0 }).into();
                raw.part_bytes = trailer.part_bytes.into();
                raw.object_bytes = trailer.object_bytes.into();
                raw.data_crc = trailer.data_crc.into();
            }
        }
        zerocopy::transmute!(raw.sealed())
    }

    /// Decodes a block: its owner, and its content. `None` when it is none of these.
    pub(super) fn decode(bytes: &[u8]) -> Option<(Uuid, Mark)> {
        let raw = Raw::view(bytes).ok()?;
        let mark = match raw.kind.get() {
            LABEL => Mark::Label { number: raw.number.get() },
            kind @ (OBJECT | TOMBSTONE) => {
                let name = raw.name.get(..usize::from(raw.name_bytes.get()))?;
                Mark::Header(Header {
                    file: raw.number.get(),
                    first_file: raw.first_file.get(),
                    part: raw.part.get(),
                    tombstone: kind == TOMBSTONE,
                    name: Name::new(std::str::from_utf8(name).ok()?).ok()?,
                })
            }
            TRAILER => Mark::Trailer(Trailer {
                file: raw.number.get(),
                first_file: raw.first_file.get(),
                part: raw.part.get(),
                last: raw.flags.get() & LAST != 0,
                part_bytes: raw.part_bytes.get(),
                object_bytes: raw.object_bytes.get(),
                data_crc: raw.data_crc.get(),
            }),
            _ => return None,
        };
        Some((Uuid::from_bytes(raw.store), mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::layout!(
        the_document_has_these_bytes,
        "Label, header and trailer are blocks of 512 bytes",
        Raw { magic: "magic", version: "version, 1", kind: "kind", store: "UUID of the store", number: "number of the cartridge", first_file: "number of the object's first file", part: "part of the object", flags: "flags", part_bytes: "bytes of this part", object_bytes: "bytes of the object up to the end of this part", data_crc: "CRC32C of this part's data", name_bytes: "bytes of the name", name: "name of the object", rest: "zero", crc: "CRC32C of bytes 0 to 507" },
        magic MAGIC
    );

    crate::document::numbers!(
        the_document_has_these_values,
        VERSION => "| tape: label, file header, file trailer | `version` in each | {} |",
        LABEL => "kind: {} label",
        OBJECT => "{} header of an object",
        TOMBSTONE => "{} header of a tombstone",
        TRAILER => "{} trailer | all |",
        LAST.ilog2() => "flags: bit {}, the last part",
        super::super::drive::BLOCK_BYTES_MAX => "A reader accepts blocks up to {MiB} MiB",
    );
}
