//! Why a volume cannot use what it inherited.
//!
//! **States of a volume's inheritance:** looked up → in trouble that may pass (the archive does not
//! answer), which is tried again by whoever calls [`Pool::load_inherited`] and
//! [`Pool::hydrate_all`] → looked up; or in trouble for good, until the next start.
//!
//! [`Pool::load_inherited`]: crate::volume::Pool::load_inherited
//! [`Pool::hydrate_all`]: crate::volume::Pool::hydrate_all

use crate::volume::error::VolumeError;

/// What prevents a volume from using what it inherited.
pub(in crate::volume) struct Trouble {
    /// What the operator reads.
    text: String,
    /// Whether another try may succeed.
    passes: bool,
}

impl Trouble {
    /// What a volume inherited could not be looked up.
    pub(in crate::volume) fn of_lookup(name: &str, error: &VolumeError) -> Self {
        let passes = may_pass(error);
        let again = if passes { "; it is tried again" } else { "" };
        Trouble { text: format!("volume '{name}': what it inherited cannot be read: {error}{again}"), passes }
    }

    /// A volume was not hydrated to its end.
    pub(in crate::volume) fn of_hydration(name: &str, error: &VolumeError) -> Self {
        let passes = may_pass(error);
        let next = if passes {
            "it is tried again".to_owned()
        } else {
            format!("`varve volume hydrate {name}` goes on")
        };
        let text = format!(
            "volume '{name}' still needs the archive, it was not hydrated to its end: {error}; {next}"
        );
        Trouble { text, passes }
    }

    /// What the operator reads.
    pub(in crate::volume) fn text(&self) -> &str {
        &self.text
    }

    /// Whether another try may succeed.
    pub(in crate::volume) fn passes(&self) -> bool {
        self.passes
    }
}

/// Whether the same may succeed later, without anybody's doing.
fn may_pass(error: &VolumeError) -> bool {
    matches!(error, VolumeError::ArchiveAway { .. } | VolumeError::Busy { .. })
}
