//! The text of a whole catalog, and the bound of its length. It is a JSON object; in version 2 the
//! snapshots are not in the object: their pages follow it, as [`super::snapshots`] writes them. A
//! pool of format 1 has version 1.

use super::content::CATALOG_VERSION;
use super::shared::text_bytes_of;
use super::{Catalog, Shared, Snapshots};

/// The length of the key of the deleted images in the text, in bytes. The key is omitted if there
/// are none.
const GONE_IMAGES_KEY_BYTES: usize = r#","gone_images":"#.len();

/// The same for the deleted synchs.
const DELETED_SYNCHS_KEY_BYTES: usize = r#","deleted_synchs":"#.len();

/// The same for the sessions.
const SESSIONS_KEY_BYTES: usize = r#","sessions":"#.len();

/// The same for the groups.
const GROUPS_KEY_BYTES: usize = r#","groups":"#.len();

/// The version of the text in pools of format 1.
pub(super) const CATALOG_VERSION_FIRST: u32 = 1;

impl Catalog {
    /// The whole text for a log of a format version.
    pub(in crate::volume) fn encode(&self, format_version: u32) -> Vec<u8> {
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
    pub(in crate::volume) fn text_bytes_max(&self, format_version: u32) -> usize {
        let is_first = format_version < 2;
        let snapshots = if is_first { self.snapshots.clone() } else { Snapshots::default() };
        let rest = Catalog { next_synch: u64::MAX, snapshots, ..self.without_lists() };
        let lists_bytes = self.volumes.text_bytes()
            + self.images.text_bytes()
            + self.gone_images.text_bytes()
            + if self.sessions.is_empty() { 0 } else { SESSIONS_KEY_BYTES + self.sessions.text_bytes() }
            + if self.groups.is_empty() { 0 } else { GROUPS_KEY_BYTES + self.groups.text_bytes() }
            + self.deleted_synchs.text_bytes();
        let pages_bytes = if is_first { 0 } else { self.snapshots.texts_bytes_max() };
        let keys_bytes = GONE_IMAGES_KEY_BYTES + DELETED_SYNCHS_KEY_BYTES;
        text_bytes_of(&rest) + keys_bytes + lists_bytes + pages_bytes
    }

    /// The same without the parts that have their own lists in a change.
    pub(super) fn without_lists(&self) -> Self {
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
            groups: Shared::default(),
        }
    }

    /// Reads a whole text; `None` if it is not a catalog of a version that this build knows.
    pub(in crate::volume) fn decode(text: &[u8]) -> Option<Self> {
        let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<Catalog>();
        let catalog = objects.next()?.ok()?;
        let behind = &text[objects.byte_offset()..];
        let snapshots = match catalog.version {
            CATALOG_VERSION_FIRST if behind.is_empty() => catalog.snapshots.clone(),
            CATALOG_VERSION => Snapshots::of_texts(behind)?,
            _ => return None,
        };
        // In memory there is only one version.
        Some(Catalog { version: CATALOG_VERSION, snapshots, ..catalog })
    }

    /// The maximum length of the text without the parts that grow by themselves.
    pub(in crate::volume) fn own_bytes(&self, format_version: u32) -> usize {
        let (gone_images, gaps, lost) = (Shared::default(), Vec::new(), Vec::new());
        Catalog { lost, gaps, gone_images, ..self.clone() }.text_bytes_max(format_version)
    }
}
