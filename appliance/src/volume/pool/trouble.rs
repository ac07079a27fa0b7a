//! What keeps a volume from what it inherited: told once for each volume, and no longer when it has
//! passed.
//!
//! **States of a volume's inheritance:** looked up → in trouble that may pass (the archive does not
//! answer), which is tried again by whoever calls [`Pool::load_inherited`] and
//! [`Pool::hydrate_all`] → looked up; or in trouble for good, until the next start.

use super::{Pool, State, Volume, VolumeIndex};
use crate::volume::error::VolumeError;
use crate::volume::request::VolumeId;

/// What is in the way.
pub(in crate::volume) struct Trouble {
    /// What the operator is told.
    told: String,
    /// Whether another try may do better.
    passes: bool,
}

impl Trouble {
    /// What a volume inherited could not be looked up.
    pub(in crate::volume) fn of_lookup(name: &str, error: &VolumeError) -> Self {
        let passes = may_pass(error);
        let again = if passes { "; it is tried again" } else { "" };
        Trouble { told: format!("volume '{name}': what it inherited cannot be read: {error}{again}"), passes }
    }

    /// A volume was not hydrated to its end.
    pub(in crate::volume) fn of_hydration(name: &str, error: &VolumeError) -> Self {
        let passes = may_pass(error);
        let next = if passes {
            "it is tried again".to_owned()
        } else {
            format!("`varve volume hydrate {name}` goes on")
        };
        let told = format!(
            "volume '{name}' still needs the archive, it was not hydrated to its end: {error}; {next}"
        );
        Trouble { told, passes }
    }

    /// Whether another try may do better.
    pub(in crate::volume) fn passes(&self) -> bool {
        self.passes
    }
}

/// Whether the same may succeed later, without anybody's doing.
fn may_pass(error: &VolumeError) -> bool {
    matches!(error, VolumeError::ArchiveAway { .. } | VolumeError::Busy { .. })
}

impl Volume {
    /// Whether what it inherited is to be looked up: for the first time, or again.
    pub(in crate::volume) fn is_to_be_looked_up(&self) -> bool {
        match &self.index {
            VolumeIndex::Ready(_) => false,
            VolumeIndex::Inherits(_) => true,
            VolumeIndex::Failed(_) => self.is_in_passing_trouble(),
        }
    }

    /// Whether something is in its way that may pass.
    pub(in crate::volume) fn is_in_passing_trouble(&self) -> bool {
        self.trouble.as_ref().is_some_and(Trouble::passes)
    }
}

impl State {
    /// Makes what the operator is told of a volume what is so.
    pub(in crate::volume) fn tell_trouble(&mut self, id: VolumeId, trouble: Option<Trouble>) {
        let Some(volume) = self.volume_mut(id) else { return };
        let is_news = volume.trouble.is_none();
        let before = std::mem::replace(&mut volume.trouble, trouble);
        let told = volume.trouble.as_ref().map(|trouble| trouble.told.clone());
        let name = volume.name.clone();
        if let Some(before) = before {
            self.problems.retain(|known| *known != before.told);
            if told.is_none() {
                tracing::warn!(volume = name, "what the volume inherited can be read again");
            }
        }
        if let Some(problem) = told {
            if is_news {
                tracing::warn!(problem, "a volume does not have what it inherited");
            }
            self.problems.push(problem);
        }
    }

    /// A volume is gone: nothing is to be told of it any more.
    pub(in crate::volume) fn forget_trouble(&mut self, volume: &Volume) {
        if let Some(trouble) = &volume.trouble {
            self.problems.retain(|known| *known != trouble.told);
        }
    }
}

impl Pool {
    /// Whether a volume waits for an archive that did not answer: another try makes sense.
    pub fn waits_for_archive(&self) -> bool {
        self.state.borrow().volumes.iter().flatten().any(Volume::is_in_passing_trouble)
    }
}
