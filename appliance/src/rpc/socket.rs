//! The socket file of the command plane: it has mode 0600 from the start, replaces the file of a
//! dead server, and never replaces that of a running one.
//!
//! A client that may connect may destroy data, so the file must never be accessible to others. The
//! umask belongs to the whole process and other threads create files, so it is not changed.
//! Instead, the socket is bound inside a new directory of mode 0700 beside its final place, set to
//! mode 0600 there, and only then renamed to its final path. The rename also replaces a stale file
//! in one step. A lock on `SOCKET.lock`, held while the server runs, decides which of two servers
//! that start at once comes first. The lock file is never removed, because then two servers could
//! lock two different files of that name.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// The maximum length of a socket path, in bytes: the kernel's 107 minus what the private directory
/// needs.
pub const MAX_SOCKET_PATH_BYTES: usize = 90;

/// Why the socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another server answers there.
    #[error(
        "another appliance listens on {}; stop it (varve rpc spdk_kill_instance '{{\"sig_name\":\"SIGTERM\"}}') or choose another socket with --rpc",
        path.display()
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// There is a file, and it is not a socket.
    #[error("{} exists and is not a socket; remove it or choose another socket with --rpc", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// Longer than [`MAX_SOCKET_PATH_BYTES`].
    #[error(
        "the socket's path {} is longer than {MAX_SOCKET_PATH_BYTES} bytes; choose a shorter one with --rpc",
        path.display()
    )]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// The file system or the kernel refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The failed action.
        action: &'static str,
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// A listening socket with its file; dropping it removes the file.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
    _lock: File,
}

impl SocketFile {
    /// Binds and listens. The directory of `path` must exist.
    pub(super) fn bind(path: &Path) -> Result<Self, SocketError> {
        check_len(path)?;
        let lock = take_lock(path)?;
        check_present(path)?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let private = PrivateDir::create(parent)?;
        let inside = private.0.join("s");
        let listener = UnixListener::bind(&inside).map_err(io_error("bind", &inside))?;
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o600))
            .map_err(io_error("set the mode of", &inside))?;
        let metadata = fs::symlink_metadata(&inside).map_err(io_error("look at", &inside))?;
        fs::rename(&inside, path).map_err(io_error("create", path))?;
        listener.set_nonblocking(true).map_err(io_error("set up", path))?;
        Ok(SocketFile {
            listener,
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
            _lock: lock,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Remove only our own file: somebody may have replaced it by hand.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SocketError {
    let path = path.to_owned();
    move |source| SocketError::Io { action, path, source }
}

/// Checks whether a server can listen at `path`, and makes nothing. A directory that is missing is
/// not an error here, because it may be made before the socket is bound.
///
/// # Errors
/// What binding it would report, as far as this is known in advance.
pub fn check_socket(path: &Path) -> Result<(), SocketError> {
    check_len(path)?;
    check_present(path)?;
    let lock_path = lock_path_of(path);
    match OpenOptions::new().write(true).open(&lock_path) {
        // The lock is released when the file is closed.
        Ok(lock) => hold(&lock, &lock_path, path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io_error("open", &lock_path)(error)),
    }
}

fn check_len(path: &Path) -> Result<(), SocketError> {
    if path.as_os_str().len() > MAX_SOCKET_PATH_BYTES {
        return Err(SocketError::TooLong { path: path.to_owned() });
    }
    Ok(())
}

fn lock_path_of(path: &Path) -> PathBuf {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    PathBuf::from(lock_path)
}

fn take_lock(path: &Path) -> Result<File, SocketError> {
    let lock_path = lock_path_of(path);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(io_error("open", &lock_path))?;
    hold(&lock, &lock_path, path)?;
    Ok(lock)
}

fn hold(lock: &File, lock_path: &Path, path: &Path) -> Result<(), SocketError> {
    match flock(lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) => Err(io_error("lock", lock_path)(error.into())),
    }
}

/// Refuses if the existing file must not be replaced: a running server that does not hold our lock,
/// or something that is not a socket.
fn check_present(path: &Path) -> Result<(), SocketError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("look at", path)(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Ok(_) => Err(SocketError::InUse { path: path.to_owned() }),
        Err(error) => Err(io_error("probe", path)(error)),
    }
}

/// A directory that only this user can enter, removed when dropped.
struct PrivateDir(PathBuf);

impl PrivateDir {
    fn create(parent: &Path) -> Result<Self, SocketError> {
        let name = uuid::Uuid::new_v4().simple().to_string();
        let path = parent.join(format!(".{}", &name[..8]));
        DirBuilder::new().mode(0o700).create(&path).map_err(io_error("create the directory", &path))?;
        Ok(PrivateDir(path))
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0.join("s"));
        let _ = fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary directory")
    }

    #[test]
    fn the_socket_is_private_and_goes_with_its_server() {
        let directory = directory();
        let path = directory.path().join("rpc.sock");
        let socket = SocketFile::bind(&path).expect("free");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(&path).expect("listening");
        drop(socket);
        assert!(!path.exists());
        let left: Vec<_> =
            fs::read_dir(directory.path()).expect("readable").flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, ["rpc.sock.lock"]);
    }

    #[test]
    fn a_living_server_is_respected_and_a_dead_ones_file_replaced() {
        let directory = directory();
        let path = directory.path().join("rpc.sock");
        let first = SocketFile::bind(&path).expect("free");
        let error = SocketFile::bind(&path).expect_err("taken");
        assert!(matches!(error, SocketError::InUse { .. }) && error.to_string().contains("--rpc"), "{error}");
        drop(first);
        // A listener of another program, without our lock; then its stale file.
        let foreign = UnixListener::bind(&path).expect("free again");
        assert!(matches!(SocketFile::bind(&path), Err(SocketError::InUse { .. })));
        drop(foreign);
        assert!(path.exists(), "closing does not remove the file");
        SocketFile::bind(&path).expect("stale");
    }

    #[test]
    fn a_check_finds_what_binding_would_report_and_makes_nothing() {
        let directory = directory();
        let path = directory.path().join("rpc.sock");
        let count = || fs::read_dir(directory.path()).expect("readable").count();
        check_socket(&path).expect("free");
        check_socket(&directory.path().join("missing/rpc.sock")).expect("its directory may be made");
        assert_eq!(count(), 0);
        let socket = SocketFile::bind(&path).expect("free");
        assert!(matches!(check_socket(&path), Err(SocketError::InUse { .. })));
        // Its lock alone also tells.
        fs::remove_file(&path).expect("removed by hand");
        assert!(matches!(check_socket(&path), Err(SocketError::InUse { .. })));
        drop(socket);
        check_socket(&path).expect("free again");
        SocketFile::bind(&path).expect("the check kept nothing");
        fs::write(&path, "precious").expect("writable");
        assert!(matches!(check_socket(&path), Err(SocketError::NotASocket { .. })));
        let long = directory.path().join("x".repeat(100));
        assert!(matches!(check_socket(&long), Err(SocketError::TooLong { .. })));
    }

    #[test]
    fn other_files_are_left_alone() {
        let directory = directory();
        let path = directory.path().join("rpc.sock");
        fs::write(&path, "precious").expect("writable");
        assert!(matches!(SocketFile::bind(&path), Err(SocketError::NotASocket { .. })));
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
        let long = directory.path().join("x".repeat(100));
        assert!(matches!(SocketFile::bind(&long), Err(SocketError::TooLong { .. })));
        let missing = directory.path().join("missing/rpc.sock");
        assert!(matches!(SocketFile::bind(&missing), Err(SocketError::Io { .. })));
    }
}
