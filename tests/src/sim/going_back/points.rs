//! Points that are pinned, and marks that are deleted.

use std::rc::Rc;

use varve::volume::Point;

use super::super::model::Change;
use super::super::workload::Run;
use super::{Carried, Cut, Piece};

impl Run {
    /// Names a point of the past.
    pub(super) fn verb_snapshot_at(&mut self, cut: Option<Cut>) {
        let Some((place, at)) = self.random_point(|_, _| true) else { return };
        let name = self.new_name("p");
        let future = Rc::clone(&self.pool).create_snapshot_at(name.clone(), Point::Lsn(at));
        let piece: Piece<'_> = Box::new(|run| {
            let is_there = run.pool.snapshots().iter().any(|snapshot| snapshot.name == name);
            if is_there {
                run.push_managed(Change::Snapshot { name: name.clone(), at });
            }
            is_there
        });
        match self.carry("snapshot --at", future, &[], vec![piece], cut) {
            Carried::Done(snapshot) => assert_eq!(snapshot.lsn, at, "seed {}", self.seed),
            // All volumes must be there at a point that is to be kept.
            Carried::Refused(_) if self.expired.is_something() => {}
            Carried::Refused(error) => self.check_refusal("snapshot --at", &error, &[(place, at)]),
            Carried::Cut => {}
        }
    }

    /// Deletes a synch.
    pub(super) fn verb_delete_synch(&mut self, cut: Option<Cut>) {
        let known = self.model.synchs();
        if known.is_empty() {
            return;
        }
        let label = known[self.rng.below(known.len() as u64) as usize].clone();
        if self.expired.has_synch(&label) {
            return;
        }
        let future = Rc::clone(&self.pool).delete_synch(label.clone(), false);
        let piece: Piece<'_> = Box::new(|run| {
            let is_gone = run.has_changed() && !run.pool.synchs().iter().any(|synch| synch.label == label);
            if is_gone {
                run.push_managed(Change::DeleteSynch { label: label.clone() });
            }
            is_gone
        });
        match self.carry("synch delete", future, &[], vec![piece], cut) {
            Carried::Done(deleted) => assert_eq!(deleted.len(), 1, "seed {}", self.seed),
            Carried::Refused(error) => self.check_refusal("synch delete", &error, &[]),
            Carried::Cut => {}
        }
    }
}
