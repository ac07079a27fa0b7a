//! The catalog in force, and how it is written to the log.
//!
//! **Invariant:** the catalog in force is in the newest event of the log, or the next segment
//! begins with it. So every change here either appends an event ([`PresentCatalog::append`]) or
//! makes the next segment begin with it ([`PresentCatalog::publish`]).

use std::collections::BTreeSet;
use std::ops::Deref;

use super::{Catalog, CatalogWriter, ROOM_SHARE};
use crate::log::reader::LsnRange;
use crate::log::{AppendError, Geometry, Log, Lsn, SegmentSeq};

/// The catalog in force. It dereferences to a [`Catalog`]. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct PresentCatalog {
    catalog: Catalog,
    writer: CatalogWriter,
    /// The position of the newest change of the catalog since the start.
    change_lsn: Lsn,
}

impl Deref for PresentCatalog {
    type Target = Catalog;

    fn deref(&self) -> &Catalog {
        &self.catalog
    }
}

impl PresentCatalog {
    /// The position of the newest change since the start; 0: none.
    pub(in crate::volume) fn change_lsn(&self) -> Lsn {
        self.change_lsn
    }

    /// Sets the catalog from the log when the pool is opened.
    pub(in crate::volume) fn adopt(&mut self, catalog: Catalog) {
        self.catalog = catalog;
    }

    /// Notes that the log contains this catalog: it was read there completely.
    pub(in crate::volume) fn note_read(&self, catalog: &Catalog) {
        self.writer.note_read(catalog);
    }

    /// Appends the change to this catalog, and puts it in force. Returns the position.
    ///
    /// # Errors
    /// It is too long, or the log accepts nothing now; nothing has changed.
    pub(in crate::volume) fn append(
        &mut self,
        log: &mut Log,
        mut catalog: Catalog,
    ) -> Result<Lsn, AppendError> {
        let (version, max_bytes) = (log.format_version(), log.geometry().catalog_bytes_max());
        // Operators' changes must leave some room for parts that grow by themselves.
        let kept_bytes = max_bytes / ROOM_SHARE;
        let mut text_bytes_max = catalog.text_bytes_max(version);
        if text_bytes_max > max_bytes / 2 {
            let len_bytes = catalog.own_bytes(version);
            if len_bytes + kept_bytes > max_bytes && len_bytes > self.catalog.own_bytes(version) {
                return Err(AppendError::EventTooLong { len_bytes, max_bytes: max_bytes - kept_bytes });
            }
        }
        // Small segments cannot hold a catalog with all the ranges that may be remembered; drop
        // detail of these parts.
        if text_bytes_max > max_bytes {
            text_bytes_max = catalog.shorten(version, max_bytes);
        }
        let lsn = self.writer.append(log, &catalog, text_bytes_max)?;
        self.catalog = catalog;
        Ok(lsn)
    }

    /// The same for a change by an operator or a lookup: it invalidates plans that were made
    /// before.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub(in crate::volume) fn append_change(
        &mut self,
        log: &mut Log,
        catalog: Catalog,
    ) -> Result<Lsn, AppendError> {
        let lsn = self.append(log, catalog)?;
        assert!(lsn > self.change_lsn, "changes follow each other in the log");
        self.change_lsn = lsn;
        Ok(lsn)
    }

    /// Appends the catalog that the newest segment could not begin with. Returns how much was done.
    pub(in crate::volume) fn pay(&self, log: &mut Log) -> usize {
        self.writer.pay(log, &self.catalog)
    }

    /// Makes every new segment begin with the present catalog, which was changed without an event.
    ///
    /// # Errors
    /// It is too long.
    fn publish(&self, log: &mut Log) -> Result<(), AppendError> {
        let text_bytes_max = self.catalog.text_bytes_max(log.format_version());
        self.writer.publish(log, &self.catalog, text_bytes_max)
    }

    /// Makes every new segment begin with a catalog from before this start, whose text has at most
    /// `text_bytes_max` bytes.
    ///
    /// # Errors
    /// It is too long.
    pub(in crate::volume) fn publish_opened(
        &self,
        log: &mut Log,
        catalog: &Catalog,
        text_bytes_max: usize,
    ) -> Result<(), AppendError> {
        self.writer.publish(log, catalog, text_bytes_max)
    }

    /// Marks the id of a synch as used: its event is in the log. The catalog of every new segment
    /// records this.
    ///
    /// # Errors
    /// The catalog is too long, as the previous one was.
    pub(in crate::volume) fn take_synch_id(&mut self, log: &mut Log, id: u64) -> Result<(), AppendError> {
        assert_eq!(id, self.catalog.next_synch, "ids of synchs follow each other");
        self.catalog.note_synch_id(id);
        self.writer.publish_next_synch(log, &self.catalog)
    }

    /// Marks an id as used by a synch, so that it is not assigned again.
    pub(in crate::volume) fn learn_synch_id(&mut self, id: u64) {
        self.catalog.note_synch_id(id);
    }

    /// Records that a range left the primary device without having been archived. Returns the whole
    /// gap that contains it, and whether the next segment will record it.
    pub(in crate::volume) fn add_gap(
        &mut self,
        log: &mut Log,
        gap: LsnRange,
    ) -> (LsnRange, Result<(), AppendError>) {
        self.catalog.add_gap(gap);
        let whole = self.catalog.gaps.iter().find(|known| known.start <= gap.start && gap.end <= known.end);
        let whole = whole.copied().unwrap_or(gap);
        (whole, self.publish(log))
    }

    /// Records that every segment before `below` was archived and verified, or is a gap.
    ///
    /// # Errors
    /// The next segment cannot record it; the catalog in force does.
    pub(in crate::volume) fn note_verified(
        &mut self,
        log: &mut Log,
        below: SegmentSeq,
    ) -> Result<(), AppendError> {
        if below <= self.catalog.archived_below {
            return Ok(());
        }
        self.catalog.set_archived_below(below);
        self.publish(log)
    }

    /// Records that nothing from `first` on is verified in the archive. The log gets this now if
    /// there is room, and at the start of the next segment at the latest: objects that are uploaded
    /// again and not verified yet must not count as verified after another start.
    pub(in crate::volume) fn distrust_archive(&mut self, log: &mut Log, first: SegmentSeq) {
        let mut catalog = self.catalog.clone();
        catalog.set_archived_below(first);
        match self.append(log, catalog) {
            Ok(lsn) => log.request_stable(lsn.plus(1)),
            Err(error) => {
                tracing::warn!(
                    %error,
                    "the catalog says only with the next segment that the archive has lost something"
                );
                self.catalog.set_archived_below(first);
                // It is as long as the previous one.
                let _ = self.publish(log);
            }
        }
    }

    /// Forgets deleted images without remaining points, and deleted synchs: none of the segments in
    /// which they existed is in `there`.
    ///
    /// # Errors
    /// The next segment cannot begin with the shorter catalog.
    pub(in crate::volume) fn forget_gone_images(
        &mut self,
        log: &mut Log,
        geometry: &Geometry,
        there: &BTreeSet<SegmentSeq>,
    ) -> Result<(), AppendError> {
        let images = self.catalog.forget_gone_images(geometry, there);
        match images + self.catalog.forget_deleted_synchs(geometry, there) {
            0 => Ok(()),
            _ => self.publish(log),
        }
    }

    /// Sets the ranges that a recovery knows to be lost, before the recovered catalog is written.
    pub(in crate::volume) fn set_lost(&mut self, lost: &[LsnRange]) {
        self.catalog.set_lost(lost.to_vec());
    }

    /// Sets the lengths of the working set that a recovery found, before the recovered catalog is
    /// written.
    pub(in crate::volume) fn set_working_sets(&mut self, working_sets: &[(SegmentSeq, u64)]) {
        self.catalog.set_working_sets(working_sets.to_vec());
    }
}
