//! Differences between points, and restores of blocks.
//!
//! A restore of blocks is ordinary commands of the pool, and a crash may come between any two of
//! them. The pool's own history of the blocks says which commands there were; the model says what
//! each must have written, and the contents are compared with that.

use std::collections::BTreeSet;
use std::rc::Rc;

use varve::volume::{
    BlockChange, BlockRestoreRequest, BlockRestoreState, BlockVersion, DiffKind, DiffRange, DiffRequest,
    HistoryRequest, NamedPoint, Point, VolumeError,
};

use super::super::model::{Change, Step, VolumeState};
use super::super::workload::Run;
use super::super::world::wait;
use super::{Carried, Cut};

/// The most pages of a history or of a difference.
const PAGES_MAX: usize = 10_000;

/// A restore of blocks that a crash has cut, or that is done and not yet in the model.
#[derive(Debug)]
pub(super) struct CutRestore {
    place: usize,
    block: u64,
    blocks: u64,
    /// Its commands are after this position.
    before_lsn: u64,
    /// The state that it restores.
    then: VolumeState,
}

impl Run {
    /// Compares the difference of a volume between two points with the model. Returns its ranges.
    pub(super) fn checked_diff(
        &mut self,
        place: usize,
        from: Option<u64>,
        to: u64,
    ) -> Option<(Vec<DiffRange>, [u64; 2])> {
        let limit = [1, 7, 1000][self.rng.below(3) as usize];
        let before =
            from.map_or_else(VolumeState::default, |at| self.model.state_at(place, at).expect("then"));
        let after = self.model.state_at(place, to).expect("it existed");
        let volume = self.called_at(place, to)?;
        let (mut ranges, mut first_block, mut totals) = (Vec::new(), 0, None);
        for _ in 0..PAGES_MAX {
            let request = DiffRequest {
                volume: volume.clone(),
                from: from.map(|at| Point::Lsn(at).into()),
                to: Some(Point::Lsn(to).into()),
                to_volume: None,
                first_block,
                limit: Some(limit),
            };
            let page = match wait(&self.pool, Rc::clone(&self.pool).volume_diff(request)) {
                Ok(page) => page,
                Err(error) => {
                    self.count_verb("diff").refused += 1;
                    let points: Vec<(usize, u64)> =
                        from.into_iter().chain([to]).map(|at| (place, at)).collect();
                    self.check_refusal("diff", &error, &points);
                    return None;
                }
            };
            totals = totals.or(Some([page.written_blocks, page.unmapped_blocks]));
            ranges.extend(page.ranges);
            match page.next_block {
                Some(next) => first_block = next,
                None => break,
            }
        }
        self.count_verb("diff").done += 1;
        let context = format!("seed {}: volume {place} from {from:?} to {to}", self.seed);
        self.compare_diff(&ranges, &before, &after, &context);
        Some((ranges, totals.unwrap_or_default()))
    }

    /// What means a volume at a position: the UUID of a present one, or the name of a deleted one,
    /// unless a present one has that name.
    fn called_at(&self, place: usize, lsn: u64) -> Option<String> {
        if self.model.is_alive(place) {
            return self.pool.find_volume(self.model.name(place)).map(|volume| volume.uuid.to_string());
        }
        let name = self.model.name_at(place, lsn).to_owned();
        self.pool.find_volume(&name).is_none().then_some(name)
    }

    /// Every block that differs is listed, once; another only if it was written again with the same
    /// contents.
    fn compare_diff(&self, ranges: &[DiffRange], before: &VolumeState, after: &VolumeState, context: &str) {
        let mut listed = [BTreeSet::new(), BTreeSet::new()];
        for range in ranges {
            let kind = usize::from(range.kind == DiffKind::Unmapped);
            for block in range.block..range.block + range.blocks {
                assert!(listed[kind].insert(block), "{context}: block {block} comes twice");
            }
        }
        let [written, unmapped] = listed;
        let blocks: BTreeSet<u64> = before.blocks.keys().chain(after.blocks.keys()).copied().collect();
        for block in blocks.into_iter().filter(|&block| block < after.size_blocks) {
            let (old, new) = (before.blocks.get(&block), after.blocks.get(&block));
            let (is_written, is_unmapped) = (written.contains(&block), unmapped.contains(&block));
            match (old, new) {
                (old, Some(_)) if old != new => assert!(is_written, "{context}: block {block} is missing"),
                // A restore of blocks, or an increment, wrote the same again.
                (_, Some(_)) => assert!(!is_unmapped, "{context}: block {block} has contents"),
                (_, None) => assert!(is_unmapped && !is_written, "{context}: block {block} is unmapped"),
            }
            if is_written && old == new {
                assert!(self.has_rewritten(), "{context}: block {block} is listed without need");
            }
        }
        let strays = written
            .iter()
            .chain(&unmapped)
            .filter(|block| !before.blocks.contains_key(*block) && !after.blocks.contains_key(*block));
        let strays: Vec<&u64> = strays.collect();
        assert!(strays.is_empty(), "{context}: blocks {strays:?} have no contents at either point");
    }

    /// Whether contents may be at two positions of the log: something wrote old contents again, or
    /// the entries that say what a copy is a copy of were lost.
    fn has_rewritten(&self) -> bool {
        let counts = &self.going_back.as_ref().expect("the run has verbs").counts;
        let begun = |verb| {
            let count = counts.of(verb);
            count.done + count.refused + count.cut > 0
        };
        begun("block restore") || begun("increment") || self.trouble.had_lasting
    }

    /// The difference of a volume between two random points.
    pub(super) fn verb_diff(&mut self) {
        let Some((place, to)) = self.random_point(|_, _| true) else { return };
        let from = self.random_point(|_, known| known == place).map(|(_, at)| at);
        let from = from.filter(|_| !self.rng.one_in(6));
        self.settle();
        self.checked_diff(place, from, to);
    }

    /// Writes what a range of blocks had at a point again.
    pub(super) fn verb_restore_blocks(&mut self, cut: Option<Cut>) {
        let among = |run: &Run, place: usize| {
            run.model.is_alive(place) && !run.model.volumes[place].read_only && !run.is_session_clone(place)
        };
        let Some((place, at)) = self.random_point(among) else { return };
        // What is lost cannot be told from what was never written.
        if self.trouble.lost_from.is_some() {
            return;
        }
        self.settle();
        let (then, now) = (self.model.state_at(place, at), self.model.state_at(place, u64::MAX));
        let (Some(then), Some(now)) = (then, now) else { return };
        let size_blocks = then.size_blocks.min(now.size_blocks);
        let blocks = 1 + self.rng.below(size_blocks.min(200));
        let block = self.rng.below(size_blocks - blocks + 1);
        let before_lsn = self.head();
        let request = BlockRestoreRequest {
            volume: self.model.name(place).to_owned(),
            block,
            blocks,
            at: NamedPoint::from(Point::Lsn(at)),
        };
        let pool = Rc::clone(&self.pool);
        let future = async move {
            let (_, restore) = Rc::clone(&pool).begin_block_restore(request).await?;
            Rc::clone(&pool).restore_blocks(restore).await;
            Ok(pool.block_restore())
        };
        let restore = CutRestore { place, block, blocks, before_lsn, then };
        match self.carry("block restore", future, &[place], Vec::new(), cut) {
            Carried::Done(info) => {
                let info = info.expect("a restore");
                self.settle();
                self.note_restore(&restore);
                if info.state == BlockRestoreState::Done {
                    self.mark_flushed(self.last_command(place));
                    self.check_restored(&restore);
                } else {
                    let is_bad =
                        self.trouble.had_lasting || self.is_store_faulty() || self.trouble.has_plan();
                    let is_full = info
                        .problem
                        .as_ref()
                        .is_some_and(|problem| problem.contains("room") || problem.contains("apacity"));
                    assert!(is_bad || is_full || self.may_be_gone(place, at), "seed {}: {info:?}", self.seed);
                }
            }
            Carried::Refused(error) => self.check_refusal("block restore", &error, &[(place, at)]),
            Carried::Cut => {
                self.going_back.as_mut().expect("the run has verbs").cut_restore = Some(restore);
            }
        }
    }

    /// The position of the newest command of a volume.
    fn last_command(&self, place: usize) -> u64 {
        self.model.commands(place).last().copied().unwrap_or(0)
    }

    /// The range has the contents of the point.
    fn check_restored(&self, restore: &CutRestore) {
        let now = self.model.state_at(restore.place, u64::MAX).expect("it is alive");
        for block in restore.block..restore.block + restore.blocks {
            assert_eq!(
                now.blocks.get(&block),
                restore.then.blocks.get(&block),
                "seed {}: block {block} of {restore:?}",
                self.seed
            );
        }
        self.check_place(restore.place);
    }

    /// After a crash: tells the model what a restore had written.
    pub(in crate::sim) fn note_cut_restore(&mut self) {
        let Some(restore) = self.going_back.as_mut().and_then(|verbs| verbs.cut_restore.take()) else {
            return;
        };
        if self.trouble.lost_from.is_none() {
            self.note_restore(&restore);
        }
    }

    /// Tells the model the commands of a restore. Hosts wrote to other volumes meanwhile.
    fn note_restore(&mut self, restore: &CutRestore) {
        let CutRestore { place, before_lsn, ref then, .. } = *restore;
        if self.model.is_alive(place) {
            let versions = self.versions_behind(restore);
            for version in versions {
                assert!(version.point_lsn > before_lsn, "seed {}", self.seed);
                let range = version.block..version.block + version.blocks;
                let change = if version.kind == BlockChange::Trim {
                    Change::Trim { volume: place, ranges: vec![(version.block, version.blocks)] }
                } else {
                    let stamps = range.map(|block| {
                        let stamp = then.blocks.get(&block).copied();
                        stamp.unwrap_or_else(|| panic!("seed {}: {version:?} of {restore:?}", self.seed))
                    });
                    Change::Write { volume: place, block: version.block, stamps: stamps.collect() }
                };
                let lsn = version.point_lsn;
                let step = Step { lsn, written_lsn: lsn, change, acknowledged: false, flushed: false };
                let behind = self.model.steps.partition_point(|known| known.lsn <= lsn);
                self.model.steps.insert(behind, step);
            }
        }
    }

    /// The commands of a restore that the log has, from its own history.
    fn versions_behind(&self, restore: &CutRestore) -> Vec<BlockVersion> {
        let (mut versions, mut from) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let request = HistoryRequest {
                volume: self.model.name(restore.place).to_owned(),
                block: restore.block,
                blocks: restore.blocks,
                at: None,
                from,
                limit: None,
            };
            let page = match wait(&self.pool, Rc::clone(&self.pool).block_history(request)) {
                Ok(page) => page,
                Err(VolumeError::Busy { .. }) if self.trouble.has_plan() => continue,
                Err(error) => panic!("seed {}: {error}", self.seed),
            };
            let is_behind = |version: &BlockVersion| version.point_lsn > restore.before_lsn;
            let is_last = page.versions.iter().any(|version| !is_behind(version));
            versions.extend(page.versions.into_iter().filter(is_behind));
            from = page.next.filter(|next| !is_last && next.lsn > restore.before_lsn);
            if from.is_none() {
                break;
            }
        }
        versions.reverse();
        versions
    }
}
