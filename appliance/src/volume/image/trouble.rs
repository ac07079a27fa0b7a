//! Why a volume cannot use what it inherited.
//!
//! **States of a volume's inheritance:** looked up → in temporary trouble (the archive does not
//! answer), which each call of [`Pool::load_inherited`] or [`Pool::hydrate_all`] tries again →
//! looked up; or in permanent trouble, until the next start.
//!
//! [`Pool::load_inherited`]: crate::volume::Pool::load_inherited
//! [`Pool::hydrate_all`]: crate::volume::Pool::hydrate_all

use crate::volume::error::VolumeError;

/// What prevents a volume from using what it inherited.
pub(in crate::volume) struct Trouble {
    /// The message for the operator.
    text: String,
    /// Whether another try may succeed.
    passes: bool,
}

impl Trouble {
    /// The trouble of a volume whose inherited data could not be looked up.
    pub(in crate::volume) fn of_lookup(name: &str, error: &VolumeError) -> Self {
        let passes = may_pass(error);
        let again = if passes { "; it is tried again" } else { "" };
        Trouble { text: format!("volume '{name}': what it inherited cannot be read: {error}{again}"), passes }
    }

    /// The trouble of a volume whose hydration did not finish.
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

    /// The message for the operator.
    pub(in crate::volume) fn text(&self) -> &str {
        &self.text
    }

    /// Whether another try may succeed.
    pub(in crate::volume) fn passes(&self) -> bool {
        self.passes
    }
}

/// Whether the same operation may succeed later without intervention.
fn may_pass(error: &VolumeError) -> bool {
    matches!(error, VolumeError::ArchiveAway { .. } | VolumeError::Busy { .. })
}
