//! Which record of the log is the newest at a time. Times never fall along the log, so this is a
//! search: over the stretches, the segments of one, and the records of a segment.

use crate::log::table::Phase;
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::text::units::format_time;
use crate::volume::error::VolumeError;
use crate::volume::history::past::in_hole;
use crate::volume::history::stretches::Stretch;
use crate::volume::pool::Pool;

impl Pool {
    /// The end of the last record whose time is not after `time_ns`. Times never fall along the
    /// log, so this is monotone.
    pub(in crate::volume) async fn locate_time(&self, time_ns: u64, typed: &str) -> Result<Lsn, VolumeError> {
        let no_such = |reason: String| VolumeError::NoSuchPoint { point: typed.to_owned(), reason };
        let created_ns = self.log.borrow().created_ns();
        if time_ns < created_ns {
            let created = format_time(created_ns);
            return Err(no_such(format!("the pool was created at {created}")));
        }
        let stretches = self.stretches().await;
        let expired = || no_such("the log of that time is not kept".to_owned());
        let Some(place) = self.stretch_of(&stretches, time_ns).await? else {
            // Before the first record of the log there is its beginning.
            if stretches.first().is_none_or(|stretch| stretch.first.0 == 0) {
                return Ok(Lsn(0));
            }
            self.check_reached()?;
            return Err(expired());
        };
        let stretch = stretches[place];
        match self.last_record(stretch, time_ns, typed).await? {
            // What follows the stretch may have a record of that time too.
            Some((_, is_last)) if is_last && place + 1 < stretches.len() => {
                self.check_reached()?;
                Err(expired())
            }
            Some((lsn, _)) => Ok(lsn),
            None if stretch.first.0 == 0 => Ok(Lsn(0)),
            None => {
                self.check_reached()?;
                Err(expired())
            }
        }
    }

    /// The last stretch that was opened at a time or before it.
    pub(in crate::volume) async fn stretch_of(
        &self,
        stretches: &[Stretch],
        time_ns: u64,
    ) -> Result<Option<usize>, VolumeError> {
        let (mut low, mut high) = (0, stretches.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.opened_ns(stretches[middle].first).await?.is_some_and(|opened_ns| opened_ns > time_ns) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low.checked_sub(1))
    }

    /// The last position of the last record of a stretch whose time is not after `time_ns`, and
    /// whether no record of the stretch follows it; `None` if there is none.
    async fn last_record(
        &self,
        stretch: Stretch,
        time_ns: u64,
        typed: &str,
    ) -> Result<Option<(Lsn, bool)>, VolumeError> {
        // Find the first segment that was opened after the time. The record is in the segment
        // before it, or further back if that one has no records.
        let (mut low, mut high) = (stretch.first.0, stretch.last.0 + 1);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.opened_ns(SegmentSeq(middle)).await?.is_some_and(|opened_ns| opened_ns > time_ns) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let is_end = low > stretch.last.0;
        for sequence in (stretch.first.0..low).rev() {
            let known = self.known_of(SegmentSeq(sequence)).await?;
            let last = known.entries.records().rev().find(|(line, _)| line.time_ns() <= time_ns);
            let last = last.map(|(line, _)| line.end_lsn());
            // An unknown range after the record, or before all of them, may contain records of that
            // time too.
            let first = self.log.borrow().geometry().first_lsn(SegmentSeq(sequence)).plus(1);
            if let Some(&hole) = known.holes.iter().find(|hole| hole.start == last.unwrap_or(first)) {
                return Err(in_hole(typed, hole));
            }
            if let Some(end) = last {
                let newest = known.entries.records().next_back().map(|(line, _)| line.end_lsn());
                let is_last = is_end && sequence == stretch.last.0 && newest == Some(end);
                return Ok(Some((Lsn(end.0 - 1), is_last)));
            }
            yield_now().await;
        }
        Ok(None)
    }

    /// When a segment was opened; `None` if it is lost.
    async fn opened_ns(&self, sequence: SegmentSeq) -> Result<Option<u64>, VolumeError> {
        if let Some(segment) =
            self.log.borrow().table().get(sequence).filter(|segment| segment.phase != Phase::Released)
        {
            return Ok(segment.slot.map(|_| segment.opened_ns));
        }
        match self.first_object(sequence) {
            Some(id) => Ok(Some(self.object_entries(id).await?.header.opened_ns)),
            None => Ok(None),
        }
    }
}
