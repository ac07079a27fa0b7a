//! Verdicts on positions, and the position in the middle of what is left between the newest good
//! one and the first bad one.
//!
//! The search assumes that everything before the fault is good and everything after it bad. Good
//! positions after the first bad one contradict that, and are reported. Skipped positions are not
//! proposed again; the nearest other one is.

use std::rc::Rc;

use super::held::Held;
use super::info::{BisectInfo, FoundCommand, Position, SessionInfo};
use super::state::Standing;
use super::step::{MOVE_IT, standing_of};
use crate::log::{Lsn, recovery};
use crate::volume::catalog::{CatalogSession, SessionVerdict, VERDICTS_MAX, Verdict};
use crate::volume::error::VolumeError;
use crate::volume::history::commands::CommandEnd;
use crate::volume::history::point::NamedPoint;
use crate::volume::history::reigns::VolumeThen;
use crate::volume::hosts::HostGuard;
use crate::volume::pool::Pool;

/// What the verdicts of a session leave.
struct Left {
    last_good: Position,
    first_bad: Position,
    /// Between the two, in order.
    skipped: Vec<u64>,
    good_behind_bad: Vec<u64>,
}

impl Pool {
    /// Records what was found where a session stands, or at a point.
    ///
    /// # Errors
    /// No such session, or it is busy; the volume did not exist at the point; too many verdicts; a
    /// failed pool.
    pub async fn judge_session(
        self: Rc<Self>,
        name: String,
        verdict: Verdict,
        at: Option<NamedPoint>,
    ) -> Result<SessionInfo, VolumeError> {
        let _held = Held::new(&self, &name)?;
        let session = self.session(&name)?;
        let expiries = self.expiries();
        let position = match at {
            None => Position { lsn: session.at, time_ns: session.time_ns },
            Some(point) => {
                let at = Rc::clone(&self).resolve(point).await?;
                self.thens_at(&session, Lsn(at.lsn)).await?;
                Position { lsn: at.lsn, time_ns: at.time_ns }
            }
        };
        let Position { lsn, time_ns } = position;
        let change = self.change(|catalog, _| {
            if self.expiries() != expiries {
                let reason = "parts of the archive expired meanwhile; try again".to_owned();
                return Err(VolumeError::Busy { reason });
            }
            let judge = |known: &mut CatalogSession| {
                known.judge(SessionVerdict { lsn, time_ns, verdict });
                // The search stays between positions of which the history is kept.
                known.oldest = known.oldest.min(lsn);
                known.newest = known.newest.max(lsn);
                known.verdicts.len()
            };
            match catalog.change_session(&name, judge) {
                Some(count) if count <= VERDICTS_MAX => Ok(()),
                Some(_) => Err(VolumeError::NoSpace {
                    reason: format!(
                        "a session holds at most {VERDICTS_MAX} verdicts; open another session to go on"
                    ),
                }),
                None => self.session(&name).map(|_| ()),
            }
        });
        let lsn = change.await?;
        recovery::stable(&self.log, lsn.plus(1)).await?;
        self.session_info(&self.session(&name)?)
    }

    /// Moves a session to the middle between the newest good and the first bad position, or says
    /// which command it is.
    ///
    /// # Errors
    /// No such session, or it is busy; a host is connected to a clone; no good or no bad position
    /// is known; nothing is between them; those of a step.
    pub async fn bisect_session(
        self: Rc<Self>,
        name: String,
        discard_writes: bool,
        guard: HostGuard,
    ) -> Result<BisectInfo, VolumeError> {
        let mut held = Held::new(&self, &name)?;
        let session = self.session(&name)?;
        guard.check_all(&self.clone_names(&name)?, MOVE_IT)?;
        let left = Left::of(&session)?;
        self.stand(&mut held, &session).await?;
        let thens = self.thens_at(&session, Lsn(left.last_good.lsn)).await?;
        let (commands, chosen, found) = self.choose(&mut held, &session, &thens, &left).await?;
        let Left { last_good, first_bad, skipped, good_behind_bad } = left;
        let step = match chosen {
            Some(end) => {
                let to = Position { lsn: end.lsn.0, time_ns: end.time_ns };
                Some(self.step_to(&mut held, &session, to, discard_writes, &guard).await?)
            }
            None => None,
        };
        let looks_left = if step.is_some() { commands.next_power_of_two().ilog2() } else { 0 };
        Ok(BisectInfo { step, commands, looks_left, last_good, first_bad, found, skipped, good_behind_bad })
    }

    /// The volumes of a session at a position.
    ///
    /// # Errors
    /// One did not exist there.
    async fn thens_at(&self, session: &CatalogSession, at: Lsn) -> Result<Vec<VolumeThen>, VolumeError> {
        let mut thens = Vec::with_capacity(session.members.len());
        for member in &session.members {
            thens.push(self.volume_then(member.source, at).await?.0);
        }
        Ok(thens)
    }

    /// How many commands are left, and which of them is the next to look at, or is found.
    async fn choose(
        &self,
        held: &mut Held,
        session: &CatalogSession,
        thens: &[VolumeThen],
        left: &Left,
    ) -> Result<(u64, Option<CommandEnd>, Option<FoundCommand>), VolumeError> {
        let Standing { cache, .. } = standing_of(held)?;
        let (after, up_to) = (Lsn(left.last_good.lsn), Lsn(left.first_bad.lsn));
        let counted = self.commands_behind(thens, (after, up_to), u64::MAX, cache, |_| ()).await?;
        let Some(last) = counted.last else {
            let reason = format!(
                "no host wrote between lsn:{after}, which is good, and lsn:{up_to}, which is bad: the two are the same; look at one of them again"
            );
            return Err(VolumeError::Invalid { what: "verdicts", reason });
        };
        if counted.count == 1 {
            let blocks = self.blocks_of_command(last.image, last.lsn, cache).await?;
            let volume = self.member_with(session, last).await?;
            let at = Position { lsn: last.lsn.0, time_ns: last.time_ns };
            return Ok((1, None, Some(FoundCommand { at, volume, is_trim: last.is_trim, blocks })));
        }
        // The last one is known to be bad. Of more neighbours of the middle than are skipped, one
        // is not.
        let (middle, around) = (counted.count / 2, left.skipped.len() as u64);
        let (first, end) = (middle.saturating_sub(around).max(1), (middle + around).min(counted.count - 1));
        let (mut number, mut nearest): (u64, Option<(u64, CommandEnd)>) = (0, None);
        self.commands_behind(thens, (after, up_to), end, cache, |command| {
            number += 1;
            let distance = number.abs_diff(middle);
            if number >= first
                && left.skipped.binary_search(&command.lsn.0).is_err()
                && nearest.is_none_or(|(known, _)| distance < known)
            {
                nearest = Some((distance, command));
            }
        })
        .await?;
        Ok((counted.count, nearest.map(|(_, command)| command), None))
    }

    /// The name of the member whose command it is.
    async fn member_with(&self, session: &CatalogSession, end: CommandEnd) -> Result<String, VolumeError> {
        let thens = self.thens_at(session, end.lsn).await?;
        let at = thens.iter().position(|then| then.image == end.image).unwrap_or(0);
        Ok(session.members.get(at).map(|member| member.name.clone()).unwrap_or_default())
    }
}

impl Left {
    /// What the verdicts leave.
    fn of(session: &CatalogSession) -> Result<Self, VolumeError> {
        let wrong = |reason: String| VolumeError::Invalid { what: "verdicts", reason };
        let name = &session.name;
        let position = |known: &SessionVerdict| Position { lsn: known.lsn, time_ns: known.time_ns };
        let of = |verdict: Verdict| session.verdicts.iter().filter(move |known| known.verdict == verdict);
        let first_bad = of(Verdict::Bad).next().ok_or_else(|| {
            wrong(format!(
                "no position of session '{name}' is known to be bad; move it to one (varve restore step {name} --to POINT) and say so (varve restore bad {name}), or name it (varve restore bad {name} --at POINT)"
            ))
        })?;
        let last_good = of(Verdict::Good).take_while(|known| known.lsn < first_bad.lsn).last();
        let last_good = last_good.ok_or_else(|| {
            wrong(format!(
                "no position of session '{name}' before lsn:{}, which is bad, is known to be good; name one (varve restore good {name} --at POINT)",
                first_bad.lsn
            ))
        })?;
        let between = last_good.lsn..first_bad.lsn;
        Ok(Left {
            last_good: position(last_good),
            first_bad: position(first_bad),
            skipped: of(Verdict::Skip).map(|known| known.lsn).filter(|lsn| between.contains(lsn)).collect(),
            good_behind_bad: of(Verdict::Good)
                .map(|known| known.lsn)
                .filter(|lsn| *lsn > first_bad.lsn)
                .collect(),
        })
    }
}
