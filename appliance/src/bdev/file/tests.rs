//! Opening: locks, sizes, refusals, and what a handle does when the file changes under it.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use smallvec::smallvec;
use tempfile::TempDir;

use std::path::Path;

use rustix::io::Errno;

use super::device::choose;
use super::*;
use crate::bdev::{BLOCK_BYTES, Command, Completion, Submit};
use crate::bdev::{Bdev, BdevErrorKind, Operation};
use crate::dma::DmaPool;

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Place { directory: tempfile::tempdir().expect("a directory for the test") }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn is_empty(&self) -> bool {
        std::fs::read_dir(self.directory.path()).expect("the directory is there").next().is_none()
    }
}

fn created(len_blocks: u64) -> FileOptions {
    FileOptions { create_len_blocks: Some(len_blocks), ..FileOptions::default() }
}

fn read_only() -> FileOptions {
    FileOptions { read_only: true, ..FileOptions::default() }
}

fn engines() -> [Engine; 2] {
    [Engine::Auto, Engine::Threads]
}

fn run(device: &mut dyn Bdev, operation: Operation) -> Completion {
    assert!(matches!(device.submit(Command { tag: 1, operation }), Submit::Queued));
    let mut completions = Vec::new();
    while device.poll(&mut completions) == 0 {
        std::thread::yield_now();
    }
    completions.remove(0)
}

fn read_block(device: &mut dyn Bdev, block: u64) -> Result<Vec<u8>, BdevErrorKind> {
    let buffer = DmaPool::new(BLOCK_BYTES).allocate(BLOCK_BYTES).expect("within the budget");
    let completion = run(device, Operation::Read { block, buffers: smallvec![buffer] });
    completion.result.map_err(|error| error.kind)?;
    Ok(completion.buffers[0].as_slice().to_vec())
}

fn write_block(device: &mut dyn Bdev, block: u64, byte: u8) -> Result<(), BdevErrorKind> {
    let mut buffer = DmaPool::new(BLOCK_BYTES).allocate(BLOCK_BYTES).expect("within the budget");
    buffer.as_mut_slice().fill(byte);
    let operation = Operation::Write { block, buffers: smallvec![buffer.freeze()] };
    run(device, operation).result.map_err(|error| error.kind)
}

#[test]
fn a_writer_excludes_everybody_and_readers_share() {
    let place = Place::new();
    for engine in engines() {
        let options = FileOptions { engine, ..created(8) };
        let writer = open_file(place.path(), &options).expect("the first opens");
        for second in [options.clone(), read_only()] {
            let error = open_file(place.path(), &second).err().expect("the second is refused");
            assert!(matches!(&error, OpenError::Locked { path, .. } if *path == place.path()));
            let message = error.to_string();
            assert!(message.contains("this process") && message.contains("disk"), "{message}");
        }
        drop(writer);
        let reader = open_file(place.path(), &read_only()).expect("free again");
        let other = open_file(place.path(), &read_only()).expect("readers share");
        assert!(matches!(open_file(place.path(), &options), Err(OpenError::Locked { .. })));
        drop((reader, other));
        drop(open_file(place.path(), &options).expect("free again"));
    }
}

#[test]
fn every_thread_takes_a_handle_of_its_own() {
    let place = Place::new();
    for engine in engines() {
        let device = FileDevice::open(place.path(), &FileOptions { engine, ..created(8) }).expect("opens");
        let mut handle = device.handle().expect("a handle");
        write_block(&mut *handle, 3, 7).expect("the write succeeds");
        let elsewhere = device.clone();
        let block = std::thread::spawn(move || {
            let mut handle = elsewhere.handle().expect("a handle");
            read_block(&mut *handle, 3)
        });
        assert_eq!(block.join().expect("the thread ends").expect("the read succeeds")[..2], [7, 7]);
        drop(device);
        assert!(matches!(open_file(place.path(), &created(8)), Err(OpenError::Locked { .. })));
        drop(handle);
    }
}

#[test]
fn a_file_is_created_sparse_and_an_existing_one_is_kept() {
    let place = Place::new();
    assert!(matches!(open_file(place.path(), &FileOptions::default()), Err(OpenError::NotFound { .. })));
    assert!(matches!(
        open_file(place.path(), &FileOptions { read_only: true, ..created(8) }),
        Err(OpenError::NotFound { .. })
    ));
    let device = open_file(place.path(), &created(1 << 20)).expect("is created");
    assert_eq!(device.info().len_blocks, 1 << 20);
    assert!(device.info().volatile_cache);
    let metadata = std::fs::metadata(place.path()).expect("it is there");
    assert_eq!((metadata.len(), metadata.blocks()), (4 << 30, 0));
    assert_eq!(metadata.mode() & 0o777, 0o600);
    drop(device);
    assert_eq!(open_file(place.path(), &created(8)).expect("opens").info().len_blocks, 1 << 20);
    // A creation that was cut short left an empty file: opening finishes it. A partial block is not
    // used.
    for (len_bytes, len_blocks) in [(0, 8), (2 * BLOCK_BYTES as u64 + 100, 2)] {
        let file = std::fs::OpenOptions::new().write(true).open(place.path()).expect("opens");
        file.set_len(len_bytes).expect("changes its size");
        assert_eq!(open_file(place.path(), &created(8)).expect("opens").info().len_blocks, len_blocks);
    }
}

#[test]
fn what_cannot_be_a_device_is_refused_and_nothing_is_left_behind() {
    let place = Place::new();
    let options = FileOptions::default();
    let open = |path: &Path, options: &FileOptions| open_file(path, options).err().expect("is refused");
    assert!(matches!(
        open(place.directory.path(), &options),
        OpenError::NotADevice { what: "a directory", .. }
    ));
    assert!(matches!(
        open(Path::new("/dev/null"), &options),
        OpenError::NotADevice { what: "a character device", .. }
    ));
    for len_blocks in [0, 1 << 60, u64::MAX] {
        let error = open(&place.path(), &created(len_blocks));
        assert!(
            matches!(&error, OpenError::TooSmall { .. } | OpenError::Io { action: "give a size to", .. }),
            "{error}"
        );
        assert!(place.is_empty(), "{len_blocks} blocks leave a file behind");
    }
    std::fs::write(place.path(), [1; 4095]).expect("is written");
    assert!(matches!(open(&place.path(), &created(8)), OpenError::TooSmall { len_bytes: 4095, .. }));
    assert!(matches!(open(&place.path().join("below"), &options), OpenError::NotFound { .. }));
    assert!(matches!(open(&place.directory.path().join("no/disk"), &created(8)), OpenError::NotFound { .. }));
}

#[test]
fn direct_io_falls_back_and_permission_is_explained() {
    // A sysfs file has 4096 bytes and no direct I/O. Not even root can write this one.
    let path = Path::new("/sys/kernel/uevent_seqnum");
    let device = FileDevice::open(path, &read_only()).expect("opens through the page cache");
    assert!(!device.is_direct());
    assert_eq!(device.len_blocks(), 1);
    let error = open_file(path, &FileOptions::default()).err().expect("is refused");
    assert!(matches!(error, OpenError::Permission { access: "reading and writing", .. }), "{error}");
}

#[test]
fn a_read_only_handle_changes_nothing() {
    let place = Place::new();
    drop(open_file(place.path(), &created(8)).expect("is created"));
    for engine in engines() {
        let mut device = open_file(place.path(), &FileOptions { engine, ..read_only() }).expect("opens");
        let refused = BdevErrorKind::Os(Errno::ROFS.raw_os_error());
        assert_eq!(write_block(&mut *device, 0, 1), Err(refused));
        let completion = run(&mut *device, Operation::Discard { block: 0, len_blocks: 1 });
        assert_eq!(completion.result.expect_err("refused").kind, refused);
        assert!(run(&mut *device, Operation::Flush).result.is_ok());
        assert_eq!(read_block(&mut *device, 0).expect("the read succeeds")[0], 0);
    }
}

#[test]
fn a_file_that_shrank_gives_short_transfers() {
    let place = Place::new();
    for engine in engines() {
        let mut device = open_file(place.path(), &FileOptions { engine, ..created(8) }).expect("opens");
        let file = std::fs::OpenOptions::new().write(true).open(place.path()).expect("opens");
        file.set_len(4 * BLOCK_BYTES as u64).expect("shrinks");
        assert_eq!(read_block(&mut *device, 5), Err(BdevErrorKind::ShortTransfer));
        // Half of it exists: the engine tries the rest, and finds nothing.
        let buffer = DmaPool::new(1 << 20).allocate(4 * BLOCK_BYTES).expect("within the budget");
        let completion = run(&mut *device, Operation::Read { block: 2, buffers: smallvec![buffer] });
        assert_eq!(completion.result.expect_err("too short").kind, BdevErrorKind::ShortTransfer);
        assert_eq!(completion.buffers.len(), 1);
        assert!(read_block(&mut *device, 3).is_ok());
        file.set_len(8 * BLOCK_BYTES as u64).expect("grows");
    }
}

#[test]
fn the_environment_decides_only_for_auto() {
    assert_eq!(choose(Engine::Auto, None), Engine::Auto);
    assert_eq!(choose(Engine::Auto, Some("threads")), Engine::Threads);
    assert_eq!(choose(Engine::Auto, Some("uring")), Engine::Uring);
    assert_eq!(choose(Engine::Auto, Some("fast")), Engine::Auto);
    assert_eq!(choose(Engine::Uring, Some("threads")), Engine::Uring);
    assert_eq!(choose(Engine::Threads, Some("uring")), Engine::Threads);
}
