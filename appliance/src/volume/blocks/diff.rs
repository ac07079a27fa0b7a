//! The net difference of a volume between two points.
//!
//! For each point an index of origins is built: it maps each block to the position at which its
//! content was first written, so a copy by the cleaner or by a hydration changes nothing. The two
//! indexes are then compared block by block. A position is never used twice, so equal positions are
//! equal contents, through clones and roll-backs too. The points may be in any order. If the entry
//! of a copy does not know the first position (its source's entry was lost, or an early program
//! wrote
//! it), the block is listed without need; no block is left out.
//!
//! **Near points.** If at most W+1 segments lie between two points of one image, only what was
//! written or discarded between them may differ. Then the state at the older point is built, or the
//! present one is taken, and moved along the log to the other ([`walk`](Pool::walk)); only the blocks
//! of the entries on the way are compared.
//!
//! **Cost:** the entries of W+1 segments for each point and generation, 8 bytes of memory for each
//! block that has contents at a point, and one step for each such block. It does not depend on how
//! much was written between the points. For near points: the entries between them, and of W+1
//! segments for one point, or none if the volume was not written since the newer one.

use std::ops::Range;
use std::rc::Rc;

use uuid::Uuid;

use super::differences::{DiffKey, Difference};
use super::info::{DiffEnd, DiffKind, DiffPage, DiffRange};
use super::named::check_certain;
use crate::dma::BLOCK_BYTES;
use crate::log::{ImageId, Lsn};
use crate::reactor::yield_now;
use crate::volume::catalog::{Catalog, CatalogVolume};
use crate::volume::error::VolumeError;
use crate::volume::history::entry_cache::EntryCache;
use crate::volume::history::past::{Nowhere, ScanReport};
use crate::volume::history::point::{NamedPoint, Point};
use crate::volume::history::reigns::VolumeThen;
use crate::volume::history::walk::PastVolume;
use crate::volume::image::free::free;
use crate::volume::image::index::{Index, IndexBuilder, Mapping, RangeSet};
use crate::volume::info::ResolvedPoint;
use crate::volume::pool::Pool;

/// The most ranges in one answer.
const PAGE_RANGES_MAX: usize = 10_000;

/// How many blocks are compared in one turn of the reactor: about 100 us.
const TURN_BLOCKS: usize = 4096;

/// How a volume without contents is called as a point.
pub(super) const NOTHING: &str = "nothing";

/// Which difference.
#[derive(Debug, Clone)]
pub struct DiffRequest {
    /// The volume at the first point, by name or UUID.
    pub volume: String,
    /// The first point; `None`: before the volume had any contents.
    pub from: Option<NamedPoint>,
    /// The second point; `None`: now.
    pub to: Option<NamedPoint>,
    /// Another volume at the second point; `None`: the same one.
    pub to_volume: Option<String>,
    /// The page begins with this block.
    pub first_block: u64,
    /// The most ranges in the answer; at most 10,000.
    pub limit: Option<usize>,
}

/// A volume at a point, with the catalog there.
#[derive(Clone)]
pub(super) struct Side {
    pub(super) volume: CatalogVolume,
    pub(super) catalog: Catalog,
    pub(super) at: ResolvedPoint,
    /// Whether it counts as a volume without contents.
    is_nothing: bool,
}

impl Side {
    fn end(&self) -> DiffEnd {
        let (lsn, time_ns) = if self.is_nothing { (0, 0) } else { (self.at.lsn, self.at.time_ns) };
        DiffEnd {
            point: if self.is_nothing { NOTHING.to_owned() } else { self.at.point.clone() },
            lsn,
            time_ns,
            volume: self.volume.name.clone(),
            uuid: self.volume.uuid,
            size_blocks: if self.is_nothing { 0 } else { self.volume.size_blocks },
        }
    }

    fn key(&self) -> (Uuid, u64) {
        (self.volume.uuid, if self.is_nothing { 0 } else { self.at.lsn })
    }
}

impl Pool {
    /// A page of the net difference of a volume between two points.
    ///
    /// # Errors
    /// A point or a volume at a point that does not exist, data that is not certain there, the
    /// archive.
    pub async fn volume_diff(self: Rc<Self>, request: DiffRequest) -> Result<DiffPage, VolumeError> {
        let (from, to) = self.sides(&request).await?;
        let key = DiffKey { from: from.key(), to: to.key() };
        let first_block = request.first_block;
        let kept = self.state.borrow().differences.get(&key, first_block);
        let difference = if let Some(difference) = kept {
            difference
        } else {
            let difference = Rc::new(self.difference(&from, &to, first_block..u64::MAX).await?);
            self.state.borrow_mut().differences.keep(key, Rc::clone(&difference));
            difference
        };
        let limit = request.limit.unwrap_or(PAGE_RANGES_MAX).clamp(1, PAGE_RANGES_MAX);
        let left = difference.from(first_block);
        let mut ranges: Vec<DiffRange> = left.iter().take(limit).copied().collect();
        if let Some(first) = ranges.first_mut().filter(|first| first.block < first_block) {
            first.blocks -= first_block - first.block;
            first.block = first_block;
        }
        let next_block = left.get(limit).map(|range| range.block).or(difference.next_block);
        if next_block.is_none() {
            self.state.borrow_mut().differences.forget(&key);
        }
        Ok(DiffPage {
            from: from.end(),
            to: to.end(),
            pool: self.log.borrow().pool(),
            history: self.ownership().history.map(|history| history.0),
            block_bytes: BLOCK_BYTES as u64,
            written_blocks: difference.written_blocks,
            unmapped_blocks: difference.unmapped_blocks,
            ranges,
            next_block,
        })
    }

    /// The two ends of a request.
    async fn sides(self: &Rc<Self>, request: &DiffRequest) -> Result<(Side, Side), VolumeError> {
        let to_name = request.to_volume.as_deref().unwrap_or(&request.volume);
        let to = self.side(to_name, request.to.clone()).await?;
        let Some(point) = request.from.clone() else {
            return Ok((Side { is_nothing: true, ..to.clone() }, to));
        };
        let at = Rc::clone(self).resolve(point).await?;
        let catalog = self.catalog_at(Lsn(at.lsn)).await?;
        let same = catalog.volume_with_uuid(to.volume.uuid).filter(|_| request.to_volume.is_none()).cloned();
        let volume = match same {
            Some(volume) => volume,
            None if request.to_volume.is_some() => self.named_at(&request.volume, &catalog, &at)?,
            None => {
                let reason = format!(
                    "volume '{}' ({}) did not exist at lsn:{}; `nothing` as the first point compares with an empty volume",
                    to.volume.name, to.volume.uuid, at.lsn
                );
                return Err(VolumeError::NoSuchPoint { point: at.point, reason });
            }
        };
        Ok((Side { volume, catalog, at, is_nothing: false }, to))
    }

    /// A volume at a point, or now.
    pub(super) async fn side(
        self: &Rc<Self>,
        name: &str,
        point: Option<NamedPoint>,
    ) -> Result<Side, VolumeError> {
        let point = point.unwrap_or_else(|| NamedPoint::from(Point::Lsn(self.stats().newest_point_lsn)));
        let at = Rc::clone(self).resolve(point).await?;
        let catalog = self.catalog_at(Lsn(at.lsn)).await?;
        let volume = self.named_at(name, &catalog, &at)?;
        Ok(Side { volume, catalog, at, is_nothing: false })
    }

    /// The difference of two sides within a range of blocks.
    pub(super) async fn difference(
        &self,
        from: &Side,
        to: &Side,
        window: Range<u64>,
    ) -> Result<Difference, VolumeError> {
        let mut found = Difference::from_block(window.start);
        if from.key() == to.key() {
            return Ok(found);
        }
        if let Some(found) = self.near_difference(from, to, &window).await? {
            return Ok(found);
        }
        let size_blocks = to.volume.size_blocks;
        let before = self.origins(from, window.clone()).await?;
        let after = self.origins(to, window.clone()).await;
        if let Ok(after) = &after {
            compare(&before, after, window.clone(), size_blocks, &mut found).await;
        }
        free(before).await;
        free(after?).await;
        Ok(found)
    }

    /// The difference of two near points of one image, by what is between them in the log; `None`:
    /// they are not near, or that is not certain.
    async fn near_difference(
        &self,
        from: &Side,
        to: &Side,
        window: &Range<u64>,
    ) -> Result<Option<Difference>, VolumeError> {
        let uuid = from.volume.uuid;
        let is_one = (uuid, from.volume.image) == (to.volume.uuid, to.volume.image);
        let (older, newer) = if from.at.lsn < to.at.lsn { (from, to) } else { (to, from) };
        let geometry = self.log.borrow().geometry();
        let [first, last] = [older, newer].map(|side| geometry.sequence_of(Lsn(side.at.lsn)));
        let is_near = last.0 - first.0 <= self.working_set_at(last);
        if !is_one || !is_near || from.is_nothing || to.is_nothing {
            return Ok(None);
        }
        // Everything that was appended is to be found in the log.
        self.log.borrow_mut().close_up_to(Lsn::MAX);
        let (mut past, other) = match self.state_now(newer) {
            Some(past) => (past, older),
            None => (self.past_volume(uuid, Lsn(older.at.lsn)).await?.0, newer),
        };
        let start = past.clone();
        let mut touched = RangeSet::default();
        let mut cache = EntryCache::default();
        let moved = self.walk(&mut past, Lsn(other.at.lsn), &mut cache, Some(&mut touched)).await?;
        let is_certain = start.uncertain_below().0 == 0 && past.uncertain_below().0 == 0;
        let (start, end) = (start.into_index(), past.into_index());
        let mut found = None;
        if is_certain && !moved.opened_anew {
            let mut difference = Difference::from_block(window.start);
            let (before, after) =
                if other.at.lsn == to.at.lsn { (&start, &end) } else { (&end, &start) };
            for (first_block, end_block) in touched.iter() {
                let part = first_block.max(window.start)..end_block.min(window.end);
                if !part.is_empty() {
                    compare(before, after, part, to.volume.size_blocks, &mut difference).await;
                }
            }
            found = Some(difference);
        }
        free(start).await;
        free(end).await;
        Ok(found)
    }

    /// The state at a side, if the volume has not changed since.
    fn state_now(&self, side: &Side) -> Option<PastVolume> {
        let lsn = Lsn(side.at.lsn);
        let index = self.share_index(side.volume.image, lsn)?;
        let then = VolumeThen::of(&side.catalog, side.volume.uuid)?;
        let state = self.state.borrow();
        let uncertain_below = state.volumes.of_image(ImageId(side.volume.image))?.uncertain_below();
        Some(PastVolume::known(then, side.catalog.clone(), lsn, index, uncertain_below))
    }

    /// The origins of the contents of a side.
    async fn origins(&self, side: &Side, window: Range<u64>) -> Result<Index, VolumeError> {
        let Side { volume, catalog, at, is_nothing } = side;
        let mut builder = IndexBuilder::new(volume.size_blocks).within(window).of_origins();
        if *is_nothing {
            return Ok(builder.finish());
        }
        let mut report = ScanReport::default();
        let lsn = Lsn(at.lsn);
        self.scan_generations(catalog, volume.image, lsn, &mut builder, &mut report, Nowhere::Refuse).await?;
        check_certain(catalog, volume, at, report.uncertain_below)?;
        Ok(builder.finish())
    }
}

/// Goes through the blocks of an index that have contents, in order.
struct Cursor<'a> {
    index: &'a Index,
    next: Option<u64>,
    /// The first block, and the end.
    window: Range<u64>,
    leaf: Vec<(u64, Mapping)>,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(index: &'a Index, window: &Range<u64>) -> Self {
        Cursor { index, next: Some(window.start), window: window.clone(), leaf: Vec::new(), at: 0 }
    }

    fn peek(&mut self) -> Option<(u64, Lsn)> {
        while self.at == self.leaf.len() {
            let window = &self.window;
            let from = self.next.filter(|from| *from < window.end)?;
            let leaf = &mut self.leaf;
            leaf.clear();
            self.at = 0;
            self.next = self.index.visit_some(from, 1, |block, mapping| {
                if window.contains(&block) {
                    leaf.push((block, mapping));
                }
            });
        }
        self.leaf.get(self.at).map(|&(block, mapping)| (block, mapping.lsn()))
    }
}

/// Compares two indexes within a range of blocks. What `before` has at or after `size_blocks` is not
/// in the volume any more, and does not count.
async fn compare(
    before: &Index,
    after: &Index,
    window: Range<u64>,
    size_blocks: u64,
    found: &mut Difference,
) {
    let (mut old, mut new) = (Cursor::new(before, &window), Cursor::new(after, &window));
    loop {
        for _ in 0..TURN_BLOCKS {
            match (old.peek(), new.peek()) {
                (None, None) => return,
                (Some((block, _)), other) if other.is_none_or(|(other, _)| block < other) => {
                    if block < size_blocks {
                        found.add(block, DiffKind::Unmapped);
                    }
                    old.at += 1;
                }
                (Some((block, lsn)), Some((other, other_lsn))) if block == other => {
                    if lsn != other_lsn {
                        found.add(block, DiffKind::Written);
                    }
                    old.at += 1;
                    new.at += 1;
                }
                (_, Some((block, _))) => {
                    found.add(block, DiffKind::Written);
                    new.at += 1;
                }
                (Some(_), None) => unreachable!("it is before all others"),
            }
        }
        yield_now().await;
    }
}
