//! Ends a session with a result: the volumes go back to where the session stands, or the clones are
//! kept as volumes.

use std::rc::Rc;

use uuid::Uuid;

use super::held::Held;
use super::step::CloneNow;
use crate::log::Lsn;
use crate::reactor::yield_now;
use crate::volume::catalog::{CatalogGroup, CatalogSession, SessionMember};
use crate::volume::error::VolumeError;
use crate::volume::history::clone::member_name;
use crate::volume::history::members::Members;
use crate::volume::history::point::Point;
use crate::volume::history::roll_back::{ROLL_IT_BACK, RollBackTerms};
use crate::volume::history::roll_back_info::RollBacks;
use crate::volume::hosts::HostGuard;
use crate::volume::image::free::free;
use crate::volume::image::index::Mapping;
use crate::volume::image::volume::Volume;
use crate::volume::info::VolumeInfo;
use crate::volume::manage::checks::check_name;
use crate::volume::manage::groups::insert_group;
use crate::volume::manage::names::set_names;
use crate::volume::manage::operations::DELETE_IT;
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// How many leaves are looked at in one piece.
const PIECE_LEAVES: usize = 16;
/// How many mappings are replaced in one piece.
const PIECE_BLOCKS: usize = 256;

impl Pool {
    /// Ends a session and keeps its clones, with what hosts wrote to them, under a name. Those of a
    /// group become a group of this name, and have it before the names of their volumes. All of
    /// that is one change.
    ///
    /// # Errors
    /// No such session, or it is busy; a name is taken; a host is connected to a clone that gets
    /// another name; a clone is loading; the history where it stands is gone; a failed pool.
    pub async fn keep_session(
        self: Rc<Self>,
        name: String,
        keep: String,
        guard: HostGuard,
    ) -> Result<Vec<VolumeInfo>, VolumeError> {
        let mut held = Held::new(&self, &name)?;
        let session = self.session(&name)?;
        let clones = self.clones_of(&session)?;
        let names = kept_names(&session, &clones, &keep)?;
        // A clone that keeps its name loses no host.
        let check = || {
            let renamed = names.iter().filter(|(from, to)| from != to);
            guard.check_all(renamed.map(|(from, _)| from), "rename it")
        };
        check()?;
        for (at, clone) in clones.iter().enumerate() {
            self.settle(&session, (at, clone)).await?;
        }
        let (uuid, created_ns) = {
            let log = self.log.borrow();
            (log.environment().random.uuid(), log.now_ns())
        };
        let change = self.change(|catalog, _| {
            check()?;
            if !catalog.remove_session(&name) {
                return self.session(&name).map(|_| ());
            }
            set_names(catalog, &names)?;
            if session.group.is_some() {
                let volumes = session.members.iter().map(|member| member.clone).collect();
                insert_group(catalog, CatalogGroup { name: keep.clone(), uuid, created_ns, volumes })?;
            }
            Ok(())
        });
        let lsn = change.await?;
        let renamed = clones.iter().zip(&names).filter(|(_, (from, to))| from != to);
        let renamed: Vec<(VolumeId, &str)> =
            renamed.map(|(clone, (_, to))| (clone.id, to.as_str())).collect();
        self.put_names_in_force(&renamed, lsn).await?;
        held.standing = None;
        let kept = clones.iter().map(|clone| {
            self.volume(clone.id).ok_or_else(|| VolumeError::NoSuchVolume { name: clone.name.clone() })
        });
        kept.collect()
    }

    /// Rolls the volumes whose past a session shows back to where it stands, and ends the session,
    /// in one change. What hosts wrote to the clones is not in the volumes; it must be discarded
    /// explicitly. The caller hydrates the volumes ([`hydrate`](Self::hydrate)).
    ///
    /// # Errors
    /// No such session, or it is busy; a volume was deleted; a host is connected to a volume or a
    /// clone; a clone was written; those of [`roll_back`](Self::roll_back).
    pub async fn roll_back_session(
        self: Rc<Self>,
        name: String,
        discard_writes: bool,
        forced: bool,
        guard: HostGuard,
    ) -> Result<RollBacks, VolumeError> {
        let mut held = Held::new(&self, &name)?;
        let session = self.session(&name)?;
        let clones = self.clones_of(&session)?;
        guard.check_all(&self.source_names(&name)?, ROLL_IT_BACK)?;
        guard.check_all(clones.iter().map(|clone| &clone.name), DELETE_IT)?;
        if let Some(clone) = clones.iter().find(|clone| clone.is_written && !discard_writes) {
            let reason = format!(
                "a host has written to '{}', or may have, before the pool was started or recovered, and a roll-back to lsn:{} would not have that; discard these writes with --discard-writes, or keep the clone (varve restore commit {name} --keep NAME) and promote it",
                clone.name, session.at
            );
            return Err(VolumeError::Invalid { what: "commit", reason });
        }
        let expiries = self.expiries();
        let at = self.resolve_for(&Point::Lsn(session.at).into(), None).await?;
        let catalog = self.catalog_at(Lsn(at.lsn)).await?;
        let mut volumes = Vec::with_capacity(session.members.len());
        for member in &session.members {
            self.refuse_session_clone(member.source)?;
            volumes.push(self.member_then(member.source, &catalog, &at.point)?);
        }
        let members = Members { catalog, group: session.group.clone(), volumes };
        let ended: Vec<String> = clones.into_iter().map(|clone| clone.name).collect();
        let terms = RollBackTerms { ended: &ended, forced, expiries, guard: &guard };
        let done = self.roll_back_to(at, members, terms).await?;
        held.standing = None;
        Ok(done)
    }

    /// The names that the volumes whose past a session shows have now.
    ///
    /// # Errors
    /// No such session; a volume was deleted.
    fn source_names(&self, session: &str) -> Result<Vec<String>, VolumeError> {
        let session = self.session(session)?;
        let state = self.state.borrow();
        let name = |member: &SessionMember| {
            let volume = state.catalog.volume_with_uuid(member.source);
            volume.map(|volume| volume.name.clone()).ok_or_else(|| VolumeError::Invalid {
                what: "commit",
                reason: format!(
                    "volume '{}' was deleted, so it cannot be rolled back; keep the clone under its name (varve restore commit {} --keep {})",
                    member.name, session.name, member.name
                ),
            })
        };
        session.members.iter().map(name).collect()
    }

    /// Refuses to set a session's clone to another state by anything but the session.
    ///
    /// # Errors
    /// It is one.
    pub(in crate::volume) fn refuse_session_clone(&self, uuid: Uuid) -> Result<(), VolumeError> {
        let state = self.state.borrow();
        let Some(session) = state.catalog.session_of(uuid) else { return Ok(()) };
        let reason = format!(
            "it is the clone of session '{0}', which moves it (varve restore step {0} --to POINT); end the session first (varve restore commit {0} --keep NAME)",
            session.name
        );
        Err(VolumeError::Invalid { what: "volume", reason })
    }

    /// Replaces the inherited mappings of the clone of a member that point behind the point from
    /// which it was made: to copies of the same content, which only the session keeps.
    async fn settle(
        &self,
        session: &CatalogSession,
        (at, clone): (usize, &CloneNow),
    ) -> Result<(), VolumeError> {
        let (id, name) = (clone.id, &clone.name);
        let (index, parent, above) = {
            let state = self.state.borrow();
            let volume = state.volumes.get(id);
            let image = volume.and_then(|volume| state.catalog.image(volume.image().0));
            let parent = image.and_then(|image| image.parent).map_or(Lsn(0), |parent| Lsn(parent.lsn));
            let index = volume.and_then(|volume| volume.ready_index().cloned());
            let index = index.ok_or_else(|| VolumeError::Busy {
                reason: format!("volume '{name}' is still loading what it inherited; try again"),
            })?;
            (index, parent, volume.map_or(Lsn(0), Volume::resident_above))
        };
        let mut ahead: Vec<(u64, Mapping)> = Vec::new();
        let mut next = Some(0);
        while let Some(from) = next {
            next = index.visit_some(from, PIECE_LEAVES, |block, mapping| {
                if mapping.lsn() > parent && mapping.lsn() <= above {
                    ahead.push((block, mapping));
                }
            });
            yield_now().await;
        }
        free(index).await;
        if ahead.is_empty() {
            return Ok(());
        }
        // Everything that was appended is to be found in the log.
        self.log.borrow_mut().close_up_to(Lsn::MAX);
        let source = session.members[at].source;
        let (scanned, _) = self.past_volume(source, Lsn(session.at)).await?;
        for piece in ahead.chunks(PIECE_BLOCKS) {
            {
                let mut state = self.state.borrow_mut();
                let Some(volume) = state.volumes.get_mut(id) else { break };
                for &(block, mapping) in piece {
                    volume.settle(block, mapping, scanned.index().get(block));
                }
            }
            yield_now().await;
        }
        Ok(())
    }
}

/// The names of a session's clones, and those under which they are kept.
fn kept_names(
    session: &CatalogSession,
    clones: &[CloneNow],
    keep: &str,
) -> Result<Vec<(String, String)>, VolumeError> {
    let mut names = Vec::with_capacity(clones.len());
    for (member, clone) in session.members.iter().zip(clones) {
        let to = match session.group {
            Some(_) => member_name(keep, &member.name),
            None => keep.to_owned(),
        };
        check_name("volume name", &to)?;
        names.push((clone.name.clone(), to));
    }
    Ok(names)
}
