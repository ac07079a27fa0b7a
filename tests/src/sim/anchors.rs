//! Opens volumes of a run from anchors, and compares each opening with a scan.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use varve::archive::anchor::{AnchorId, AnchorName};
use varve::archive::store::Name;
use varve::log::Lsn;
use varve::volume::AnchorCheck;

use super::workload::Run;
use super::world::wait;

/// The sum of what was compared.
#[derive(Debug, Default, Clone, Copy)]
pub struct Compared {
    /// Positions.
    pub positions: u64,
    /// Positions at which an anchor was used.
    pub anchored: u64,
    /// Entries that were read with anchors, and without.
    pub entries: (u64, u64),
}

impl Compared {
    /// Adds a comparison, which must not have found a difference.
    ///
    /// # Panics
    /// When it has.
    pub fn add(&mut self, context: &str, check: &AnchorCheck) {
        assert!(check.differing.is_empty(), "{context}: {check:?}");
        self.positions += check.positions;
        self.anchored += check.anchored;
        self.entries.0 += check.entries.0;
        self.entries.1 += check.entries.1;
    }
}

impl Run {
    /// Opens a random volume at random positions with anchors and without, and compares the
    /// indexes.
    ///
    /// # Panics
    /// When two differ.
    pub fn check_anchors(&mut self, stops: usize, sum: &mut Compared) {
        let Some((place, lsns)) = self.random_history() else { return };
        let positions: Vec<Lsn> =
            (0..stops).map(|_| Lsn(lsns[self.rng.below(lsns.len() as u64) as usize])).collect();
        let name = self.model.name(place).to_owned();
        let context = format!("seed {}: volume {name} at {positions:?}", self.seed);
        match wait(&self.pool, Rc::clone(&self.pool).check_anchors(name, positions)) {
            Ok(check) => sum.add(&context, &check),
            Err(error) => panic!("{context}: {error}"),
        }
    }
}

/// An anchor in a store: how many parts the head says there are, and which are there.
pub type ListedAnchor = (AnchorId, Option<u32>, BTreeSet<u32>);

/// The anchors in a list of names, by image and position.
pub fn anchors_in(names: &[Name]) -> BTreeMap<(u32, u64), ListedAnchor> {
    let mut found = BTreeMap::new();
    for name in names.iter().filter_map(|name| AnchorName::parse(name.as_str())) {
        let id = name.id();
        let (_, head, parts) =
            found.entry((id.image, id.lsn.0)).or_insert_with(|| (id, None, BTreeSet::new()));
        match name {
            AnchorName::Head(_, count) => *head = Some(count),
            AnchorName::Part(_, number) => {
                parts.insert(number);
            }
        }
    }
    found
}
