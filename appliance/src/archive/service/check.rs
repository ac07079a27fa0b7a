//! Compares the blocks of a stretch with the checksums of their entries, in one streaming pass.

use zerocopy::FromBytes;

use crate::dma::BLOCK_BYTES;
use crate::log::Lsn;
use crate::log::checksum::crc32c;
use crate::log::format::{Entry, RecordLine, TrailerUnit};

/// Finds the data blocks whose CRC32C differs from that in their entries. Headers and blocks
/// without an entry are not checked. One pass over the units; memory for the positions found.
pub(super) struct DataCheck<'a> {
    expected: DataEntries<'a>,
    next: Option<(Lsn, u32)>,
    lsn: Lsn,
    damaged: Vec<Lsn>,
}

impl<'a> DataCheck<'a> {
    /// Checks the blocks from `from_lsn` on.
    pub(super) fn new(units: &'a [TrailerUnit], from_lsn: Lsn) -> Self {
        let mut expected = DataEntries { units, record: &[], lsn: Lsn(0) };
        let next = expected.next();
        DataCheck { expected, next, lsn: from_lsn, damaged: Vec::new() }
    }

    /// Checks the next blocks.
    pub(super) fn take(&mut self, blocks: &[u8]) {
        for block in blocks.as_chunks::<BLOCK_BYTES>().0 {
            while self.next.is_some_and(|(lsn, _)| lsn < self.lsn) {
                self.next = self.expected.next();
            }
            if let Some((lsn, crc)) = self.next
                && lsn == self.lsn
                && crc32c(block) != crc
            {
                self.damaged.push(self.lsn);
            }
            self.lsn = self.lsn.plus(1);
        }
    }

    /// The positions of the damaged blocks, ascending.
    pub(super) fn into_damaged(self) -> Vec<Lsn> {
        self.damaged
    }
}

/// The entries with data, oldest first: position and CRC32C. Ends at units that do not form a whole
/// record, as [`SegmentEntries`](crate::log::reader::SegmentEntries) does. That type takes
/// ownership of the units, so using it here would copy them.
struct DataEntries<'a> {
    units: &'a [TrailerUnit],
    record: &'a [TrailerUnit],
    lsn: Lsn,
}

impl Iterator for DataEntries<'_> {
    type Item = (Lsn, u32);

    fn next(&mut self) -> Option<(Lsn, u32)> {
        loop {
            while let Some((unit, rest)) = self.record.split_first() {
                self.record = rest;
                let Ok(entry) = Entry::ref_from_bytes(unit) else { continue };
                if entry.has_data() {
                    self.lsn = self.lsn.plus(1);
                    return Some((self.lsn, entry.crc()));
                }
            }
            let (line, rest) = self.units.split_first()?;
            let line = RecordLine::ref_from_bytes(line).ok()?;
            if line.entries() == 0 || line.lsn() > Lsn::MAX {
                return None;
            }
            (self.record, self.units) = rest.split_at_checked(line.entries())?;
            self.lsn = line.lsn();
        }
    }
}
