//! What the catalog contains, and everything that changes it.
//!
//! **Invariant:** other files read the fields of a [`Catalog`], and only this file writes them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::log::reader::LsnRange;
use crate::log::{Geometry, Lsn, SegmentSeq};

use super::entries::{CatalogImage, CatalogVolume, Cut, GoneImage};
use super::groups::CatalogGroup;
use super::ownership::Ownership;
use super::ranges::{add_range, join_ranges};
use super::sessions::CatalogSession;
use super::shared::{Key, Shared};
use super::snapshots::{CatalogSnapshot, Snapshots};
use super::working_sets;

/// The version of the text in pools of format 2.
pub(super) const CATALOG_VERSION: u32 = 2;

/// Spare blocks per hundred live blocks, by default.
pub const OVERPROVISIONING_PERCENT_DEFAULT: u64 = 100;

/// The maximum number of deleted images that are remembered; the catalog is stored at the start of
/// every segment, so it must stay small. Beyond that the oldest are forgotten: expiry may then
/// delete what points of a deleted clone inherited, and opening such a point reports this.
pub(super) const GONE_IMAGES_MAX: usize = 1024;

/// The maximum number of ranges of each kind that are remembered: those that are lost, and those
/// that were not archived. They grow by themselves, so beyond the maximum the nearest ranges are
/// joined, with everything between them.
pub(super) const RANGES_MAX: usize = 128;

/// The pool's small state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::volume) struct Catalog {
    pub(in crate::volume) version: u32,
    /// The next image id; ids are never reused.
    pub(in crate::volume) next_image: u32,
    /// The next synch id.
    pub(in crate::volume) next_synch: u64,
    pub(in crate::volume) volumes: Shared<CatalogVolume>,
    /// The images of the volumes and of their ancestors.
    pub(in crate::volume) images: Shared<CatalogImage>,
    #[serde(default, skip_serializing_if = "Snapshots::is_empty")]
    pub(in crate::volume) snapshots: Snapshots,
    /// Ranges of the log whose entries are lost: older data in any index is not certain.
    #[serde(default)]
    pub(in crate::volume) lost: Vec<LsnRange>,
    /// Spare blocks per hundred live blocks.
    #[serde(default = "default_overprovisioning")]
    pub(in crate::volume) overprovisioning_percent: u64,
    /// Lengths of the working set, each with the segment from which on it was in force, oldest
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::volume) working_sets: Vec<(SegmentSeq, u64)>,
    /// The target of a working set that is being shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::volume) working_set_target: Option<u64>,
    /// The positions at which the pool was recovered from its archive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::volume) cuts: Vec<Cut>,
    /// When the pool was created, ns since the Unix epoch; 0: not recorded.
    #[serde(default)]
    pub(in crate::volume) created_ns: u64,
    /// Every segment before this one was archived and verified, or is a gap.
    #[serde(default)]
    pub(in crate::volume) archived_below: SegmentSeq,
    /// Ranges of the log that left the primary device without having been archived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::volume) gaps: Vec<LsnRange>,
    /// Images that are deleted while the archive may keep points at which they existed; the newest
    /// [`GONE_IMAGES_MAX`], oldest first. Expiry forgets those without remaining points.
    #[serde(default, skip_serializing_if = "Shared::is_empty")]
    pub(in crate::volume) gone_images: Shared<GoneImage>,
    /// The positions of synchs that were deleted. Their events stay in the log, so this says that
    /// they are no marks any more; expiry forgets those whose segments are gone.
    #[serde(default, skip_serializing_if = "Shared::is_empty")]
    pub(in crate::volume) deleted_synchs: Shared<u64>,
    /// The pool's claim on its archive.
    #[serde(default)]
    pub(in crate::volume) ownership: Ownership,
    /// Sessions on points of the past.
    #[serde(default, skip_serializing_if = "Shared::is_empty")]
    pub(in crate::volume) sessions: Shared<CatalogSession>,
    /// Groups of volumes.
    #[serde(default, skip_serializing_if = "Shared::is_empty")]
    pub(in crate::volume) groups: Shared<CatalogGroup>,
}

/// The lists of a catalog, each of which has its own part in a change.
pub(super) struct Lists<'a> {
    pub(super) volumes: &'a mut Shared<CatalogVolume>,
    pub(super) images: &'a mut Shared<CatalogImage>,
    pub(super) gone_images: &'a mut Shared<GoneImage>,
    pub(super) snapshots: &'a mut Snapshots,
    pub(super) sessions: &'a mut Shared<CatalogSession>,
    pub(super) deleted_synchs: &'a mut Shared<u64>,
    pub(super) groups: &'a mut Shared<CatalogGroup>,
}

fn default_overprovisioning() -> u64 {
    OVERPROVISIONING_PERCENT_DEFAULT
}

impl Default for Catalog {
    fn default() -> Self {
        Catalog {
            version: CATALOG_VERSION,
            next_image: 1,
            next_synch: 1,
            volumes: Shared::default(),
            images: Shared::default(),
            snapshots: Snapshots::default(),
            lost: Vec::new(),
            overprovisioning_percent: OVERPROVISIONING_PERCENT_DEFAULT,
            working_sets: Vec::new(),
            working_set_target: None,
            cuts: Vec::new(),
            created_ns: 0,
            archived_below: SegmentSeq(0),
            gaps: Vec::new(),
            gone_images: Shared::default(),
            deleted_synchs: Shared::default(),
            ownership: Ownership::default(),
            sessions: Shared::default(),
            groups: Shared::default(),
        }
    }
}

impl Catalog {
    /// Adds a volume; its name and its UUID are new.
    pub(in crate::volume) fn add_volume(&mut self, volume: CatalogVolume) {
        self.volumes.push(volume);
    }

    /// Removes a volume. Returns whether it existed.
    pub(in crate::volume) fn remove_volume(&mut self, name: &str) -> bool {
        self.volumes.remove(&Key::name(name))
    }

    /// Changes the volume of a name; `None` if there is none.
    pub(in crate::volume) fn change_volume(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut CatalogVolume),
    ) -> Option<()> {
        self.volumes.change(&Key::name(name), change)
    }

    /// Changes the volume of an image; `None` if there is none.
    pub(in crate::volume) fn change_volume_of_image(
        &mut self,
        image: u32,
        change: impl FnOnce(&mut CatalogVolume),
    ) -> Option<()> {
        self.volumes.change(&Key::Id(u64::from(image)), change)
    }

    /// Adds a session; its name is new.
    pub(in crate::volume) fn add_session(&mut self, session: CatalogSession) {
        self.sessions.push(session);
    }

    /// Changes the session of a name. Returns what `change` returned; `None` if there is none.
    pub(in crate::volume) fn change_session<R>(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut CatalogSession) -> R,
    ) -> Option<R> {
        self.sessions.change(&Key::name(name), change)
    }

    /// Notes that the clones of all sessions may hold writes that their images do not have.
    pub(in crate::volume) fn doubt_sessions(&mut self) {
        let names: Vec<String> = self.sessions.iter().map(|session| session.name.clone()).collect();
        for name in names {
            self.change_session(&name, |session| session.may_be_written = true);
        }
    }

    /// Removes the session of a name. Returns whether it existed.
    pub(in crate::volume) fn remove_session(&mut self, name: &str) -> bool {
        self.sessions.remove(&Key::name(name))
    }

    /// Removes the sessions for which `keep` is false.
    pub(super) fn retain_sessions(&mut self, keep: impl Fn(&CatalogSession) -> bool) {
        self.sessions.retain(keep);
    }

    /// Adds a group; its name and its UUID are new.
    pub(in crate::volume) fn add_group(&mut self, group: CatalogGroup) {
        self.groups.push(group);
    }

    /// Changes the group of a name. Returns what `change` returned; `None` if there is none.
    pub(in crate::volume) fn change_group<R>(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut CatalogGroup) -> R,
    ) -> Option<R> {
        self.groups.change(&Key::name(name), change)
    }

    /// Removes the group of a name. Returns whether it existed.
    pub(in crate::volume) fn remove_group(&mut self, name: &str) -> bool {
        self.groups.remove(&Key::name(name))
    }

    /// Takes a volume out of its groups.
    pub(in crate::volume) fn leave_groups(&mut self, volume: Uuid) {
        let of = self.groups.iter().filter(|group| group.has(volume)).map(|group| Key::Uuid(group.uuid));
        for key in of.collect::<Vec<Key>>() {
            self.groups.change(&key, |group| group.volumes.retain(|known| *known != volume));
        }
    }

    /// Adds an image; its id was taken with [`take_image_id`](Self::take_image_id).
    pub(in crate::volume) fn add_image(&mut self, image: CatalogImage) {
        self.images.push(image);
    }

    /// Changes an image; `None` if there is none.
    pub(in crate::volume) fn change_image(
        &mut self,
        id: u32,
        change: impl FnOnce(&mut CatalogImage),
    ) -> Option<()> {
        self.images.change(&Key::Id(u64::from(id)), change)
    }

    /// Removes an image.
    pub(in crate::volume) fn remove_image(&mut self, id: u32) {
        self.images.remove(&Key::Id(u64::from(id)));
    }

    /// Takes the next image id, if it is at most `last`.
    pub(in crate::volume) fn take_image_id(&mut self, last: u32) -> Option<u32> {
        let id = self.next_image;
        (id <= last).then(|| {
            self.next_image = id + 1;
            id
        })
    }

    /// Marks the id of a synch as used.
    pub(in crate::volume) fn note_synch_id(&mut self, id: u64) {
        self.next_synch = self.next_synch.max(id.saturating_add(1));
    }

    /// Adds a snapshot; it replaces one with the same name.
    pub(in crate::volume) fn add_snapshot(&mut self, snapshot: &CatalogSnapshot) {
        self.snapshots.insert(snapshot);
    }

    /// Removes a snapshot. Returns whether it existed.
    pub(in crate::volume) fn remove_snapshot(&mut self, name: &str) -> bool {
        self.snapshots.remove(name)
    }

    /// Records how a new pool begins: when, with which working set, and with how many spare blocks
    /// for each hundred live ones.
    pub(in crate::volume) fn begin(
        &mut self,
        created_ns: u64,
        working_set: u64,
        overprovisioning_percent: Option<u64>,
    ) {
        if let Some(percent) = overprovisioning_percent {
            self.overprovisioning_percent = percent;
        }
        self.created_ns = created_ns;
        self.working_sets = vec![(SegmentSeq(0), working_set)];
    }

    /// Records that the pool continues after a recovery: from segment `first` on, with a working
    /// set. Everything before is in the archive, except for `lost`.
    pub(in crate::volume) fn go_on_after(
        &mut self,
        cut: Cut,
        first: SegmentSeq,
        working_set: u64,
        lost: &[LsnRange],
    ) {
        self.working_sets.push((first, working_set));
        self.working_set_target = None;
        let covers =
            |known: &LsnRange, range: &LsnRange| known.start <= range.start && known.end >= range.end;
        let known_lost = self.lost.clone();
        let is_new = |range: &&LsnRange| !known_lost.iter().any(|known| covers(known, range));
        self.lost.extend(lost.iter().filter(is_new).copied());
        self.archived_below = first;
        self.cuts.push(cut);
    }

    /// Sets the pool's claim on its archive.
    pub(in crate::volume) fn set_ownership(&mut self, ownership: Ownership) {
        self.ownership = ownership;
    }

    /// Sets the segment before which everything was archived and verified, or is a gap.
    pub(in crate::volume) fn set_archived_below(&mut self, below: SegmentSeq) {
        self.archived_below = below;
    }

    /// Adds ranges that are lost, as they are.
    pub(in crate::volume) fn extend_lost(&mut self, ranges: impl IntoIterator<Item = LsnRange>) {
        self.lost.extend(ranges);
    }

    /// Sets the ranges that are lost.
    pub(in crate::volume) fn set_lost(&mut self, lost: Vec<LsnRange>) {
        self.lost = lost;
    }

    /// Sets the target of a working set that is being shortened.
    pub(in crate::volume) fn set_working_set_target(&mut self, target: Option<u64>) {
        self.working_set_target = target;
    }

    /// Sets the lengths of the working set.
    pub(in crate::volume) fn set_working_sets(&mut self, working_sets: Vec<(SegmentSeq, u64)>) {
        self.working_sets = working_sets;
    }

    /// Records that the working set has `segments` segments from segment `from` on, and `before`
    /// until then.
    pub(in crate::volume) fn change_working_set(&mut self, before: u64, from: SegmentSeq, segments: u64) {
        working_sets::add_change(&mut self.working_sets, before, from, segments);
        self.working_set_target = None;
    }

    /// Replaces everything but the lists with `rest`.
    pub(super) fn replace_rest(&mut self, rest: Catalog) {
        let before = std::mem::replace(self, rest);
        self.volumes = before.volumes;
        self.images = before.images;
        self.gone_images = before.gone_images;
        self.snapshots = before.snapshots;
        self.sessions = before.sessions;
        self.deleted_synchs = before.deleted_synchs;
        self.groups = before.groups;
    }

    /// The lists, to apply a change to them.
    pub(super) fn lists(&mut self) -> Lists<'_> {
        let Catalog { volumes, images, gone_images, snapshots, sessions, deleted_synchs, groups, .. } = self;
        Lists { volumes, images, gone_images, snapshots, sessions, deleted_synchs, groups }
    }

    /// Adds an image from an older catalog. The present catalog may already have it from a still
    /// older one, before it was hydrated.
    pub(in crate::volume) fn learn_image(&mut self, image: &CatalogImage) {
        let Some(known) = self.image(image.id) else { return self.images.push(image.clone()) };
        let learned = known.with_older(image);
        if *known != learned {
            self.change_image(image.id, |known| *known = learned);
        }
    }

    /// Drops images that no volume needs, and remembers those with a parent. No point at or after
    /// `gone_lsn` needs them. `newest` is the newest point, and `window` gives for a point the LSN
    /// before the W+1 segments that end there.
    pub(in crate::volume) fn prune_images(
        &mut self,
        gone_lsn: Lsn,
        newest: Lsn,
        window: impl Fn(Lsn) -> Lsn,
    ) {
        let needed = self.needed_images(newest, window);
        let gone = self.images_that_go(&needed, gone_lsn);
        for gone in gone {
            self.gone_images.push(gone);
        }
        self.gone_images.drop_first(self.gone_images.len().saturating_sub(GONE_IMAGES_MAX));
        self.images.retain(|image| needed.contains(image.id));
    }

    /// The same for one image, whose volume is gone, and its ancestors: the others are not looked
    /// at.
    pub(in crate::volume) fn prune_lineage(
        &mut self,
        image: u32,
        gone_lsn: Lsn,
        newest: Lsn,
        window: impl Fn(Lsn) -> Lsn,
    ) {
        let mut next = self.image(image).cloned();
        let mut gone = Vec::new();
        // Each image is looked at once, even if a damaged catalog has a circle.
        for _ in 0..self.images.len() {
            let Some(image) = next.take() else { break };
            if !self.is_needed(image.id, newest, &window) {
                self.remove_image(image.id);
                gone.extend(self.gone_image(&image, gone_lsn));
            }
            next = image.parent.and_then(|parent| self.image(parent.image).cloned());
        }
        for gone in gone.into_iter().rev() {
            self.gone_images.push(gone);
        }
        self.gone_images.drop_first(self.gone_images.len().saturating_sub(GONE_IMAGES_MAX));
    }

    /// Forgets deleted images without remaining points: none of the segments in which they existed
    /// is in `there`. Returns how many there were.
    pub(in crate::volume) fn forget_gone_images(
        &mut self,
        geometry: &Geometry,
        there: &BTreeSet<SegmentSeq>,
    ) -> usize {
        let is_needed = |gone: &GoneImage| {
            let first = geometry.sequence_of(Lsn(gone.born_lsn));
            let last = geometry.sequence_of(Lsn(gone.gone_lsn.saturating_sub(1))).max(first);
            there.range(first..=last).next().is_some()
        };
        let before = self.gone_images.len();
        self.gone_images.retain(is_needed);
        before - self.gone_images.len()
    }

    /// Marks the synch at a position as deleted.
    pub(in crate::volume) fn add_deleted_synch(&mut self, lsn: Lsn) {
        self.deleted_synchs.push(lsn.0);
    }

    /// Forgets the deleted synchs at the positions that `is_gone` accepts.
    pub(in crate::volume) fn forget_deleted_synchs_if(&mut self, is_gone: impl Fn(u64) -> bool) {
        self.deleted_synchs.retain(|&lsn| !is_gone(lsn));
    }

    /// Forgets deleted synchs whose segments are not in `there`. Returns how many there were.
    pub(in crate::volume) fn forget_deleted_synchs(
        &mut self,
        geometry: &Geometry,
        there: &BTreeSet<SegmentSeq>,
    ) -> usize {
        let before = self.deleted_synchs.len();
        self.deleted_synchs.retain(|&lsn| there.contains(&geometry.sequence_of(Lsn(lsn))));
        before - self.deleted_synchs.len()
    }

    /// Records that the entries of a range of the log are lost. Returns whether this is new.
    pub(in crate::volume) fn add_lost(&mut self, range: LsnRange) -> bool {
        let is_known = self.lost.iter().any(|known| known.start <= range.start && range.end <= known.end);
        if !is_known {
            add_range(&mut self.lost, range, RANGES_MAX);
        }
        !is_known
    }

    /// Records that a range of the log left the primary device without having been archived.
    pub(in crate::volume) fn add_gap(&mut self, range: LsnRange) {
        add_range(&mut self.gaps, range, RANGES_MAX);
    }

    /// Drops detail until the text has at most `max_bytes` bytes, or nothing is left to drop.
    /// Returns the resulting maximum length.
    pub(in crate::volume) fn shorten(&mut self, format_version: u32, max_bytes: usize) -> usize {
        loop {
            let len_bytes = self.text_bytes_max(format_version);
            if len_bytes <= max_bytes || !self.give_way() {
                return len_bytes;
            }
        }
    }

    /// Makes the text shorter by dropping detail of the parts that grow by themselves; `false`:
    /// nothing is left to drop.
    pub(in crate::volume) fn give_way(&mut self) -> bool {
        if !self.gone_images.is_empty() {
            let fewer = self.gone_images.len().div_ceil(8);
            self.gone_images.drop_first(fewer);
        } else if self.gaps.len() > 1 {
            let half = self.gaps.len() / 2;
            join_ranges(&mut self.gaps, half);
        } else if self.lost.len() > 1 {
            let half = self.lost.len() / 2;
            join_ranges(&mut self.lost, half);
        } else {
            return false;
        }
        true
    }
}
