//! Makes new volumes from a point of volumes, in one change: of one, or of those of a group.
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
use crate::volume::history::members::Members;
use crate::volume::history::past::ScanReport;
use crate::volume::history::point::NamedPoint;
use crate::volume::image::census::{Census, CountedIndex};
use crate::volume::image::index::Index;
use crate::volume::image::volume::{Volume, VolumeIndex};
use crate::volume::info::{CloneInfo, ResolvedPoint, VolumeOrigin};
use crate::volume::manage::checks::{check_free, check_name};
use crate::volume::manage::operations::{add_image, add_volume};
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;

/// What is cloned, and under which names.
pub(in crate::volume) struct MakeClones {
    /// The volume, by the name that it had at the point, or a group.
    pub(in crate::volume) of: String,
    /// The point.
    pub(in crate::volume) point: NamedPoint,
    /// The name of the clone. Those of a group have it before the names of its volumes.
    pub(in crate::volume) name: String,
    /// Whether hosts may not write to the clones.
    pub(in crate::volume) read_only: bool,
}

/// Clones in the change of the catalog that makes them.
pub(in crate::volume) struct MadeClones {
    /// The group; `None`: it is one volume.
    pub(in crate::volume) group: Option<String>,
    pub(in crate::volume) clones: Vec<MadeClone>,
    pub(in crate::volume) at: Lsn,
    /// The time at the point.
    pub(in crate::volume) time_ns: u64,
    pub(in crate::volume) made_ns: u64,
    /// Their own entries are after this position.
    pub(in crate::volume) born: Lsn,
}

/// A clone that is being made.
#[derive(Debug, Clone)]
pub(in crate::volume) struct MadeClone {
    pub(in crate::volume) uuid: Uuid,
    /// The volume that it was made from, and the name that it had at the point.
    pub(in crate::volume) source: Uuid,
    pub(in crate::volume) source_name: String,
}

/// What else is to be in the change that makes clones; it gets the catalog that has the clones.
pub(in crate::volume) type Also<'a> = &'a dyn Fn(&mut Catalog, &MadeClones) -> Result<(), VolumeError>;

/// The name of a clone of a group's volume, if the clones of the group have a name.
pub(in crate::volume) fn member_name(name: &str, volume: &str) -> String {
    format!("{name}-{volume}")
}

/// The sources and the destinations.
struct Cloning<'a> {
    group: Option<String>,
    each: Vec<CloningOne>,
    read_only: bool,
    named: NamedPoint,
    at: ResolvedPoint,
    /// The catalog at the point.
    catalog: Catalog,
    made_ns: u64,
    expiries: u64,
    also: Also<'a>,
}

/// A source and its destination.
struct CloningOne {
    name: String,
    uuid: Uuid,
    source: CatalogVolume,
}

impl Cloning<'_> {
    /// What is cloned, for a message.
    fn source(&self) -> String {
        match (&self.group, self.each.first()) {
            (Some(group), _) => format!("group '{group}'"),
            (None, first) => format!("volume '{}'", first.map_or("", |one| one.source.name.as_str())),
        }
    }
}

/// An index that was built, and what that cost; `None`: the volume's own is shared.
type Built = Option<(Index, ScanReport)>;

/// Clones that are in the catalog.
struct Recorded {
    /// The position of the change.
    lsn: Lsn,
    clones: Vec<(CountedIndex, ScanReport)>,
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
        let one: Also<'_> = &|_, made| match &made.group {
            None => Ok(()),
            Some(group) => {
                let reason = format!("'{group}' is a group; varve group clone opens its volumes");
                Err(VolumeError::Invalid { what: "volume", reason })
            }
        };
        let make = MakeClones { of: volume, point: point.into(), name: name.clone(), read_only };
        let mut clones = self.make_clones(make, one).await?;
        clones.pop().ok_or(VolumeError::NoSuchVolume { name })
    }

    /// Makes new volumes from a point of a volume, or of all volumes of a group, in one change,
    /// with something else in it.
    ///
    /// # Errors
    /// As [`clone_volume`](Self::clone_volume), and what `also` refuses.
    pub(in crate::volume) async fn make_clones(
        self: Rc<Self>,
        make: MakeClones,
        also: Also<'_>,
    ) -> Result<Vec<CloneInfo>, VolumeError> {
        let started = Instant::now();
        check_name("volume name", &make.name)?;
        if !self.is_group(&make.of) {
            check_free(&self.state.borrow().catalog, &make.name)?;
        }
        let expiries = self.expiries();
        let (at, members) = self.members_at(&make.of, &make.point).await?;
        let cloning = self.cloning(make, at, members, expiries, also)?;
        let Recorded { lsn, clones } = self.record_clones(&cloning).await?;
        let mut added = Vec::with_capacity(clones.len());
        for (one, (index, report)) in cloning.each.iter().zip(clones) {
            added.push((self.add_clone(&one.name, index), report));
        }
        recovery::stable(&self.log, lsn.plus(1)).await?;
        let mut infos = Vec::with_capacity(added.len());
        for (one, (id, report)) in cloning.each.iter().zip(added) {
            infos.push(CloneInfo {
                volume: self.announce(id, &one.name)?,
                point: cloning.at.clone(),
                scan: report.cost(),
                elapsed_us: started.elapsed().as_micros() as u64,
            });
        }
        Ok(infos)
    }

    /// What is to be done for each volume.
    fn cloning<'a>(
        &self,
        make: MakeClones,
        at: ResolvedPoint,
        members: Members,
        expiries: u64,
        also: Also<'a>,
    ) -> Result<Cloning<'a>, VolumeError> {
        let MakeClones { point: named, name, read_only, .. } = make;
        let Members { catalog, group, volumes } = members;
        let log = self.log.borrow();
        let mut each = Vec::with_capacity(volumes.len());
        for source in volumes {
            let name = match &group {
                Some(_) => member_name(&name, &source.name),
                None => name.clone(),
            };
            check_name("volume name", &name)?;
            each.push(CloningOne { name, uuid: log.environment().random.uuid(), source });
        }
        let made_ns = log.now_ns();
        Ok(Cloning { group, each, read_only, named, at, catalog, made_ns, expiries, also })
    }

    /// Makes a clone of the catalog usable.
    fn add_clone(&self, name: &str, (index, census): CountedIndex) -> VolumeId {
        let id = self.add_volume(name, VolumeIndex::Ready(index), false);
        // A loss after the point does not affect it.
        let mut state = self.state.borrow_mut();
        let image = state.catalog.volume(name).map_or(0, |volume| volume.image);
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
        id
    }

    /// The index that a clone is to have, or would have if nothing changes, with its census, if the
    /// clone has to keep its blocks on the primary device.
    async fn census_for(&self, index: Option<&Index>) -> Option<(Index, Census)> {
        let index = index.cloned().filter(|_| self.state.borrow().volumes.keeps_inherited())?;
        let census = self.census(&index).await;
        Some((index, census))
    }

    /// Adds the clones to the catalog.
    async fn record_clones(&self, cloning: &Cloning<'_>) -> Result<Recorded, VolumeError> {
        let Cloning { group, each, named, at, catalog, made_ns, expiries, also, .. } = cloning;
        let at_lsn = Lsn(at.lsn);
        let mut built: Vec<Built> = each.iter().map(|_| None).collect();
        loop {
            for (one, built) in each.iter().zip(&mut built) {
                if built.is_none() && self.share_index(one.source.image, at_lsn).is_none() {
                    *built = Some(match self.index_at(catalog, &one.source, at_lsn).await {
                        Ok(built) => built,
                        Err(error) => return Err(self.with_choices(error, named, Some(at_lsn)).await),
                    });
                }
            }
            let mut counted = Vec::with_capacity(each.len());
            for (one, built) in each.iter().zip(&built) {
                let shared = self.share_index(one.source.image, at_lsn);
                let index = built.as_ref().map(|(index, _)| index).or(shared.as_ref());
                counted.push(self.census_for(index).await);
            }
            let mut taken: Vec<CountedIndex> = Vec::new();
            let change = self.change(|now, head| {
                self.check_not_expired(*expiries, format_args!("{} was being opened", at.point))?;
                taken.clear();
                let mut clones = Vec::with_capacity(each.len());
                for ((one, built), counted) in each.iter().zip(&built).zip(&counted) {
                    let index = self.record_clone(now, head, cloning, (one, built))?;
                    // A shared index may have changed since it was counted.
                    let census = counted.as_ref().filter(|(counted, _)| counted.is_same(&index));
                    let census = census.map(|(_, census)| census.clone());
                    taken.push((index, census));
                    clones.push(MadeClone {
                        uuid: one.uuid,
                        source: one.source.uuid,
                        source_name: one.source.name.clone(),
                    });
                }
                self.state.borrow().check_kept(&self.log.borrow(), &cloning.source(), &at.point, &taken)?;
                let (group, time_ns, made_ns) = (group.clone(), at.time_ns, *made_ns);
                also(now, &MadeClones { group, clones, at: at_lsn, time_ns, made_ns, born: head })?;
                self.prune_images(now, head);
                Ok(())
            });
            match change.await {
                Ok(lsn) => {
                    let bound = self.working_set_at(self.log.borrow().geometry().sequence_of(at_lsn)) + 1;
                    let report = |built: Built| {
                        let shared = ScanReport { segments_bound: bound, ..ScanReport::default() };
                        built.map_or(shared, |(_, report)| report)
                    };
                    let clones = taken.into_iter().zip(built.into_iter().map(report)).collect();
                    return Ok(Recorded { lsn, clones });
                }
                // A volume was written since it was checked.
                Err(VolumeError::Busy { .. }) if self.must_build(each, &built, at_lsn) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether an index that was to be shared has changed.
    fn must_build(&self, each: &[CloningOne], built: &[Built], at: Lsn) -> bool {
        let is_missing = |(one, built): (&CloningOne, &Built)| {
            built.is_none() && self.share_index(one.source.image, at).is_none()
        };
        each.iter().zip(built).any(is_missing)
    }

    /// Adds a clone to a changed catalog. Returns its index.
    fn record_clone(
        &self,
        now: &mut Catalog,
        head: Lsn,
        cloning: &Cloning<'_>,
        (one, built): (&CloningOne, &Built),
    ) -> Result<Index, VolumeError> {
        let Cloning { read_only, named, at, catalog, made_ns, .. } = cloning;
        let (source, at_lsn) = (&one.source, Lsn(at.lsn));
        let (index, parent_lsn) = match built {
            Some((index, _)) => (index.clone(), at_lsn),
            None => match self.share_index(source.image, at_lsn) {
                Some(index) => (index, head),
                None => return Err(VolumeError::Busy { reason: "the volume is written".to_owned() }),
            },
        };
        let is_written = built.as_ref().is_none_or(|(_, report)| report.is_written);
        let parent = self.parent_at(now, catalog, source.image, parent_lsn, is_written);
        self.learn_ancestors(now, catalog, source.image, at_lsn);
        let image = add_image(now, self.format_version(), parent, head)?;
        // Store it in the catalog, so that it is known after a restart, even after the unknown
        // entries have left the log.
        let uncertain_below = match built {
            Some((_, report)) => report.uncertain_below,
            None => self.known_uncertain_below(source.image),
        };
        now.change_image(image, |image| {
            image.uncertain_below = uncertain_below.0;
            image.begun_blocks = Some(source.size_blocks);
        });
        let clone = CatalogVolume {
            name: one.name.clone(),
            uuid: one.uuid,
            size_blocks: source.size_blocks,
            read_only: *read_only,
            image,
            created_ns: *made_ns,
            thin: true,
            origin: Some(VolumeOrigin { lsn: at.lsn, point: named.lasting_text() }),
        };
        add_volume(now, clone)?;
        Ok(index)
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
