//! What a start reports about the archive.

/// What an appliance reports about its archive when it starts.
#[derive(Debug, Clone)]
pub struct ArchiveStarted {
    /// The store's label.
    pub store: String,
    /// Objects of the pool in it.
    pub objects: u64,
    /// Synchs of the whole history.
    pub synchs: u64,
    /// Why it could not be reached; the appliance keeps trying.
    pub away: Option<String>,
    /// Notes for the operator.
    pub notes: Vec<String>,
}

/// The lines that a start prints about the archive.
pub(in crate::serve) fn lines(archive: Option<&ArchiveStarted>) -> Vec<String> {
    let Some(archive) = archive else {
        return vec!["no archive: the past is kept only as far as the primary reaches".to_owned()];
    };
    let mut lines = vec![match &archive.away {
        Some(why) => format!("archive in {}: not reached, it is tried again: {why}", archive.store),
        None => {
            format!("archive in {}: {} objects, {} synchs", archive.store, archive.objects, archive.synchs)
        }
    }];
    lines.extend(archive.notes.iter().map(|note| format!("note: {note}")));
    lines
}
