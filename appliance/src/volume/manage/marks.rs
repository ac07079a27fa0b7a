//! Writes synchs: marks of points at which all volumes, one, or those of a group were consistent.

use std::rc::Rc;

use crate::log::format::EventKind;
use crate::log::{AppendError, Lsn, recovery};
use crate::reactor::yield_now;
use crate::volume::catalog::Catalog;
use crate::volume::error::VolumeError;
use crate::volume::info::{SynchInfo, SynchVolume};
use crate::volume::manage::operations::BUSY_TURNS_MAX;
use crate::volume::pool::Pool;

/// The maximum length of a synch's label, in bytes.
pub const LABEL_BYTES_MAX: usize = 256;
/// The maximum length of a synch's details, in bytes of JSON.
pub const DETAILS_BYTES_MAX: usize = 16_384;

impl Pool {
    /// Writes a synch event: the caller declares that the blocks of all volumes are consistent now
    /// (R25, R26). All writes submitted before are before it.
    ///
    /// # Errors
    /// A label or details that are too long, no room, a failed pool.
    pub async fn create_synch(
        self: Rc<Self>,
        label: String,
        details: serde_json::Value,
    ) -> Result<SynchInfo, VolumeError> {
        self.create_synch_of(label, details, None).await
    }

    /// The same as a mark of one volume or group, by its name: the other volumes are not said to be
    /// consistent.
    ///
    /// # Errors
    /// Those of [`create_synch`](Self::create_synch), and no such volume or group.
    pub async fn create_synch_of(
        self: Rc<Self>,
        label: String,
        details: serde_json::Value,
        of: Option<String>,
    ) -> Result<SynchInfo, VolumeError> {
        if label.is_empty() || label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control) {
            let reason = format!("it must have 1 to {LABEL_BYTES_MAX} bytes and no control characters");
            return Err(VolumeError::Invalid { what: "label", reason });
        }
        if details.to_string().len() > DETAILS_BYTES_MAX {
            let reason = format!("they may have at most {DETAILS_BYTES_MAX} bytes of JSON");
            return Err(VolumeError::Invalid { what: "details", reason });
        }
        for _ in 0..BUSY_TURNS_MAX {
            let appended = {
                let mut state = self.state.borrow_mut();
                let mut log = self.log.borrow_mut();
                let time_ns = log.now_ns();
                let id = state.catalog.next_synch;
                let (volume, group) = mark_of(&state.catalog, of.as_deref())?;
                let (label, details) = (label.clone(), details.clone());
                let mut synch =
                    SynchInfo { id, label, lsn: 0, time_ns, volume, group, details, details_unread: None };
                let text =
                    serde_json::to_vec(&synch).unwrap_or_else(|_| unreachable!("a synch is plain data"));
                match log.append_event(EventKind::Synch, &text) {
                    Ok(lsn) => {
                        synch.lsn = lsn.0;
                        // The catalog of every new segment must record that the id is used.
                        state.catalog.take_synch_id(&mut log, id)?;
                        state.synchs.push(&synch);
                        Some(synch)
                    }
                    Err(AppendError::Busy) => {
                        state.check_not_refusing(&log)?;
                        None
                    }
                    Err(error) => return Err(error.into()),
                }
            };
            if let Some(synch) = appended {
                recovery::stable(&self.log, Lsn(synch.lsn).plus(1)).await?;
                return Ok(synch);
            }
            yield_now().await;
        }
        Err(AppendError::Busy.into())
    }
}

/// What a synch is a mark of: a volume, a group, or neither.
fn mark_of(
    catalog: &Catalog,
    name: Option<&str>,
) -> Result<(Option<SynchVolume>, Option<SynchVolume>), VolumeError> {
    let Some(name) = name else { return Ok((None, None)) };
    if let Some(group) = catalog.group(name) {
        return Ok((None, Some(SynchVolume { uuid: group.uuid, name: name.to_owned() })));
    }
    let volume = catalog.volume(name);
    let volume = volume.ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() })?;
    Ok((Some(SynchVolume { uuid: volume.uuid, name: name.to_owned() }), None))
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_bounds,
        LABEL_BYTES_MAX => "| `label` | text | 1 to {} bytes, no control characters",
        DETAILS_BYTES_MAX => "| `details` | any JSON | at most {} bytes (`DETAILS_BYTES_MAX`)",
    );
}
