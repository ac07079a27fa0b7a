//! The read cache for whole objects from tape: a directory with a size bound.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::entry::Place;
use crate::private;

/// The cache. The least recently used object is removed first; a file that is still being read
/// exists until its reader is done.
#[derive(Debug)]
pub(super) struct Stage {
    root: PathBuf,
    bound_bytes: u64,
    used_bytes: u64,
    // Oldest use first: place on tape, bytes, file.
    staged: VecDeque<(Place, u64, Arc<File>)>,
}

impl Stage {
    /// Opens the cache, and empties it.
    pub(super) fn open(root: &Path, bound_bytes: u64) -> io::Result<Self> {
        private::create_dir_all(root)?;
        for entry in fs::read_dir(root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "staged") {
                fs::remove_file(path)?;
            }
        }
        Ok(Stage { root: root.to_owned(), bound_bytes, used_bytes: 0, staged: VecDeque::new() })
    }

    /// The size bound, which is also the largest object that can be staged.
    pub(super) fn bound_bytes(&self) -> u64 {
        self.bound_bytes
    }

    /// A staged object.
    pub(super) fn find(&mut self, place: Place) -> Option<Arc<File>> {
        let index = self.staged.iter().position(|(staged, ..)| *staged == place)?;
        let entry = self.staged.remove(index)?;
        let file = Arc::clone(&entry.2);
        self.staged.push_back(entry);
        Some(file)
    }

    /// Makes room and creates an empty file for an object that is not larger than the bound.
    pub(super) fn create(&mut self, place: Place, len_bytes: u64) -> io::Result<File> {
        while self.used_bytes.saturating_add(len_bytes) > self.bound_bytes {
            let Some(&(oldest, ..)) = self.staged.front() else { break };
            self.remove(oldest);
        }
        private::create(&self.path(place))
    }

    /// Adds a file that was filled.
    pub(super) fn insert(&mut self, place: Place, len_bytes: u64, file: File) -> Arc<File> {
        let file = Arc::new(file);
        self.used_bytes = self.used_bytes.saturating_add(len_bytes);
        self.staged.push_back((place, len_bytes, Arc::clone(&file)));
        file
    }

    /// Removes an object, or an incomplete file of one.
    pub(super) fn remove(&mut self, place: Place) {
        if let Some(index) = self.staged.iter().position(|(staged, ..)| *staged == place)
            && let Some((_, len_bytes, _)) = self.staged.remove(index)
        {
            self.used_bytes = self.used_bytes.saturating_sub(len_bytes);
        }
        // A file that cannot be removed now is removed at the next open.
        let _ = fs::remove_file(self.path(place));
    }

    fn path(&self, place: Place) -> PathBuf {
        self.root.join(format!("{}-{}.staged", place.0, place.1))
    }
}

/// Fills `buffer` from a staged file.
pub(super) fn read(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}
