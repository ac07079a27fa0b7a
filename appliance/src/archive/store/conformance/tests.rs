//! Runs the suite against the stores that need only a file system.

use super::super::*;
use super::*;

struct Directory(tempfile::TempDir);

impl Fixture for Directory {
    type Opened = DirectoryStore;

    fn open(&self) -> DirectoryStore {
        DirectoryStore::open(&self.0.path().join("store"), DirectoryOptions::default()).unwrap()
    }

    fn open_small(&self) -> DirectoryStore {
        let options = DirectoryOptions { capacity_bytes: Some(1 << 20) };
        DirectoryStore::open(&self.0.path().join("small"), options).unwrap()
    }
}

#[test]
fn the_directory_store_conforms() {
    run(&Directory(tempfile::tempdir().unwrap()));
}

#[test]
fn a_directory_has_one_owner_and_strange_files_are_passed_over() {
    let root = tempfile::tempdir().unwrap();
    let store = DirectoryStore::open(root.path(), DirectoryOptions::default()).unwrap();
    let second = DirectoryStore::open(root.path(), DirectoryOptions::default()).err().unwrap();
    assert!(second.is_retryable());
    std::fs::write(root.path().join("objects/UPPER CASE"), b"x").unwrap();
    std::fs::write(root.path().join("tmp/99"), b"left over").unwrap();
    put(&store, "a/b", b"1").unwrap();
    assert_eq!(names(&store, ""), ["a/b"]);
    // A name is an object or a directory, never both.
    assert_eq!(kind(put(&store, "a", b"2")), StoreErrorKind::Exists);
    assert_eq!(kind(put(&store, "a/b/c", b"2")), StoreErrorKind::Exists);
    drop(store);
    let store = DirectoryStore::open(root.path(), DirectoryOptions::default()).unwrap();
    assert!(!root.path().join("tmp/99").exists());
    assert_eq!(store.space().unwrap().used_bytes, 1);
}

#[test]
fn a_directory_is_read_beside_its_owner_and_never_changed() {
    let root = tempfile::tempdir().unwrap();
    assert!(DirectoryStore::open_reader(root.path()).is_err(), "none is made");
    let store = DirectoryStore::open(root.path(), DirectoryOptions::default()).unwrap();
    let open = store.put_start(&name("open"), 1).unwrap();
    put(&store, "a/b", b"1").unwrap();
    let reader = DirectoryStore::open_reader(root.path()).unwrap();
    assert_eq!(names(&reader, ""), ["a/b"]);
    assert!(matches!(kind(put(&reader, "c", b"2")), StoreErrorKind::Refused(_)));
    assert!(matches!(kind(reader.delete(&name("a/b"))), StoreErrorKind::Refused(_)));
    open.commit().expect("it was left alone");
    put(&store, "d", b"3").unwrap();
    assert_eq!(names(&reader, ""), ["a/b", "d", "open"]);
}

struct Device(tempfile::TempDir);

impl Device {
    fn medium(&self, file: &str, len_bytes: u64) -> FileMedium {
        let path = self.0.path().join(file);
        if !path.exists() {
            std::fs::File::create(&path).unwrap().set_len(len_bytes).unwrap();
            DeviceStore::format(&FileMedium::open(&path).unwrap(), "device", Uuid::from_u128(5)).unwrap();
        }
        FileMedium::open(&path).unwrap()
    }
}

impl Fixture for Device {
    type Opened = DeviceStore<FileMedium>;

    fn open(&self) -> Self::Opened {
        let store = DeviceStore::open(self.medium("device", 96 << 20), "device file").unwrap();
        assert!(store.problems().is_empty());
        store
    }

    fn open_small(&self) -> Self::Opened {
        DeviceStore::open(self.medium("small", 1 << 20), "small device file").unwrap()
    }
}

#[test]
fn the_device_store_conforms() {
    run(&Device(tempfile::tempdir().unwrap()));
}

struct Faultless(Directory);

impl Fixture for Faultless {
    type Opened = faulty::FaultyStore;

    fn open(&self) -> Self::Opened {
        faulty::FaultyStore::new(std::sync::Arc::new(self.0.open()), 0)
    }

    fn open_small(&self) -> Self::Opened {
        faulty::FaultyStore::new(std::sync::Arc::new(self.0.open_small()), 0)
    }
}

#[test]
fn a_store_with_faults_conforms_while_there_are_none() {
    run(&Faultless(Directory(tempfile::tempdir().unwrap())));
}
