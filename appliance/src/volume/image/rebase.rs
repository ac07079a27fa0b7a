//! Sets volumes to other states of the past: a roll-back, the reset of a clone, and a step of a
//! session are all this.
//!
//! **In one turn** the catalog changes, and the volumes get their new images, sizes and indexes. So
//! every command of a host belongs wholly to the old or to the new state, and a crash leaves one of
//! them, of all the volumes. The id of a volume, its name and its UUID stay. What takes long is
//! done before and after: the index and the count of its blocks in each segment ([`PastState`]) are
//! built before, in pieces; the blocks of the old index are subtracted from the accounts
//! afterwards, in pieces.
//!
//! **Images.** An image that was written is never changed: the state of the past is a new image,
//! whose parent is the volume's image at the point. An image that was never written, and from which
//! nothing was made, is set to the new point itself, so that steps leave nothing behind. For the
//! same reason an image that was never written is skipped as a parent ([`Pool::parent_at`]).
//!
//! **What stays resident.** Blocks of the state that are in the working set now can stay there:
//! they count as live in their segments from this turn on. They are those above a position, which
//! is in the catalog ([`ResidentPart`]), so that a restart counts them too. The others are
//! inherited, and read from where they are. A pool without an archive keeps all, and refuses if it
//! cannot.

use crate::dma::BLOCK_BYTES;
use crate::log::{ImageId, Log, Lsn, Recycling, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::catalog::{Catalog, CatalogImage, CatalogVolume, ResidentPart, reach};
use crate::volume::error::VolumeError;
use crate::volume::image::census::{Census, census};
use crate::volume::image::index::Index;
use crate::volume::image::volume::{Rebased, Volume};
use crate::volume::info::{ImageParent, VolumeEvent};
use crate::volume::manage::operations::add_image;
use crate::volume::pool::Pool;
use crate::volume::pool::state::State;
use crate::volume::request::VolumeId;

/// A state of the past that a volume can be set to.
pub(in crate::volume) struct PastState {
    /// The image whose state it is.
    pub(in crate::volume) image: u32,
    /// The point.
    pub(in crate::volume) lsn: Lsn,
    /// The catalog at the point.
    pub(in crate::volume) catalog: Catalog,
    /// The size at the point.
    pub(in crate::volume) size_blocks: u64,
    /// The index at the point.
    pub(in crate::volume) index: Index,
    /// Mappings below this LSN are not certain.
    pub(in crate::volume) uncertain_below: Lsn,
    /// Whether the image may have entries at or before the point (`ScanReport::is_written`).
    pub(in crate::volume) is_written: bool,
    /// How many blocks of the index are in each segment; may be empty if nothing is to stay
    /// resident and the pool has an archive.
    pub(in crate::volume) census: Census,
}

/// How a volume is set to another state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) enum RebaseKind {
    /// A clone shows another point: it stays a clone, which inherits everything, and its image
    /// stays too if it was never written.
    Reset,
    /// The volume goes on from the point: a new image. What is in the working set stays resident,
    /// the rest is to be hydrated.
    RollBack,
}

/// What was done.
#[derive(Debug, Clone)]
pub(in crate::volume) struct RebaseDone {
    /// The position of the change.
    pub(in crate::volume) lsn: Lsn,
    /// How many blocks of each volume are not resident.
    pub(in crate::volume) inherited_blocks: Vec<u64>,
}

/// What the volumes that are planned so far take, of what all share.
#[derive(Default)]
struct Taken {
    /// Blocks that become live in each segment.
    live: Census,
    /// By how much what is promised grows, or shrinks.
    more_blocks: i64,
}

impl Taken {
    /// Counts a volume to which so many blocks were promised before, and are now.
    fn add(&mut self, before: u64, now: u64) {
        self.more_blocks += now as i64 - before as i64;
    }

    /// How many more blocks are promised together with these.
    fn more_with(&self, more: u64) -> u64 {
        more.saturating_add_signed(self.more_blocks)
    }

    /// What becomes live in each segment together with `more`.
    fn live_with(&self, more: &Census) -> Census {
        let mut live = self.live.clone();
        for (&sequence, &blocks) in more {
            *live.entry(sequence).or_default() += blocks;
        }
        live
    }
}

/// What will change.
struct Plan {
    image: u32,
    /// Mappings above this LSN are resident, and which these are.
    above: Lsn,
    resident: Census,
    inherits: bool,
    is_resized: bool,
}

impl Pool {
    /// Counts the blocks of an index in each segment, in pieces.
    pub(in crate::volume) async fn census(&self, index: &Index) -> Census {
        let (segment_blocks, newest) = {
            let log = self.log.borrow();
            (log.geometry().segment_blocks, log.table().next_sequence())
        };
        census(index, segment_blocks, newest).await
    }

    /// Sets volumes, each named once, to states of the past. `edit` may change more of the catalog
    /// in the same event; it gets the catalog with the volumes' new states, and the position after
    /// which the new images have their entries. On success nothing has run between the change and
    /// the return. The caller waits until the change is stable.
    ///
    /// # Errors
    /// No such volume, no room, what `edit` refuses, a failed pool; nothing has changed.
    pub(in crate::volume) async fn rebase(
        &self,
        moves: &[(VolumeId, PastState)],
        kind: RebaseKind,
        mut edit: impl FnMut(&mut Catalog, Lsn) -> Result<(), VolumeError>,
    ) -> Result<RebaseDone, VolumeError> {
        loop {
            let mut plans = Vec::with_capacity(moves.len());
            let change = self.change(|catalog, head| {
                // A trim of which a part is in the log is one command.
                if self.is_in_the_middle() {
                    return Err(VolumeError::Busy {
                        reason: "a command is only partly in the log".to_owned(),
                    });
                }
                plans.clear();
                let mut taken = Taken::default();
                for (id, to) in moves {
                    plans.push(self.plan_rebase(catalog, head, (*id, to), kind, &mut taken)?);
                }
                edit(catalog, head)?;
                self.prune_images(catalog, head);
                Ok(())
            });
            match change.await {
                Ok(lsn) => {
                    let each = moves.iter().zip(plans);
                    let inherited = each.map(|((id, to), plan)| self.put_in_force(*id, lsn, to, plan));
                    return Ok(RebaseDone { lsn, inherited_blocks: inherited.collect() });
                }
                Err(VolumeError::Busy { .. }) if self.is_in_the_middle() => yield_now().await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the change of the catalog for one volume.
    fn plan_rebase(
        &self,
        catalog: &mut Catalog,
        head: Lsn,
        (id, to): (VolumeId, &PastState),
        kind: RebaseKind,
        taken: &mut Taken,
    ) -> Result<Plan, VolumeError> {
        let parent = self.parent_at(catalog, &to.catalog, to.image, to.lsn, to.is_written);
        let begun_blocks = match kind {
            RebaseKind::Reset => Some(to.size_blocks),
            // It began when the image did from which it goes on.
            RebaseKind::RollBack => to.catalog.image(to.image).and_then(|known| known.begun_blocks),
        };
        let state = self.state.borrow();
        let gone = || VolumeError::NoSuchVolume { name: format!("number {}", id.0) };
        let volume = state.volumes.get(id).ok_or_else(gone)?;
        let of = volume.image().0;
        let (above, resident) = state.resident_of(&self.log.borrow(), volume, to, (kind, head), taken)?;
        let resident_blocks: u64 = resident.values().sum();
        let inherited_blocks = to.index.mapped() - resident_blocks;
        let keeps_all = state.volumes.keeps_inherited();
        let keeps_image = kind == RebaseKind::Reset && !volume.is_written() && is_childless(catalog, of);
        let (before_blocks, is_thin) = (volume.size_blocks(), volume.is_thin());
        let held_blocks = volume.resident();
        drop(state);
        if is_thin {
            let is_inherited = kind == RebaseKind::Reset && !keeps_all;
            taken.add(held_blocks, if is_inherited { 0 } else { to.index.mapped() });
        } else {
            let grown = to.size_blocks.saturating_sub(before_blocks);
            self.check_capacity(if grown == 0 { 0 } else { taken.more_with(grown) })?;
            taken.add(before_blocks, to.size_blocks);
        }
        taken.live = taken.live_with(&resident);
        self.learn_ancestors(catalog, &to.catalog, to.image, to.lsn);
        let image = if keeps_image { of } else { add_image(catalog, self.format_version(), None, head)? };
        let is_roll_back = kind == RebaseKind::RollBack;
        let is_independent = is_roll_back && inherited_blocks == 0 && !keeps_all;
        let only_from = is_independent.then_some(head.0);
        let part = (!resident.is_empty() && !keeps_all).then_some(ResidentPart { above: above.0, only_from });
        catalog.change_image(image, |known| {
            *known = CatalogImage {
                id: image,
                parent,
                born_lsn: head.0,
                hydrated_lsn: if part.is_none() { only_from } else { None },
                uncertain_below: to.uncertain_below.0,
                hydrating: is_roll_back && !is_independent && !keeps_all,
                resident: part,
                begun_blocks,
            };
        });
        let entry = catalog.volume_of_image(of).cloned().ok_or_else(gone)?;
        let entry = CatalogVolume { image, size_blocks: to.size_blocks, ..entry };
        if keeps_image {
            catalog.change_volume_of_image(of, |volume| *volume = entry);
        } else {
            // A change stores volumes by their images: a new image is a new entry, at the end.
            catalog.remove_volume(&entry.name);
            catalog.add_volume(entry);
        }
        let is_resized = before_blocks != to.size_blocks;
        Ok(Plan { image, above, resident, inherits: !is_independent, is_resized })
    }

    /// Puts the change of one volume in force, in the turn in which it was appended. Returns how
    /// many blocks are not resident.
    fn put_in_force(&self, id: VolumeId, lsn: Lsn, to: &PastState, plan: Plan) -> u64 {
        let state = &mut *self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let resident: u64 = plan.resident.values().sum();
        log.note_live_in(&plan.resident);
        let uncertain_below = state.catalog.uncertain_below(plan.image, lsn);
        let outgoing = state.volumes.rebase(
            id,
            Rebased {
                image: ImageId(plan.image),
                size_blocks: to.size_blocks,
                index: to.index.clone(),
                resident_above: plan.above,
                resident,
                inherits: plan.inherits,
                changed_lsn: lsn,
            },
        );
        let volume = state.volumes.get_mut(id).expect("it was there in this turn");
        volume.set_uncertain_below(uncertain_below);
        if volume.is_thin() {
            state.capacity.remove_thin(outgoing.resident);
            state.capacity.add_thin(resident);
        }
        if let Some(trouble) = outgoing.trouble {
            state.problems.withdraw(trouble.text());
        }
        state.capacity.bury_state(outgoing.index, outgoing.above, outgoing.resident, id);
        if outgoing.image.0 != plan.image {
            log.forget_masks(outgoing.image);
        }
        if resident > 0 {
            log.watch_demand();
        }
        if plan.is_resized {
            state.events.push(VolumeEvent::Resized(id));
        }
        to.index.mapped() - resident
    }
}

impl Pool {
    /// The parent of an image that begins with the state of `image` at a point. An image that was
    /// never written is skipped: its own parent has the same state, and it may be set to another
    /// point. `then` is the catalog at the point, `now` the present one.
    pub(in crate::volume) fn parent_at(
        &self,
        now: &Catalog,
        then: &Catalog,
        image: u32,
        lsn: Lsn,
        is_written: bool,
    ) -> Option<ImageParent> {
        let itself = Some(ImageParent { image, lsn: lsn.0 });
        let Some(known) = then.image(image).filter(|known| known.inherits_at(lsn)) else { return itself };
        let is_other = |now: &CatalogImage| (now.parent, now.born_lsn) != (known.parent, known.born_lsn);
        let was_set_anew = now.image(image).is_some_and(is_other);
        let state = self.state.borrow();
        let is_unwritten = state.volumes.of_image(ImageId(image)).is_some_and(|volume| !volume.is_written());
        let is_unwritten = is_unwritten || !is_written;
        if was_set_anew || is_unwritten { known.parent } else { itself }
    }

    /// Takes the images from which the state of `image` at a point descends into the present
    /// catalog: those of a deleted volume are not in it.
    pub(in crate::volume) fn learn_ancestors(&self, now: &mut Catalog, then: &Catalog, image: u32, lsn: Lsn) {
        for range in then.image_ranges(image, lsn, |at| self.window_before(at)) {
            if let Some(known) = then.image(range.image) {
                now.learn_image(known);
            }
        }
    }

    /// Whether an image that a volume no longer has leaves no trace: it was never written, and
    /// nothing was made from it.
    pub(in crate::volume) fn leaves_nothing(&self, catalog: &Catalog, image: u32) -> bool {
        let state = self.state.borrow();
        let is_unwritten = state.volumes.of_image(ImageId(image)).is_some_and(|volume| !volume.is_written());
        is_unwritten && is_childless(catalog, image)
    }
}

/// Whether an image inherits everything that it has, and nothing was made from it.
fn is_childless(catalog: &Catalog, image: u32) -> bool {
    catalog.image(image).is_some_and(|known| known.independent_from().is_none() && known.resident.is_none())
        && !catalog.has_children(image)
}

impl State {
    /// Which blocks of a new state of a volume will be resident: those above a position, and how
    /// many are in each segment.
    fn resident_of(
        &self,
        log: &Log,
        volume: &Volume,
        to: &PastState,
        (kind, head): (RebaseKind, Lsn),
        taken: &Taken,
    ) -> Result<(Lsn, Census), VolumeError> {
        let keeps_all = self.volumes.keeps_inherited();
        if kind == RebaseKind::Reset && !keeps_all {
            return Ok((head, Census::new()));
        }
        self.check_room_for(log, volume, to, taken)?;
        if keeps_all {
            let is_there = to.census.keys().all(|&sequence| log.table().slot(sequence).is_some());
            if !is_there || !log.may_become_live(&taken.live_with(&to.census)) {
                let reason = format!(
                    "the pool has no archive, and keeps all of volume '{}' on the primary device; too much of the point's state is leaving the working set, or has left it, to be copied forward in time. Choose a newer point, make the working set longer, or serve the pool with an archive",
                    volume.name()
                );
                return Err(VolumeError::NoSpace { reason });
            }
            return Ok((Lsn(0), to.census.clone()));
        }
        let geometry = log.geometry();
        let next = log.table().next_sequence().0;
        // A working set that was made longer reaches back to what was in the shorter one, and no
        // further: neither a start nor a point looks for blocks before that.
        let current = SegmentSeq(next.saturating_sub(1));
        let reached = reach(&self.catalog.working_sets, current).unwrap_or(geometry.working_set);
        let first = next.saturating_sub(geometry.working_set).max(current.0.saturating_sub(reached));
        let mut first = SegmentSeq(first);
        let absent =
            to.census.range(first..).rev().find(|(sequence, _)| log.table().slot(**sequence).is_none());
        if let Some((&absent, _)) = absent {
            first = absent.next();
        }
        let mut resident: Census =
            to.census.range(first..).map(|(&sequence, &blocks)| (sequence, blocks)).collect();
        let fits = |resident: &Census| {
            log.recycling() == Recycling::Never || log.may_become_live(&taken.live_with(resident))
        };
        while !resident.is_empty() && !fits(&resident) {
            first = resident.pop_first().map_or(first, |(sequence, _)| sequence.next());
        }
        let above =
            if resident.is_empty() { head } else { Lsn(geometry.first_lsn(first).0.saturating_sub(1)) };
        Ok((above, resident))
    }

    /// Refuses a state that the pool has no capacity for. The blocks that the volume has now are
    /// given back.
    fn check_room_for(
        &self,
        log: &Log,
        volume: &Volume,
        to: &PastState,
        others: &Taken,
    ) -> Result<(), VolumeError> {
        let Some(capacity) = self.capacity_of(log).filter(|_| volume.is_thin()) else { return Ok(()) };
        let taken = self.taken_blocks(log).saturating_add_signed(others.more_blocks);
        let taken = taken.saturating_sub(volume.resident());
        let needed = to.index.mapped();
        if taken + needed > capacity {
            let mib = |blocks: u64| (blocks * BLOCK_BYTES as u64) >> 20;
            let reason = format!(
                "volume '{}' needs {} MiB at that point; of {} MiB that the pool can hold {} MiB are taken by others. Delete volumes, or use a larger device",
                volume.name(),
                mib(needed),
                mib(capacity),
                mib(taken)
            );
            return Err(VolumeError::NoSpace { reason });
        }
        Ok(())
    }
}
