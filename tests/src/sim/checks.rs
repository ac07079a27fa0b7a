//! Compares a pool with its model: all volumes now, random points of the past, times, synchs and
//! snapshots.

use std::rc::Rc;

use varve::dma::BLOCK_BYTES;
use varve::volume::{IoError, Point, Pool, Request, VolumeError, VolumeId};

use super::damage::problems;
use super::going_back::History;
use super::model::{VolumeState, is_filled};
use super::shortage;
use super::starts::OnPanic;
use super::trouble::Excused;
use super::workload::{Opened, Run};
use super::world::{run, wait};

/// How often a host retries a read that the pool cannot serve now.
const TRIES_MAX: u64 = 100;

impl Run {
    /// Opens `count` random points as clones, compares each with the model, and deletes it again.
    /// Returns how many were compared.
    ///
    /// # Panics
    /// When one differs.
    pub fn check_points(&mut self, count: u64) -> u64 {
        let mut checked = 0;
        for _ in 0..count {
            let step = self.rng.below(self.model.steps.len() as u64) as usize;
            let lsn = self.model.steps[step].lsn;
            let existing: Vec<usize> = (0..self.model.volumes.len())
                .filter(|&place| self.model.state_at(place, lsn).is_some())
                .collect();
            if existing.is_empty() {
                continue;
            }
            let source = existing[self.rng.below(existing.len() as u64) as usize];
            match self.compare_point(source, lsn, false) {
                Opened::Yes => checked += 1,
                Opened::Expired => {}
                Opened::NoRoom => return checked,
            }
        }
        checked
    }

    /// Opens a point as a clone, compares it with the model, and deletes it again.
    pub(super) fn compare_point(&mut self, source: usize, lsn: u64, between: bool) -> Opened {
        let state = self.model.state_at(source, lsn).expect("it existed");
        let name = format!("probe{}", self.model.volumes.len());
        let is_archived_only = lsn < self.oldest_in_primary();
        let opened = self.open_point(source, lsn, &name, between);
        if opened != Opened::Yes {
            return opened;
        }
        let probe = self.pool.find_volume(&name).expect("it was just made");
        let context = format!("a clone of volume {source} at LSN {lsn}: {:?}", self.pool.segments());
        let _told = OnPanic(&context);
        // The change of its size may be among the lost entries, which the pool reports.
        let is_other_size = probe.size_bytes != state.size_blocks * BLOCK_BYTES as u64
            && self.trouble.lost_from.is_some_and(|lost_from| lsn >= lost_from)
            && problems(&self.pool)
                .iter()
                .any(|problem| problem.ends_with("what was changed in them is missing"));
        if !is_other_size {
            let _told = History { run: self, place: source };
            check_volume(&self.pool, probe.id, &state, &self.trouble.excused, self.seed);
        }
        self.archived_only_points += u64::from(is_archived_only);
        match wait(&self.pool, Rc::clone(&self.pool).delete_volume(name.clone())) {
            Ok(()) => Opened::Yes,
            Err(VolumeError::NoSpace { .. }) => {
                // A full log keeps the clone.
                self.note_clone(&name, source, lsn);
                Opened::NoRoom
            }
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
    }

    /// The first position that is still on the primary.
    fn oldest_in_primary(&self) -> u64 {
        let segments = self.pool.segments();
        let kept = segments.iter().filter(|segment| segment.sequence.is_some() && segment.slot != u64::MAX);
        kept.map(|segment| segment.first_lsn).min().unwrap_or(0)
    }

    /// Compares every volume, synch and snapshot with the model.
    ///
    /// # Panics
    /// When one differs, is missing, or should not exist.
    pub fn check_all(&mut self) {
        self.check_volumes();
        self.check_names();
    }

    /// Compares the contents of every volume with the model.
    pub(super) fn check_volumes(&self) {
        for place in 0..self.model.volumes.len() {
            let expected = self.model.state_at(place, u64::MAX);
            let name = self.model.name(place);
            if expected.is_none() && self.live_names().iter().any(|known| known == name) {
                continue;
            }
            let found = self.pool.find_volume(name);
            assert_eq!(expected.is_some(), found.is_some(), "seed {}: volume {place}", self.seed);
            if let (Some(expected), Some(found)) = (expected, found) {
                assert_eq!(found.size_bytes, expected.size_blocks * BLOCK_BYTES as u64, "seed {}", self.seed);
                check_volume(&self.pool, found.id, &expected, &self.trouble.excused, self.seed);
            }
        }
    }

    fn check_names(&self) {
        let kept = |label: &String| !self.expired.has_synch(label);
        let synchs = self.pool.synchs().infos().into_iter().map(|synch| synch.label);
        let expected: Vec<String> = self.model.synchs().into_iter().filter(kept).collect();
        assert_eq!(synchs.filter(kept).collect::<Vec<_>>(), expected, "seed {}", self.seed);
        let mut snapshots: Vec<(u64, String)> =
            self.pool.snapshots().into_iter().map(|snapshot| (snapshot.lsn, snapshot.name)).collect();
        snapshots.sort();
        assert_eq!(snapshots, self.model.snapshots(), "seed {}", self.seed);
        self.check_sessions();
    }

    fn live_names(&self) -> Vec<String> {
        let alive = (0..self.model.volumes.len()).filter(|&place| self.model.is_alive(place));
        alive.map(|place| self.model.name(place).to_owned()).collect()
    }

    /// Resolves the times of random points: each time must give the last command at or before it,
    /// and a later time never an earlier command. Returns how many were compared.
    ///
    /// # Panics
    /// When a time resolves to something else.
    pub fn check_times(&mut self, count: u64) -> u64 {
        if self.trouble.lost_from.is_some() {
            // A point may be among the lost entries, and is then refused.
            return 0;
        }
        let resolve = |run: &Run, point: Point| {
            let text = point.to_string();
            wait(&run.pool, Rc::clone(&run.pool).resolve(point))
                .unwrap_or_else(|error| panic!("seed {}: {text}: {error}", run.seed))
        };
        let lsns: Vec<u64> = self.model.steps.iter().map(|step| step.lsn).collect();
        // The time of every record, by its own position.
        let times: Vec<u64> = lsns.iter().map(|&lsn| resolve(self, Point::Lsn(lsn)).time_ns).collect();
        let falls = times.windows(2).position(|pair| pair[0] > pair[1]);
        let fall = falls.map(|at| (&self.model.steps[at..at + 2], &times[at..at + 2]));
        assert!(falls.is_none(), "seed {}: times never fall along the log: {fall:?}", self.seed);
        for _ in 0..count {
            let picked = self.rng.below(lsns.len() as u64) as usize;
            let time_ns = (times[picked] - self.rng.below(2) * self.rng.below(1000)).max(times[0]);
            let expected = times.partition_point(|&known| known <= time_ns);
            let found = resolve(self, Point::Time(time_ns));
            assert!(found.time_ns <= time_ns, "seed {}", self.seed);
            // Between two steps there may be catalogs that the pool wrote by itself; they change no
            // volume.
            let at_least = expected.checked_sub(1).map_or(0, |last| lsns[last]);
            let before = lsns.get(expected).copied().unwrap_or(u64::MAX);
            assert!(
                (at_least..before).contains(&found.lsn),
                "seed {}: time {time_ns} is lsn:{}, not in {at_least}..{before}",
                self.seed,
                found.lsn
            );
        }
        for (lsn, name) in self.model.snapshots() {
            let found = resolve(self, Point::Snapshot(name));
            // A snapshot is the end of the last command before it.
            assert_eq!(found.lsn, resolve(self, Point::Lsn(lsn)).lsn, "seed {}", self.seed);
        }
        count
    }
}

/// Compares blocks of a volume with a state. A block that cannot be read must be excused, and the
/// pool must report it.
pub(super) fn check_blocks(
    pool: &Pool,
    id: VolumeId,
    block: u64,
    len_blocks: u32,
    state: &VolumeState,
    excused: &Excused,
    seed: u64,
) {
    let request = Request::Read { block, len_blocks };
    let mut completion = run(pool, id, &request);
    // Memory is used up for up to 1 s, or a store fails: the host retries until that is over.
    for _ in 0..TRIES_MAX {
        if completion.result != Err(IoError::NotNow) {
            break;
        }
        shortage::end();
        completion = run(pool, id, &request);
    }
    let stamp_of = |block: u64| state.blocks.get(&block).copied().unwrap_or(0);
    if completion.result == Err(IoError::ReadFault) && !excused.is_empty() {
        if len_blocks > 1 {
            for at in block..block + u64::from(len_blocks) {
                check_blocks(pool, id, at, 1, state, excused, seed);
            }
            return;
        }
        let stamp = stamp_of(block);
        assert!(
            excused.allows(block, stamp),
            "seed {seed}: block {block}, stamp {stamp}, is refused and no fault holds it: {:?}",
            problems(pool)
        );
        assert!(!problems(pool).is_empty(), "seed {seed}: block {block} is refused and nobody was told");
        excused.note(block, stamp);
        return;
    }
    assert_eq!(completion.result, Ok(()), "seed {seed}: a read failed: {:?}", problems(pool));
    let mut at = block;
    for piece in &completion.data {
        for bytes in piece.chunks_exact(BLOCK_BYTES) {
            let stamp = stamp_of(at);
            assert!(
                is_filled(stamp, at, bytes),
                "seed {seed}: block {at} is not stamp {stamp} but {:x?}: {:?}",
                &bytes[..8],
                problems(pool)
            );
            at += 1;
        }
    }
    assert_eq!(at, block + u64::from(len_blocks), "seed {seed}: a read is as long as asked");
}

/// Compares a whole volume with a state.
///
/// # Panics
/// When they differ.
pub fn check_volume(pool: &Pool, id: VolumeId, state: &VolumeState, excused: &Excused, seed: u64) {
    let mut block = 0;
    while block < state.size_blocks {
        let len_blocks = (state.size_blocks - block).min(128) as u32;
        check_blocks(pool, id, block, len_blocks, state, excused, seed);
        block += u64::from(len_blocks);
    }
}
