//! How the catalog goes to the log: whole at the start of every segment, and as changes between
//! (`docs/FORMAT.md`). The log asks for the whole one when it opens a segment; until then nothing
//! of it is made.
//!
//! **Invariant:** whoever reads the newest whole catalog of the log and the changes behind it has
//! [`Logged::catalog`]. A change is made against that, so it also tells what was only published.
//!
//! **Cost** of a change: its own text, two blocks for each 4 KiB of it, whatever the catalog has. A
//! whole one comes again when as much was changed as it is long, so a reader has at most so much
//! to read, and writing costs twice the changes at most.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Catalog, CatalogChange, ROOM_SHARE};
use crate::dma::BLOCK_BYTES;
use crate::log::format::EventKind;
use crate::log::{AppendError, Log, Lsn, SegmentCatalog};

/// The first version of the format in which changes may stand.
const CHANGES_FROM_VERSION: u32 = 2;

/// From so much of the longest catalog on it is told that it will be full.
const TOLD_FROM_PERCENT: usize = 80;

/// What of the catalog the log holds.
#[derive(Debug, Default)]
pub(crate) struct Logged {
    /// `None`: nothing whole of which one is sure.
    catalog: Option<Catalog>,
    /// Blocks of changes since the last whole catalog, one copy.
    changed_blocks: usize,
    /// Whether the newest segment has no whole catalog yet.
    is_owed: bool,
}

impl Logged {
    fn note_whole(&mut self, catalog: &Catalog) {
        *self = Logged { catalog: Some(catalog.clone()), changed_blocks: 0, is_owed: false };
    }
}

/// A catalog that new segments begin with.
struct Published {
    catalog: Catalog,
    version: u32,
    text_bytes_max: usize,
    logged: Rc<RefCell<Logged>>,
}

impl SegmentCatalog for Published {
    fn text(&self) -> Vec<u8> {
        self.catalog.encode(self.version)
    }

    fn text_bytes_max(&self) -> usize {
        self.text_bytes_max
    }

    fn note_written(&self) {
        self.logged.borrow_mut().note_whole(&self.catalog);
    }

    fn note_missing(&self) {
        self.logged.borrow_mut().is_owed = true;
    }
}

/// The way of a pool's catalog to its log.
#[derive(Debug, Default)]
pub(crate) struct CatalogWriter {
    logged: Rc<RefCell<Logged>>,
}

impl CatalogWriter {
    /// The log holds this: it was read there, and all of it could be read.
    pub(crate) fn note_read(&self, catalog: &Catalog) {
        self.logged.borrow_mut().catalog = Some(catalog.clone());
    }

    /// The same for one that only has another number for the next synch, which costs nothing.
    ///
    /// # Errors
    /// It is too long, as the one before was.
    pub(crate) fn publish_next_synch(&self, log: &mut Log, catalog: &Catalog) -> Result<(), AppendError> {
        self.publish(log, catalog, log.catalog_bytes_max())
    }

    /// Has every new segment begin with a catalog, whose text has so many bytes at most.
    ///
    /// # Errors
    /// It is too long.
    pub(crate) fn publish(
        &self,
        log: &mut Log,
        catalog: &Catalog,
        text_bytes_max: usize,
    ) -> Result<(), AppendError> {
        log.set_catalog(Rc::new(Published {
            catalog: catalog.clone(),
            version: log.format_version(),
            text_bytes_max,
            logged: Rc::clone(&self.logged),
        }))
    }

    /// Appends the whole catalog where a segment had to begin without one, as soon as it fits.
    /// Returns how much was done.
    pub(crate) fn pay(&self, log: &mut Log, catalog: &Catalog) -> usize {
        if !self.logged.borrow().is_owed || !log.event_fits_here(log.catalog_bytes_max()) {
            return 0;
        }
        let text_bytes_max = catalog.text_bytes_max(log.format_version());
        usize::from(self.append(log, catalog, text_bytes_max).is_ok())
    }

    /// Appends what makes the catalog of the log this one, whose text has so many bytes at most,
    /// and publishes it. Returns the position.
    ///
    /// # Errors
    /// It is too long, or there is no room now; then nothing has changed.
    pub(crate) fn append(
        &self,
        log: &mut Log,
        catalog: &Catalog,
        text_bytes_max: usize,
    ) -> Result<Lsn, AppendError> {
        let max_bytes = log.geometry().catalog_bytes_max();
        if text_bytes_max > max_bytes {
            return Err(AppendError::EventTooLong { len_bytes: text_bytes_max, max_bytes });
        }
        let change = self.change_to(log, catalog, text_bytes_max);
        let lsn = match &change {
            Some(change) => log.append_event(EventKind::Change, change)?,
            None => log.append_event(EventKind::Catalog, &catalog.encode(log.format_version()))?,
        };
        {
            // A segment that was opened for this began with what was published before.
            let mut logged = self.logged.borrow_mut();
            match &change {
                Some(change) => {
                    logged.catalog = Some(catalog.clone());
                    logged.changed_blocks += blocks_of(change.len());
                }
                None => logged.note_whole(catalog),
            }
        }
        self.publish(log, catalog, text_bytes_max)?;
        Ok(lsn)
    }

    /// The text of the change; `None` where the whole catalog is to be written.
    fn change_to(&self, log: &Log, catalog: &Catalog, text_bytes_max: usize) -> Option<Vec<u8>> {
        if log.format_version() < CHANGES_FROM_VERSION {
            return None;
        }
        let logged = self.logged.borrow();
        let text = CatalogChange::between(logged.catalog.as_ref()?, catalog).encode();
        let whole_blocks = blocks_of(text_bytes_max);
        let is_due = logged.is_owed || logged.changed_blocks + blocks_of(text.len()) > whole_blocks;
        // Where a whole one does not fit any more the next segment begins with one anyway.
        let fits = log.event_fits_here(text_bytes_max);
        (!is_due || (!fits && text.len() <= log.geometry().catalog_bytes_max())).then_some(text)
    }
}

/// What the operator must know when there is not much room left for more.
/// What grows by itself gives way, so it does not count.
pub(crate) fn room_problem(log: &Log, catalog: &Catalog) -> Option<String> {
    let max_bytes = log.geometry().catalog_bytes_max();
    let usable_bytes = max_bytes - max_bytes / ROOM_SHARE;
    let told_from_bytes = usable_bytes / 100 * TOLD_FROM_PERCENT;
    if log.catalog_bytes_max() <= told_from_bytes {
        return None;
    }
    let len_bytes = catalog.own_bytes(log.format_version());
    (len_bytes > told_from_bytes).then(|| {
        format!(
            "what the pool knows of its volumes, clones and snapshots takes {} of at most {} KiB; when that is full no more can be made. Delete snapshots or volumes, or use a pool with larger segments",
            len_bytes.div_ceil(1024),
            usable_bytes / 1024
        )
    })
}

fn blocks_of(len_bytes: usize) -> usize {
    len_bytes.div_ceil(BLOCK_BYTES).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        TOLD_FROM_PERCENT => "From {} % of the rest on the pool reports",
        CHANGES_FROM_VERSION => "| 3 change | JSON object: what is different in the catalog | {} |",
    );
}
