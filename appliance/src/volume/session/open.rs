//! Opens, lists and aborts sessions: of one volume, or of all volumes of a group.

use std::rc::Rc;

use super::held::Held;
use super::info::SessionInfo;
use crate::volume::catalog::{Catalog, CatalogSession, SESSIONS_MAX, SessionMember};
use crate::volume::error::VolumeError;
use crate::volume::history::clone::{MadeClone, MadeClones, MakeClones};
use crate::volume::history::point::NamedPoint;
use crate::volume::hosts::HostGuard;
use crate::volume::info::CloneInfo;
use crate::volume::manage::checks::check_name;
use crate::volume::pool::Pool;

/// The parameters of a new session.
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// The volume, by the name that it had at the point, or a group.
    pub volume: String,
    /// The point at which it begins.
    pub at: NamedPoint,
    /// The name of the session and of its clone; clones of a group have it before the names of its
    /// volumes.
    pub name: String,
    /// Whether hosts may not write to the clones.
    pub read_only: bool,
}

impl Pool {
    /// Opens a session: a clone of a volume, or of each volume of a group, at a point, which can be
    /// moved along the log. All are made in one change.
    ///
    /// # Errors
    /// As [`clone_volume`](Self::clone_volume); a session of that name exists; too many sessions; a
    /// pool without an archive that reuses its slots, because it keeps no history to move in.
    pub async fn open_session(
        self: Rc<Self>,
        request: OpenSession,
    ) -> Result<(SessionInfo, Vec<CloneInfo>), VolumeError> {
        let OpenSession { volume, at, name, read_only } = request;
        check_name("session name", &name)?;
        if self.state.borrow().volumes.keeps_inherited() {
            let reason = "the pool has no archive and reuses its slots, so it keeps no history to move in; serve it with an archive (varve serve --archive), or clone a point (varve restore clone)".to_owned();
            return Err(VolumeError::Invalid { what: "pool", reason });
        }
        let _held = Held::new(&self, &name)?;
        let add = |catalog: &mut Catalog, made: &MadeClones| add_session(catalog, &name, made);
        let make = MakeClones { of: volume, point: at, name: name.clone(), read_only };
        let clones = Rc::clone(&self).make_clones(make, &add).await?;
        Ok((self.session_info(&self.session(&name)?)?, clones))
    }

    /// Every session, or the one with a name, oldest first.
    ///
    /// # Errors
    /// No such session.
    pub fn sessions(&self, name: Option<&str>) -> Result<Vec<SessionInfo>, VolumeError> {
        if let Some(name) = name {
            return Ok(vec![self.session_info(&self.session(name)?)?]);
        }
        let sessions: Vec<CatalogSession> = self.state.borrow().catalog.sessions().cloned().collect();
        sessions.iter().map(|session| self.session_info(session)).collect()
    }

    /// Ends a session and deletes its clones, in one change.
    ///
    /// # Errors
    /// No such session, or it is busy; a host is connected to a clone; a failed pool.
    pub async fn abort_session(self: Rc<Self>, name: String, guard: HostGuard) -> Result<(), VolumeError> {
        let mut held = Held::new(&self, &name)?;
        held.standing = None;
        let clones = self.clone_names(&name)?;
        // A session ends with its clones.
        Rc::clone(&self).delete_volumes(clones, guard).await
    }
}

/// Adds the session to the catalog that has its clones already.
fn add_session(catalog: &mut Catalog, name: &str, made: &MadeClones) -> Result<(), VolumeError> {
    if catalog.session(name).is_some() {
        let reason = format!("a session '{name}' exists already; choose another name");
        return Err(VolumeError::Invalid { what: "session name", reason });
    }
    if catalog.sessions.len() >= SESSIONS_MAX {
        let reason = format!(
            "a pool has at most {SESSIONS_MAX} sessions; end one first (varve restore abort NAME; varve restore status lists them)"
        );
        return Err(VolumeError::NoSpace { reason });
    }
    let member = |made: &MadeClone| SessionMember {
        clone: made.uuid,
        source: made.source,
        name: made.source_name.clone(),
    };
    catalog.add_session(CatalogSession {
        name: name.to_owned(),
        made_ns: made.made_ns,
        members: made.clones.iter().map(member).collect(),
        group: made.group.clone(),
        at: made.at.0,
        time_ns: made.time_ns,
        oldest: made.at.0,
        // The clone may share an index that is newer than the point, with the same content.
        newest: made.born.0.max(made.at.0),
        verdicts: Vec::new(),
        may_be_written: false,
    });
    Ok(())
}
