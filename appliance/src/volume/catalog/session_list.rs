//! The sessions of a catalog: looking them up, and forgetting those whose clones are gone.

use std::collections::HashSet;

use uuid::Uuid;

use super::Catalog;
use super::sessions::CatalogSession;

impl Catalog {
    /// The sessions, oldest first. One without a volume is damage, and left out.
    pub(in crate::volume) fn sessions(&self) -> impl Iterator<Item = &CatalogSession> {
        self.sessions.iter().filter(|session| !session.members.is_empty())
    }

    /// The session of a name.
    pub(in crate::volume) fn session(&self, name: &str) -> Option<&CatalogSession> {
        self.sessions().find(|session| session.name == name)
    }

    /// Forgets the sessions whose clones are gone.
    pub(in crate::volume) fn forget_sessions(&mut self) {
        if self.sessions.is_empty() {
            return;
        }
        let clones: HashSet<Uuid> = self.volumes.iter().map(|volume| volume.uuid).collect();
        self.retain_sessions(|session| {
            !session.members.is_empty() && session.members.iter().all(|member| clones.contains(&member.clone))
        });
    }

    /// The session to which a clone belongs.
    pub(in crate::volume) fn session_of(&self, clone: Uuid) -> Option<&CatalogSession> {
        self.sessions.iter().find(|session| session.members.iter().any(|member| member.clone == clone))
    }
}
