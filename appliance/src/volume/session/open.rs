//! Opens, lists and aborts sessions.

use std::rc::Rc;

use super::held::Held;
use super::info::SessionInfo;
use crate::volume::catalog::{Catalog, CatalogSession, SESSIONS_MAX, SessionMember};
use crate::volume::error::VolumeError;
use crate::volume::history::clone::{MadeClone, MakeClone};
use crate::volume::history::point::NamedPoint;
use crate::volume::info::CloneInfo;
use crate::volume::manage::operations::check_name;
use crate::volume::pool::Pool;

/// The parameters of a new session.
#[derive(Debug, Clone)]
pub struct OpenSession {
    /// The volume, by the name that it had at the point.
    pub volume: String,
    /// The point at which it begins.
    pub at: NamedPoint,
    /// The name of the session and of its clone.
    pub name: String,
    /// Whether hosts may not write to the clone.
    pub read_only: bool,
}

impl Pool {
    /// Opens a session: a clone of a volume at a point that can be moved along the log. Both are
    /// made in one change.
    ///
    /// # Errors
    /// As [`clone_volume`](Self::clone_volume); a session of that name exists; too many sessions; a
    /// pool without an archive that reuses its slots, because it keeps no history to move in.
    pub async fn open_session(
        self: Rc<Self>,
        request: OpenSession,
    ) -> Result<(SessionInfo, CloneInfo), VolumeError> {
        let OpenSession { volume, at, name, read_only } = request;
        check_name("session name", &name)?;
        if self.state.borrow().volumes.keeps_inherited() {
            let reason = "the pool has no archive and reuses its slots, so it keeps no history to move in; serve it with an archive (varve serve --archive), or clone a point (varve restore clone)".to_owned();
            return Err(VolumeError::Invalid { what: "pool", reason });
        }
        let _held = Held::new(&self, &name)?;
        let source_name = volume.clone();
        let add = |catalog: &mut Catalog, made: &MadeClone| add_session(catalog, &name, &source_name, made);
        let make = MakeClone { volume, point: at, name: name.clone(), read_only };
        let clone = Rc::clone(&self).make_clone(make, &add).await?;
        Ok((self.session_info(&self.session(&name)?)?, clone))
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

    /// The name of a session's clone.
    ///
    /// # Errors
    /// No such session.
    pub fn clone_name(&self, session: &str) -> Result<String, VolumeError> {
        Ok(self.clone_of(&self.session(session)?)?.name)
    }

    /// Ends a session and deletes its clone, in one change.
    ///
    /// # Errors
    /// No such session, or it is busy; a failed pool.
    pub async fn abort_session(self: Rc<Self>, name: String) -> Result<(), VolumeError> {
        let mut held = Held::new(&self, &name)?;
        held.standing = None;
        let clone = self.clone_name(&name)?;
        // A session ends with its clone.
        Rc::clone(&self).delete_volume(clone).await
    }
}

/// Adds the session to the catalog that has its clone already.
fn add_session(
    catalog: &mut Catalog,
    name: &str,
    source_name: &str,
    made: &MadeClone,
) -> Result<(), VolumeError> {
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
    catalog.add_session(CatalogSession {
        name: name.to_owned(),
        made_ns: made.made_ns,
        members: vec![SessionMember { clone: made.uuid, source: made.source, name: source_name.to_owned() }],
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
