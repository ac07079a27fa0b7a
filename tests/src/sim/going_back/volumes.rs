//! Roll-backs in place, and clones: of clones, read-only ones, reset, promoted, renamed, deleted
//! while others descend from them.

use std::collections::BTreeMap;
use std::rc::Rc;

use uuid::Uuid;
use varve::volume::{HostGuard, NamedPoint, Point, RollBackInfo, VolumeError};

use super::super::checks::check_volume;
use super::super::model::{Change, VolumeState};
use super::super::workload::Run;
use super::super::world::in_background;
use super::{Carried, Cut, Piece, VOLUMES_MAX};

/// Prints what the model knows of a volume when a check fails.
pub(in crate::sim) struct History<'a> {
    pub(in crate::sim) run: &'a Run,
    pub(in crate::sim) place: usize,
}

impl Drop for History<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was volume {}, which", self.place);
            self.run.model.history_of(self.place).for_each(|line| eprintln!("  {line}"));
            let mut place = self.place;
            while let Some((parent, _)) = self.run.model.volumes[place].parent {
                eprintln!("and its origin {parent}, which");
                self.run.model.history_of(parent).for_each(|line| eprintln!("  {line}"));
                place = parent;
            }
            eprintln!("{:?}", self.run.pool.volumes());
        }
    }
}

impl Run {
    /// Compares a volume with the model.
    pub(super) fn check_place(&self, place: usize) {
        let expected = self.model.state_at(place, u64::MAX).expect("it is alive");
        let name = self.model.name(place);
        let found = self.pool.find_volume(name);
        let found = found.unwrap_or_else(|| panic!("seed {}: volume {name} is gone", self.seed));
        let _told = History { run: self, place };
        let size_blocks = found.size_bytes / varve::dma::BLOCK_BYTES as u64;
        assert_eq!(size_blocks, expected.size_blocks, "seed {}: volume {name}", self.seed);
        check_volume(&self.pool, found.id, &expected, &self.trouble.excused, self.seed);
    }

    /// Rolls a volume back to a point of its own past, or to a snapshot, such as one that an
    /// earlier roll-back made.
    pub(super) fn verb_roll_back(&mut self, cut: Option<Cut>) {
        let Some((place, lsn)) = self.random_point(|run, place| run.model.is_alive(place)) else { return };
        let snapshots = self.model.snapshots();
        let chosen = (!snapshots.is_empty() && self.rng.one_in(2))
            .then(|| snapshots[self.rng.below(snapshots.len() as u64) as usize].clone())
            .filter(|(at, _)| self.model.state_at(place, *at).is_some());
        let (at, point) = match chosen {
            Some((at, name)) => (at, Point::Snapshot(name)),
            None => (lsn, Point::Lsn(lsn)),
        };
        let name = self.model.name(place).to_owned();
        let future = Rc::clone(&self.pool).roll_back(name, NamedPoint::from(point), false);
        let is_clone = self.is_session_clone(place);
        match self.carry("roll-back", future, &[place], vec![roll_back_piece(place, at)], cut) {
            Carried::Done(info) => self.after_roll_back(place, at, &info),
            Carried::Refused(VolumeError::Invalid { .. }) if is_clone => {}
            Carried::Refused(error) => self.check_refusal("roll-back", &error, &[(place, at)]),
            Carried::Cut => {}
        }
    }

    /// Checks a roll-back that was answered, and begins to hydrate.
    pub(super) fn after_roll_back(&mut self, place: usize, at: u64, info: &RollBackInfo) {
        assert_eq!(info.point.lsn, at, "seed {}", self.seed);
        let state = self.model.state_at(place, u64::MAX).expect("it is alive");
        if !self.trouble.had_lasting {
            let blocks = info.done.resident_blocks + info.done.inherited_blocks;
            assert_eq!(blocks, state.blocks.len() as u64, "seed {}: {info:?}", self.seed);
        }
        in_background(Rc::clone(&self.pool).hydrate(info.done.volume.id));
        self.check_place(place);
    }

    /// Clones a volume, often a clone, for reading alone or not.
    pub(super) fn verb_clone(&mut self, cut: Option<Cut>) {
        let wants_clone = self.rng.one_in(2);
        let among = |run: &Run, place: usize| !wants_clone || run.model.may_inherit(place);
        let Some((source, at)) = self.random_point(among) else { return };
        if self.live().len() >= VOLUMES_MAX {
            return;
        }
        let (name, read_only) = (self.new_name("v"), self.rng.one_in(2));
        let from = self.model.name_at(source, at).to_owned();
        let future = Rc::clone(&self.pool).clone_volume(from, Point::Lsn(at), name.clone(), read_only);
        let piece: Piece<'_> = Box::new(|run| {
            let is_there = run.pool.find_volume(&name).is_some();
            if is_there {
                run.note_begun_clone(&name, read_only, source, at);
            }
            is_there
        });
        match self.carry("clone", future, &[], vec![piece], cut) {
            Carried::Done(info) => {
                assert_eq!((info.point.lsn, info.volume.read_only), (at, read_only), "seed {}", self.seed);
                self.check_place(self.model.volumes.len() - 1);
            }
            Carried::Refused(error) => self.check_refusal("clone", &error, &[(source, at)]),
            Carried::Cut => {}
        }
    }

    /// Sets a clone to the point from which it was made, or to another point of its origin.
    pub(super) fn verb_reset(&mut self, cut: Option<Cut>) {
        let Some(place) = self.random_live(|run, place| run.model.volumes[place].parent.is_some()) else {
            return;
        };
        let (parent, born) = self.model.volumes[place].parent.expect("it is a clone");
        // Which volume is the origin of a clone of a clone depends on what was written.
        let is_plain = !self.model.may_inherit(parent);
        let other = self.random_point(|_, known| known == parent).filter(|_| is_plain);
        let other = other.map(|(_, at)| at).filter(|_| self.rng.one_in(2));
        let state = match other {
            Some(at) => self.model.state_at(parent, at).map(Rc::new),
            None => self.model.base_at(place, u64::MAX),
        };
        let Some(state) = state else { return };
        let name = self.model.name(place).to_owned();
        let point = other.map(|at| NamedPoint::from(Point::Lsn(at)));
        let future = Rc::clone(&self.pool).reset_clone(name.clone(), point, HostGuard::none());
        let piece: Piece<'_> = Box::new(|run| {
            let is_set = run.has_changed();
            if is_set {
                let (state, base) = (Rc::clone(&state), Some(Rc::clone(&state)));
                let from = other.map(|at| (parent, at));
                run.push_managed(Change::Set { volume: place, from, state, base });
            }
            is_set
        });
        let is_clone = self.is_session_clone(place);
        match self.carry("clone reset", future, &[place], vec![piece], cut) {
            Carried::Done(_) => self.check_place(place),
            Carried::Refused(VolumeError::Invalid { .. }) if is_clone => {}
            Carried::Refused(error) => {
                let mut points = vec![(parent, other.unwrap_or(born)), (place, u64::MAX)];
                // It may need its own past, up to its birth.
                points.extend(self.model.commands(place).first().map(|&at| (place, at)));
                let is_gone = self.expired.is_something();
                if !(is_gone
                    && matches!(error, VolumeError::NoSuchPoint { .. } | VolumeError::Invalid { .. }))
                {
                    self.check_refusal("clone reset", &error, &points);
                }
            }
            Carried::Cut => {}
        }
    }

    /// The places of the volumes that exist, by their UUIDs.
    fn places(&self) -> BTreeMap<Uuid, usize> {
        let live = self.live();
        let uuid = |place: usize| Some((self.pool.find_volume(self.model.name(place))?.uuid, place));
        live.iter().filter_map(|(place, ..)| uuid(*place)).collect()
    }

    /// Swaps the names of a clone and its origin.
    pub(super) fn verb_promote(&mut self, cut: Option<Cut>) {
        let Some(place) = self.random_live(|run, place| run.model.volumes[place].parent.is_some()) else {
            return;
        };
        let (name, places) = (self.model.name(place).to_owned(), self.places());
        let mut ancestors = vec![place];
        while let Some((parent, _)) = self.model.volumes[ancestors[ancestors.len() - 1]].parent {
            ancestors.push(parent);
        }
        let future = Rc::clone(&self.pool).promote_clone(name, HostGuard::none());
        let piece: Piece<'_> = Box::new(|run| {
            let volumes = run.pool.volumes();
            let renamed = volumes.iter().filter_map(|volume| {
                let place = *places.get(&volume.uuid)?;
                (run.model.name(place) != volume.name).then(|| (place, volume.name.clone()))
            });
            let renamed: Vec<(usize, String)> = renamed.collect();
            for (volume, _) in &renamed {
                assert!(ancestors.contains(volume), "seed {}: {renamed:?}", run.seed);
            }
            let is_done = renamed.len() == 2;
            for (volume, name) in renamed {
                run.push_managed(Change::Rename { volume, name });
            }
            is_done
        });
        match self.carry("clone promote", future, &[], vec![piece], cut) {
            Carried::Done(_) => {
                self.check_place(place);
                ancestors
                    .iter()
                    .filter(|&&one| self.model.is_alive(one))
                    .for_each(|&one| self.check_place(one));
            }
            // Its origin was deleted, or what says which one it was expired.
            Carried::Refused(VolumeError::Invalid { .. } | VolumeError::NoSuchPoint { .. })
                if self.expired.is_something() || ancestors.iter().any(|&one| !self.model.is_alive(one)) => {}
            Carried::Refused(error) => self.check_refusal("clone promote", &error, &[]),
            Carried::Cut => {}
        }
    }

    /// Gives a volume another name, or tries one that another volume has.
    pub(super) fn verb_rename(&mut self, cut: Option<Cut>) {
        let Some(place) = self.random_live(|_, _| true) else { return };
        let name = self.model.name(place).to_owned();
        if self.rng.one_in(4)
            && let Some(other) = self.random_live(|_, _| true)
        {
            let taken = self.model.name(other).to_owned();
            let future = Rc::clone(&self.pool).rename_volume(name, taken, HostGuard::none());
            let ended = self.carry("rename to a name that exists", future, &[], Vec::new(), cut);
            match ended {
                Carried::Done(_) => panic!("seed {}: a name was given twice", self.seed),
                Carried::Refused(VolumeError::VolumeExists { .. }) | Carried::Cut => {}
                Carried::Refused(error) => self.check_refusal("rename", &error, &[]),
            }
            return;
        }
        let to = self.new_name("r");
        let future = Rc::clone(&self.pool).rename_volume(name, to.clone(), HostGuard::none());
        match self.carry("rename", future, &[], vec![rename_piece(place, to)], cut) {
            Carried::Done(_) => self.check_place(place),
            Carried::Refused(error) => self.check_refusal("rename", &error, &[]),
            Carried::Cut => {}
        }
    }

    /// Deletes a volume, from which others may descend.
    pub(super) fn verb_delete(&mut self, cut: Option<Cut>) {
        if self.live().len() < 2 {
            return;
        }
        let Some(place) = self.random_live(|_, _| true) else { return };
        let name = self.model.name(place).to_owned();
        let future = Rc::clone(&self.pool).delete_volume(name);
        match self.carry("delete", future, &[place], vec![delete_piece(place)], cut) {
            Carried::Done(()) => {
                let children = (0..self.model.volumes.len()).filter(|&child| {
                    self.model.is_alive(child)
                        && self.model.volumes[child].parent.is_some_and(|(parent, _)| parent == place)
                });
                children.for_each(|child| self.check_place(child));
            }
            Carried::Refused(error) => self.check_refusal("delete", &error, &[]),
            Carried::Cut => {}
        }
    }
}

/// The volume has the state of the point, and a snapshot names its state before.
pub(super) fn roll_back_piece<'a>(place: usize, at: u64) -> Piece<'a> {
    Box::new(move |run| {
        let known = run.model.snapshots();
        let is_new = |name: &str| {
            name.starts_with("before-roll-back-of-") && !known.iter().any(|(_, known)| known == name)
        };
        let Some(snapshot) = run.pool.snapshots().into_iter().find(|snapshot| is_new(&snapshot.name)) else {
            return false;
        };
        let state: VolumeState = run.model.state_at(place, at).expect("it existed");
        let base = run.model.base_at(place, at);
        run.push_managed(Change::Set { volume: place, from: Some((place, at)), state: Rc::new(state), base });
        run.push_managed(Change::Snapshot { name: snapshot.name, at: snapshot.lsn });
        true
    })
}

/// The volume has another name.
pub(super) fn rename_piece<'a>(place: usize, to: String) -> Piece<'a> {
    Box::new(move |run| {
        let is_there = run.pool.find_volume(&to).is_some();
        if is_there {
            run.push_managed(Change::Rename { volume: place, name: to.clone() });
        }
        is_there
    })
}

/// The volume is gone.
pub(super) fn delete_piece<'a>(place: usize) -> Piece<'a> {
    Box::new(move |run| {
        let is_gone = run.pool.find_volume(run.model.name(place)).is_none();
        if is_gone {
            run.push_managed(Change::Delete { volume: place });
        }
        is_gone
    })
}
