//! The place for a pool's archive.
//!
//! **States:** empty → an archive that is waited for (see `away`) → an archive; or empty → an
//! archive. A recovery takes it out again.

use super::Archive;

/// The archive of a pool, if it has one. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct ArchiveSlot {
    archive: Option<Box<Archive>>,
    /// How often segments of the archive were forgotten since start.
    expiries: u64,
}

impl ArchiveSlot {
    /// Whether there is one, also one that is waited for.
    #[inline]
    pub(in crate::volume) fn is_attached(&self) -> bool {
        self.archive.is_some()
    }

    /// The archive.
    #[inline]
    pub(in crate::volume) fn get(&self) -> Option<&Archive> {
        self.archive.as_deref()
    }

    /// The archive, to be used.
    #[inline]
    pub(in crate::volume) fn get_mut(&mut self) -> Option<&mut Archive> {
        self.archive.as_deref_mut()
    }

    /// Gives the pool an archive.
    pub(super) fn attach(&mut self, archive: Archive) {
        assert!(self.archive.is_none(), "a pool has one archive");
        self.archive = Some(Box::new(archive));
    }

    /// Takes the archive away.
    pub(super) fn detach(&mut self) -> Option<Archive> {
        self.archive.take().map(|archive| *archive)
    }

    /// How often segments of the archive were forgotten since start.
    pub(in crate::volume) fn expiries(&self) -> u64 {
        self.expiries
    }

    /// Segments of the archive were forgotten.
    pub(super) fn note_expiry(&mut self) {
        self.expiries += 1;
    }

    /// Goes on with entries that are read; it uses the log by itself. Returns how much was done.
    pub(in crate::volume) fn poll_loading(&mut self) -> usize {
        self.get_mut().map_or(0, Archive::poll_loading)
    }
}
