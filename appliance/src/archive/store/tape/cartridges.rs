//! The cartridges that a store knows, each by its index.
//!
//! Invariant: a cartridge is added at the end and never removed, so an index stays valid as long as
//! the list. An index is either [`Cartridges::len`] before a [`Cartridges::push`], or a position in
//! the order of [`Cartridges::iter`].

use std::ops::{Index, IndexMut};

use super::format::MARK_BYTES;

/// Bytes of a file in addition to its data.
const FILE_OVERHEAD_BYTES: u64 = 2 * MARK_BYTES as u64;

/// How a cartridge may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Files can be appended to it.
    Writable,
    /// It is damaged: nothing is written to it any more.
    ReadOnly,
    /// It is not in the library.
    Away,
}

/// A cartridge of the set.
#[derive(Debug, Clone)]
pub(super) struct Cartridge {
    pub barcode: String,
    /// Its number in the set; `None` while it is blank.
    pub number: Option<u64>,
    /// Its label can be read.
    pub has_label: bool,
    pub access: Access,
    /// The position of the next file.
    pub append: u64,
    /// The position after the filemark of the last file, or of the label.
    pub ended_at: u64,
    /// The number of the last finished file on it.
    pub last_file: Option<u64>,
    /// What follows `append` belongs to a put that was never committed.
    pub scrap: bool,
    /// Bytes of the files before `append`.
    pub used_bytes: u64,
}

impl Cartridge {
    pub(super) fn new(barcode: String) -> Self {
        Cartridge {
            barcode,
            number: None,
            has_label: false,
            access: Access::Writable,
            append: 0,
            ended_at: 0,
            last_file: None,
            scrap: false,
            used_bytes: 0,
        }
    }

    /// Counts a file with this many bytes of data.
    pub(super) fn count_file(&mut self, data_bytes: u64) {
        self.used_bytes = self.used_bytes.saturating_add(data_bytes).saturating_add(FILE_OVERHEAD_BYTES);
    }
}

/// Cartridges, by their indices.
#[derive(Debug, Default)]
pub(super) struct Cartridges(Vec<Cartridge>);

impl Cartridges {
    /// Adds a cartridge.
    pub(super) fn push(&mut self, cartridge: Cartridge) {
        self.0.push(cartridge);
    }

    /// The index of the next cartridge.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All cartridges, in the order of their indices.
    pub(super) fn iter(&self) -> std::slice::Iter<'_, Cartridge> {
        self.0.iter()
    }
}

impl Index<usize> for Cartridges {
    type Output = Cartridge;

    fn index(&self, index: usize) -> &Cartridge {
        self.0.get(index).unwrap_or_else(|| unreachable!("cartridge {index} was given out by this list"))
    }
}

impl IndexMut<usize> for Cartridges {
    fn index_mut(&mut self, index: usize) -> &mut Cartridge {
        self.0.get_mut(index).unwrap_or_else(|| unreachable!("cartridge {index} was given out by this list"))
    }
}
