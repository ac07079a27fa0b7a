//! The archive as a start finds it: reachable, or known but away.

use std::sync::Arc;

use super::config::ArchiveConfig;
use super::late;
use super::open::{OpenedArchive, open};
use crate::manage::ArchiveManager;
use crate::serve::identity::FormerPool;
use crate::serve::{ApplianceConfig, ServeError};

/// The archive as a start finds it.
pub(in crate::serve) enum FoundArchive {
    /// It is reachable and open.
    Opened(Box<OpenedArchive>),
    /// It is known but away.
    Away(Box<late::AwayArchive>),
}

impl FoundArchive {
    /// The command plane's view of it.
    pub(in crate::serve) fn manager(&self) -> &Arc<ArchiveManager> {
        match self {
            FoundArchive::Opened(opened) => &opened.manager,
            FoundArchive::Away(away) => away.manager(),
        }
    }

    /// Whether it holds objects of any pool.
    pub(in crate::serve) fn holds_something(&self) -> bool {
        matches!(self, FoundArchive::Opened(opened) if !opened.known.pools.is_empty())
    }
}

/// Opens the archive. If the pool is known to have had its archive at this place, and the archive
/// is away for a reason that may pass, the appliance waits for it.
///
/// # Errors
/// See [`open`].
pub(in crate::serve) fn find(
    config: &ArchiveConfig,
    appliance: &ApplianceConfig,
    found: &FormerPool,
    is_new: bool,
) -> Result<FoundArchive, ServeError> {
    match open(config, appliance, found, is_new) {
        Ok(opened) => Ok(FoundArchive::Opened(Box::new(opened))),
        Err(error) if late::waits_for(config, appliance, found, is_new, &error) => {
            let away = late::AwayArchive::new(config, appliance, found, &error)?;
            Ok(FoundArchive::Away(Box::new(away)))
        }
        Err(error) => Err(error),
    }
}
