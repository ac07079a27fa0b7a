//! Sessions: opened, stepped by commands and to points, judged, searched, committed, aborted. The
//! model knows where each stands, and compares the whole clone after each step.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::RangeInclusive;
use std::rc::Rc;

use varve::volume::{
    BisectInfo, HostGuard, NamedPoint, OpenSession, Point, SessionInfo, StepInfo, StepTo, Verdict,
    VolumeError,
};

use super::super::model::{Change, ModelSession, VolumeState};
use super::super::workload::Run;
use super::volumes::{delete_piece, rename_piece, roll_back_piece};
use super::{Carried, Cut, Piece, SESSIONS_AT_ONCE, VOLUMES_MAX};

/// Where a step must end: one position, or before the first command.
type Target = RangeInclusive<u64>;

/// What bisecting must find.
enum Search {
    /// The verdicts do not allow it.
    Refused,
    /// A step to this position.
    Step(u64),
    /// This command.
    Found(u64),
    /// Only skipped positions are left.
    Skipped,
}

/// An answer that may have a step in it.
trait Moved {
    fn step(&self) -> Option<&StepInfo>;
}

impl Moved for StepInfo {
    fn step(&self) -> Option<&StepInfo> {
        Some(self)
    }
}

impl Moved for BisectInfo {
    fn step(&self) -> Option<&StepInfo> {
        self.step.as_ref()
    }
}

impl Run {
    /// Compares every session with the model.
    ///
    /// # Panics
    /// When one differs, is missing, or should not exist.
    pub(in crate::sim) fn check_sessions(&self) {
        let found = self.pool.sessions(None);
        let mut found = found.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed));
        found.sort_by(|one, other| one.name.cmp(&other.name));
        let expected = self.model.sessions();
        let names = |names: Vec<&String>| names.into_iter().cloned().collect::<Vec<_>>();
        assert_eq!(
            names(found.iter().map(|one| &one.name).collect()),
            names(expected.iter().map(|one| &one.name).collect()),
            "seed {}",
            self.seed
        );
        for (found, expected) in found.iter().zip(&expected) {
            self.check_session(found, expected);
        }
    }

    fn check_session(&self, found: &SessionInfo, expected: &ModelSession) {
        let context = format!("seed {}: {found:?}", self.seed);
        assert_eq!(found.members[0].clone, self.model.name(expected.clone), "{context}");
        assert_eq!(found.at.lsn, expected.at, "{context}");
        let verdicts: Vec<(u64, Verdict)> =
            found.verdicts.iter().map(|known| (known.lsn, known.verdict)).collect();
        let wanted: Vec<(u64, Verdict)> =
            expected.verdicts.iter().map(|(&lsn, &verdict)| (lsn, verdict)).collect();
        assert_eq!(verdicts, wanted, "{context}");
        assert!(found.oldest_lsn <= expected.at && expected.at <= found.newest_lsn, "{context}");
        // After a restart a clone that was not written may count as written, never the other way.
        assert!(found.is_written() || !self.model.is_written(expected.clone), "{context}");
    }

    fn random_session(&mut self) -> Option<ModelSession> {
        let sessions = self.model.sessions();
        if sessions.is_empty() {
            return None;
        }
        let place = self.rng.below(sessions.len() as u64) as usize;
        sessions.into_iter().nth(place)
    }

    fn session_info(&self, name: &str) -> SessionInfo {
        let found = self.pool.sessions(Some(name));
        found.unwrap_or_else(|error| panic!("seed {}: {error}", self.seed)).remove(0)
    }

    pub(super) fn verb_open_session(&mut self, cut: Option<Cut>) {
        if self.model.sessions().len() >= SESSIONS_AT_ONCE || self.live().len() >= VOLUMES_MAX {
            return;
        }
        let Some((source, at)) = self.random_point(|_, _| true) else { return };
        let (name, read_only) = (self.new_name("t"), self.rng.one_in(4));
        let request = OpenSession {
            volume: self.model.name_at(source, at).to_owned(),
            at: Point::Lsn(at).into(),
            name: name.clone(),
            read_only,
        };
        let future = Rc::clone(&self.pool).open_session(request);
        let piece: Piece<'_> = Box::new(|run| {
            let is_there = run.pool.find_volume(&name).is_some();
            let has_session = run.pool.sessions(Some(&name)).is_ok();
            assert!(!is_there || has_session, "seed {}: both are made in one change", run.seed);
            if is_there {
                let clone = run.note_begun_clone(&name, read_only, source, at);
                run.push_managed(Change::OpenSession { name: name.clone(), clone, source, at });
            }
            is_there
        });
        match self.carry("session open", future, &[], vec![piece], cut) {
            Carried::Done((session, _)) => {
                assert_eq!(session.at.lsn, at, "seed {}", self.seed);
                self.check_place(self.model.volumes.len() - 1);
            }
            Carried::Refused(error) => self.check_refusal("session open", &error, &[(source, at)]),
            Carried::Cut => {}
        }
    }

    /// Where so many commands lead; `None` if there are not so many.
    fn target_of(&self, session: &ModelSession, count: i64) -> Option<Target> {
        let commands = self.model.commands(session.source);
        let before = commands.partition_point(|&lsn| lsn <= session.at);
        let wanted = count.unsigned_abs() as usize;
        let at = |lsn: u64| Some(lsn..=lsn);
        match (count >= 0, wanted) {
            (_, 0) => at(session.at),
            (true, _) => commands.get(before + wanted - 1).and_then(|&lsn| at(lsn)),
            // Behind a command that expired it may be at a later event.
            (false, _) if wanted < before && self.expired.is_something() => {
                Some(commands[before - wanted - 1]..=commands[before - wanted] - 1)
            }
            (false, _) if wanted < before => at(commands[before - wanted - 1]),
            (false, _) if wanted == before => Some(0..=commands[0] - 1),
            _ => None,
        }
    }

    pub(super) fn verb_step(&mut self, cut: Option<Cut>) {
        let Some(session) = self.random_session() else { return self.verb_open_session(cut) };
        let source = session.source;
        let (to, target) = if self.rng.one_in(3) {
            let Some((_, at)) = self.random_point(|_, place| place == source) else { return };
            (StepTo::Point(Point::Lsn(at).into()), Some(at..=at))
        } else {
            let reach = [1, 2, 10, 60][self.rng.below(4) as usize];
            let count = self.rng.below(2 * reach + 1) as i64 - reach as i64;
            (StepTo::Commands(count), self.target_of(&session, count))
        };
        let discards = self.rng.one_in(2);
        let future =
            Rc::clone(&self.pool).step_session(session.name.clone(), to, discards, HostGuard::none());
        let has_target = target.is_some();
        let target = target.unwrap_or(0..=u64::MAX);
        match self.carry_step("session step", &session, target, discards, future, cut) {
            Carried::Done(step) => assert!(has_target, "seed {}: {step:?}", self.seed),
            Carried::Refused(VolumeError::NoSuchPoint { .. })
                if !has_target || self.expired.is_something() => {}
            Carried::Refused(error) => self.check_step_refusal(&session, discards, &error),
            Carried::Cut => {}
        }
    }

    /// A step is refused if the clone was written, or for what the faults of the run explain.
    fn check_step_refusal(&self, session: &ModelSession, discards: bool, error: &VolumeError) {
        let is_written = self.session_info(&session.name).is_written();
        if matches!(error, VolumeError::Invalid { .. }) {
            assert!(is_written && !discards, "seed {}: {error}", self.seed);
            return;
        }
        self.check_refusal("session step", error, &[(session.source, session.at)]);
    }

    /// Carries what moves a session, and compares the clone afterwards.
    fn carry_step<T: Moved>(
        &mut self,
        verb: &'static str,
        session: &ModelSession,
        target: Target,
        discards: bool,
        future: impl Future<Output = Result<T, VolumeError>>,
        cut: Option<Cut>,
    ) -> Carried<T> {
        let (clone, source) = (session.clone, session.source);
        let before = self.session_info(&session.name);
        let state_before = self.model.state_at(clone, u64::MAX).expect("it is alive");
        let was_written = before.is_written();
        let stays = target == (session.at..=session.at) && !was_written;
        let name = session.name.clone();
        let piece: Piece<'_> = Box::new(move |run| {
            let now = run.session_info(&name);
            let is_moved = now.at.lsn != before.at.lsn || (before.is_written() && !now.is_written());
            if is_moved {
                let at = now.at.lsn;
                assert!(target.contains(&at), "seed {}: at lsn:{at}, not {target:?}", run.seed);
                let state = run.model.state_at(source, at);
                let state = Rc::new(state.unwrap_or_else(|| panic!("seed {}: nothing at {at}", run.seed)));
                let base = Some(Rc::clone(&state));
                run.push_managed(Change::Set { volume: clone, from: Some((source, at)), state, base });
                run.push_managed(Change::Stand { clone, at });
            }
            is_moved
        });
        let pieces = if stays { Vec::new() } else { vec![piece] };
        let carried = self.carry(verb, future, &[clone, source], pieces, cut);
        if let Carried::Done(answer) = &carried
            && let Some(step) = answer.step()
        {
            assert!(discards || !was_written, "seed {}: {step:?}", self.seed);
            self.check_place(clone);
            let state = self.model.state_at(clone, u64::MAX).expect("it is alive");
            self.check_changed(step, &state_before, &state);
        }
        carried
    }

    /// A block that is not among the changed ones is the same as before.
    fn check_changed(&self, step: &StepInfo, before: &VolumeState, after: &VolumeState) {
        let blocks: BTreeSet<u64> = before.blocks.keys().chain(after.blocks.keys()).copied().collect();
        let end = before.size_blocks.max(after.size_blocks);
        for block in blocks.into_iter().filter(|&block| block < end) {
            let mut changed = step.changed.iter().flat_map(|clone| &clone.ranges);
            let is_listed = changed.any(|&(start, len)| block >= start && block - start < len);
            assert!(
                is_listed || before.blocks.get(&block) == after.blocks.get(&block),
                "seed {}: block {block} changed, and is not in {step:?}",
                self.seed
            );
        }
    }

    pub(super) fn verb_judge(&mut self, cut: Option<Cut>) {
        let Some(session) = self.random_session() else { return };
        let (source, clone) = (session.source, session.clone);
        let other = self.random_point(|_, place| place == source).map(|(_, at)| at);
        let other = other.filter(|_| self.rng.one_in(2));
        let at = other.unwrap_or(session.at);
        let verdict = [Verdict::Good, Verdict::Bad, Verdict::Skip][self.rng.below(3) as usize];
        let point = other.map(|at| NamedPoint::from(Point::Lsn(at)));
        let future = Rc::clone(&self.pool).judge_session(session.name.clone(), verdict, point);
        let name = session.name.clone();
        let piece: Piece<'_> = Box::new(|run| {
            let is_known = |session: SessionInfo| {
                session.verdicts.iter().any(|known| (known.lsn, known.verdict) == (at, verdict))
            };
            let is_there = run.has_changed() && is_known(run.session_info(&name));
            if is_there {
                run.push_managed(Change::Judge { clone, at, verdict });
            }
            is_there
        });
        match self.carry("session judge", future, &[], vec![piece], cut) {
            Carried::Done(_) | Carried::Cut => {}
            Carried::Refused(error) => self.check_refusal("session judge", &error, &[(source, at)]),
        }
    }

    /// What bisecting must do: the middle of the commands between the newest good position before
    /// the first bad one, and that one, or what is nearest and not skipped.
    fn search(&self, session: &ModelSession) -> Search {
        let of = |wanted: Verdict| {
            session.verdicts.iter().filter(move |(_, known)| **known == wanted).map(|(&lsn, _)| lsn)
        };
        let Some(first_bad) = of(Verdict::Bad).next() else { return Search::Refused };
        let Some(last_good) = of(Verdict::Good).take_while(|&lsn| lsn < first_bad).last() else {
            return Search::Refused;
        };
        let commands = self.model.commands(session.source);
        let between: Vec<u64> =
            commands.into_iter().filter(|&lsn| lsn > last_good && lsn <= first_bad).collect();
        match between.len() {
            0 => return Search::Refused,
            1 => return Search::Found(between[0]),
            _ => {}
        }
        let middle = between.len() / 2;
        let skipped: BTreeSet<u64> = of(Verdict::Skip).collect();
        let candidates = between[..between.len() - 1].iter().enumerate();
        let left = candidates.filter(|(_, lsn)| !skipped.contains(lsn));
        let nearest = left.min_by_key(|(place, _)| (place + 1).abs_diff(middle));
        nearest.map_or(Search::Skipped, |(_, &lsn)| Search::Step(lsn))
    }

    pub(super) fn verb_bisect(&mut self, cut: Option<Cut>) {
        let Some(session) = self.random_session() else { return };
        if matches!(self.search(&session), Search::Refused) && cut.is_none() {
            // Gives it something to search between.
            return self.judge_both_ends(&session);
        }
        let search = self.search(&session);
        let discards = self.rng.one_in(2);
        let future = Rc::clone(&self.pool).bisect_session(session.name.clone(), discards, HostGuard::none());
        let target = match search {
            Search::Step(lsn) => lsn..=lsn,
            _ => session.at..=session.at,
        };
        if !matches!(search, Search::Step(_)) {
            match self.carry("session bisect", future, &[session.clone], Vec::new(), cut) {
                Carried::Done(info) => {
                    assert!(info.step.is_none(), "seed {}: {info:?}", self.seed);
                    let found = info.found.map(|found| found.at.lsn);
                    let expected = if let Search::Found(lsn) = search { Some(lsn) } else { None };
                    assert_eq!(found, expected, "seed {}", self.seed);
                    assert!(!matches!(search, Search::Refused), "seed {}", self.seed);
                }
                Carried::Refused(VolumeError::Invalid { .. }) if matches!(search, Search::Refused) => {}
                Carried::Refused(error) => self.check_step_refusal(&session, discards, &error),
                Carried::Cut => {}
            }
            return;
        }
        // Commands that expired are not counted.
        if self.expired.is_something() {
            return;
        }
        match self.carry_step("session bisect", &session, target, discards, future, cut) {
            Carried::Done(info) => assert!(info.step.is_some(), "seed {}: {info:?}", self.seed),
            Carried::Refused(error) => self.check_step_refusal(&session, discards, &error),
            Carried::Cut => {}
        }
    }

    /// Judges the first command of the source good and the last one bad.
    fn judge_both_ends(&mut self, session: &ModelSession) {
        let commands = self.model.commands(session.source);
        let (Some(&first), Some(&last)) = (commands.first(), commands.last()) else { return };
        if first == last || self.expired.is_something() {
            return;
        }
        for (at, verdict) in [(first, Verdict::Good), (last, Verdict::Bad)] {
            let point = NamedPoint::from(Point::Lsn(at));
            let future = Rc::clone(&self.pool).judge_session(session.name.clone(), verdict, Some(point));
            let clone = session.clone;
            let piece: Piece<'_> = Box::new(move |run| {
                let is_there = run.has_changed();
                if is_there {
                    run.push_managed(Change::Judge { clone, at, verdict });
                }
                is_there
            });
            match self.carry("session judge", future, &[], vec![piece], None) {
                Carried::Done(_) | Carried::Cut => {}
                Carried::Refused(error) => {
                    self.check_refusal("session judge", &error, &[(session.source, at)]);
                }
            }
        }
    }

    /// Ends a session and keeps its clone, under its name or another.
    pub(super) fn verb_keep(&mut self, cut: Option<Cut>) {
        let Some(session) = self.random_session() else { return };
        let clone = session.clone;
        let name = self.model.name(clone).to_owned();
        let keep = if self.rng.one_in(2) { name.clone() } else { self.new_name("k") };
        let mut pieces: Vec<Piece<'_>> = Vec::new();
        if keep != name {
            pieces.push(rename_piece(clone, keep.clone()));
        }
        let session_name = session.name.clone();
        pieces.push(Box::new(move |run| {
            let is_gone = run.pool.sessions(Some(&session_name)).is_err();
            if is_gone {
                run.push_managed(Change::EndSession { clone });
            }
            is_gone
        }));
        let future = Rc::clone(&self.pool).keep_session(session.name.clone(), keep, HostGuard::none());
        match self.carry("commit --keep", future, &[clone], pieces, cut) {
            Carried::Done(_) => self.check_place(clone),
            Carried::Refused(error) => {
                self.check_refusal("commit --keep", &error, &[(session.source, session.at)]);
            }
            Carried::Cut => {}
        }
    }

    /// Ends a session with a roll-back.
    pub(super) fn verb_commit(&mut self, cut: Option<Cut>) {
        let Some(session) = self.random_session() else { return };
        let (clone, source, at) = (session.clone, session.source, session.at);
        let discards = self.rng.one_in(2);
        let is_written = self.session_info(&session.name).is_written();
        let is_allowed = self.model.is_alive(source) && !self.is_session_clone(source);
        let (mut rolls_back, mut deletes) = (roll_back_piece(source, at), delete_piece(clone));
        // One change: the volume is never back while the session is still there.
        let both: Piece<'_> = Box::new(move |run| {
            let (is_back, is_ended) = (rolls_back(run), deletes(run));
            assert_eq!(is_back, is_ended, "seed {}", run.seed);
            is_back
        });
        let pieces = vec![both];
        let future =
            Rc::clone(&self.pool).roll_back_session(session.name.clone(), discards, false, HostGuard::none());
        match self.carry("commit --roll-back", future, &[source, clone], pieces, cut) {
            Carried::Done(info) => {
                assert!(is_allowed && (discards || !is_written), "seed {}", self.seed);
                let info = info.into_first().expect("the session has a volume");
                self.after_roll_back(source, at, &info);
            }
            Carried::Refused(VolumeError::Invalid { .. }) if !is_allowed || is_written => {}
            Carried::Refused(error) => {
                self.check_refusal("commit --roll-back", &error, &[(source, at)]);
            }
            Carried::Cut => {}
        }
    }

    pub(super) fn verb_abort(&mut self, cut: Option<Cut>) {
        let Some(session) = self.random_session() else { return };
        let future = Rc::clone(&self.pool).abort_session(session.name.clone(), HostGuard::none());
        let pieces = vec![delete_piece(session.clone)];
        match self.carry("session abort", future, &[session.clone], pieces, cut) {
            Carried::Done(()) | Carried::Cut => {}
            Carried::Refused(error) => self.check_refusal("session abort", &error, &[]),
        }
    }
}
