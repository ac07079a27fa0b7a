//! Walks volumes of a run along the log, and compares each stop with a scan.

use std::rc::Rc;

use varve::log::Lsn;
use varve::volume::WalkReport;

use super::workload::Run;
use super::world::wait;

/// The costs of the walks of a run.
#[derive(Debug, Default, Clone, Copy)]
pub struct Walked {
    /// Stops that were compared.
    pub stops: u64,
    /// Blocks that were at another position than the scan's, with the same content.
    pub copies: u64,
    /// Ranges that were rebuilt.
    pub ranges_rebuilt: u64,
    /// Entries that were moved over.
    pub entries: u64,
}

impl Run {
    /// Walks a random volume over `stops` random positions in both directions, mostly near each
    /// other, and compares it with a scan at each.
    ///
    /// # Panics
    /// When one differs.
    pub fn check_walks(&mut self, stops: usize) -> Walked {
        let mut walked = Walked::default();
        let Some((place, lsns)) = self.random_history() else { return walked };
        let mut at = self.rng.below(lsns.len() as u64) as i64;
        let mut positions = vec![Lsn(lsns[at as usize])];
        for _ in 0..stops {
            let reach = [2, 10, 100, lsns.len() as u64][self.rng.below(4) as usize];
            at += self.rng.below(2 * reach + 1) as i64 - reach as i64;
            at = at.clamp(0, lsns.len() as i64 - 1);
            positions.push(Lsn(lsns[at as usize]));
        }
        let name = self.model.name(place).to_owned();
        let context = format!("seed {}: volume {name} over {positions:?}", self.seed);
        match wait(&self.pool, Rc::clone(&self.pool).check_walk(name, positions)) {
            Ok(check) => {
                assert!(check.differing.is_empty(), "{context}: {check:?}");
                let WalkReport { ranges_rebuilt, entries, .. } = check.walked;
                walked = Walked { stops: check.positions, copies: check.copies, ranges_rebuilt, entries };
            }
            Err(error) => panic!("{context}: {error}"),
        }
        walked
    }
}
