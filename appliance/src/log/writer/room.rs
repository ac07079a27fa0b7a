//! Room: where entries may go, and what is left free for others. The current segment keeps room for what must still be copied into it
//! before the next one is opened, and from hosts also for the pool's own events.

use super::recycle::with_headers;
use super::{AppendClass, AppendError, FREE_SLOTS_TARGET, Log, Recycling};
use crate::log::format::ENTRIES_PER_RECORD;

/// Where entries go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Into the current segment.
    Here,
    /// Into the next one, which is to be opened.
    Next,
}

impl Log {
    /// Where the next entries go: into the current segment, or into the next one. The current segment keeps room for what must still be copied into it, and from
    /// hosts also for the pool's own events.
    pub(super) fn place(
        &mut self,
        class: AppendClass,
        entries: usize,
        data_blocks: usize,
    ) -> Result<Place, AppendError> {
        if self.recycling == Recycling::Never {
            // An event that has begun is not cut short.
            let joins = self.open.as_ref().is_some_and(|open| open.fits(entries, data_blocks));
            return if joins {
                Ok(Place::Here)
            } else {
                self.check_room(class, data_blocks).map(|()| Place::Here)
            };
        }
        if self.fits_here(class, entries, data_blocks) {
            return Ok(Place::Here);
        }
        self.may_open_next(class)?;
        let waits_for_room = class == AppendClass::Host
            && self.next_is_too_full(data_blocks)
            && self.fits_here(AppendClass::CopyAhead, 1, 1);
        self.why_busy.note_room(waits_for_room);
        if waits_for_room { Err(AppendError::Busy) } else { Ok(Place::Next) }
    }

    /// Whether so much fits into the current segment beside what entries of this class leave free.
    fn fits_here(&self, class: AppendClass, entries: usize, data_blocks: usize) -> bool {
        let Some(current) = &self.current else { return false };
        let (blocks, units) =
            self.open.as_ref().map_or((0, 0), |open| (1 + open.data_blocks as u64, 1 + open.entries.len()));
        // A command that joins a record of copies closes it, so it costs a header all the same.
        let joins = self.open.as_ref().is_some_and(|open| open.fits(entries, data_blocks));
        let is_copy = !matches!(class, AppendClass::Host | AppendClass::Pool);
        let header = usize::from(!(joins && is_copy));
        let left_blocks = self.geometry.data_end().saturating_sub(current.next_offset + blocks);
        let left_units = self.geometry.trailer_units().saturating_sub(current.units.len() + units);
        let kept = self.kept_blocks(class);
        left_blocks >= (header + data_blocks) as u64 + kept && left_units >= header + entries + kept as usize
    }

    /// Blocks, and units of the trailer, that entries of this class leave free in the current segment.
    pub(super) fn kept_blocks(&self, class: AppendClass) -> u64 {
        if self.recycling == Recycling::Never {
            return 0;
        }
        let must = self.must_copy_blocks();
        let demand = must.max(self.demand());
        match class {
            AppendClass::Copy => 0,
            AppendClass::Pool => with_headers(demand),
            // What is copied ahead of its time is what the room was kept for.
            AppendClass::CopyAhead if demand > must => with_headers(must),
            AppendClass::Host | AppendClass::CopyAhead | AppendClass::Drain => {
                with_headers(demand) + self.event_room_blocks()
            }
        }
    }

    /// Room that each segment has for the pool's own events behind its catalog, in blocks, and what catalogs may grow by.
    pub(super) fn event_room_blocks(&self) -> u64 {
        self.catalog_blocks() + 8 + (self.geometry.record_blocks() / 32).min(64)
    }

    /// Whether the next segment may be opened. What leaves the working set must hold nothing live, and there must be a slot.
    pub(super) fn may_open_next(&mut self, class: AppendClass) -> Result<(), AppendError> {
        if self.recycling == Recycling::Never {
            return Ok(());
        }
        if class == AppendClass::CopyAhead {
            // What is copied early opens no segment.
            return Err(AppendError::Busy);
        }
        if self.held {
            return Err(AppendError::Busy);
        }
        let fits =
            self.fits_within(self.geometry.working_set) && (class == AppendClass::Copy || self.demand() == 0);
        if class == AppendClass::Drain {
            // Hosts find a slot whenever they would have found one without it.
            let has_slots = self.table.free_len() >= FREE_SLOTS_TARGET && self.sealing.is_empty();
            return if fits && has_slots { Ok(()) } else { Err(AppendError::Busy) };
        }
        if !fits && class != AppendClass::Copy {
            self.why_busy.note_copies();
            return Err(AppendError::Busy);
        }
        // With a segment that the device lost, the room is gone that was kept in it. Then copies
        // open a segment more than the working set has.
        debug_assert!(fits || self.table.has_lost(), "what must be copied fits into the current segment");
        if self.table.free_len() == 0 {
            self.why_busy.note_slot(self.table.free_len());
            return Err(AppendError::Busy);
        }
        if self.sealing.len() >= 2 { Err(AppendError::Busy) } else { Ok(()) }
    }

    /// For a log that gives no segment away: refuses what would leave the working set, and hosts' data a little before that.
    fn check_room(&self, class: AppendClass, data_blocks: usize) -> Result<(), AppendError> {
        let full = AppendError::Full { segments: self.geometry.working_set };
        let used = (self.table.next_sequence().0 - self.table.oldest().0).max(1);
        let left_here = self.current.as_ref().map_or(self.geometry.record_blocks(), |current| {
            let pending = self.open.as_ref().map_or(0, |open| 1 + open.data_blocks as u64);
            self.geometry.data_end().saturating_sub(current.next_offset + pending)
        });
        let segments_left = self.geometry.working_set.saturating_sub(used);
        let reserve = if class == AppendClass::Host { self.geometry.record_blocks() / 4 } else { 0 };
        let units_left = self.current.as_ref().map_or(self.geometry.trailer_units(), |current| {
            let pending = self.open.as_ref().map_or(0, |open| 1 + open.entries.len());
            self.geometry.trailer_units().saturating_sub(current.units.len() + pending)
        });
        let fits_here = left_here >= reserve + 1 + data_blocks as u64
            && units_left as u64 > reserve + ENTRIES_PER_RECORD as u64;
        if segments_left > 0 || fits_here { Ok(()) } else { Err(full) }
    }
}
