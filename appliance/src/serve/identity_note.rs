//! Writes the identity of the pool that is served, if it has changed.

use super::identity::{self, ArchiveIdentity, FormerPool, Identity};
use super::{ApplianceConfig, Backing, ServeError};
use crate::volume::Pool;

/// Writes which pool is here, if that is new, and returns notes for the operator. The first write
/// completes a creation.
pub(super) fn note_identity(
    config: &ApplianceConfig,
    pool: &Pool,
    is_new: bool,
    archive: Option<ArchiveIdentity>,
) -> Result<Vec<String>, ServeError> {
    let Backing::File { path, .. } = &config.backing else { return Ok(Vec::new()) };
    let info = pool.info();
    let found = if is_new { FormerPool::Nothing } else { identity::read(path)? };
    let identity = Identity {
        pool: info.uuid,
        created_ns: info.created_ns,
        device_bytes: info.device_bytes,
        archive: archive.or_else(|| found.archive().cloned()),
        rehearsal: pool.ownership().rehearsal_lsn.is_some(),
    };
    if found == FormerPool::Known(identity.clone()) {
        return Ok(Vec::new());
    }
    let written = identity::write(path, &identity);
    if is_new {
        return written.map(|()| Vec::new());
    }
    let mut notes = Vec::new();
    if let FormerPool::Known(other) = &found
        && other.pool != identity.pool
    {
        notes.push(format!("this is pool {}, and {} was here before", identity.pool, other.pool));
    }
    // A full file system does not prevent serving the pool.
    notes.extend(
        written
            .err()
            .map(|error| format!("{error}; should the pool's file be lost, that might not be noticed")),
    );
    Ok(notes)
}
