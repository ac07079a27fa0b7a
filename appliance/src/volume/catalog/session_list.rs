//! The sessions of a catalog: looking them up, and forgetting those whose clones are gone.

use std::collections::HashSet;

use uuid::Uuid;

use super::Catalog;
use super::sessions::{CatalogSession, SessionMember};

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
        let is_there = |member: &SessionMember| self.volume_with_uuid(member.clone).is_some();
        let is_gone =
            |session: &&CatalogSession| session.members.is_empty() || !session.members.iter().all(is_there);
        let gone: HashSet<Uuid> = self.sessions.iter().filter(is_gone).map(CatalogSession::key).collect();
        if !gone.is_empty() {
            self.retain_sessions(|session| !gone.contains(&session.key()));
        }
    }

    /// The session to which a clone belongs.
    pub(in crate::volume) fn session_of(&self, clone: Uuid) -> Option<&CatalogSession> {
        self.sessions.iter().find(|session| session.members.iter().any(|member| member.clone == clone))
    }
}
