//! The catalog: the pool's small state. It is stored whole at the start of every segment, and each
//! change of it in its own event (`docs/FORMAT.md`). The catalog in force at a point is the newest
//! whole one at or before it, with the changes after that one; it lists the volumes and their
//! sizes.
//!
//! The text of a whole catalog is a JSON object. In version 2 the snapshots are not in the object;
//! their pages follow it, as [`snapshots`] writes them. A pool of format 1 has version 1, and only
//! whole catalogs.
//!
//! | file | job |
//! |---|---|
//! | `shared` | a list whose copies share entries: volumes and images |
//! | `paged`, `snapshots` | a map whose copies share pages; the snapshots in two of them |
//! | `sessions`, `session_list` | sessions on points of the past; looking them up |
//! | `change` | the difference between two catalogs |
//! | `ownership` | the pool's claim on its archive |
//! | `logged` | writes the catalog to the log |
//! | `present` | the catalog in force |
//! | `working_sets` | lengths of the working set, and the segments that points need because of them |
//! | `generations` | which entries, of which images, make the index of an image |
//! | `find` | finds the catalog in the log |
//! | `ranges` | lists of ranges of the log, with a bound |
//! | `id_set` | the set of images that something needs |
//!
//! **Invariant:** other files read the fields of a [`Catalog`], and only this file writes them.

mod change;
mod find;
mod generations;
mod id_set;
mod logged;
mod ownership;
mod paged;
mod present;
mod ranges;
mod session_list;
mod sessions;
mod shared;
mod snapshots;
mod working_sets;

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(super) use change::CatalogChange;
pub(super) use find::{CatalogFinder, FoundCatalog};
pub(super) use generations::Generation;
pub(super) use logged::{CatalogWriter, room_problem};
pub use ownership::Ownership;
pub(super) use present::PresentCatalog;
pub(crate) use sessions::{CatalogSession, SessionMember, SessionVerdict};
pub use sessions::{SESSIONS_MAX, VERDICTS_MAX, Verdict};
pub(crate) use shared::Shared;
pub(crate) use snapshots::CatalogSnapshot;
pub(crate) use snapshots::Snapshots;
pub(super) use working_sets::{longest_reach, reach};

use crate::log::reader::LsnRange;
use crate::log::{Geometry, Lsn, SegmentSeq};
use crate::volume::info::{ImageParent, SnapshotInfo, VolumeOrigin};
use id_set::IdSet;
use ranges::{add_range, join_ranges};

/// Spare blocks per hundred live blocks, by default.
pub const OVERPROVISIONING_PERCENT_DEFAULT: u64 = 100;

/// The maximum number of deleted images that are remembered; the catalog is stored at the start of
/// every segment, so it must stay small. Beyond that the oldest are forgotten: expiry may then
/// delete what points of a deleted clone inherited, and opening such a point reports this.
const GONE_IMAGES_MAX: usize = 1024;

/// The maximum number of ranges of each kind that are remembered: those that are lost, and those
/// that were not archived. They grow by themselves, so beyond the maximum the nearest ranges are
/// joined, with everything between them.
const RANGES_MAX: usize = 128;

/// The reciprocal of the share of the maximum length that is reserved for parts that grow by
/// themselves.
pub(super) const ROOM_SHARE: usize = 16;

/// The length of the key of the deleted images in the text, in bytes. The key is omitted if there
/// are none.
const GONE_IMAGES_KEY_BYTES: usize = r#","gone_images":"#.len();
/// The same for the deleted synchs.
const DELETED_SYNCHS_KEY_BYTES: usize = r#","deleted_synchs":"#.len();

/// The same for the sessions.
const SESSIONS_KEY_BYTES: usize = r#","sessions":"#.len();

/// The version of the text in pools of format 1.
const CATALOG_VERSION_FIRST: u32 = 1;
/// The version of the text in pools of format 2.
const CATALOG_VERSION: u32 = 2;

/// The pool's small state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Catalog {
    pub(super) version: u32,
    /// The next image id; ids are never reused.
    pub(super) next_image: u32,
    /// The next synch id.
    pub(super) next_synch: u64,
    pub(super) volumes: Shared<CatalogVolume>,
    /// The images of the volumes and of their ancestors.
    pub(super) images: Shared<CatalogImage>,
    #[serde(default, skip_serializing_if = "Snapshots::is_empty")]
    pub(super) snapshots: Snapshots,
    /// Ranges of the log whose entries are lost: older data in any index is not certain.
    #[serde(default)]
    pub(super) lost: Vec<LsnRange>,
    /// Spare blocks per hundred live blocks.
    #[serde(default = "default_overprovisioning")]
    pub(super) overprovisioning_percent: u64,
    /// Lengths of the working set, each with the segment from which on it was in force, oldest
    /// first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) working_sets: Vec<(SegmentSeq, u64)>,
    /// The target of a working set that is being shortened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) working_set_target: Option<u64>,
    /// The positions at which the pool was recovered from its archive.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) cuts: Vec<Cut>,
    /// When the pool was created, ns since the Unix epoch; 0: not recorded.
    #[serde(default)]
    pub(super) created_ns: u64,
    /// Every segment before this one was archived and verified, or is a gap.
    #[serde(default)]
    pub(super) archived_below: SegmentSeq,
    /// Ranges of the log that left the primary device without having been archived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) gaps: Vec<LsnRange>,
    /// Images that are deleted while the archive may keep points at which they existed; the newest
    /// [`GONE_IMAGES_MAX`], oldest first. Expiry forgets those without remaining points.
    #[serde(default, skip_serializing_if = "Shared::is_empty")]
    pub(super) gone_images: Shared<GoneImage>,
    /// The positions of synchs that were deleted. Their events stay in the log, so this says that
    /// they are no marks any more; expiry forgets those whose segments are gone.
    #[serde(default, skip_serializing_if = "Shared::is_empty")]
    pub(super) deleted_synchs: Shared<u64>,
    /// The pool's claim on its archive.
    #[serde(default)]
    pub(super) ownership: Ownership,
    /// Sessions on points of the past.
    #[serde(default, skip_serializing_if = "Shared::is_empty")]
    pub(super) sessions: Shared<CatalogSession>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

fn default_overprovisioning() -> u64 {
    OVERPROVISIONING_PERCENT_DEFAULT
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogVolume {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) size_blocks: u64,
    pub(crate) read_only: bool,
    pub(crate) image: u32,
    pub(crate) created_ns: u64,
    /// Whether its capacity was not reserved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) thin: bool,
    /// For a clone: the point that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<VolumeOrigin>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogImage {
    pub(crate) id: u32,
    pub(crate) parent: Option<ImageParent>,
    /// The image has no entries at or before this LSN.
    pub(crate) born_lsn: u64,
    /// From this LSN on the image has its own entries for everything that it inherited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hydrated_lsn: Option<u64>,
    /// Its mappings below this LSN, and its missing mappings, are not certain: entries of its
    /// ancestors could not be read when it was made, or are lost. The ranges in [`Catalog::lost`]
    /// that affect it and its ancestors count in addition.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) uncertain_below: u64,
    /// Whether inherited data is being copied into its own entries.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) hydrating: bool,
    /// The part of what it inherited that the pool keeps in the working set, as the image's own
    /// blocks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) resident: Option<ResidentPart>,
}

/// The part of what an image inherited that stays in the working set: its blocks were there when
/// the image was made by a roll-back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ResidentPart {
    /// Inherited mappings above this LSN are resident.
    pub(crate) above: u64,
    /// From this LSN on the image has entries of its own for all other inherited blocks. Then only
    /// the entries of its ancestors above `above` count, as far as they are in the W+1 segments
    /// that end at a point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) only_from: Option<u64>,
}

impl CatalogImage {
    /// Whether it needs its parent at a position.
    pub(super) fn inherits_at(&self, lsn: Lsn) -> bool {
        self.parent.is_some() && self.independent_from().is_none_or(|from| lsn.0 < from)
    }

    /// The LSN from which on it needs neither the archive nor what was outside the working set.
    pub(super) fn independent_from(&self) -> Option<u64> {
        self.hydrated_lsn.or(self.resident.and_then(|part| part.only_from))
    }

    /// Whether it needs its parent now.
    pub(super) fn inherits(&self) -> bool {
        self.inherits_at(Lsn::MAX)
    }
}

/// A position at which a pool was recovered: objects with an earlier epoch after it come from the
/// device that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(in crate::volume) struct Cut {
    /// The last segment with recovered data.
    pub(in crate::volume) sequence: SegmentSeq,
    /// Where it ended.
    pub(in crate::volume) end_lsn: Lsn,
    /// The epoch in which the log continued.
    pub(in crate::volume) epoch: u32,
}

/// A deleted image with a parent: points at which it existed still need what it inherited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GoneImage {
    pub(crate) id: u32,
    pub(crate) parent: ImageParent,
    pub(crate) born_lsn: u64,
    /// No point at or after this LSN needs it.
    pub(crate) gone_lsn: u64,
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
        }
    }
}

impl Catalog {
    /// The whole text for a log of a format version.
    pub(super) fn encode(&self, format_version: u32) -> Vec<u8> {
        let json = |catalog: &Catalog| {
            serde_json::to_vec(catalog).unwrap_or_else(|_| unreachable!("a catalog is plain data"))
        };
        if format_version < 2 {
            return json(&Catalog { version: CATALOG_VERSION_FIRST, ..self.clone() });
        }
        let mut text =
            json(&Catalog { version: CATALOG_VERSION, snapshots: Snapshots::default(), ..self.clone() });
        self.snapshots.texts().iter().for_each(|page| text.extend_from_slice(page));
        text
    }

    /// The maximum length of the text of [`encode`](Self::encode), in bytes, whatever number the
    /// next synch has. Cost: one pass over what is not in a list.
    pub(super) fn text_bytes_max(&self, format_version: u32) -> usize {
        let is_first = format_version < 2;
        let snapshots = if is_first { self.snapshots.clone() } else { Snapshots::default() };
        let rest = Catalog { next_synch: u64::MAX, snapshots, ..self.without_lists() };
        let lists_bytes = self.volumes.text_bytes()
            + self.images.text_bytes()
            + self.gone_images.text_bytes()
            + if self.sessions.is_empty() { 0 } else { SESSIONS_KEY_BYTES + self.sessions.text_bytes() }
            + self.deleted_synchs.text_bytes();
        let pages_bytes = if is_first { 0 } else { self.snapshots.texts_bytes_max() };
        let keys_bytes = GONE_IMAGES_KEY_BYTES + DELETED_SYNCHS_KEY_BYTES;
        shared::text_bytes_of(&rest) + keys_bytes + lists_bytes + pages_bytes
    }

    /// The same without the parts that have their own lists in a change.
    fn without_lists(&self) -> Self {
        Catalog {
            version: CATALOG_VERSION,
            next_image: self.next_image,
            next_synch: self.next_synch,
            volumes: Shared::default(),
            images: Shared::default(),
            snapshots: Snapshots::default(),
            lost: self.lost.clone(),
            overprovisioning_percent: self.overprovisioning_percent,
            working_sets: self.working_sets.clone(),
            working_set_target: self.working_set_target,
            cuts: self.cuts.clone(),
            created_ns: self.created_ns,
            archived_below: self.archived_below,
            gaps: self.gaps.clone(),
            gone_images: Shared::default(),
            deleted_synchs: Shared::default(),
            ownership: self.ownership,
            sessions: Shared::default(),
        }
    }

    /// Reads a whole text; `None` if it is not a catalog of a version that this build knows.
    pub(super) fn decode(text: &[u8]) -> Option<Self> {
        let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<Catalog>();
        let mut catalog = objects.next()?.ok()?;
        let behind = &text[objects.byte_offset()..];
        match catalog.version {
            CATALOG_VERSION_FIRST if behind.is_empty() => {}
            CATALOG_VERSION => catalog.snapshots = Snapshots::of_texts(behind)?,
            _ => return None,
        }
        // In memory there is only one version.
        catalog.version = CATALOG_VERSION;
        Some(catalog)
    }

    pub(super) fn volume(&self, name: &str) -> Option<&CatalogVolume> {
        self.volumes.iter().find(|volume| volume.name == name)
    }

    /// The volume with a UUID: names may be given to other volumes.
    pub(super) fn volume_with_uuid(&self, uuid: Uuid) -> Option<&CatalogVolume> {
        self.volumes.iter().find(|volume| volume.uuid == uuid)
    }

    pub(super) fn image(&self, id: u32) -> Option<&CatalogImage> {
        self.images.iter().find(|image| image.id == id)
    }

    /// Adds a volume; its name and its UUID are new.
    pub(super) fn add_volume(&mut self, volume: CatalogVolume) {
        self.volumes.push(volume);
    }

    /// Removes a volume. Returns whether it existed.
    pub(super) fn remove_volume(&mut self, name: &str) -> bool {
        self.volumes.remove(|volume| volume.name == name)
    }

    /// Changes the first volume that `find` accepts; `None` if there is none.
    pub(super) fn change_volume(
        &mut self,
        find: impl Fn(&CatalogVolume) -> bool,
        change: impl FnOnce(&mut CatalogVolume),
    ) -> Option<()> {
        self.volumes.change(find, change)
    }

    /// Adds a session; its name is new.
    pub(super) fn add_session(&mut self, session: CatalogSession) {
        self.sessions.push(session);
    }

    /// Changes the session of a name. Returns what `change` returned; `None` if there is none.
    pub(super) fn change_session<R>(
        &mut self,
        name: &str,
        change: impl FnOnce(&mut CatalogSession) -> R,
    ) -> Option<R> {
        self.sessions.change(|session| session.name == name, change)
    }

    /// Notes that the clones of all sessions may hold writes that their images do not have.
    pub(super) fn doubt_sessions(&mut self) {
        let names: Vec<String> = self.sessions.iter().map(|session| session.name.clone()).collect();
        for name in names {
            self.change_session(&name, |session| session.may_be_written = true);
        }
    }

    /// Removes the session of a name. Returns whether it existed.
    pub(super) fn remove_session(&mut self, name: &str) -> bool {
        self.sessions.remove(|session| session.name == name)
    }

    /// Removes the sessions for which `keep` is false.
    fn retain_sessions(&mut self, keep: impl Fn(&CatalogSession) -> bool) {
        self.sessions.retain(keep);
    }

    /// Adds an image; its id was taken with [`take_image_id`](Self::take_image_id).
    pub(super) fn add_image(&mut self, image: CatalogImage) {
        self.images.push(image);
    }

    /// Changes the first image that `find` accepts; `None` if there is none.
    pub(super) fn change_image(
        &mut self,
        find: impl Fn(&CatalogImage) -> bool,
        change: impl FnOnce(&mut CatalogImage),
    ) -> Option<()> {
        self.images.change(find, change)
    }

    /// Removes an image.
    pub(super) fn remove_image(&mut self, id: u32) {
        self.images.remove(|image| image.id == id);
    }

    /// Takes the next image id, if it is at most `last`.
    pub(super) fn take_image_id(&mut self, last: u32) -> Option<u32> {
        let id = self.next_image;
        (id <= last).then(|| {
            self.next_image = id + 1;
            id
        })
    }

    /// Marks the id of a synch as used.
    pub(super) fn note_synch_id(&mut self, id: u64) {
        self.next_synch = self.next_synch.max(id.saturating_add(1));
    }

    /// Adds a snapshot; it replaces one with the same name.
    pub(super) fn add_snapshot(&mut self, snapshot: &CatalogSnapshot) {
        self.snapshots.insert(snapshot);
    }

    /// Removes a snapshot. Returns whether it existed.
    pub(super) fn remove_snapshot(&mut self, name: &str) -> bool {
        self.snapshots.remove(name)
    }

    /// Records how a new pool begins: when, with which working set, and with how many spare blocks
    /// for each hundred live ones.
    pub(super) fn begin(&mut self, created_ns: u64, working_set: u64, overprovisioning_percent: Option<u64>) {
        if let Some(percent) = overprovisioning_percent {
            self.overprovisioning_percent = percent;
        }
        self.created_ns = created_ns;
        self.working_sets = vec![(SegmentSeq(0), working_set)];
    }

    /// Records that the pool continues after a recovery: from segment `first` on, with a working
    /// set. Everything before is in the archive, except for `lost`.
    pub(super) fn go_on_after(&mut self, cut: Cut, first: SegmentSeq, working_set: u64, lost: &[LsnRange]) {
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
    pub(super) fn set_ownership(&mut self, ownership: Ownership) {
        self.ownership = ownership;
    }

    /// Sets the segment before which everything was archived and verified, or is a gap.
    pub(super) fn set_archived_below(&mut self, below: SegmentSeq) {
        self.archived_below = below;
    }

    /// Adds ranges that are lost, as they are.
    pub(super) fn extend_lost(&mut self, ranges: impl IntoIterator<Item = LsnRange>) {
        self.lost.extend(ranges);
    }

    /// Sets the ranges that are lost.
    pub(super) fn set_lost(&mut self, lost: Vec<LsnRange>) {
        self.lost = lost;
    }

    /// Sets the target of a working set that is being shortened.
    pub(super) fn set_working_set_target(&mut self, target: Option<u64>) {
        self.working_set_target = target;
    }

    /// Sets the lengths of the working set.
    pub(super) fn set_working_sets(&mut self, working_sets: Vec<(SegmentSeq, u64)>) {
        self.working_sets = working_sets;
    }

    /// Records that the working set has `segments` segments from segment `from` on, and `before`
    /// until then.
    pub(super) fn change_working_set(&mut self, before: u64, from: SegmentSeq, segments: u64) {
        working_sets::add_change(&mut self.working_sets, before, from, segments);
        self.working_set_target = None;
    }

    /// Replaces everything but the lists with `rest`.
    fn replace_rest(&mut self, rest: Catalog) {
        let before = std::mem::replace(self, rest);
        self.volumes = before.volumes;
        self.images = before.images;
        self.gone_images = before.gone_images;
        self.snapshots = before.snapshots;
        self.sessions = before.sessions;
        self.deleted_synchs = before.deleted_synchs;
    }

    /// Changes the lists, as `change` says.
    fn change_lists(
        &mut self,
        change: impl FnOnce(
            &mut Shared<CatalogVolume>,
            &mut Shared<CatalogImage>,
            &mut Shared<GoneImage>,
            &mut Snapshots,
            &mut Shared<CatalogSession>,
            &mut Shared<u64>,
        ),
    ) {
        let Catalog { volumes, images, gone_images, snapshots, sessions, deleted_synchs, .. } = self;
        change(volumes, images, gone_images, snapshots, sessions, deleted_synchs);
    }

    /// Adds an image from an older catalog. The present catalog may already have it from a still
    /// older one, before it was hydrated.
    pub(super) fn learn_image(&mut self, image: &CatalogImage) {
        let Some(known) = self.image(image.id) else { return self.images.push(image.clone()) };
        // An image without entries of its own may have been set to another point since.
        if (known.parent, known.born_lsn) != (image.parent, image.born_lsn) {
            return;
        }
        let hydrated_lsn = known.hydrated_lsn.or(image.hydrated_lsn);
        let uncertain_below = known.uncertain_below.max(image.uncertain_below);
        let resident = match (known.resident, image.resident) {
            (Some(now), Some(then)) => {
                Some(ResidentPart { only_from: now.only_from.or(then.only_from), ..now })
            }
            (now, then) => now.or(then),
        };
        let learned = CatalogImage { hydrated_lsn, uncertain_below, resident, ..known.clone() };
        if *known != learned {
            self.images.change(|known| known.id == image.id, |known| *known = learned.clone());
        }
    }

    /// Drops images that no volume needs, and remembers those with a parent. No point at or after
    /// `gone_lsn` needs them. `newest` is the newest point, and `window` gives for a point the LSN
    /// before the W+1 segments that end there.
    pub(super) fn prune_images(&mut self, gone_lsn: Lsn, newest: Lsn, window: impl Fn(Lsn) -> Lsn) {
        // Most images have no parent, and either a volume needs them or nothing does.
        let with_parent = self.images.iter().filter(|image| image.parent.is_some());
        let known: HashMap<u32, &CatalogImage> = with_parent.map(|image| (image.id, image)).collect();
        let (mut needed, mut followed) = (Vec::with_capacity(self.volumes.len()), HashSet::new());
        for volume in self.volumes.iter() {
            let mut next = Some((volume.image, newest));
            while let Some((id, at)) = next {
                needed.push(id);
                // An image that is hydrated now may be a clone's origin at a point at which it was
                // not.
                let image = known.get(&id).filter(|image| {
                    let is_used = |part: ResidentPart| {
                        image.parent.is_some_and(|parent| parent.lsn > part.above.max(window(at).0))
                    };
                    image.inherits_at(at) || image.resident.is_some_and(is_used)
                });
                let image = image.filter(|_| followed.insert(id));
                next = image.and_then(|image| image.parent).map(|parent| (parent.image, Lsn(parent.lsn)));
            }
        }
        let needed = IdSet::new(needed);
        let is_gone = |image: &&CatalogImage| !needed.contains(image.id);
        let gone = self.images.iter().filter(is_gone).filter_map(|image| {
            let (id, born_lsn, gone_lsn) = (image.id, image.born_lsn, gone_lsn.0);
            image.parent.map(|parent| GoneImage { id, parent, born_lsn, gone_lsn })
        });
        let mut gone: Vec<GoneImage> = gone.collect();
        gone.retain(|gone| self.gone_images.iter().all(|known| known.id != gone.id));
        for gone in gone {
            self.gone_images.push(gone);
        }
        self.gone_images.drop_first(self.gone_images.len().saturating_sub(GONE_IMAGES_MAX));
        self.images.retain(|image| needed.contains(image.id));
    }

    /// Forgets deleted images without remaining points: none of the segments in which they existed
    /// is in `there`. Returns how many there were.
    pub(super) fn forget_gone_images(&mut self, geometry: &Geometry, there: &BTreeSet<SegmentSeq>) -> usize {
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
    pub(super) fn add_deleted_synch(&mut self, lsn: Lsn) {
        self.deleted_synchs.push(lsn.0);
    }

    /// Forgets the deleted synchs at the positions that `is_gone` accepts.
    pub(super) fn forget_deleted_synchs_if(&mut self, is_gone: impl Fn(u64) -> bool) {
        self.deleted_synchs.retain(|&lsn| !is_gone(lsn));
    }

    /// Forgets deleted synchs whose segments are not in `there`. Returns how many there were.
    pub(super) fn forget_deleted_synchs(
        &mut self,
        geometry: &Geometry,
        there: &BTreeSet<SegmentSeq>,
    ) -> usize {
        let before = self.deleted_synchs.len();
        self.deleted_synchs.retain(|&lsn| there.contains(&geometry.sequence_of(Lsn(lsn))));
        before - self.deleted_synchs.len()
    }

    /// Records that the entries of a range of the log are lost. Returns whether this is new.
    pub(super) fn add_lost(&mut self, range: LsnRange) -> bool {
        let is_known = self.lost.iter().any(|known| known.start <= range.start && range.end <= known.end);
        if !is_known {
            add_range(&mut self.lost, range, RANGES_MAX);
        }
        !is_known
    }

    /// Records that a range of the log left the primary device without having been archived.
    pub(super) fn add_gap(&mut self, range: LsnRange) {
        add_range(&mut self.gaps, range, RANGES_MAX);
    }

    /// Whether the pool was recovered at this position of a segment, so that nothing follows it.
    pub(super) fn was_cut_at(&self, sequence: SegmentSeq, end_lsn: Lsn) -> bool {
        self.cuts.iter().any(|cut| cut.sequence == sequence && cut.end_lsn == end_lsn)
    }

    /// Drops detail until the text has at most `max_bytes` bytes, or nothing is left to drop.
    /// Returns the resulting maximum length.
    pub(super) fn shorten(&mut self, format_version: u32, max_bytes: usize) -> usize {
        loop {
            let len_bytes = self.text_bytes_max(format_version);
            if len_bytes <= max_bytes || !self.give_way() {
                return len_bytes;
            }
        }
    }

    /// Makes the text shorter by dropping detail of the parts that grow by themselves; `false`:
    /// nothing is left to drop.
    pub(super) fn give_way(&mut self) -> bool {
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

    /// The maximum length of the text without the parts that grow by themselves.
    pub(super) fn own_bytes(&self, format_version: u32) -> usize {
        let (gone_images, gaps, lost) = (Shared::default(), Vec::new(), Vec::new());
        Catalog { lost, gaps, gone_images, ..self.clone() }.text_bytes_max(format_version)
    }

    /// Inherited data of an image before this LSN is not certain.
    pub(super) fn inherited_uncertain_below(&self, image: u32) -> Lsn {
        let image = self.image(image).filter(|image| image.inherits());
        let parent = image.and_then(|image| image.parent);
        parent.map_or(Lsn(0), |parent| {
            self.uncertain_below(parent.image, Lsn(parent.lsn)).min(Lsn(parent.lsn).plus(1))
        })
    }

    /// In the index of `image` at `at`, mappings before this LSN are not certain, because entries
    /// that may have replaced them are lost. A loss affects an image if it overlaps the range in
    /// which the image, or an ancestor up to the point of the clone, received its entries.
    pub(super) fn uncertain_below(&self, image: u32, at: Lsn) -> Lsn {
        let mut uncertain = Lsn(0);
        for one in self.generations(image, at, |_| Lsn(0)) {
            let touching = self.lost.iter().filter(|range| range.end > one.above && range.start <= one.up_to);
            uncertain = touching.map(|range| range.end).fold(uncertain, Lsn::max);
            uncertain = uncertain.max(Lsn(self.image(one.image).map_or(0, |image| image.uncertain_below)));
        }
        uncertain
    }
}

impl From<&CatalogSnapshot> for SnapshotInfo {
    fn from(snapshot: &CatalogSnapshot) -> Self {
        SnapshotInfo { name: snapshot.name.to_string(), lsn: snapshot.lsn, time_ns: snapshot.time_ns }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        CATALOG_VERSION_FIRST => "| `\"version\"` in JSON | {} in pools of version 1, else 2 | 1 and 2 |",
        CATALOG_VERSION => "| `\"version\"` in JSON | 1 in pools of version 1, else {} | 1 and 2 |",
        GONE_IMAGES_MAX => "at most {} (`GONE_IMAGES_MAX`)",
        RANGES_MAX => "at most {} (`RANGES_MAX`)",
        RANGES_MAX => "left the device without having been archived; at most {};",
        OVERPROVISIONING_PERCENT_DEFAULT => "spare blocks for each 100 live ones; optional ({})",
    );

    #[test]
    fn the_document_says_what_share_is_reserved() {
        assert_eq!(ROOM_SHARE, 16);
        // ROOM_SHARE => "One sixteenth"
        crate::document::check_says("One sixteenth of it is reserved for what grows by itself");
    }

    fn session() -> CatalogSession {
        let verdict = SessionVerdict { lsn: 1, time_ns: 1, verdict: Verdict::Good };
        let (clone, source) = (Uuid::from_u128(1), Uuid::nil());
        CatalogSession {
            name: "s".to_owned(),
            made_ns: 1,
            members: vec![SessionMember { clone, source, name: "a".to_owned() }],
            at: 1,
            time_ns: 1,
            oldest: 1,
            newest: 1,
            verdicts: vec![verdict],
            may_be_written: true,
        }
    }

    /// A catalog that has every key.
    fn whole() -> Catalog {
        let parent = ImageParent { image: 1, lsn: 300 };
        let volume = CatalogVolume {
            name: "a".to_owned(),
            uuid: Uuid::nil(),
            size_blocks: 1,
            read_only: false,
            image: 2,
            created_ns: 1,
            thin: true,
            origin: Some(VolumeOrigin { lsn: 7, point: Some("synch:a".to_owned()) }),
        };
        let image = CatalogImage {
            id: 2,
            parent: Some(parent),
            born_lsn: 300,
            hydrated_lsn: Some(400),
            uncertain_below: 5,
            hydrating: true,
            resident: Some(ResidentPart { above: 7, only_from: Some(8) }),
        };
        let snapshot = CatalogSnapshot { name: Arc::from("s"), lsn: 1, time_ns: 1 };
        Catalog {
            volumes: Shared::from_iter([volume]),
            images: Shared::from_iter([image]),
            snapshots: [snapshot].into_iter().collect(),
            working_sets: vec![(SegmentSeq(0), 4)],
            working_set_target: Some(3),
            cuts: vec![Cut { sequence: SegmentSeq(1), end_lsn: Lsn(300), epoch: 1 }],
            gaps: vec![range(1, 2)],
            gone_images: Shared::from_iter([GoneImage { id: 3, parent, born_lsn: 1, gone_lsn: 2 }]),
            deleted_synchs: Shared::from_iter([7]),
            ownership: Ownership { rehearsal_lsn: Some(Lsn(1)), ..Ownership::default() },
            sessions: Shared::from_iter([session()]),
            ..Catalog::default()
        }
    }

    #[test]
    fn the_document_has_these_keys() {
        let catalog = whole();
        let volume = catalog.volumes.iter().next().expect("a volume");
        let image = catalog.images.iter().next().expect("an image");
        let gone_image = catalog.gone_images.iter().next().expect("a gone image");
        let section = "### Whole catalog";
        crate::document::check_keys(section, "| key |", &catalog);
        crate::document::check_keys(section, "| volume |", volume);
        crate::document::check_keys(section, "| image |", image);
        crate::document::check_keys(section, "| ownership |", &catalog.ownership);
        crate::document::check_keys(section, "| session |", &session());
        let keys = |value: serde_json::Value| {
            let keys = value.as_object().expect("an object").keys().map(|key| format!("\"{key}\""));
            format!("{{{}}}", keys.collect::<Vec<_>>().join(","))
        };
        let gone = serde_json::to_value(gone_image).expect("plain data");
        crate::document::check_says(&format!("| `gone_images` | list | `{}`;", keys(gone)));
        let origin = serde_json::to_value(&volume.origin).expect("plain data");
        crate::document::check_says(&format!("| `origin` | `{}` |", keys(origin)));
        let cut = serde_json::to_value(catalog.cuts[0]).expect("plain data");
        crate::document::check_says(&format!("| `cuts` | list of `{}` |", keys(cut)));
        let resident = serde_json::to_value(image.resident).expect("plain data");
        crate::document::check_says(&format!("| `resident` | `{}` |", keys(resident)));
        let parent = serde_json::to_value(image.parent).expect("plain data");
        crate::document::check_says(&format!("| `parent` | null or `{}` |", keys(parent)));
        let session = serde_json::to_value(session()).expect("plain data");
        crate::document::check_says(&format!(
            "| `members` | list of `{}` |",
            keys(session["members"][0].clone())
        ));
        crate::document::check_says(&format!(
            "| `verdicts` | list of `{}`",
            keys(session["verdicts"][0].clone())
        ));
        let snapshots = serde_json::to_value(&catalog.snapshots).expect("plain data");
        crate::document::check_says(&format!("A snapshot is `{}`.", keys(snapshots[0].clone())));
    }

    fn range(start: u64, end: u64) -> LsnRange {
        LsnRange { start: Lsn(start), end: Lsn(end) }
    }

    #[test]
    fn stretches_that_grow_by_themselves_stay_few_and_lose_nothing() {
        let mut catalog = Catalog::default();
        // Consecutive segments are one gap, however many there are.
        for sequence in 0..100_000 {
            catalog.add_gap(range(sequence * 256, (sequence + 1) * 256));
        }
        assert_eq!(catalog.gaps, [range(0, 100_000 * 256)]);
        // Separate ranges, more than are remembered: all are covered, and the largest distances
        // remain.
        for at in 0..1000 {
            assert!(catalog.add_lost(range(
                at * 100 + if at < 500 { 0 } else { 1 << 20 },
                at * 100 + 7 + if at < 500 { 0 } else { 1 << 20 }
            )));
        }
        assert_eq!(catalog.lost.len(), RANGES_MAX);
        assert!((0..1000).all(|at: u64| {
            let start = at * 100 + if at < 500 { 0 } else { 1 << 20 };
            !catalog.clone().add_lost(range(start, start + 7))
        }));
        assert!(catalog.clone().add_lost(range(500_000, 500_001)), "the widest space between is kept");
        // The shortest text still has one of each.
        let long = catalog.encode(2).len();
        while catalog.give_way() {}
        assert_eq!((catalog.lost.len(), catalog.gaps.len()), (1, 1));
        assert!(catalog.encode(2).len() < catalog.own_bytes(2) + 200 && long > 3000);
    }

    #[test]
    fn what_was_uncertain_in_its_parent_stays_so_in_a_clone() {
        let image = |id, parent, hydrated_lsn, uncertain_below| CatalogImage {
            id,
            parent,
            born_lsn: u64::from(id) * 1000,
            hydrated_lsn,
            hydrating: false,
            uncertain_below,
            resident: None,
        };
        let parent = |image, lsn| Some(ImageParent { image, lsn });
        let mut catalog = Catalog {
            images: Shared::from_iter([
                image(0, None, None, 0),
                image(1, parent(0, 900), None, 0),
                image(2, parent(1, 1900), None, 0),
            ]),
            lost: vec![range(500, 510)],
            ..Catalog::default()
        };
        assert_eq!(catalog.uncertain_below(2, Lsn::MAX), Lsn(510));
        assert_eq!(catalog.inherited_uncertain_below(2), Lsn(510));
        // A hydrated image does not depend on its ancestors; its own catalog entry has the limit.
        catalog.images.change(|image| image.id == 2, |image| image.hydrated_lsn = Some(2500));
        assert_eq!(catalog.uncertain_below(2, Lsn::MAX), Lsn(0));
        catalog.images.change(|image| image.id == 2, |image| image.uncertain_below = 510);
        assert_eq!(catalog.uncertain_below(2, Lsn::MAX), Lsn(510));
        for version in [1, 2] {
            let text = catalog.encode(version);
            assert_eq!(Catalog::decode(&text), Some(catalog.clone()));
        }
    }

    /// The bound of the length holds, even when the number of the next synch gets more digits.
    #[test]
    fn both_versions_are_read_and_within_their_bound() {
        let mut catalog = Catalog::default();
        for number in 0..3000 {
            catalog.snapshots.insert(&CatalogSnapshot {
                name: Arc::from(format!("snapshot-{number}")),
                lsn: number * 7,
                time_ns: number << 30,
            });
        }
        for version in [1, 2] {
            for next_synch in [1, u64::MAX] {
                catalog.next_synch = next_synch;
                let text = catalog.encode(version);
                assert!(text.len() <= catalog.text_bytes_max(version), "{version}");
                assert_eq!(Catalog::decode(&text), Some(catalog.clone()));
                assert_eq!(Catalog::decode(&text[..text.len() - 1]), None);
            }
        }
        assert!(catalog.encode(2).len() * 3 < catalog.encode(1).len(), "pages are short");
    }

    #[test]
    fn a_deleted_synch_is_remembered_as_long_as_its_segment_is_there() {
        let geometry = Geometry::fit(256 * 12, 256).expect("eleven segments");
        let mut catalog =
            Catalog { deleted_synchs: [300, 600, 700].into_iter().collect(), ..Catalog::default() };
        for version in [1, 2] {
            let text = catalog.encode(version);
            assert!(text.len() <= catalog.text_bytes_max(version));
            assert_eq!(Catalog::decode(&text), Some(catalog.clone()));
        }
        let there = [2, 5].into_iter().map(SegmentSeq).collect();
        assert_eq!(catalog.forget_deleted_synchs(&geometry, &there), 1);
        assert!(catalog.deleted_synchs.iter().eq(&[600, 700]));
    }

    /// Segments of 256 blocks: an image that lived in segments 2 and 3, and one that lived in 9.
    #[test]
    fn a_gone_image_is_remembered_as_long_as_a_segment_of_its_life_is_there() {
        let geometry = Geometry::fit(256 * 12, 256).expect("eleven segments");
        let parent = ImageParent { image: 1, lsn: 300 };
        let catalog = Catalog {
            gone_images: Shared::from_iter([
                GoneImage { id: 2, parent, born_lsn: 600, gone_lsn: 4 * 256 },
                GoneImage { id: 3, parent, born_lsn: 9 * 256, gone_lsn: 9 * 256 + 7 },
            ]),
            ..Catalog::default()
        };
        let left = |there: &[u64]| {
            let mut catalog = catalog.clone();
            let there = there.iter().copied().map(SegmentSeq).collect();
            let forgotten = catalog.forget_gone_images(&geometry, &there);
            assert_eq!(forgotten + catalog.gone_images.len(), 2);
            catalog.gone_images.iter().map(|gone| gone.id).collect::<Vec<_>>()
        };
        assert_eq!(left(&[2, 9, 10]), [2, 3]);
        assert_eq!(left(&[3, 10]), [2]);
        // An older segment that is kept, for example by a snapshot, keeps neither.
        assert_eq!(left(&[0, 1, 4, 5, 10]), [0_u32; 0]);
        assert_eq!(left(&[1, 4, 9]), [3]);
    }
}
