//! The slot for a pool's archive.
//!
//! **States:** empty → a stand-in for an archive that cannot be reached (see `away`) → an archive;
//! or empty → an archive. A recovery removes it again.

use super::state::Archive;
use crate::volume::error::VolumeError;

/// The archive of a pool, if it has one. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct ArchiveSlot {
    archive: Option<Box<Archive>>,
    /// How many times archived segments were forgotten since the start.
    expiries: u64,
}

impl ArchiveSlot {
    /// Whether there is one; a stand-in counts.
    #[inline]
    pub(in crate::volume) fn is_attached(&self) -> bool {
        self.archive.is_some()
    }

    /// The archive.
    #[inline]
    pub(in crate::volume) fn get(&self) -> Option<&Archive> {
        self.archive.as_deref()
    }

    /// The archive, for changes.
    #[inline]
    pub(in crate::volume) fn get_mut(&mut self) -> Option<&mut Archive> {
        self.archive.as_deref_mut()
    }

    /// Attaches an archive.
    pub(super) fn attach(&mut self, archive: Archive) {
        assert!(self.archive.is_none(), "a pool has one archive");
        self.archive = Some(Box::new(archive));
    }

    /// Detaches the archive.
    pub(super) fn detach(&mut self) -> Option<Archive> {
        self.archive.take().map(|archive| *archive)
    }

    /// How many times archived segments were forgotten since the start.
    pub(in crate::volume) fn expiries(&self) -> u64 {
        self.expiries
    }

    /// Notes that archived segments were forgotten.
    pub(super) fn note_expiry(&mut self) {
        self.expiries += 1;
    }

    /// Continues the read of entries, which uses the log itself. Returns how much was done.
    pub(in crate::volume) fn poll_loading(&mut self) -> usize {
        self.get_mut().map_or(0, Archive::poll_loading)
    }
}

/// The error of a pool without an archive.
pub(super) fn no_archive() -> VolumeError {
    VolumeError::Busy { reason: "the pool has no archive; start it with --archive DIRECTORY".to_owned() }
}
