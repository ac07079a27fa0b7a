//! Brings data, which arrives in any order, into the order of blocks in a file.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;

use super::super::error::TransferError;
use super::broken;
use crate::dma::BLOCK_BYTES;
use crate::increment::IncrementWriter;

/// How many pieces of data may wait for one that is before them.
const WAITING_PIECES_MAX: usize = 64;

/// What is written next.
pub(super) enum Wanted {
    /// The data that begins with a block.
    Data(u64),
    /// Blocks without contents.
    Unmapped(u64, u64),
}

/// The writer, and the data that waits for other data. Bound: [`WAITING_PIECES_MAX`] pieces, and
/// those of the commands under way.
pub(super) struct InOrder<'a> {
    writer: IncrementWriter<BufWriter<File>>,
    path: &'a Path,
    wanted: VecDeque<Wanted>,
    arrived: BTreeMap<u64, Vec<u8>>,
}

impl<'a> InOrder<'a> {
    /// Begins with an empty file.
    pub(super) fn new(writer: IncrementWriter<BufWriter<File>>, path: &'a Path) -> Self {
        InOrder { writer, path, wanted: VecDeque::new(), arrived: BTreeMap::new() }
    }

    /// Whether as many pieces wait as may.
    pub(super) fn is_full(&self) -> bool {
        self.arrived.len() >= WAITING_PIECES_MAX
    }

    /// Says what comes after everything that was wanted so far.
    pub(super) fn want(&mut self, next: Wanted) {
        self.wanted.push_back(next);
    }

    /// Takes data that was read, and writes what is next.
    pub(super) fn take(&mut self, offset_bytes: u64, data: &[u8]) -> Result<(), TransferError> {
        self.arrived.insert(offset_bytes / BLOCK_BYTES as u64, data.to_vec());
        self.write_ready()
    }

    /// Ends the file's content: everything wanted has arrived.
    pub(super) fn finish(mut self) -> Result<IncrementWriter<BufWriter<File>>, TransferError> {
        self.write_ready()?;
        Ok(self.writer)
    }

    fn write_ready(&mut self) -> Result<(), TransferError> {
        while let Some(next) = self.wanted.front() {
            let written = match *next {
                Wanted::Unmapped(block, blocks) => self.writer.unmapped(0, block, blocks),
                Wanted::Data(block) => match self.arrived.remove(&block) {
                    Some(data) => self.writer.data(0, block, &data),
                    None => return Ok(()),
                },
            };
            written.map_err(broken(self.path))?;
            self.wanted.pop_front();
        }
        Ok(())
    }
}
