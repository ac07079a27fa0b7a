//! The directory store: each object is a file.
//!
//! ```text
//! ROOT/lock          held while a store is open, so that two never clean up after each other
//! ROOT/tmp/N         an object that is being put; removed at the next open
//! ROOT/objects/NAME  an object; the slashes of its name are directories
//! ```
//!
//! Only the owner has access to it, whatever the umask.
//!
//! A put writes a file in `tmp`, makes it stable, gives it its name with a rename that refuses to
//! replace (or a hard link, if the file system has no such rename), and makes the directory stable.
//! A name cannot be both an object and a directory of others: the second put is refused as
//! `Exists`.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use super::error::Reason;
use super::{
    Capabilities, Name, ObjectStat, PAGE_OBJECTS_MAX, Page, Put, Sink, Space, Store, StoreError,
    StoreErrorKind, check_range,
};
use crate::private;

/// The settings of a directory store.
#[derive(Debug, Clone, Copy, Default)]
pub struct DirectoryOptions {
    /// The most bytes that all objects together may take; without it, the free space of the file
    /// system.
    pub capacity_bytes: Option<u64>,
}

/// A store in a directory.
pub struct DirectoryStore {
    label: String,
    root: PathBuf,
    options: DirectoryOptions,
    // Held for its lock; `None`: the store is only read, concurrently with its owner.
    lock: Option<File>,
    next_tmp: AtomicU64,
    // Bytes of objects and of open puts.
    used_bytes: Mutex<u64>,
    // Directories below `objects` that this process has made stable in their parent directories.
    stable: Mutex<HashSet<PathBuf>>,
}

impl DirectoryStore {
    /// Opens a directory, which is created if it does not exist, and removes the remains of earlier
    /// puts.
    ///
    /// # Errors
    /// `Unavailable` when it is open elsewhere, or the operating system's.
    pub fn open(root: &Path, options: DirectoryOptions) -> Result<Self, StoreError> {
        let label = format!("directory {}", root.display());
        let failed = |error: &io::Error| StoreError::io(&label, "open", error);
        let objects = root.join("objects");
        private::create_dir_all(&objects).map_err(|error| failed(&error))?;
        let lock = private::open_or_create(&root.join("lock")).map_err(|error| failed(&error))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            if errno == rustix::io::Errno::WOULDBLOCK {
                let busy = Reason::Busy("another process has it open");
                StoreError::new(&label, "open", StoreErrorKind::Unavailable(busy))
            } else {
                failed(&errno.into())
            }
        })?;
        let tmp = root.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&error)),
            _ => {}
        }
        private::create_dir(&tmp).and_then(|()| sync_directory(root)).map_err(|error| failed(&error))?;
        keep_private(root, &objects).map_err(|error| failed(&error))?;
        Self::opened(label, root, options, Some(lock))
    }

    /// Opens a directory only for reading; its owner may use it at the same time. Nothing is
    /// created or removed.
    ///
    /// # Errors
    /// `NotFound` when there is no store, or the operating system's.
    pub fn open_reader(root: &Path) -> Result<Self, StoreError> {
        let label = format!("directory {}", root.display());
        fs::metadata(root.join("objects")).map_err(|error| StoreError::io(&label, "open", &error))?;
        Self::opened(label, root, DirectoryOptions::default(), None)
    }

    fn opened(
        label: String,
        root: &Path,
        options: DirectoryOptions,
        lock: Option<File>,
    ) -> Result<Self, StoreError> {
        let store = DirectoryStore {
            label,
            root: root.to_owned(),
            options,
            lock,
            next_tmp: AtomicU64::new(0),
            used_bytes: Mutex::new(0),
            stable: Mutex::default(),
        };
        let mut used_bytes = 0_u64;
        store.walk(&store.root.join("objects"), "", "", &mut |_, len_bytes| {
            used_bytes = used_bytes.saturating_add(len_bytes);
        })?;
        *store.used() = used_bytes;
        Ok(store)
    }

    /// Refuses changes of a store that is only read.
    fn check_writable(&self, operation: &'static str, name: &Name) -> Result<(), StoreError> {
        if self.lock.is_some() {
            return Ok(());
        }
        let kind = StoreErrorKind::Refused("the directory was opened only to be read");
        Err(self.error(operation, kind, name))
    }

    fn used(&self) -> std::sync::MutexGuard<'_, u64> {
        self.used_bytes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Makes the directories of a name, each stable in its parent, including directories that
    /// another process created and did not make stable before it died.
    fn make_parents(&self, path: &Path) -> io::Result<()> {
        let Some(parent) = path.parent() else { return Ok(()) };
        let is_stable = |path: &Path| {
            self.stable.lock().unwrap_or_else(std::sync::PoisonError::into_inner).contains(path)
        };
        if parent == self.root || is_stable(parent) {
            return Ok(());
        }
        self.make_parents(parent)?;
        match private::create_dir(parent) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        parent.parent().map_or(Ok(()), sync_directory)?;
        let mut stable = self.stable.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        stable.insert(parent.to_owned());
        Ok(())
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.root.join("objects").join(name.as_str())
    }

    fn failed(&self, operation: &'static str, error: &io::Error) -> StoreError {
        StoreError::io(&self.label, operation, error)
    }

    fn error(&self, operation: &'static str, kind: StoreErrorKind, name: &Name) -> StoreError {
        StoreError::new(&self.label, operation, kind).of(name)
    }

    fn open_object(&self, operation: &'static str, name: &Name) -> Result<(File, ObjectStat), StoreError> {
        let opened = File::open(self.path(name)).and_then(|file| {
            let metadata = file.metadata()?;
            Ok((file, metadata))
        });
        match opened {
            Ok((file, metadata)) if metadata.is_file() => {
                Ok((file, ObjectStat { name: name.clone(), len_bytes: metadata.len() }))
            }
            Ok(_) => Err(self.error(operation, StoreErrorKind::NotFound, name)),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
                Err(self.error(operation, StoreErrorKind::NotFound, name))
            }
            Err(error) => Err(self.failed(operation, &error).of(name)),
        }
    }

    /// Calls `found` for each object whose name begins with `prefix`. Files whose names are not
    /// valid object names are skipped.
    fn walk(
        &self,
        directory: &Path,
        path: &str,
        prefix: &str,
        found: &mut dyn FnMut(Name, u64),
    ) -> Result<(), StoreError> {
        let failed = |error: &io::Error| self.failed("list", error);
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            // An empty directory may be removed at any time.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(&error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| failed(&error))?;
            let file_name = entry.file_name();
            let Some(part) = file_name.to_str() else { continue };
            let text = format!("{path}{part}");
            let kind = entry.file_type().map_err(|error| failed(&error))?;
            if kind.is_dir() {
                let inside = format!("{text}/");
                if inside.starts_with(prefix) || prefix.starts_with(&inside) {
                    self.walk(&entry.path(), &inside, prefix, found)?;
                }
            } else if kind.is_file() && text.starts_with(prefix) {
                let Ok(name) = Name::new(&text) else { continue };
                match entry.metadata() {
                    Ok(metadata) => found(name, metadata.len()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(failed(&error)),
                }
            }
        }
        Ok(())
    }
}

/// Restricts the access rights of files that an earlier version created, or that were created by
/// hand.
fn keep_private(root: &Path, objects: &Path) -> io::Result<()> {
    // If others cannot enter the directory, they cannot reach the files in it.
    if private::tighten(objects)? {
        private::tighten_all(objects)?;
    }
    private::tighten_own(root, |name| matches!(name, "objects" | "tmp" | "lock"))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Gives a file its final name, and never replaces another file.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        Err(errno) => Err(errno.into()),
    }
}

struct DirectoryPut<'a> {
    store: &'a DirectoryStore,
    name: Name,
    tmp: PathBuf,
    file: File,
    max_bytes: u64,
    len_bytes: u64,
    committed: bool,
}

impl Sink for DirectoryPut<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let len_bytes = super::longer(self.len_bytes, bytes.len());
        if len_bytes > self.max_bytes {
            return Err(self.store.error("put", StoreErrorKind::OutOfRange, &self.name));
        }
        {
            let mut used = self.store.used();
            let used_bytes = super::longer(*used, bytes.len());
            if self.store.options.capacity_bytes.is_some_and(|capacity| used_bytes > capacity) {
                return Err(self.store.error("put", StoreErrorKind::NoSpace, &self.name));
            }
            *used = used_bytes;
        }
        self.len_bytes = len_bytes;
        self.file.write_all(bytes).map_err(|error| self.store.failed("put", &error).of(&self.name))
    }
}

impl Put for DirectoryPut<'_> {
    fn commit(mut self: Box<Self>) -> Result<ObjectStat, StoreError> {
        let path = self.store.path(&self.name);
        let committed = self
            .file
            .sync_all()
            .and_then(|()| self.store.make_parents(&path))
            .and_then(|()| rename_new(&self.tmp, &path));
        if let Err(error) = committed {
            let error = if error.kind() == io::ErrorKind::NotADirectory {
                // An object has the name of a directory that this one needs.
                self.store.error("put", StoreErrorKind::Exists, &self.name)
            } else {
                self.store.failed("put", &error).of(&self.name)
            };
            return Err(error);
        }
        self.committed = true;
        path.parent()
            .map_or(Ok(()), sync_directory)
            .map_err(|error| self.store.failed("put", &error).of(&self.name))?;
        Ok(ObjectStat { name: self.name.clone(), len_bytes: self.len_bytes })
    }
}

impl Drop for DirectoryPut<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // If it cannot be removed now, the next open removes it.
            let _ = fs::remove_file(&self.tmp);
            let mut used = self.store.used();
            *used = used.saturating_sub(self.len_bytes);
        }
    }
}

impl Store for DirectoryStore {
    fn label(&self) -> &str {
        &self.label
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: "directory",
            random_access: true,
            conditional_put: true,
            rename: true,
            sequential_only: false,
            reclaims_space: true,
            object_bytes_max: self.options.capacity_bytes,
        }
    }

    fn put_start<'a>(&'a self, name: &Name, max_bytes: u64) -> Result<Box<dyn Put + 'a>, StoreError> {
        self.check_writable("put", name)?;
        if fs::symlink_metadata(self.path(name)).is_ok() {
            return Err(self.error("put", StoreErrorKind::Exists, name));
        }
        let tmp = self.root.join("tmp").join(self.next_tmp.fetch_add(1, Ordering::Relaxed).to_string());
        let file = private::create_new(&tmp).map_err(|error| self.failed("put", &error).of(name))?;
        let name = name.clone();
        Ok(Box::new(DirectoryPut { store: self, name, tmp, file, max_bytes, len_bytes: 0, committed: false }))
    }

    fn stat(&self, name: &Name) -> Result<ObjectStat, StoreError> {
        self.open_object("stat", name).map(|(_, stat)| stat)
    }

    fn get_range(&self, name: &Name, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let (file, stat) = self.open_object("get", name)?;
        check_range(&stat, &self.label, offset, buffer.len())?;
        file.read_exact_at(buffer, offset).map_err(|error| self.failed("get", &error).of(name))
    }

    fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Page, StoreError> {
        let limit = limit.min(PAGE_OBJECTS_MAX);
        // Only the first names are kept in memory, however many files there are.
        let mut first = BTreeMap::new();
        self.walk(&self.root.join("objects"), "", prefix, &mut |name, len_bytes| {
            if after.is_none_or(|after| name > *after) {
                first.insert(name, len_bytes);
                if first.len() > limit.saturating_add(1) {
                    first.pop_last();
                }
            }
        })?;
        let objects = first.into_iter().map(|(name, len_bytes)| ObjectStat { name, len_bytes });
        Ok(super::page(objects, limit))
    }

    fn make_durable(&self, name: &Name) -> Result<(), StoreError> {
        let (file, _) = self.open_object("sync", name)?;
        let path = self.path(name);
        file.sync_all()
            .and_then(|()| self.make_parents(&path))
            .and_then(|()| path.parent().map_or(Ok(()), sync_directory))
            .map_err(|error| self.failed("sync", &error).of(name))
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.check_writable("delete", name)?;
        let path = self.path(name);
        let stat = match self.open_object("delete", name) {
            Ok((_, stat)) => stat,
            Err(error) => {
                // The process that removed it may not have made that stable.
                if let Some(parent) = path.parent().filter(|parent| parent.is_dir()) {
                    sync_directory(parent).map_err(|error| self.failed("delete", &error).of(name))?;
                }
                return Err(error);
            }
        };
        fs::remove_file(&path)
            .and_then(|()| path.parent().map_or(Ok(()), sync_directory))
            .map_err(|error| self.failed("delete", &error).of(name))?;
        let mut used = self.used();
        *used = used.saturating_sub(stat.len_bytes);
        Ok(())
    }

    fn sync(&self) -> Result<(), StoreError> {
        sync_directory(&self.root.join("objects")).map_err(|error| self.failed("sync", &error))
    }

    fn space(&self) -> Result<Space, StoreError> {
        let used_bytes = *self.used();
        let total_bytes = if let Some(capacity) = self.options.capacity_bytes {
            Some(capacity)
        } else {
            let system =
                rustix::fs::statvfs(&self.root).map_err(|errno| self.failed("space", &errno.into()))?;
            Some(used_bytes.saturating_add(system.f_bavail.saturating_mul(system.f_frsize)))
        };
        Ok(Space { total_bytes, used_bytes })
    }
}
