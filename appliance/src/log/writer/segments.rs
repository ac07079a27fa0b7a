//! Opens the next segment: seals the previous one, and writes the header and the catalog first.

use smallvec::smallvec;

use super::Log;
use super::interface::AppendError;
use super::state::current::CurrentSegment;
use super::state::trailers::PendingTrailer;
use crate::log::format::{EventKind, SegmentHeader};
use crate::log::record::ClosedRecord;
use crate::log::types::{Lsn, SegmentSeq};

impl Log {
    /// Seals the current segment, if there is one, and opens the next with its header and catalog.
    pub(super) fn next_segment(&mut self) -> Result<(), AppendError> {
        debug_assert!(self.records.open().is_none(), "the record is closed before its segment");
        let geometry = *self.identity.geometry();
        let full = AppendError::Full { segments: geometry.working_set };
        let used = self.table.next_sequence().0 - self.table.oldest().0;
        if !self.orders.recycles() && used >= geometry.working_set {
            return Err(full);
        }
        if self.trailers.is_full() {
            return Err(AppendError::Busy);
        }
        // Take the memory for the header before anything changes, so that a failure leaves no
        // half-opened segment.
        self.ensure_memory(1)?;
        let mut header = self.memory.take_block();
        let previous_end_lsn = self.positions.end_lsn();
        let opened_ns = self.clock.stamp(&*self.environment.clock);
        let first_lsn = geometry.first_lsn(self.table.next_sequence());
        assert!(first_lsn.0 + geometry.segment_blocks <= Lsn::MAX.0, "48 bits of LSN are used up");
        let epoch = self.identity.epoch();
        let Some((sequence, slot)) = self.table.open(epoch, opened_ns, first_lsn) else {
            return Err(full);
        };
        let units = self.trailers.take_unit_list(geometry.trailer_units());
        let next = CurrentSegment::new(sequence, slot, epoch, Some(previous_end_lsn), 1, units);
        if let Some(full) = self.replace_current(next) {
            self.seal(full, previous_end_lsn);
        }
        self.segment_header(sequence, first_lsn, opened_ns, previous_end_lsn)
            .encode(self.identity.pool(), header.as_mut_slice());
        let end_lsn = first_lsn.plus(1);
        self.positions.close_up_to(end_lsn);
        let pieces = smallvec![header.freeze()];
        self.records.push_closed(ClosedRecord::new(first_lsn, end_lsn, geometry.slot_block(slot), pieces));
        self.why_busy.clear();
        self.refresh_demand();
        self.append_catalog(sequence);
        Ok(())
    }

    /// Queues the trailer of a full segment.
    fn seal(&mut self, full: CurrentSegment, end_lsn: Lsn) {
        // Make it stable soon, whatever hosts do, because its trailer waits for that.
        self.positions.request_stable(end_lsn);
        let (sequence, slot, epoch, units) = full.into_parts();
        self.trailers.push(PendingTrailer::new(sequence, slot, epoch, end_lsn, units));
    }

    fn segment_header(
        &self,
        sequence: SegmentSeq,
        first_lsn: Lsn,
        opened_ns: u64,
        previous_end_lsn: Lsn,
    ) -> SegmentHeader {
        SegmentHeader {
            version: self.identity.version(),
            epoch: self.identity.epoch(),
            sequence,
            first_lsn,
            opened_ns,
            previous_end_lsn,
            stable_lsn: self.positions.stable_lsn(),
            oldest: self.table.oldest(),
            released: self.table.released(),
            ends: self.table.ends_before_released(),
        }
    }

    /// Appends the catalog to a segment that was just opened. If there is no room or memory now, it
    /// is appended later; the previous segment's catalog is the same.
    fn append_catalog(&mut self, sequence: SegmentSeq) {
        let Some(catalog) = self.catalog.source() else { return };
        match self.append_event_here(EventKind::Catalog, &catalog.text()) {
            Ok(_) => catalog.note_written(),
            Err(error) => {
                tracing::debug!(segment = sequence.0, %error, "the segment begins without a catalog");
                catalog.note_missing();
            }
        }
    }
}
