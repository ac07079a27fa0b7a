//! Room: which segment an append goes to, and how much stays free for others. The current segment
//! keeps room for everything that must still be copied into it before the next one is opened. Hosts
//! must also leave room for the pool's own events.
//!
//! Only this file sets what appends wait for ([`WhyBusy`](super::WhyBusy)).

use super::Log;
use super::copies::with_headers;
use super::interface::{AppendClass, AppendError, FREE_SLOTS_TARGET};
use crate::log::format::ENTRIES_PER_RECORD;

/// The segment that receives the entries.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Destination {
    /// The current one.
    Current,
    /// The next one, which must be opened first.
    Next,
}

impl Log {
    /// Chooses the segment for the next entries.
    ///
    /// # Errors
    /// [`AppendError::Busy`], [`AppendError::Full`].
    #[inline]
    pub(super) fn destination(
        &mut self,
        class: AppendClass,
        entries: usize,
        data_blocks: usize,
    ) -> Result<Destination, AppendError> {
        if !self.orders.recycles() {
            // An event that has begun is not cut short.
            if !self.records.joins(entries, data_blocks) {
                self.check_room(class, data_blocks)?;
            }
            return Ok(Destination::Current);
        }
        if self.fits_here(class, entries, data_blocks) {
            return Ok(Destination::Current);
        }
        self.may_open_next(class)?;
        let waits_for_room = class == AppendClass::Host
            && self.next_is_too_full(data_blocks)
            && self.fits_here(AppendClass::CopyAhead, 1, 1);
        self.why_busy.note_room(waits_for_room);
        if waits_for_room { Err(AppendError::Busy) } else { Ok(Destination::Next) }
    }

    /// Whether the entries fit into the current segment beside the room that this class must leave
    /// free.
    fn fits_here(&self, class: AppendClass, entries: usize, data_blocks: usize) -> bool {
        let Some(current) = &self.current else { return false };
        let geometry = self.identity.geometry();
        // A command that joins a record of copies causes it to close early, so it costs a header
        // too.
        let is_copy = !matches!(class, AppendClass::Host | AppendClass::Pool);
        let header = usize::from(!(is_copy && self.records.joins(entries, data_blocks)));
        let left_blocks = current.blocks_left(geometry, self.records.open_blocks());
        let left_units = current.units_left(geometry, self.records.open_units());
        let kept = self.kept_blocks(class);
        left_blocks >= (header + data_blocks) as u64 + kept && left_units >= header + entries + kept as usize
    }

    /// How many blocks, and units of the trailer, entries of this class leave free in the current
    /// segment.
    pub(super) fn kept_blocks(&self, class: AppendClass) -> u64 {
        if !self.orders.recycles() {
            return 0;
        }
        let must = self.must_copy_blocks();
        let demand = must.max(self.demand());
        match class {
            AppendClass::Copy => 0,
            AppendClass::Pool => with_headers(demand),
            // Copies ahead of time use the room that was kept for them.
            AppendClass::CopyAhead if demand > must => with_headers(must),
            AppendClass::Host | AppendClass::CopyAhead | AppendClass::Drain => {
                with_headers(demand) + self.event_room_blocks()
            }
        }
    }

    /// The room in each segment, in blocks, for the pool's own events after its catalog, and for
    /// the growth of catalogs.
    pub(super) fn event_room_blocks(&self) -> u64 {
        self.catalog.blocks_max() + 8 + (self.identity.geometry().record_blocks() / 32).min(64)
    }

    /// Checks that the next segment may be opened: the segments that leave the working set must
    /// contain no live data, and a slot must be free.
    pub(super) fn may_open_next(&mut self, class: AppendClass) -> Result<(), AppendError> {
        if !self.orders.recycles() {
            return Ok(());
        }
        // Early copies do not open a segment.
        if class == AppendClass::CopyAhead || self.orders.holds_next_segment() {
            return Err(AppendError::Busy);
        }
        let fits = self.fits_within(self.identity.geometry().working_set)
            && (class == AppendClass::Copy || self.demand() == 0);
        if class == AppendClass::Drain {
            // Hosts must find a slot whenever they would have found one without this append.
            let has_slots = self.table.free_len() >= FREE_SLOTS_TARGET && self.trailers.is_empty();
            return if fits && has_slots { Ok(()) } else { Err(AppendError::Busy) };
        }
        if !fits && class != AppendClass::Copy {
            self.why_busy.note_copies();
            return Err(AppendError::Busy);
        }
        // If the device lost a segment, the room that was kept in it is gone. Copies may then open
        // one segment more than the working set has.
        debug_assert!(fits || self.table.has_lost(), "what must be copied fits into the current segment");
        if self.table.free_len() == 0 {
            self.why_busy.note_slot(self.table.free_len());
            return Err(AppendError::Busy);
        }
        if self.trailers.is_full() { Err(AppendError::Busy) } else { Ok(()) }
    }

    /// For a log that never reassigns a slot: refuses entries beyond the working set, and hosts'
    /// data a little earlier.
    fn check_room(&self, class: AppendClass, data_blocks: usize) -> Result<(), AppendError> {
        let geometry = self.identity.geometry();
        let (mut left_here, mut units_left) = (geometry.record_blocks(), geometry.trailer_units());
        if let Some(current) = &self.current {
            left_here = current.blocks_left(geometry, self.records.open_blocks());
            units_left = current.units_left(geometry, self.records.open_units());
        }
        let used = (self.table.next_sequence().0 - self.table.oldest().0).max(1);
        let segments_left = geometry.working_set.saturating_sub(used);
        let reserve = if class == AppendClass::Host { geometry.record_blocks() / 4 } else { 0 };
        let fits_here = left_here >= reserve + 1 + data_blocks as u64
            && units_left as u64 > reserve + ENTRIES_PER_RECORD as u64;
        if segments_left > 0 || fits_here {
            Ok(())
        } else {
            Err(AppendError::Full { segments: geometry.working_set })
        }
    }
}
