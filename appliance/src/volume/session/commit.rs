//! Ends a session with a result: the volume goes back to where the session stands, or the clone is
//! kept as a volume.

use std::rc::Rc;

use uuid::Uuid;

use super::held::Held;
use super::step::{member_of, standing_of};
use crate::log::{Lsn, recovery};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::history::point::Point;
use crate::volume::image::free::free;
use crate::volume::image::index::Mapping;
use crate::volume::image::volume::Volume;
use crate::volume::info::{RollBackInfo, VolumeInfo};
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// How many leaves are looked at in one piece.
const PIECE_LEAVES: usize = 16;
/// How many mappings are replaced in one piece.
const PIECE_BLOCKS: usize = 256;

impl Pool {
    /// Ends a session and keeps its clone under a name, with what hosts wrote to it.
    ///
    /// # Errors
    /// No such session, or it is busy; the name is another volume's; the clone is loading; the
    /// history where it stands is gone; a failed pool. A failure after the clone was renamed leaves
    /// the session with a renamed clone.
    pub async fn keep_session(self: Rc<Self>, name: String, keep: String) -> Result<VolumeInfo, VolumeError> {
        let mut held = Held::new(&self, &name)?;
        let session = self.session(&name)?;
        let clone = self.clone_of(&session)?;
        self.settle(&mut held, &session.name, clone.id).await?;
        if clone.name != keep {
            Rc::clone(&self).rename_volume(clone.name.clone(), keep).await?;
        }
        let change = self.change(|catalog, _| {
            if catalog.remove_session(&name) {
                return Ok(());
            }
            self.session(&name).map(|_| ())
        });
        let lsn = change.await?;
        recovery::stable(&self.log, lsn.plus(1)).await?;
        held.standing = None;
        self.volume(clone.id).ok_or(VolumeError::NoSuchVolume { name: clone.name })
    }

    /// Rolls the volume whose past a session shows back to where it stands, and ends the session.
    /// What hosts wrote to the clone is not in the volume; it must be discarded explicitly. The
    /// caller hydrates the volume ([`hydrate`](Self::hydrate)). A crash between the two leaves the
    /// session.
    ///
    /// # Errors
    /// No such session, or it is busy; the volume was deleted; the clone was written; those of
    /// [`roll_back`](Self::roll_back).
    pub async fn roll_back_session(
        self: Rc<Self>,
        name: String,
        discard_writes: bool,
        forced: bool,
    ) -> Result<RollBackInfo, VolumeError> {
        let mut held = Held::new(&self, &name)?;
        let session = self.session(&name)?;
        let clone = self.clone_of(&session)?;
        if clone.is_written && !discard_writes {
            let reason = format!(
                "a host has written to '{}', or may have, before the pool was started or recovered, and a roll-back to lsn:{} would not have that; discard these writes with --discard-writes, or keep the clone (varve restore commit {name} --keep NAME) and promote it",
                clone.name, session.at
            );
            return Err(VolumeError::Invalid { what: "commit", reason });
        }
        let volume = self.source_name(&session.name)?;
        let done = Rc::clone(&self).roll_back(volume, Point::Lsn(session.at), forced).await?;
        held.standing = None;
        Rc::clone(&self).delete_volume(clone.name).await?;
        Ok(done)
    }

    /// The name that the volume whose past a session shows has now.
    ///
    /// # Errors
    /// No such session; the volume was deleted.
    pub fn source_name(&self, session: &str) -> Result<String, VolumeError> {
        let session = self.session(session)?;
        let member = member_of(&session);
        let state = self.state.borrow();
        let volume = state.catalog.volume_with_uuid(member.source);
        let name = volume.map(|volume| volume.name.clone());
        name.ok_or_else(|| VolumeError::Invalid {
            what: "commit",
            reason: format!(
                "volume '{}' was deleted, so it cannot be rolled back; keep the clone under its name (varve restore commit {} --keep {})",
                member.name, session.name, member.name
            ),
        })
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

    /// Replaces the inherited mappings of a clone that point behind the point from which it was
    /// made: to copies of the same content, which only the session keeps.
    async fn settle(&self, held: &mut Held, name: &str, id: VolumeId) -> Result<(), VolumeError> {
        let session = self.session(name)?;
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
        self.stand(held, &session).await?;
        let past = &standing_of(held)?.past;
        let (scanned, _) = self.past_volume(member_of(&session).source, past.at()).await?;
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
