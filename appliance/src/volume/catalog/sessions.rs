//! Sessions on points of the past, as the catalog stores them. A session is small, and there are
//! few: what a step writes is one of them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::shared::{Key, Keyed, Keys};
use crate::log::Lsn;

/// The maximum number of sessions in a pool.
pub const SESSIONS_MAX: usize = 64;
/// The maximum number of verdicts of a session.
pub const VERDICTS_MAX: usize = 256;

/// A session: clones that are moved along the log together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogSession {
    pub(crate) name: String,
    pub(crate) made_ns: u64,
    /// At least one; the first one's clone names the session in a change.
    pub(crate) members: Vec<SessionMember>,
    /// The name of the group that was opened; `None`: it was one volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<String>,
    /// Where it stands, and the time there.
    pub(crate) at: u64,
    pub(crate) time_ns: u64,
    /// The oldest and the newest position at which it stood: history between them is kept.
    pub(crate) oldest: u64,
    pub(crate) newest: u64,
    /// What was found at positions, in the order of the log, one each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) verdicts: Vec<SessionVerdict>,
    /// Whether the clone may hold writes of hosts that its image does not have: the pool was
    /// recovered since the last step.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) may_be_written: bool,
}

/// A volume of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionMember {
    /// The clone that hosts see.
    pub(crate) clone: Uuid,
    /// The volume whose past it shows.
    pub(crate) source: Uuid,
    /// The name of that volume when the session was opened.
    pub(crate) name: String,
}

/// What was found at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionVerdict {
    pub(crate) lsn: u64,
    pub(crate) time_ns: u64,
    pub(crate) verdict: Verdict,
}

/// A verdict on the state at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It is as it should be.
    Good,
    /// It is not.
    Bad,
    /// It cannot be said.
    Skip,
}

impl Keyed for CatalogSession {
    fn keys(&self) -> Keys {
        [Key::Uuid(self.key()), Key::name(&self.name)].into_iter().collect()
    }
}

impl CatalogSession {
    /// What identifies it in a change of the catalog.
    pub(super) fn key(&self) -> Uuid {
        self.members.first().map_or(Uuid::nil(), |member| member.clone)
    }

    /// Moves it to a position.
    pub(crate) fn stand_at(&mut self, at: Lsn, time_ns: u64) {
        (self.at, self.time_ns) = (at.0, time_ns);
        self.may_be_written = false;
        self.oldest = self.oldest.min(at.0);
        self.newest = self.newest.max(at.0);
    }

    /// Records a verdict on a position; it replaces the one before.
    pub(crate) fn judge(&mut self, verdict: SessionVerdict) {
        match self.verdicts.binary_search_by_key(&verdict.lsn, |known| known.lsn) {
            Ok(place) => self.verdicts[place] = verdict,
            Err(place) => self.verdicts.insert(place, verdict),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        SESSIONS_MAX => "at most {} sessions (`SESSIONS_MAX`)",
        VERDICTS_MAX => "at most {} verdicts (`VERDICTS_MAX`)",
    );

    #[test]
    fn a_position_has_one_verdict_and_they_are_in_order() {
        let member = SessionMember { clone: Uuid::nil(), source: Uuid::nil(), name: "v".to_owned() };
        let mut session = CatalogSession {
            name: "s".to_owned(),
            made_ns: 1,
            members: vec![member],
            group: None,
            at: 50,
            time_ns: 1,
            oldest: 50,
            newest: 50,
            verdicts: Vec::new(),
            may_be_written: false,
        };
        for (lsn, verdict) in
            [(50, Verdict::Bad), (10, Verdict::Good), (30, Verdict::Skip), (30, Verdict::Bad)]
        {
            session.stand_at(Lsn(lsn), lsn);
            session.judge(SessionVerdict { lsn, time_ns: 1, verdict });
        }
        let found: Vec<_> = session.verdicts.iter().map(|known| (known.lsn, known.verdict)).collect();
        assert_eq!(found, [(10, Verdict::Good), (30, Verdict::Bad), (50, Verdict::Bad)]);
        assert_eq!((session.at, session.time_ns, session.oldest, session.newest), (30, 30, 10, 50));
    }
}
