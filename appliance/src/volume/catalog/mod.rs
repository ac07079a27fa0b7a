//! The catalog: the pool's small state. It is stored whole at the start of every segment, and each
//! change of it in its own event (`docs/FORMAT.md`). The catalog in force at a point is the newest
//! whole one at or before it, with the changes after that one; it lists the volumes and their
//! sizes.
//!
//! | file | job |
//! |---|---|
//! | `content` | what the catalog contains, and everything that changes it |
//! | `entries` | volumes, images, deleted images, and where the pool was recovered |
//! | `look_up` | what it says of one volume, image or position |
//! | `images` | which images volumes need |
//! | `text` | the text of a whole catalog, and the bound of its length |
//! | `tree` | a map whose copies share nodes |
//! | `shared` | a list whose copies share entries, which are found by keys: volumes and images |
//! | `snapshots` | the snapshots, by name and by position |
//! | `sessions`, `session_list` | sessions on points of the past; looking them up |
//! | `groups`, `group_list` | groups of volumes; looking them up |
//! | `change` | the difference between two catalogs |
//! | `ownership` | the pool's claim on its archive |
//! | `logged` | writes the catalog to the log |
//! | `present` | the catalog in force |
//! | `working_sets` | lengths of the working set, and the segments that points need because of them |
//! | `image_ranges` | which entries, of which images, make the index of an image |
//! | `find` | finds the catalog in the log |
//! | `ranges` | lists of ranges of the log, with a bound |
//! | `id_set` | the set of images that something needs |
//!
//! **Invariant:** other files read the fields of a [`Catalog`], and only `content` writes them.

mod change;
mod content;
mod entries;
mod find;
mod group_list;
mod groups;
mod id_set;
mod image_ranges;
mod images;
mod logged;
mod look_up;
mod ownership;
mod present;
mod ranges;
mod session_list;
mod sessions;
mod shared;
mod snapshots;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod working_sets;

pub(super) use change::CatalogChange;
pub(super) use content::Catalog;
pub use content::OVERPROVISIONING_PERCENT_DEFAULT;
pub(super) use entries::Cut;
pub(crate) use entries::{CatalogImage, CatalogVolume, GoneImage, ResidentPart};
pub(super) use find::{CatalogFinder, FoundCatalog};
pub(crate) use groups::CatalogGroup;
pub use groups::{GROUP_VOLUMES_MAX, GROUPS_MAX};
pub(super) use image_ranges::ImageRange;
pub(super) use logged::{CatalogWriter, room_problem};
pub use ownership::Ownership;
pub(super) use present::PresentCatalog;
pub(crate) use sessions::{CatalogSession, SessionMember, SessionVerdict};
pub use sessions::{SESSIONS_MAX, VERDICTS_MAX, Verdict};
pub(crate) use shared::{Key, Shared};
pub(crate) use snapshots::CatalogSnapshot;
pub(crate) use snapshots::Snapshots;
pub(super) use working_sets::{longest_reach, reach};

/// The reciprocal of the share of the maximum length that is reserved for parts that grow by
/// themselves.
const ROOM_SHARE: usize = 16;
