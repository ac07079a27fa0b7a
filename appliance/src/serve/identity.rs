//! The identity file, which records that a pool was here, so that nothing new is begun where
//! something is missing.
//!
//! ```text
//! DIR/pool.varve            the pool
//! DIR/pool.varve.id         its identity: exists as soon as the pool is complete
//! DIR/pool.varve.creating   names the file of a pool in the making; removed when it is complete
//! ```
//!
//! **States of a pool's file:** nothing → blank (its size, all zeroes) → marked (`.creating` names
//! it) → written → known (`.id` exists) → served. No pool is served before it is known. So the next
//! start can discard a file that is marked and not known, and can use one that is blank. The mark
//! holds the file's device and inode numbers: a file that was put there since is a different one,
//! and is not touched. A pool without an identity that was not marked was made by an earlier
//! version: it is opened as usual, and gets an identity.
//!
//! Each of these files is written under a temporary name beside it, made stable, renamed, and its
//! directory made stable.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ServeError;
use crate::private;

/// The contents of the identity file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Identity {
    /// The pool.
    pub(super) pool: Uuid,
    /// When it was made, ns since the Unix epoch.
    pub(super) created_ns: u64,
    /// The size of its device in bytes.
    pub(super) device_bytes: u64,
    /// Its archive, once it has one.
    pub(super) archive: Option<ArchiveIdentity>,
    /// Whether it is a rehearsal of a recovery, which only reads its archive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) rehearsal: bool,
}

/// The archive of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ArchiveIdentity {
    /// The store's label when it was last used.
    pub(super) store: String,
    /// The identity in the store's identity object.
    pub(super) id: Uuid,
}

/// What the identity file says about a pool that was here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FormerPool {
    /// There is no identity file.
    Nothing,
    /// There was a pool; the file cannot be understood.
    Damaged,
    /// There was this pool.
    Known(Identity),
}

impl FormerPool {
    /// Whether it is a rehearsal.
    pub(super) fn is_rehearsal(&self) -> bool {
        matches!(self, FormerPool::Known(Identity { rehearsal: true, .. }))
    }

    pub(super) fn archive(&self) -> Option<&ArchiveIdentity> {
        match self {
            FormerPool::Known(identity) => identity.archive.as_ref(),
            _ => None,
        }
    }
}

/// The identity file of the pool in `pool_file`.
pub(super) fn path_of(pool_file: &Path) -> PathBuf {
    with_suffix(pool_file, ".id")
}

fn mark_of(pool_file: &Path) -> PathBuf {
    with_suffix(pool_file, ".creating")
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    PathBuf::from(text)
}

/// Reads the identity of the pool in `pool_file`.
///
/// # Errors
/// The file cannot be read, which differs from its absence.
pub(super) fn read(pool_file: &Path) -> Result<FormerPool, ServeError> {
    let path = path_of(pool_file);
    match fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).map_or(FormerPool::Damaged, FormerPool::Known)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(FormerPool::Nothing),
        Err(source) => Err(ServeError::Identity { path, source }),
    }
}

/// Writes the identity of the pool in `pool_file`; it is stable when this returns. This completes a
/// creation.
pub(super) fn write(pool_file: &Path, identity: &Identity) -> Result<(), ServeError> {
    let path = path_of(pool_file);
    let text =
        serde_json::to_vec_pretty(identity).unwrap_or_else(|_| unreachable!("an identity is plain data"));
    private::replace(&path, &text).map_err(|source| ServeError::Identity { path, source })?;
    unmark(pool_file)
}

/// Records that a pool is being made in `pool_file`, which exists and is blank.
pub(super) fn mark(pool_file: &Path) -> Result<(), ServeError> {
    let path = mark_of(pool_file);
    let marked =
        fs::metadata(pool_file).and_then(|metadata| private::replace(&path, mark_text(&metadata).as_bytes()));
    marked.map(drop).map_err(|source| ServeError::Identity { path, source })
}

/// Discards what an interrupted creation has left in `pool_file`. Returns whether there was
/// something.
pub(super) fn clear_marked(pool_file: &Path) -> Result<bool, ServeError> {
    let path = mark_of(pool_file);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(source) => return Err(ServeError::Identity { path, source }),
    };
    let mut cleared = false;
    if read(pool_file)? == FormerPool::Nothing {
        let failed = |source| ServeError::Identity { path: pool_file.to_owned(), source };
        match fs::metadata(pool_file) {
            Ok(metadata) if mark_text(&metadata) == text => {
                clear(pool_file, &metadata).map_err(failed)?;
                cleared = true;
            }
            Err(source) if source.kind() != ErrorKind::NotFound => return Err(failed(source)),
            _ => {}
        }
    }
    unmark(pool_file)?;
    Ok(cleared)
}

/// Discards a failed creation: the file is blank again, and removed if this start created it.
/// Returns whether there was one; a complete pool stays. The caller has the file open.
pub(super) fn undo_creation(pool_file: &Path, is_made: bool) -> Result<bool, ServeError> {
    let cleared = clear_marked(pool_file)?;
    if cleared && is_made {
        let failed = |source| ServeError::Identity { path: pool_file.to_owned(), source };
        fs::remove_file(pool_file).map_err(failed)?;
    }
    Ok(cleared)
}

/// Truncates a file; on a device, clears the superblocks that make it a pool.
fn clear(pool_file: &Path, metadata: &fs::Metadata) -> io::Result<()> {
    use std::os::unix::fs::FileExt;
    let file = File::options().write(true).open(pool_file)?;
    if metadata.file_type().is_block_device() {
        let zeroes = [0; crate::dma::BLOCK_BYTES];
        for block in 0..crate::log::format::SUPERBLOCK_HEADS {
            file.write_all_at(&zeroes, block * crate::dma::BLOCK_BYTES as u64)?;
        }
        // A copy may be stored in the last block.
        let len_bytes = io::Seek::seek(&mut &file, io::SeekFrom::End(0))?;
        file.write_all_at(&zeroes, len_bytes.saturating_sub(zeroes.len() as u64))?;
    } else {
        file.set_len(0)?;
    }
    file.sync_all()
}

fn unmark(pool_file: &Path) -> Result<(), ServeError> {
    let path = mark_of(pool_file);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(ServeError::Identity { path, source }),
        _ => Ok(()),
    }
}

/// Identifies a file independently of its name.
fn mark_text(metadata: &fs::Metadata) -> String {
    if metadata.file_type().is_block_device() {
        format!("device {}\n", metadata.rdev())
    } else {
        format!("file {} on {}\n", metadata.ino(), metadata.dev())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_these_keys() {
        crate::document::check_keys(
            "### Identity: `pool.varve.id`",
            "| key |",
            &Identity { rehearsal: true, ..identity() },
        );
    }

    fn identity() -> Identity {
        let archive = ArchiveIdentity { store: "directory a".to_owned(), id: Uuid::from_u128(2) };
        Identity {
            pool: Uuid::from_u128(1),
            created_ns: 5,
            device_bytes: 4096,
            archive: Some(archive),
            rehearsal: false,
        }
    }

    #[test]
    fn an_identity_is_read_as_it_was_written_and_damage_is_not_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let pool = folder.path().join("pool.varve");
        assert_eq!(read(&pool).expect("nothing is there"), FormerPool::Nothing);
        for _ in 0..2 {
            write(&pool, &identity()).expect("it is written, twice too");
        }
        assert_eq!(read(&pool).expect("it is read"), FormerPool::Known(identity()));
        assert_eq!(fs::read_dir(folder.path()).expect("a list").count(), 1, "nothing else is left");
        fs::write(path_of(&pool), b"{}").expect("written");
        assert_eq!(read(&pool).expect("it is read"), FormerPool::Damaged);
        fs::remove_file(path_of(&pool)).and_then(|()| fs::create_dir(path_of(&pool))).expect("made");
        assert!(matches!(read(&pool), Err(ServeError::Identity { .. })), "what cannot be read is an error");
    }

    #[test]
    fn a_creation_that_failed_is_gone_and_a_pool_that_is_complete_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let pool = folder.path().join("pool.varve");
        let names = || fs::read_dir(folder.path()).expect("a list").count();
        for is_made in [true, false] {
            fs::write(&pool, b"half a pool").expect("written");
            mark(&pool).expect("marked");
            assert!(undo_creation(&pool, is_made).expect("undone"));
            assert_eq!((pool.exists(), names()), (!is_made, usize::from(!is_made)));
        }
        fs::write(&pool, b"a pool").expect("written");
        mark(&pool).expect("marked");
        write(&pool, &identity()).expect("complete");
        assert!(!undo_creation(&pool, true).expect("it stays"));
        assert_eq!(fs::read(&pool).expect("there"), b"a pool");
    }

    #[test]
    fn only_what_was_marked_and_is_not_known_is_thrown_away() {
        let folder = tempfile::tempdir().expect("a folder");
        let pool = folder.path().join("pool.varve");
        let len = || fs::metadata(&pool).expect("there").len();
        assert!(!clear_marked(&pool).expect("nothing is there"));
        fs::write(&pool, b"half a pool").expect("written");
        assert!(!clear_marked(&pool).expect("it is not marked"));
        mark(&pool).expect("marked");
        assert!(clear_marked(&pool).expect("cleared"));
        assert_eq!(len(), 0);
        assert!(!clear_marked(&pool).expect("the mark is gone"));
        // Another file with that name.
        mark(&pool).expect("marked");
        fs::write(folder.path().join("other"), b"somebody's pool").expect("written");
        fs::rename(folder.path().join("other"), &pool).expect("renamed");
        assert!(!clear_marked(&pool).expect("it is another"));
        assert_eq!(len(), 15);
        // A pool that is complete.
        mark(&pool).expect("marked");
        let mark = fs::read(mark_of(&pool)).expect("the mark");
        write(&pool, &identity()).expect("complete");
        assert!(!mark_of(&pool).exists());
        fs::write(mark_of(&pool), mark).expect("as if it had been cut short there");
        assert!(!clear_marked(&pool).expect("it is known"));
        assert_eq!(len(), 15);
    }
}
