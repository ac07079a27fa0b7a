//! The ids of images: 16 bits in every entry of the log, and none is used twice.
//!
//! **Why not twice:** entries of a deleted volume stay in the log and in the archive, and no
//! catalog remembers for long which ids they have. A scan that met entries of an earlier life of
//! its image would take their blocks for its own. So ids run out, after [`IDS_MAX`] volumes and
//! clones ever made.
//!
//! **States:** plenty → (at 80 %) told as a problem of the pool → (at [`LAST_OF_CHANGES`]) volumes
//! and clones are refused. What is left then is for recoveries from the archive, which give every
//! volume an image of its own: a pool that can make no more volumes can still be recovered, several
//! times.

use super::catalog::Catalog;
use super::error::VolumeError;
use super::manage::VOLUMES_MAX;

/// Ids that there are: 0 and the greatest are not used.
const IDS_MAX: u16 = u16::MAX - 1;
/// Recoveries of a pool with as many volumes as there can be, for which ids are kept.
const RECOVERIES_KEPT: u16 = 4;
/// The last id that a volume or a clone gets.
const LAST_OF_CHANGES: u16 = IDS_MAX - RECOVERIES_KEPT * VOLUMES_MAX as u16;
/// From this id on it is told that there will be no more.
const TOLD_FROM: u16 = LAST_OF_CHANGES / 5 * 4;

/// Takes the next id.
///
/// # Errors
/// There is none that is not kept for recoveries.
pub(super) fn take(catalog: &mut Catalog) -> Result<u16, VolumeError> {
    let id = catalog.next_image;
    if id > LAST_OF_CHANGES {
        return Err(VolumeError::NoSpace {
            reason: format!(
                "all {LAST_OF_CHANGES} image ids of the pool were used, one for each volume and each clone that was ever made, and no more can be made; the last {} are kept for recoveries from the archive. What there is can be used as ever; copy it into a new pool to go on making volumes",
                IDS_MAX - LAST_OF_CHANGES
            ),
        });
    }
    if id == TOLD_FROM {
        tracing::warn!(problem = problem(id), "the pool has a problem");
    }
    catalog.next_image = id + 1;
    Ok(id)
}

/// What the operator must know when the next id is this one.
pub(super) fn problem(next: u16) -> Option<String> {
    (next >= TOLD_FROM).then(|| {
        format!(
            "{} of the {LAST_OF_CHANGES} image ids of the pool are used, one for each volume and each clone that was ever made; then no more can be made here: move to a new pool before that",
            (next - 1).min(LAST_OF_CHANGES)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_of_before_they_run_out_and_recoveries_find_some() {
        let mut catalog = Catalog::default();
        let (mut taken, mut told_at) = (0, None);
        while take(&mut catalog).is_ok() {
            taken += 1;
            if problem(catalog.next_image).is_some() {
                told_at.get_or_insert(taken);
            }
        }
        assert_eq!(taken, u64::from(LAST_OF_CHANGES));
        let told_at = told_at.expect("it is told");
        assert!(told_at * 10 >= taken * 7 && told_at * 100 <= taken * 81, "{told_at} of {taken}");
        let error = take(&mut catalog).expect_err("none is left").to_string();
        assert!(error.contains("kept for recoveries") && error.contains("new pool"), "{error}");
        let text = problem(catalog.next_image).expect("it is told");
        assert!(text.starts_with(&format!("{LAST_OF_CHANGES} of the {LAST_OF_CHANGES}")), "{text}");
        // As many recoveries as were promised, of as many volumes as there can be.
        let left = u64::from(u16::MAX - catalog.next_image);
        assert!(left >= u64::from(RECOVERIES_KEPT) * VOLUMES_MAX as u64, "{left}");
    }
}
