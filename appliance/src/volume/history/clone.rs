//! Makes a new volume from a point of a volume.
//!
//! **Two ways to its index.** The index at a point of the past is rebuilt from the entries of the
//! W+1 segments that end there. If a volume has not changed since the point, its index is still
//! valid: the clone shares it, which is one reference whatever its size. In that case the clone's
//! parent point is the present, where the state is the same, so every block that the shared index
//! points to is in the segments that the parent's point keeps.
//!
//! **Uncertain data.** If entries are neither on the device nor in the archive, older data is not
//! certain: the clone is made, its catalog entry records this, and such blocks read as media errors
//! until they are written.
//!
//! **Races.** The volume is written before the clone is in the catalog: the index is then rebuilt
//! after all. Parts of the archive expire: the operator is asked to try again.

use std::rc::Rc;
use std::time::Instant;

use uuid::Uuid;

use crate::log::{ImageId, Lsn, recovery};
use crate::volume::catalog::{Catalog, CatalogVolume};
use crate::volume::error::VolumeError;
use crate::volume::history::past::ScanReport;
use crate::volume::history::point::NamedPoint;
use crate::volume::image::census::Census;
use crate::volume::image::index::Index;
use crate::volume::image::volume::{Volume, VolumeIndex};
use crate::volume::info::{CloneInfo, ResolvedPoint, VolumeOrigin};
use crate::volume::manage::operations::{add_image, add_volume, check_name};
use crate::volume::pool::Pool;

/// The parameters of a clone.
pub(in crate::volume) struct MakeClone {
    /// The volume, by the name that it had at the point.
    pub(in crate::volume) volume: String,
    /// The point.
    pub(in crate::volume) point: NamedPoint,
    /// The name of the clone.
    pub(in crate::volume) name: String,
    /// Whether hosts may not write to it.
    pub(in crate::volume) read_only: bool,
}

/// A clone in the change of the catalog that makes it.
pub(in crate::volume) struct MadeClone {
    pub(in crate::volume) uuid: Uuid,
    /// The volume that it was made from.
    pub(in crate::volume) source: Uuid,
    pub(in crate::volume) at: Lsn,
    /// The time at the point.
    pub(in crate::volume) time_ns: u64,
    pub(in crate::volume) made_ns: u64,
    /// Its own entries are after this position.
    pub(in crate::volume) born: Lsn,
}

/// What else is to be in the change that makes a clone; it gets the catalog that has the clone.
pub(in crate::volume) type Also<'a> = &'a dyn Fn(&mut Catalog, &MadeClone) -> Result<(), VolumeError>;

/// The source and the destination.
struct Cloning<'a> {
    name: String,
    source: CatalogVolume,
    read_only: bool,
    named: NamedPoint,
    at: ResolvedPoint,
    /// The catalog at the point.
    catalog: Catalog,
    expiries: u64,
    also: Also<'a>,
}

impl Pool {
    /// Makes a new volume from a point of a volume. The volume is looked up by the name that it had
    /// at the point, so a volume that was deleted since can be restored.
    ///
    /// # Errors
    /// A point or a volume at the point that does not exist, a name that is bad or taken, no room,
    /// a failed pool.
    pub async fn clone_volume(
        self: Rc<Self>,
        volume: String,
        point: impl Into<NamedPoint>,
        name: String,
        read_only: bool,
    ) -> Result<CloneInfo, VolumeError> {
        let nothing: Also<'_> = &|_, _| Ok(());
        self.make_clone(MakeClone { volume, point: point.into(), name, read_only }, nothing).await
    }

    /// As [`clone_volume`](Self::clone_volume), with something else in the same change.
    ///
    /// # Errors
    /// As there, and what `also` refuses.
    pub(in crate::volume) async fn make_clone(
        self: Rc<Self>,
        make: MakeClone,
        also: Also<'_>,
    ) -> Result<CloneInfo, VolumeError> {
        let MakeClone { volume, point, name, read_only } = make;
        let started = Instant::now();
        check_name("volume name", &name)?;
        if self.state.borrow().catalog.volume(&name).is_some() {
            return Err(VolumeError::VolumeExists { name });
        }
        let expiries = self.expiries();
        let named = point;
        let at = self.resolve_for(&named, None).await?;
        let catalog = self.catalog_at(Lsn(at.lsn)).await?;
        let Some(source) = catalog.volume(&volume).cloned() else {
            return Err(self.no_such_volume_then(&volume, &catalog, &at.point).await);
        };
        let cloning = Cloning { name, source, read_only, named, at, catalog, expiries, also };
        let (lsn, index, report, census) = self.record_clone(&cloning).await?;
        let Cloning { name, at, .. } = cloning;
        let id = self.add_volume(&name, VolumeIndex::Ready(index), false);
        {
            // A loss after the point does not affect it.
            let mut state = self.state.borrow_mut();
            let image = state.catalog.volume(&name).map_or(0, |volume| volume.image);
            let uncertain_below = state.catalog.uncertain_below(image, Lsn::MAX);
            if let Some(volume) = state.volumes.get_mut(id) {
                volume.set_uncertain_below(uncertain_below);
            }
            // Otherwise the volume has no blocks of its own yet.
            if state.volumes.keeps_inherited() {
                let mut log = self.log.borrow_mut();
                let keeps_all = state.volumes.get(id).is_some_and(|volume| volume.resident_above().0 == 0);
                match census.filter(|_| keeps_all) {
                    Some(census) => state.count_kept(&mut log, id, &census),
                    None => state.count_resident(&mut log, id),
                }
                log.watch_demand();
            }
        }
        recovery::stable(&self.log, lsn.plus(1)).await?;
        Ok(CloneInfo {
            volume: self.announce(id, &name)?,
            point: at,
            segments_touched: report.segments_touched,
            segments_bound: report.segments_bound,
            entries_scanned: report.entries_scanned,
            anchor_lsn: report.anchor_lsn.map(|lsn| lsn.0),
            anchor_bytes: report.anchor_bytes,
            elapsed_us: started.elapsed().as_micros() as u64,
        })
    }

    /// The index that a clone is to have, or would have if nothing changes, with its census, if the
    /// clone has to keep its blocks on the primary device.
    async fn census_for(&self, index: Option<&Index>) -> Option<(Index, Census)> {
        let index = index.cloned().filter(|_| self.state.borrow().volumes.keeps_inherited())?;
        let census = self.census(&index).await;
        Some((index, census))
    }

    /// Adds the clone to the catalog. Returns the position of that change, the clone's index, how it
    /// was built, and its census, if that was needed.
    async fn record_clone(
        &self,
        cloning: &Cloning<'_>,
    ) -> Result<(Lsn, Index, ScanReport, Option<Census>), VolumeError> {
        let Cloning { name, source, read_only, named, at, catalog, expiries, also } = cloning;
        let origin = VolumeOrigin { lsn: at.lsn, point: named.lasting_text() };
        let at_lsn = Lsn(at.lsn);
        let (created_ns, uuid) = {
            let log = self.log.borrow();
            (log.now_ns(), log.environment().random.uuid())
        };
        let mut built: Option<(Index, ScanReport)> = None;
        loop {
            if built.is_none() && self.share_index(source.image, at_lsn).is_none() {
                built = Some(match self.index_at(catalog, source, at_lsn).await {
                    Ok(built) => built,
                    Err(error) => return Err(self.with_choices(error, named, Some(at_lsn)).await),
                });
            }
            let shared = self.share_index(source.image, at_lsn);
            let counted = self.census_for(built.as_ref().map(|(index, _)| index).or(shared.as_ref())).await;
            drop(shared);
            let mut taken = None;
            let change = self.change(|now, head| {
                self.check_not_expired(*expiries, format_args!("{} was being opened", at.point))?;
                let (index, parent_lsn) = match &built {
                    Some((index, _)) => (index.clone(), at_lsn),
                    None => match self.share_index(source.image, at_lsn) {
                        Some(index) => (index, head),
                        None => return Err(VolumeError::Busy { reason: "the volume is written".to_owned() }),
                    },
                };
                // A shared index may have changed since it was counted.
                let census = counted.as_ref().filter(|(counted, _)| counted.is_same(&index));
                let census = census.map(|(_, census)| census);
                self.state.borrow().check_kept(
                    &self.log.borrow(),
                    &source.name,
                    &at.point,
                    &index,
                    census,
                )?;
                let census = census.cloned();
                let is_written = built.as_ref().is_none_or(|(_, report)| report.is_written);
                let parent = self.parent_at(now, catalog, source.image, parent_lsn, is_written);
                self.learn_ancestors(now, catalog, source.image, at_lsn);
                let image = add_image(now, self.format_version(), parent, head)?;
                // Store it in the catalog, so that it is known after a restart, even after the
                // unknown entries have left the log.
                let uncertain_below = match &built {
                    Some((_, report)) => report.uncertain_below,
                    None => self.known_uncertain_below(source.image),
                };
                now.change_image(
                    |known| known.id == image,
                    |image| image.uncertain_below = uncertain_below.0,
                );
                let clone = CatalogVolume {
                    name: name.clone(),
                    uuid,
                    size_blocks: source.size_blocks,
                    read_only: *read_only,
                    image,
                    created_ns,
                    thin: true,
                    origin: Some(origin.clone()),
                };
                add_volume(now, clone)?;
                let made = MadeClone {
                    uuid,
                    source: source.uuid,
                    at: at_lsn,
                    time_ns: at.time_ns,
                    made_ns: created_ns,
                    born: head,
                };
                also(now, &made)?;
                self.prune_images(now, head);
                taken = Some((index, census));
                Ok(())
            });
            let changed = change.await;
            match (changed, taken) {
                (Ok(lsn), Some((index, census))) => {
                    let bound = self.working_set_at(self.log.borrow().geometry().sequence_of(at_lsn)) + 1;
                    let shared = ScanReport { segments_bound: bound, ..ScanReport::default() };
                    return Ok((lsn, index, built.map_or(shared, |(_, report)| report), census));
                }
                (Ok(_), None) => unreachable!("a change that was made has taken an index"),
                // The volume was written since it was checked.
                (Err(VolumeError::Busy { .. }), _)
                    if built.is_none() && self.share_index(source.image, at_lsn).is_none() => {}
                (Err(error), _) => return Err(error),
            }
        }
    }

    /// The LSN below which a volume's image is not certain, as far as this was found out since the
    /// start.
    fn known_uncertain_below(&self, image: u32) -> Lsn {
        let state = self.state.borrow();
        state.volumes.of_image(ImageId(image)).map_or(Lsn(0), Volume::uncertain_below)
    }

    /// The index of a volume, if the volume has not changed since a point.
    pub(in crate::volume) fn share_index(&self, image: u32, at: Lsn) -> Option<Index> {
        let state = self.state.borrow();
        let volume = state.volumes.of_image(ImageId(image)).filter(|volume| volume.changed_lsn() <= at)?;
        volume.ready_index().cloned()
    }
}
