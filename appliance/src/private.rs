//! Files and directories that only their owner can read, whatever the umask: they hold what hosts
//! have written, or say where it is.
//!
//! The permissions of a file or directory that an earlier version or a person made are tightened
//! when it is opened. An existing directory is tightened only if it contains nothing but varve's
//! own files: it may be somebody's home directory.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Mode of a private file.
const FILE_MODE: u32 = 0o600;
/// Mode of a private directory.
const DIRECTORY_MODE: u32 = 0o700;
/// The permission bits of others.
const OTHERS: u32 = 0o077;

/// Options that make private files; [`made`] corrects the mode if an unusual umask changed it.
fn options() -> OpenOptions {
    let mut options = File::options();
    options.mode(FILE_MODE);
    options
}

/// Creates a file, or truncates the existing one.
///
/// # Errors
/// The operating system's.
pub fn create(path: &Path) -> io::Result<File> {
    made(options().read(true).write(true).create(true).truncate(true).open(path)?)
}

/// Creates a file that does not exist.
///
/// # Errors
/// The operating system's; `AlreadyExists`.
pub fn create_new(path: &Path) -> io::Result<File> {
    made(options().read(true).write(true).create_new(true).open(path)?)
}

/// Opens a file for reading and writing, and creates it if it does not exist.
///
/// # Errors
/// The operating system's.
pub fn open_or_create(path: &Path) -> io::Result<File> {
    made(options().read(true).write(true).create(true).truncate(false).open(path)?)
}

/// Replaces the contents of a file.
///
/// # Errors
/// The operating system's.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    io::Write::write_all(&mut create(path)?, bytes)
}

/// Replaces a file atomically and durably: after a crash it is the old one or the new one. The new
/// contents are first written to `PATH.new`. Returns the file, open at the end of its contents.
///
/// # Errors
/// The operating system's.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let mut file = create(Path::new(&new))?;
    io::Write::write_all(&mut file, bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    sync_parent(path)?;
    Ok(file)
}

/// Makes the names in the directory of a path stable.
///
/// # Errors
/// The operating system's.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Creates a directory that does not exist.
///
/// # Errors
/// The operating system's; `AlreadyExists`.
pub fn create_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(DIRECTORY_MODE).create(path)?;
    if fs::metadata(path)?.mode() & 0o777 != DIRECTORY_MODE {
        forgive(fs::set_permissions(path, Permissions::from_mode(DIRECTORY_MODE)), path)?;
    }
    Ok(())
}

/// Creates a directory and its missing parents.
///
/// # Errors
/// The operating system's.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        create_dir_all(parent)?;
    }
    match create_dir(path) {
        // Another process created it first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        result => result,
    }
}

/// Removes the permissions of others on a regular file or a directory. Returns whether they had
/// any. Devices are left to the administrator.
///
/// # Errors
/// The operating system's. It is no error if the file belongs to another user, or its file system
/// has no modes.
pub fn tighten(path: &Path) -> io::Result<bool> {
    let metadata = fs::metadata(path)?;
    let is_ours_to_set = metadata.is_file() || metadata.is_dir();
    if !is_ours_to_set || metadata.mode() & OTHERS == 0 {
        return Ok(false);
    }
    let mode = metadata.mode() & 0o7777 & !OTHERS;
    forgive(fs::set_permissions(path, Permissions::from_mode(mode)), path)?;
    Ok(true)
}

/// Tightens a directory and everything in it.
///
/// # Errors
/// As [`tighten`].
pub fn tighten_all(path: &Path) -> io::Result<()> {
    tighten(path)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            tighten_all(&entry.path())?;
        } else if kind.is_file() {
            tighten(&entry.path())?;
        }
    }
    Ok(())
}

/// Tightens the files and directories in a directory whose names are varve's own, but not the
/// contents of those directories; also the directory itself if it contains nothing else.
///
/// # Errors
/// As [`tighten`].
pub fn tighten_own(path: &Path, is_own: impl Fn(&str) -> bool) -> io::Result<()> {
    let mut all = true;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(&is_own) {
            all = false;
        } else if !entry.file_type()?.is_symlink() {
            tighten(&entry.path())?;
        }
    }
    if all {
        tighten(path)?;
    }
    Ok(())
}

/// Sets the mode of an opened file, if it has another.
fn made(file: File) -> io::Result<File> {
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.mode() & 0o777 != FILE_MODE {
        let set = file.set_permissions(Permissions::from_mode(FILE_MODE));
        forgive(set, Path::new("a file"))?;
    }
    Ok(file)
}

/// A file of another user, or on a file system without modes, is used as it is.
fn forgive(result: io::Result<()>, path: &Path) -> io::Result<()> {
    match result {
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::PermissionDenied
                    | io::ErrorKind::Unsupported
                    | io::ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            tracing::warn!(path = %path.display(), %error, "others may be able to read this, and it cannot be kept from them");
            Ok(())
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").mode() & 0o777
    }

    fn loosen(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("ours");
    }

    #[test]
    fn what_is_made_is_private_and_what_was_there_is_tightened() {
        let folder = tempfile::tempdir().expect("a folder");
        let deep = folder.path().join("a/b");
        create_dir_all(&deep).expect("made");
        create_dir_all(&deep).expect("there");
        assert_eq!((mode(&deep), mode(&folder.path().join("a"))), (0o700, 0o700));
        let file = deep.join("f");
        write(&file, b"x").expect("written");
        assert_eq!(mode(&file), 0o600);
        for again in [create, open_or_create] {
            loosen(&file, 0o666);
            again(&file).expect("opened");
            assert_eq!(mode(&file), 0o600);
        }
        assert!(create_new(&file).is_err());
        loosen(&file, 0o644);
        loosen(&deep, 0o755);
        tighten_all(&deep).expect("ours");
        assert_eq!((mode(&file), mode(&deep)), (0o600, 0o700));
        assert!(!tighten(&file).expect("ours"));
    }

    #[test]
    fn a_directory_with_other_things_in_it_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path();
        loosen(path, 0o755);
        write(&path.join("ours"), b"").expect("written");
        write(&path.join("theirs"), b"").expect("written");
        loosen(&path.join("ours"), 0o644);
        loosen(&path.join("theirs"), 0o644);
        tighten_own(path, |name| name == "ours").expect("looked at");
        assert_eq!((mode(path), mode(&path.join("ours")), mode(&path.join("theirs"))), (0o755, 0o600, 0o644));
        tighten_own(path, |_| true).expect("ours");
        assert_eq!((mode(path), mode(&path.join("theirs"))), (0o700, 0o600));
    }
}
