//! Opens the store of an archive at its place, creates it if it is new, and probes it before
//! anything depends on it.
//!
//! **Never overwritten:** a file or device that holds something other than a varve store,
//! cartridges with other contents, other files of a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use crate::archive::anchor::{AnchorName, anchor_prefix};
use crate::archive::catalog::is_same_store;
use crate::archive::object::{ObjectId, pool_prefix};
use crate::archive::store::{
    Check, CheckOutcome, DeviceStore, DirectoryOptions, DirectoryStore, FileMedium, Medium, Name, S3Store,
    Store, StoreError, StoreErrorKind, probe,
};
use crate::private;

use super::error::StoreOpenError;
use super::opened::{OpenedStore, make_directory};
use super::spec::StoreSpec;
use super::tape;
use super::tape_spec::TapeSpec;

/// How many bytes at the start of a device must be zero before a store is created on it. A store
/// that has lost its first blocks still has object headers in this range.
const BLANK_BYTES: u64 = 1 << 30;
/// How many of these bytes one read checks.
const LOOK_BYTES: u64 = 1 << 20;

/// Opens a store, creating it if it is new, and probes it with a small object. Blocks.
///
/// # Errors
/// [`StoreOpenError`]. What was there is unchanged.
pub fn open_store(spec: &StoreSpec) -> Result<OpenedStore, StoreOpenError> {
    let mut opened = open_unprobed(spec)?;
    let report = probe(&*opened.store, Uuid::new_v4());
    for (check, outcome) in report.checks {
        let (what, error) = match outcome {
            CheckOutcome::Passed => continue,
            // Two owners of one place could overwrite each other's objects. A single owner cannot,
            // because it checks for the object first on such a store.
            CheckOutcome::Lied if check == Check::RefusesOverwrite => {
                opened.notes.push(format!(
                    "{} does not refuse to overwrite an object: let no second appliance use this place",
                    opened.store.label()
                ));
                continue;
            }
            CheckOutcome::Lied => (format!("{}, and that is not so here", promise(check)), None),
            // Its contents can be read, and the operator can make room.
            CheckOutcome::Failed(error) if takes_nothing_now(&*opened.store, check, &error) => {
                opened.notes.push(format!("nothing can be archived now: {error}"));
                continue;
            }
            // A retention lock, or a policy that protects the archive from an intruder. What is
            // there is safe, and what expires stays.
            CheckOutcome::Failed(error) if keeps_all(check, &error) => {
                opened.notes.push(format!("what expires stays in the archive and takes its space: {error}"));
                continue;
            }
            CheckOutcome::Failed(error) => (error.to_string(), Some(Box::new(error))),
        };
        let store = opened.store.label().to_owned();
        return Err(StoreOpenError::Probe { store, what, error });
    }
    Ok(opened)
}

/// Opens an existing store for reading only. A directory and a bucket may have an owner at the same
/// time; a device and tapes can be open only once. Nothing is probed, created or changed. Blocks.
///
/// # Errors
/// [`StoreOpenError`].
pub(in crate::serve) fn open_reader(spec: &StoreSpec) -> Result<OpenedStore, StoreOpenError> {
    match spec {
        StoreSpec::Directory { path } => {
            let store: Arc<dyn Store> = Arc::new(DirectoryStore::open_reader(path)?);
            Ok(OpenedStore { store, notes: Vec::new() })
        }
        _ => open_unprobed(spec),
    }
}

/// Whether a store fails the probe only because it takes nothing now: it is full, or its cartridges
/// must not be written.
fn takes_nothing_now(store: &dyn Store, check: Check, error: &StoreError) -> bool {
    check == Check::Put
        && match error.kind {
            StoreErrorKind::NoSpace => true,
            StoreErrorKind::Refused(_) => store.capabilities().sequential_only,
            _ => false,
        }
}

/// Whether a store fails the probe only because it refuses to delete.
fn keeps_all(check: Check, error: &StoreError) -> bool {
    check == Check::Delete && error.is_refusal()
}

/// What a check expects, in words.
fn promise(check: Check) -> &'static str {
    match check {
        Check::Put => "an object was written",
        Check::InvisibleBeforeCommit => "an object must not be visible before it is complete",
        Check::ListAfterPut => "an object must be listed once it is written",
        Check::ReadBack => "an object must read back as it was written",
        Check::RangedRead => "a part of an object must read back as it was written",
        Check::RefusesOverwrite => "an object must not be overwritten",
        Check::Delete => "an object must be gone once it is deleted",
    }
}

impl StoreSpec {
    /// Whether a store with that label is the one at this place.
    pub(in crate::serve) fn is_place_of(&self, label: &str) -> bool {
        let is = |kind: &str, path: &Path| is_same_store(label, &format!("{kind} {}", path.display()));
        match self {
            StoreSpec::Directory { path } => is("directory", path),
            StoreSpec::Device { path, .. } => is("device", path),
            StoreSpec::Tape(tape) => is("tape library", &tape.path) || is("tape drive", &tape.path),
            StoreSpec::S3(config) => label == config.label(),
        }
    }

    /// The same place as an absolute path, so that one archive has one label in every working
    /// directory.
    #[must_use]
    pub(in crate::serve) fn absolute(self) -> Self {
        // Only an empty path has no absolute form, and the parser refuses that.
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        match self {
            StoreSpec::Directory { path } => StoreSpec::Directory { path: absolute(path) },
            StoreSpec::Device { path, create_bytes } => {
                StoreSpec::Device { path: absolute(path), create_bytes }
            }
            StoreSpec::Tape(tape) => StoreSpec::Tape(TapeSpec {
                path: absolute(tape.path),
                stage: tape.stage.map(absolute),
                ..tape
            }),
            StoreSpec::S3(config) => StoreSpec::S3(config),
        }
    }

    /// Whether nothing is at the place, so that opening it would create a new store there. `false`
    /// for a bucket, which is checked when it is opened.
    pub(in crate::serve) fn is_missing(&self) -> bool {
        match self {
            StoreSpec::Directory { path } => !path.join("objects").is_dir(),
            StoreSpec::Device { path, .. } => {
                std::fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
                    || !path.exists()
            }
            StoreSpec::Tape(tape) => !tape.exists(),
            StoreSpec::S3(_) => false,
        }
    }
}

fn open_unprobed(spec: &StoreSpec) -> Result<OpenedStore, StoreOpenError> {
    let plain = |store: Arc<dyn Store>| OpenedStore { store, notes: Vec::new() };
    match spec {
        StoreSpec::Directory { path } => {
            make_directory(path)?;
            Ok(plain(Arc::new(DirectoryStore::open(path, DirectoryOptions::default())?)))
        }
        StoreSpec::Device { path, create_bytes } => open_device(path, *create_bytes),
        StoreSpec::Tape(spec) => tape::open(spec),
        StoreSpec::S3(config) => {
            let store = S3Store::open((**config).clone())?;
            let notes = store.notes();
            Ok(OpenedStore { store: Arc::new(store), notes })
        }
    }
}

fn open_device(path: &Path, create_bytes: Option<u64>) -> Result<OpenedStore, StoreOpenError> {
    let failed = |source| StoreOpenError::Io { path: path.to_owned(), source };
    let label = format!("device {}", path.display());
    let length = match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Some(metadata.len()),
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(0),
        Err(error) => return Err(failed(error)),
    };
    if length == Some(0) {
        let bytes = create_bytes.ok_or_else(|| StoreOpenError::NoSuchDevice { path: path.to_owned() })?;
        let file = private::open_or_create(path).map_err(failed)?;
        file.set_len(bytes / BLOCK_BYTES * BLOCK_BYTES).and_then(|()| file.sync_all()).map_err(failed)?;
    }
    let medium = FileMedium::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::WouldBlock => {
            failed(std::io::Error::new(error.kind(), "another process has it open"))
        }
        _ => failed(error),
    })?;
    if is_blank(&medium).map_err(failed)? {
        DeviceStore::format(&medium, &label, Uuid::new_v4())?;
    }
    let store = DeviceStore::open(medium, &label).map_err(|error| match error.kind {
        StoreErrorKind::NotFound => StoreOpenError::Foreign { path: path.to_owned() },
        _ => error.into(),
    })?;
    let notes = store.problems().into_iter().map(|problem| {
        format!("{label}: {} blocks from block {} on are damaged", problem.len_blocks, problem.block)
    });
    let notes = notes.collect();
    Ok(OpenedStore { store: Arc::new(store), notes })
}

const BLOCK_BYTES: u64 = crate::dma::BLOCK_BYTES as u64;

/// Whether the start of a device holds only zeroes.
fn is_blank(medium: &FileMedium) -> std::io::Result<bool> {
    let mut bytes = vec![0; LOOK_BYTES as usize];
    let end = medium.len_bytes().min(BLANK_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
    let mut offset = 0;
    while offset < end {
        let now = &mut bytes[..(end - offset).min(LOOK_BYTES) as usize];
        medium.read_at(offset, now)?;
        if now.iter().any(|&byte| byte != 0) {
            return Ok(false);
        }
        offset += now.len() as u64;
    }
    Ok(true)
}

/// The pools of which a store holds objects, in the order of their UUIDs. Cost: one page of a list
/// for each pool.
///
/// # Errors
/// The store's.
pub fn pools_in(store: &dyn Store) -> Result<Vec<Uuid>, StoreError> {
    let mut pools = Vec::new();
    let mut after = None;
    loop {
        let page = store.list("v1/", after.as_ref(), 1)?;
        let Some(object) = page.objects.first() else { return Ok(pools) };
        after = Some(object.name.clone());
        if let Some(anchor) = AnchorName::parse(object.name.as_str()) {
            // A pool that has nothing else cannot be recovered.
            after = Name::new(&format!("{}zzzzzzzz", anchor_prefix(anchor.id().pool))).ok().or(after);
        } else if let Ok(id) = ObjectId::parse(object.name.as_str()) {
            pools.push(id.pool);
            // After every object of this pool: 'z' sorts after the hexadecimal digit that their
            // names have there.
            if let Ok(last) = Name::new(&format!("{}zzzzzzzz", pool_prefix(id.pool))) {
                after = Some(last);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::object::ClaimId;
    use crate::log::types::{Lsn, SegmentSeq};

    crate::document::numbers!(
        the_document_has_this_bound,
        BLANK_BYTES => "and the first {GiB} GiB is zero | blank: the store is created",
    );

    fn open(text: &str) -> Result<OpenedStore, StoreOpenError> {
        open_store(&text.parse().expect("a place"))
    }

    fn put(store: &dyn Store, pool: Uuid, sequence: u64) {
        let (from_lsn, to_lsn) = (Lsn(sequence * 256), Lsn(sequence * 256 + 10));
        let id = ObjectId {
            pool,
            epoch: 1,
            sequence: SegmentSeq(sequence),
            from_lsn,
            to_lsn,
            whole: false,
            claim: ClaimId::NONE,
        };
        store.put(&id.name().expect("a name"), 4, &mut &b"abcd"[..]).expect("put");
    }

    #[test]
    fn a_relative_and_an_absolute_path_are_one_place() {
        let here = std::env::current_dir().expect("a working directory");
        for (kind, text) in [("directory", "a/b"), ("device", "device:a/b"), ("tape library", "tape:a/b")] {
            let spec: StoreSpec = text.parse().expect("a place");
            let absolute = format!("{kind} {}/a/b", here.display());
            for spec in [spec.clone(), spec.absolute()] {
                assert!(spec.is_place_of(&format!("{kind} a/b")) && spec.is_place_of(&absolute), "{text}");
                assert!(!spec.is_place_of(&format!("{kind} a/c")) && !spec.is_place_of("a/b"), "{text}");
            }
        }
        assert_eq!(
            "a".parse::<StoreSpec>().expect("a place").absolute().to_string(),
            format!("dir:{}/a", here.display())
        );
    }

    #[test]
    fn every_local_kind_is_made_probed_and_found_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let pools = [Uuid::from_u128(7), Uuid::from_u128(1 << 127), Uuid::from_u128(9)];
        for kind in ["dir:{}/a", "device:{}/b,size=8MiB", "tape:{}/c,cartridges=2,size=16MiB"] {
            let spec = kind.replace("{}", &folder.path().display().to_string());
            let opened = open(&spec).expect("it is made");
            assert_eq!(opened.notes, [""; 0]);
            for sequence in 0..3 {
                for &pool in &pools {
                    put(&*opened.store, pool, sequence);
                }
            }
            assert!(open(&spec).is_err() || spec.starts_with("tape"), "{spec}: it is open already");
            drop(opened);
            let opened = open(&spec).expect("it is found again");
            let found = pools_in(&*opened.store).expect("a list");
            assert_eq!(found, [pools[0], pools[2], pools[1]], "{spec}");
            assert!(opened.store.list("probe/", None, 10).expect("a list").objects.is_empty());
        }
    }

    #[test]
    fn what_is_no_store_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("disk");
        let device = format!("device:{}", file.display());
        let text = open(&device).map(|_| ()).expect_err("nothing is there").to_string();
        assert!(text.contains("size="), "{text}");
        assert!(!file.exists());
        std::fs::write(&file, vec![0x5a; 4 << 20]).expect("written");
        let text = open(&device).map(|_| ()).expect_err("something else").to_string();
        assert!(text.contains("no varve archive"), "{text}");
        assert!(std::fs::read(&file).expect("readable") == vec![0x5a; 4 << 20], "nothing was changed");
        let text = open(&format!("{}/x", file.display())).map(|_| ()).expect_err("below a file").to_string();
        assert!(text.contains("cannot be opened") && text.contains("disk/x"), "{text}");
    }

    #[test]
    fn a_device_that_lost_its_begin_is_not_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("disk");
        let spec = format!("device:{},size=16MiB", file.display());
        put(&*open(&spec).expect("made").store, Uuid::from_u128(1), 1);
        let mut bytes = std::fs::read(&file).expect("readable");
        bytes[..12 << 10].fill(0);
        std::fs::write(&file, &bytes).expect("written");
        let text = open(&spec).map(|_| ()).expect_err("it is damaged").to_string();
        assert!(text.contains("was not touched"), "{text}");
        assert!(std::fs::read(&file).expect("readable") == bytes);
    }

    #[test]
    fn tapes_that_are_damaged_are_read_and_not_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let spec = format!("tape:{},cartridges=1,size=16MiB", folder.path().display());
        put(&*open(&spec).expect("made").store, Uuid::from_u128(1), 1);
        let path = folder.path().join("VARVE001.tap");
        let mut bytes = std::fs::read(&path).expect("readable");
        // The length after the label.
        bytes[4 + 512] ^= 1;
        std::fs::write(&path, &bytes).expect("written");
        let opened = open(&spec).expect("it is read");
        assert!(opened.notes.iter().any(|note| note.contains("VARVE001") && note.contains("byte 516")));
        assert!(
            opened.notes.iter().any(|note| note.contains("nothing can be archived now")),
            "{:?}",
            opened.notes
        );
        assert_eq!(pools_in(&*opened.store).expect("a list"), [Uuid::from_u128(1)]);
        assert!(std::fs::read(&path).expect("readable") == bytes);
        // If all cartridges are away, the archive is not a new one.
        drop(opened);
        std::fs::rename(&path, folder.path().join("away")).expect("moved");
        let opened = open(&spec).expect("it is remembered");
        assert_eq!(pools_in(&*opened.store).expect("a list"), [Uuid::from_u128(1)]);
        assert!(opened.notes.iter().any(|note| note.contains("VARVE001")), "{:?}", opened.notes);
    }

    #[test]
    fn cartridges_of_two_archives_are_not_mixed() {
        let folder = tempfile::tempdir().expect("a folder");
        let library = |name: &str| folder.path().join(name);
        for name in ["a", "b"] {
            let opened =
                open(&format!("tape:{},cartridges=1,size=16MiB", library(name).display())).expect("made");
            put(&*opened.store, Uuid::from_u128(1), 1);
        }
        std::fs::copy(library("a").join("VARVE001.tap"), library("b").join("OTHER001.tap")).expect("copied");
        let text =
            open(&format!("tape:{},size=16MiB", library("b").display())).map(|_| ()).expect_err("mixed");
        assert!(text.to_string().contains("2 different archives"), "{text}");
    }
}
