//! Groups of volumes, as the catalog stores them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::shared::{Key, Keyed, Keys};

/// The maximum number of groups in a pool.
pub const GROUPS_MAX: usize = 64;
/// The maximum number of volumes in a group.
pub const GROUP_VOLUMES_MAX: usize = 64;

/// Volumes that are marked, opened and rolled back together. A volume may be in several groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CatalogGroup {
    pub(crate) name: String,
    /// It stays when the name changes.
    pub(crate) uuid: Uuid,
    pub(crate) created_ns: u64,
    /// Its volumes, in the order in which they were added.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) volumes: Vec<Uuid>,
}

impl Keyed for CatalogGroup {
    fn keys(&self) -> Keys {
        [Key::Uuid(self.uuid), Key::name(&self.name)].into_iter().collect()
    }
}

impl CatalogGroup {
    pub(crate) fn has(&self, volume: Uuid) -> bool {
        self.volumes.contains(&volume)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        GROUPS_MAX => "at most {} groups (`GROUPS_MAX`)",
        GROUP_VOLUMES_MAX => "at most {} volumes (`GROUP_VOLUMES_MAX`)",
    );
}
