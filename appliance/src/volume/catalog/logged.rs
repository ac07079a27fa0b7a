//! Writes the catalog to the log: whole at the start of every segment, and as changes in between
//! (`docs/FORMAT.md`). The log asks for the whole one when it opens a segment, and it is built only
//! then.
//!
//! **Invariant:** the newest whole catalog in the log with the changes after it gives
//! [`Logged::catalog`]. A change is computed against that, so it also contains changes that were
//! only published.
//!
//! **Cost** of a change: its own text, two blocks for each 4 KiB of it, whatever the size of the
//! catalog. A whole one is written again when the changes since the last are as long as it is. So a
//! reader has at most this much to read, and writing costs at most twice the changes.

use std::cell::RefCell;
use std::rc::Rc;

use super::{Catalog, CatalogChange, ROOM_SHARE};
use crate::dma::BLOCK_BYTES;
use crate::log::format::EventKind;
use crate::log::{AppendError, Log, Lsn, SegmentCatalog};

/// The first format version that has changes.
const CHANGES_FROM_VERSION: u32 = 2;

/// From this percentage of the maximum length on, it is reported that the catalog is nearly full.
const TOLD_FROM_PERCENT: usize = 80;

/// The state of the catalog in the log.
#[derive(Debug, Default)]
pub(crate) struct Logged {
    /// `None`: no whole catalog in the log is known to be good.
    catalog: Option<Catalog>,
    /// Blocks of changes since the last whole catalog, one copy.
    changed_blocks: usize,
    /// Whether the newest segment still lacks a whole catalog.
    is_owed: bool,
}

impl Logged {
    /// Notes that the whole catalog was read in the log.
    fn note_read(&mut self, catalog: &Catalog) {
        self.catalog = Some(catalog.clone());
    }

    /// Notes that a change of `blocks` blocks was written, which results in `catalog`.
    fn note_change(&mut self, catalog: &Catalog, blocks: usize) {
        self.catalog = Some(catalog.clone());
        self.changed_blocks += blocks;
    }

    fn note_whole(&mut self, catalog: &Catalog) {
        *self = Logged { catalog: Some(catalog.clone()), changed_blocks: 0, is_owed: false };
    }
}

/// The catalog with which new segments begin.
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

/// Writes a pool's catalog to its log.
#[derive(Debug, Default)]
pub(crate) struct CatalogWriter {
    logged: Rc<RefCell<Logged>>,
}

impl CatalogWriter {
    /// Notes that the log contains this catalog: it was read there completely.
    pub(crate) fn note_read(&self, catalog: &Catalog) {
        self.logged.borrow_mut().note_read(catalog);
    }

    /// The same for a catalog in which only the number of the next synch differs, which costs
    /// nothing.
    ///
    /// # Errors
    /// It is too long, as the previous one was.
    pub(crate) fn publish_next_synch(&self, log: &mut Log, catalog: &Catalog) -> Result<(), AppendError> {
        self.publish(log, catalog, log.catalog_bytes_max())
    }

    /// Makes every new segment begin with a catalog, whose text has at most `text_bytes_max` bytes.
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

    /// Appends the whole catalog as soon as it fits, if a segment had to begin without one. Returns
    /// how much was done.
    pub(crate) fn pay(&self, log: &mut Log, catalog: &Catalog) -> usize {
        if !self.logged.borrow().is_owed || !log.event_fits_here(log.catalog_bytes_max()) {
            return 0;
        }
        let text_bytes_max = catalog.text_bytes_max(log.format_version());
        usize::from(self.append(log, catalog, text_bytes_max).is_ok())
    }

    /// Appends the change from the log's catalog to this one, whose text has at most
    /// `text_bytes_max` bytes, and publishes it. Returns the position.
    ///
    /// # Errors
    /// It is too long, or there is no room now; nothing has changed.
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
            // A segment that was opened for this event began with the previously published catalog.
            let mut logged = self.logged.borrow_mut();
            match &change {
                Some(change) => {
                    logged.note_change(catalog, blocks_of(change.len()));
                }
                None => logged.note_whole(catalog),
            }
        }
        self.publish(log, catalog, text_bytes_max)?;
        Ok(lsn)
    }

    /// The text of the change; `None` if the whole catalog must be written.
    fn change_to(&self, log: &Log, catalog: &Catalog, text_bytes_max: usize) -> Option<Vec<u8>> {
        if log.format_version() < CHANGES_FROM_VERSION {
            return None;
        }
        let logged = self.logged.borrow();
        let text = CatalogChange::between(logged.catalog.as_ref()?, catalog).encode();
        let whole_blocks = blocks_of(text_bytes_max);
        let is_due = logged.is_owed || logged.changed_blocks + blocks_of(text.len()) > whole_blocks;
        // If a whole one no longer fits, the next segment begins with one anyway.
        let fits = log.event_fits_here(text_bytes_max);
        (!is_due || (!fits && text.len() <= log.geometry().catalog_bytes_max())).then_some(text)
    }
}

/// The warning for the operator when there is little room left. Parts that grow by themselves are
/// shortened if necessary, so they do not count.
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
