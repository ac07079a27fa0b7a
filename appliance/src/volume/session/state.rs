//! What is known of sessions while the pool is open, apart from the catalog: the states of the
//! sources where each stands, and which are being moved.
//!
//! **Bounds:** the states of at most [`STANDING_MAX`] sessions are kept, each with a cache of
//! entries. Another is taken from the clone, or rebuilt.
//!
//! **Invariant:** a session that is busy has one command under way, which ends it
//! ([`super::held`]).

use std::collections::{HashSet, VecDeque};

use crate::volume::error::VolumeError;
use crate::volume::history::entry_cache::EntryCache;
use crate::volume::history::past_volume::PastVolume;

/// The states of how many sessions are kept.
const STANDING_MAX: usize = 4;

/// The states of the sources where their session stands.
pub(in crate::volume) struct Standing {
    /// When its session was opened: another one may have the same name.
    pub(in crate::volume) made_ns: u64,
    /// One for each member of the session, in its order.
    pub(in crate::volume) pasts: Vec<PastVolume>,
    pub(in crate::volume) cache: EntryCache,
}

/// The sessions. See the module's documentation.
#[derive(Default)]
pub(in crate::volume) struct Sessions {
    /// The one used last is last.
    standing: VecDeque<(String, Standing)>,
    busy: HashSet<String>,
}

impl Sessions {
    /// Takes the state of a session, for one command.
    pub(super) fn take(&mut self, name: &str) -> Result<Option<Standing>, VolumeError> {
        if !self.busy.insert(name.to_owned()) {
            let reason = format!("another command of session '{name}' is under way; wait for its end");
            return Err(VolumeError::Busy { reason });
        }
        let at = self.standing.iter().position(|(known, _)| known == name);
        Ok(at.and_then(|at| self.standing.remove(at)).map(|(_, standing)| standing))
    }

    /// Ends a command of a session, and keeps its state.
    pub(super) fn give_back(&mut self, name: &str, standing: Option<Standing>) {
        self.busy.remove(name);
        let Some(standing) = standing else { return };
        self.standing.push_back((name.to_owned(), standing));
        if self.standing.len() > STANDING_MAX {
            self.standing.pop_front();
        }
    }
}
