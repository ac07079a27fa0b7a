//! The reasons for which a segment is kept.

use serde::{Deserialize, Serialize};

use crate::log::types::ImageId;

/// Why a segment is kept. If there are several reasons, the one whose window reaches farthest back
/// is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// There are no rules, so everything is kept.
    Everything,
    /// A rule keeps a point that needs it. Rules are counted from 0.
    Rule(u32),
    /// A snapshot needs it. The value is the snapshot's index in the view.
    Snapshot(u32),
    /// A session on a point of the past needs it, or has been there. The value is the session's
    /// index in the view.
    Session(u32),
    /// A point from which an image was made needs it.
    Base(ImageId),
    /// The newest archived point needs it, or the newest that can be restored from the archive
    /// alone.
    Newest,
    /// Points on the primary device that are not archived yet need it.
    NotArchived,
    /// The times of a segment that needs it are not known yet.
    TimesUnknown,
    /// It is in the primary's working set.
    WorkingSet,
}
