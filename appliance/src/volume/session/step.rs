//! Moves a session along the log: all its clones together, to one position, in one change.

use std::rc::Rc;
use std::time::Instant;

use super::changed::Changed;
use super::held::Held;
use super::info::{ChangedBlocks, MemberInfo, Position, SessionInfo, StepInfo, StepTo};
use super::state::Standing;
use crate::dma::BLOCK_BYTES;
use crate::log::{Lsn, recovery};
use crate::reactor::yield_now;
use crate::volume::catalog::{CatalogSession, SessionMember};
use crate::volume::error::VolumeError;
use crate::volume::history::commands::Counted;
use crate::volume::history::entry_cache::EntryCache;
use crate::volume::history::reigns::VolumeThen;
use crate::volume::history::walk::{PastVolume, WalkReport};
use crate::volume::hosts::HostGuard;
use crate::volume::image::census::Census;
use crate::volume::image::index::Index;
use crate::volume::image::rebase::{PastState, RebaseKind};
use crate::volume::image::volume::Volume;
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// What a step does to a clone, for a refusal.
pub(super) const MOVE_IT: &str = "move it";
/// How many leaves are compared in one piece.
const PIECE_LEAVES: usize = 16;

/// The clone of a session, as it is now.
pub(super) struct CloneNow {
    pub(super) id: VolumeId,
    pub(super) name: String,
    pub(super) size_blocks: u64,
    pub(super) is_written: bool,
    /// The position of its newest write or trim, or a later one.
    changed_lsn: Lsn,
    /// Its index, and below which position that is not certain; `None` while it is loading.
    index: Option<(Index, Lsn)>,
    /// Whether the index is that of the source, without blocks of its own.
    is_plain: bool,
}

impl Pool {
    /// Moves a session. A clone that was written is moved only if its writes may be discarded.
    ///
    /// # Errors
    /// No such session, or it is busy; a host is connected to a clone; the clone was written; the
    /// history ends before the position, or is gone there; no room; a failed pool. The session then
    /// stands where it stood.
    pub async fn step_session(
        self: Rc<Self>,
        name: String,
        to: StepTo,
        discard_writes: bool,
        guard: HostGuard,
    ) -> Result<StepInfo, VolumeError> {
        let mut held = Held::new(&self, &name)?;
        let session = self.session(&name)?;
        guard.check_all(&self.clone_names(&name)?, MOVE_IT)?;
        self.stand(&mut held, &session).await?;
        let position = match to {
            StepTo::Point(point) => {
                let at = Rc::clone(&self).resolve(point).await?;
                Position { lsn: at.lsn, time_ns: at.time_ns }
            }
            StepTo::Commands(count) => self.position_after(&mut held, &session, count).await?,
        };
        self.step_to(&mut held, &session, position, discard_writes, &guard).await
    }

    /// The names of a session's clones.
    ///
    /// # Errors
    /// No such session.
    pub(super) fn clone_names(&self, session: &str) -> Result<Vec<String>, VolumeError> {
        let clones = self.clones_of(&self.session(session)?)?;
        Ok(clones.into_iter().map(|clone| clone.name).collect())
    }

    /// The session of a name.
    pub(super) fn session(&self, name: &str) -> Result<CatalogSession, VolumeError> {
        self.state.borrow().catalog.session(name).cloned().ok_or_else(|| VolumeError::Invalid {
            what: "session",
            reason: format!("there is no session '{name}'; `varve restore status` shows what there is"),
        })
    }

    /// The clones of a session, in its order.
    pub(super) fn clones_of(&self, session: &CatalogSession) -> Result<Vec<CloneNow>, VolumeError> {
        session.members.iter().map(|member| self.clone_of(session, member)).collect()
    }

    fn clone_of(&self, session: &CatalogSession, member: &SessionMember) -> Result<CloneNow, VolumeError> {
        let state = self.state.borrow();
        let volume = state.catalog.volume_with_uuid(member.clone);
        let id = volume.and_then(|volume| state.volumes.find(&volume.name));
        let found = id.and_then(|id| Some((id, state.volumes.get(id)?)));
        let (id, volume) = found.ok_or_else(|| VolumeError::NoSuchVolume { name: session.name.clone() })?;
        Ok(CloneNow {
            id,
            name: volume.name().to_owned(),
            size_blocks: volume.size_blocks(),
            is_written: volume.is_written() || session.may_be_written,
            changed_lsn: volume.changed_lsn(),
            index: volume.ready_index().map(|index| (index.clone(), volume.uncertain_below())),
            is_plain: !volume.is_written()
                && !session.may_be_written
                && volume.resident() == 0
                && !volume.is_hydrating(),
        })
    }

    /// Makes the states of the sources where a session stands known.
    pub(super) async fn stand(&self, held: &mut Held, session: &CatalogSession) -> Result<(), VolumeError> {
        let at = Lsn(session.at);
        // Everything that was appended is to be found in the log.
        self.log.borrow_mut().close_up_to(Lsn::MAX);
        // What a session of the same name needed may have expired since.
        held.standing.take_if(|standing| standing.made_ns != session.made_ns);
        if let Some(Standing { pasts, cache, .. }) = &mut held.standing {
            // A step that failed may have left some at another position.
            for past in pasts {
                self.walk(past, at, cache, None).await?;
            }
            return Ok(());
        }
        let mut pasts = Vec::with_capacity(session.members.len());
        for (member, clone) in session.members.iter().zip(self.clones_of(session)?) {
            let (then, catalog) = self.volume_then(member.source, at).await?;
            pasts.push(match clone.index.filter(|_| clone.is_plain) {
                Some((index, uncertain_below)) => {
                    PastVolume::known(then, catalog, at, index, uncertain_below)
                }
                None => self.past_volume(member.source, at).await?.0,
            });
        }
        held.standing = Some(Standing { made_ns: session.made_ns, pasts, cache: EntryCache::default() });
        Ok(())
    }

    /// The position after so many commands, or before them if the count is negative.
    async fn position_after(
        &self,
        held: &mut Held,
        session: &CatalogSession,
        count: i64,
    ) -> Result<Position, VolumeError> {
        let Standing { pasts, cache, .. } = standing_of(held)?;
        let (thens, at) = (thens_of(pasts), Lsn(session.at));
        let wanted = count.unsigned_abs();
        if count >= 0 {
            let found = self.commands_behind(&thens, (at, Lsn::MAX), wanted, cache, |_| ()).await?;
            return match found.last.filter(|_| found.count == wanted) {
                Some(end) => Ok(Position { lsn: end.lsn.0, time_ns: end.time_ns }),
                None if wanted == 0 => Ok(Position { lsn: session.at, time_ns: session.time_ns }),
                None => Err(no_more(session, &found, wanted, "behind")),
            };
        }
        // One more than those to go back over: where that one ends is the position.
        let found = self.commands_before(&thens, at, wanted + 1, cache).await?;
        match found.last {
            Some(end) if found.count == wanted + 1 => Ok(Position { lsn: end.lsn.0, time_ns: end.time_ns }),
            // Before the first command.
            Some(end) if found.count == wanted => {
                let before = self.boundary(Lsn(end.lsn.0 - 1)).await?;
                let (lsn, time_ns) = (before.lsn, before.time_ns);
                for then in &thens {
                    self.volume_then(then.uuid, lsn).await?;
                }
                Ok(Position { lsn: lsn.0, time_ns })
            }
            _ => Err(no_more(session, &found, wanted, "before")),
        }
    }

    /// Moves a session to a position, which is the end of a command.
    pub(super) async fn step_to(
        &self,
        held: &mut Held,
        session: &CatalogSession,
        to: Position,
        discard_writes: bool,
        guard: &HostGuard,
    ) -> Result<StepInfo, VolumeError> {
        let started = Instant::now();
        let expiries = self.expiries();
        let clones = self.clones_of(session)?;
        check_unwritten(session, &clones, discard_writes)?;
        if to.lsn == session.at && !clones.iter().any(|clone| clone.is_written) {
            return self.stepped(session, session.at, WalkReport::default(), Vec::new(), (started, started));
        }
        let Standing { pasts, cache, .. } = standing_of(held)?;
        let (mut cost, mut changed, mut moves) = (WalkReport::default(), Vec::new(), Vec::new());
        for (clone, past) in clones.iter().zip(pasts) {
            let before = clone.index()?;
            cost.add(&self.walk(past, Lsn(to.lsn), cache, None).await?);
            let blocks = changed_blocks(before, past.index()).await;
            let ranges = blocks.ranges(past.then().size_blocks.max(clone.size_blocks));
            changed.push(ChangedBlocks { clone: clone.name.clone(), ranges });
            moves.push((clone.id, state_of(past)));
        }
        let moved = Instant::now();
        let done = self.rebase(&moves, RebaseKind::Reset, |catalog, _| {
            guard.check_all(clones.iter().map(|clone| &clone.name), MOVE_IT)?;
            self.check_not_expired(expiries, format_args!("session '{}' was moved", session.name))?;
            for clone in &clones {
                let is_same = |volume: &Volume| volume.changed_lsn() == clone.changed_lsn;
                if !self.state.borrow().volumes.get(clone.id).is_some_and(is_same) {
                    let reason = format!(
                        "a host wrote to '{}' while it was moved; try again when none does",
                        clone.name
                    );
                    return Err(VolumeError::Busy { reason });
                }
            }
            let stand = |known: &mut CatalogSession| known.stand_at(Lsn(to.lsn), to.time_ns);
            let known = catalog.change_session(&session.name, stand);
            known.ok_or_else(|| gone(session))
        });
        let done = done.await?;
        recovery::stable(&self.log, done.lsn.plus(1)).await?;
        self.stepped(&self.session(&session.name)?, session.at, cost, changed, (started, moved))
    }

    fn stepped(
        &self,
        session: &CatalogSession,
        from_lsn: u64,
        cost: WalkReport,
        changed: Vec<ChangedBlocks>,
        (started, moved): (Instant, Instant),
    ) -> Result<StepInfo, VolumeError> {
        Ok(StepInfo {
            session: self.session_info(session)?,
            from_lsn,
            cost,
            changed,
            moved_us: moved.duration_since(started).as_micros() as u64,
            durable_us: moved.elapsed().as_micros() as u64,
        })
    }

    /// What operators see of a session.
    pub(super) fn session_info(&self, session: &CatalogSession) -> Result<SessionInfo, VolumeError> {
        let clones = self.clones_of(session)?;
        let member = |(member, clone): (&SessionMember, CloneNow)| MemberInfo {
            volume: member.name.clone(),
            volume_uuid: member.source,
            clone: clone.name,
            size_bytes: clone.size_blocks * BLOCK_BYTES as u64,
            is_written: clone.is_written,
        };
        Ok(SessionInfo {
            name: session.name.clone(),
            group: session.group.clone(),
            members: session.members.iter().zip(clones).map(member).collect(),
            made_ns: session.made_ns,
            at: Position { lsn: session.at, time_ns: session.time_ns },
            oldest_lsn: session.oldest,
            newest_lsn: session.newest,
            verdicts: SessionInfo::verdicts_of(session),
        })
    }
}

impl CloneNow {
    /// Its index.
    fn index(&self) -> Result<&Index, VolumeError> {
        self.index.as_ref().map(|(index, _)| index).ok_or_else(|| VolumeError::Busy {
            reason: format!("volume '{}' is still loading what it inherited; try again", self.name),
        })
    }
}

/// Refuses to discard what hosts wrote to the clones.
fn check_unwritten(session: &CatalogSession, clones: &[CloneNow], discards: bool) -> Result<(), VolumeError> {
    let Some(clone) = clones.iter().find(|clone| clone.is_written && !discards) else { return Ok(()) };
    let reason = format!(
        "a host has written to '{}' since it was set to lsn:{}, or may have, before the pool was started or recovered; discard these writes with --discard-writes, or keep the clone (varve restore commit {} --keep NAME)",
        clone.name, session.at, session.name
    );
    Err(VolumeError::Invalid { what: "step", reason })
}

/// The state that a clone is to have.
fn state_of(past: &PastVolume) -> PastState {
    PastState {
        image: past.then().image,
        lsn: past.at(),
        catalog: past.catalog().clone(),
        size_blocks: past.then().size_blocks,
        index: past.index().clone(),
        uncertain_below: past.uncertain_below(),
        is_written: true,
        census: Census::new(),
    }
}

/// The volumes of a session where it stands.
fn thens_of(pasts: &[PastVolume]) -> Vec<VolumeThen> {
    pasts.iter().map(|past| past.then().clone()).collect()
}

/// What a session shows, for a message.
fn what_of(session: &CatalogSession) -> String {
    match (&session.group, session.members.first()) {
        (Some(group), _) => format!("group '{group}'"),
        (None, first) => format!("volume '{}'", first.map_or("", |member| member.name.as_str())),
    }
}

/// The state of a session that is held, which [`Pool::stand`] has made known.
pub(super) fn standing_of(held: &mut Held) -> Result<&mut Standing, VolumeError> {
    let missing =
        || VolumeError::Busy { reason: "the session's state is not known yet; try again".to_owned() };
    held.standing.as_mut().ok_or_else(missing)
}

/// The blocks of which two indexes have different mappings.
async fn changed_blocks(before: &Index, after: &Index) -> Changed {
    let mut changed = Changed::default();
    let mut next = Some(0);
    while let Some(from) = next {
        next = before.differences(after, from, PIECE_LEAVES, |block, _, _| changed.add(block));
        yield_now().await;
    }
    changed
}

fn gone(session: &CatalogSession) -> VolumeError {
    VolumeError::Invalid {
        what: "session",
        reason: format!("session '{}' was ended meanwhile", session.name),
    }
}

/// The error for a step over more commands than there are.
fn no_more(session: &CatalogSession, found: &Counted, wanted: u64, way: &str) -> VolumeError {
    let last = found.last.map_or_else(String::new, |end| format!(", the last of them at lsn:{}", end.lsn));
    VolumeError::NoSuchPoint {
        point: format!("{wanted} commands {way} lsn:{}", session.at),
        reason: format!(
            "of {} only {} are kept there{last}; choose fewer, or a point (varve restore step {} --to POINT)",
            what_of(session),
            found.count,
            session.name
        ),
    }
}
