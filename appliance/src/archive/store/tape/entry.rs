//! Where an object is on tape: the parts of it, on one cartridge or on several.

/// The place of a part of an object.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub cartridge: usize,
    /// The position of its header.
    pub object: u64,
    /// The number of its file.
    pub file: u64,
    pub bytes: u64,
    pub crc: u32,
}

/// An object on tape.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub first_file: u64,
    pub len_bytes: u64,
    pub parts: Vec<Part>,
}

impl Entry {
    /// Identifies the object among all objects on the cartridges: the place where it begins.
    pub(super) fn place(&self) -> Place {
        self.parts.first().map_or((usize::MAX, self.first_file), |part| (part.cartridge, part.object))
    }
}

/// A cartridge, and the position of a file's header on it.
pub(super) type Place = (usize, u64);
