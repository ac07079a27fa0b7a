//! The ids of images, which are in every entry of the log: 32 bits, and 16 in pools of format 1. An
//! id is never reused.
//!
//! **Why not reused:** entries of a deleted volume stay in the log and in the archive, and no
//! catalog remembers their ids for long. A scan that found entries of an earlier image with the
//! same id would take their blocks for its own. So ids run out after as many volumes and clones as
//! there are ids: the 32-bit ids last 136 years at one clone a second, those of format 1 last for
//! 65,534 clones.
//!
//! **States:** plenty → (at 80 %) reported as a problem of the pool → (at [`last_of_changes`])
//! volumes and clones are refused. The remaining ids are kept for recoveries from the archive,
//! which give every volume a new image: a pool that can make no more volumes can still be recovered
//! several times.

use crate::volume::catalog::Catalog;
use crate::volume::error::VolumeError;
use crate::volume::image::volumes::VOLUMES_MAX;

/// The number of recoveries, of a pool with the maximum number of volumes, for which ids are kept.
const RECOVERIES_KEPT: u32 = 4;

/// The last usable id: 0 and the highest are not used.
fn last_of_all(format_version: u32) -> u32 {
    if format_version < 2 { u32::from(u16::MAX) - 1 } else { u32::MAX - 1 }
}

/// The last id that a new volume or clone may get.
fn last_of_changes(format_version: u32) -> u32 {
    last_of_all(format_version) - RECOVERIES_KEPT * VOLUMES_MAX as u32
}

/// The id from which on it is reported that ids run out.
fn told_from(format_version: u32) -> u32 {
    last_of_changes(format_version) / 5 * 4
}

/// Takes the next id.
///
/// # Errors
/// All remaining ids are kept for recoveries.
pub(in crate::volume) fn take(catalog: &mut Catalog, format_version: u32) -> Result<u32, VolumeError> {
    let last = last_of_changes(format_version);
    let Some(id) = catalog.take_image_id(last) else {
        return Err(VolumeError::NoSpace {
            reason: format!(
                "all {last} image ids of the pool were used, one for each volume and each clone that was ever made, and no more can be made; the last {} are kept for recoveries from the archive. What there is can be used as ever; copy it into a new pool to go on making volumes",
                last_of_all(format_version) - last
            ),
        });
    };
    if id == told_from(format_version) {
        tracing::warn!(problem = problem(id, format_version), "the pool has a problem");
    }
    Ok(id)
}

/// Takes the next id for a volume of a recovery, for which some are kept.
///
/// # Errors
/// There is no id left.
pub(in crate::volume) fn take_for_recovery(
    catalog: &mut Catalog,
    format_version: u32,
) -> Result<u32, VolumeError> {
    let id = catalog.take_image_id(last_of_all(format_version));
    id.ok_or_else(|| VolumeError::NoSpace { reason: "all image ids of the pool were used; serve the primary, and copy its volumes to a new pool (`varve volume export`, `varve volume import`)".to_owned() })
}

/// The message for the operator if the next id is this one.
pub(in crate::volume) fn problem(next: u32, format_version: u32) -> Option<String> {
    let last = last_of_changes(format_version);
    (next >= told_from(format_version)).then(|| {
        format!(
            "{} of the {last} image ids of the pool are used, one for each volume and each clone that was ever made; then no more can be made here: move to a new pool before that",
            (next - 1).min(last)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        last_of_all(1) => "The greatest is {} in pools of version 1",
        last_of_all(2) => "in pools of version 1 and {} in version 2",
        last_of_all(2) - last_of_changes(2) => "the last {} are for recoveries",
    );

    #[test]
    fn ids_are_told_of_before_they_run_out_and_recoveries_find_some() {
        for version in [1, 2] {
            let last = last_of_changes(version);
            // All ids of format 1, the last million of format 2.
            let first = last.saturating_sub(1_000_000).max(1);
            let mut catalog = Catalog { next_image: first, ..Catalog::default() };
            assert_eq!(problem(1, version), None);
            while let Ok(id) = take(&mut catalog, version) {
                assert!(id <= last);
                let is_told = problem(catalog.next_image, version).is_some();
                assert!(is_told || id < last / 100 * 81, "{id} of {last}");
                assert!(!is_told || id > last / 100 * 79, "{id} of {last}");
            }
            assert_eq!(catalog.next_image, last + 1);
            let error = take(&mut catalog, version).expect_err("none is left").to_string();
            assert!(error.contains("kept for recoveries") && error.contains("new pool"), "{error}");
            let text = problem(catalog.next_image, version).expect("it is told");
            assert!(text.starts_with(&format!("{last} of the {last}")), "{text}");
            // There are ids for the promised number of recoveries, each with the maximum number of
            // volumes.
            let mut left = 0;
            while take_for_recovery(&mut catalog, version).is_ok() {
                left += 1;
            }
            assert_eq!(left, u64::from(RECOVERIES_KEPT) * VOLUMES_MAX as u64);
        }
    }
}
