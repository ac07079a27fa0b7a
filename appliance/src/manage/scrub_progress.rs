//! The progress of the archive's scrub, and the file that stores it across restarts.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::archive::object::Place;

/// The progress of the archive's scrub.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// When the current pass began, ns since the Unix epoch.
    pub pass_began_ns: Option<u64>,
    /// Objects of this pass, as of the last listing.
    pub objects: u64,
    /// Of these, those that have been read.
    pub objects_done: u64,
    /// Of these, those that are damaged.
    pub damaged_objects: u64,
    /// Of these, those that should be in the store but are not.
    pub missing_objects: u64,
    /// Anchors, which a pass reads after the objects.
    #[serde(default)]
    pub anchors: u64,
    /// Of these, those that have been read.
    #[serde(default)]
    pub anchors_done: u64,
    /// Of these, those that were damaged, or lacked a part. Points open without them, only slower.
    #[serde(default)]
    pub damaged_anchors: u64,
    /// When the last complete pass ended, ns since the Unix epoch.
    pub last_pass_ns: Option<u64>,
    /// How many objects that pass found damaged or missing.
    pub last_pass_bad_objects: u64,
    /// How many anchors that pass found damaged.
    #[serde(default)]
    pub last_pass_damaged_anchors: u64,
    /// The newest findings of this pass, described.
    pub found: VecDeque<String>,
    /// The newest anchors that this pass found damaged, described.
    #[serde(default)]
    pub slower: VecDeque<String>,
    /// Why it does not continue.
    pub problem: Option<String>,
    /// The last object that was read.
    pub(super) next_behind: Option<Place>,
    /// Whether this pass has read the anchors.
    #[serde(default)]
    pub(super) anchors_read: bool,
}

/// The progress and its file.
pub(super) struct ScrubProgress {
    file: PathBuf,
    pub(super) status: Mutex<ScrubStatus>,
}

impl ScrubProgress {
    /// Continues from the progress in the file.
    pub(super) fn open(file: PathBuf) -> Self {
        let text = std::fs::read(&file).unwrap_or_default();
        let status: ScrubStatus = serde_json::from_slice(&text).unwrap_or_default();
        ScrubProgress { file, status: Mutex::new(ScrubStatus { problem: None, ..status }) }
    }

    pub(super) fn get(&self) -> ScrubStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change(&self, edit: impl FnOnce(&mut ScrubStatus)) {
        edit(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Replaces the whole file. It is not synced: losing it only costs a restart of the pass.
    pub(super) fn save(&self) {
        let text = serde_json::to_vec(&self.get()).unwrap_or_default();
        let new = self.file.with_extension("new");
        if let Err(error) =
            crate::private::write(&new, &text).and_then(|()| std::fs::rename(&new, &self.file))
        {
            tracing::debug!(%error, file = %self.file.display(), "where the scrub is could not be noted");
        }
    }
}

/// The path of the progress file, beside the file of the rules.
pub(super) fn file_beside(keep_file: &Path) -> PathBuf {
    keep_file.with_file_name("archive-scrub")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_pass_is_outlives_a_restart_and_damage_only_begins_it_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = file_beside(&folder.path().join("archive-keep"));
        let scrub = ScrubProgress::open(file.clone());
        assert_eq!(scrub.get(), ScrubStatus::default());
        scrub.change(|status| {
            status.objects_done = 7;
            status.next_behind = Some((1, 2, 3, 4, 5, true));
            status.problem = Some("away".to_owned());
        });
        scrub.save();
        let again = ScrubProgress::open(file.clone()).get();
        assert_eq!((again.objects_done, again.next_behind), (7, Some((1, 2, 3, 4, 5, true))));
        assert_eq!(again.problem, None, "what was in the way is found out anew");
        std::fs::write(&file, b"{\"objects\": tr").expect("written");
        assert_eq!(ScrubProgress::open(file).get(), ScrubStatus::default());
    }
}
