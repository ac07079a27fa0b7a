//! The partial trailer that a clean stop writes, so that the next start need not scan the current
//! segment.

use super::Log;
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::format::TrailerHead;

/// The maximum number of bytes in one write. No command waits during a stop.
const WRITE_BYTES: usize = 1 << 20;

impl Log {
    /// The trailer of a clean stop, once everything else is written: its device block and its
    /// content. `None` if no segment is open or there is no memory.
    pub(in crate::log) fn closing_trailer(&self) -> Option<(u64, Vec<DmaBuf>)> {
        let current = self.current.as_ref()?;
        let end_lsn = self.positions.end_lsn();
        debug_assert!(self.records.is_empty() && self.written_lsn() == end_lsn);
        let units = current.units();
        let mut area = vec![0; TrailerHead::len_bytes(units.len()).next_multiple_of(BLOCK_BYTES)];
        let head = TrailerHead {
            version: self.identity.version(),
            partial: true,
            epoch: current.epoch(),
            session: self.identity.epoch(),
            sequence: current.sequence(),
            end_lsn,
            units: 0,
            body_crc: 0,
        };
        head.of(units).encode(self.identity.pool(), units, &mut area);
        let copied = area.chunks(WRITE_BYTES).map(|chunk| {
            let mut buffer = self.environment.dma.allocate(chunk.len()).ok()?;
            buffer.as_mut_slice().copy_from_slice(chunk);
            Some(buffer.freeze())
        });
        let buffers: Option<Vec<DmaBuf>> = copied.collect();
        Some((self.identity.geometry().trailer_block(current.slot()), buffers?))
    }
}
