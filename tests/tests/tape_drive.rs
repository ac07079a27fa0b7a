//! A real tape drive, as far as a guest's kernel can tell: the store on Linux's `st`.

use std::path::Path;
use std::time::Duration;

use uuid::Uuid;
use varve::archive::store::tape::{EmulatedLibrary, TapeOptions, TapeStore};
use varve::archive::store::{Name, Store};
use varve_tests::guest::{Guest, GuestConfig};
use varve_tests::tape::{CONFORMANCE_STORE, CartridgeSize, TapeDrives};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A limit for commands that do little.
const SHORT: Duration = Duration::from_mins(1);
/// A limit for commands that move data.
const LONG: Duration = Duration::from_mins(8);

const LARGE: CartridgeSize = CartridgeSize { capacity_bytes: 256 << 20, early_warning_bytes: 1 << 20 };
const SMALL: CartridgeSize = CartridgeSize { capacity_bytes: 1 << 20, early_warning_bytes: 68 << 10 };

/// Boots a guest with drives, and with a program of this machine as `/tmp/program`.
fn boot(drives: &TapeDrives, count: usize, program: &Path) -> Result<Guest, Box<dyn std::error::Error>> {
    let guest = Guest::boot(&drives.add_to(GuestConfig::default()))?;
    std::fs::copy(program, guest.share().join("program"))?;
    guest.run_ok("cp /share/program /tmp/program && chmod 755 /tmp/program", SHORT)?;
    let last = count - 1;
    guest.run_ok(
        &format!("modprobe -a st virtio_scsi && until [ -c /dev/nst{last} ]; do usleep 100000; done"),
        SHORT,
    )?;
    Ok(guest)
}

#[test]
fn guest_drives_tapes_and_the_store_on_them_conforms() -> TestResult {
    let folder = tempfile::tempdir()?;
    let drives = TapeDrives::start(folder.path(), &[LARGE, SMALL, SMALL])?;
    let guest = boot(&drives, 3, Path::new(env!("CARGO_BIN_EXE_tape_drive")))?;
    let command = "/tmp/program /dev/nst0 /dev/nst1 /dev/nst2 /tmp/stage || { dmesg | tail -n 20; exit 1; }";
    println!("{}", guest.run_ok(command, LONG)?);
    drop(guest);
    drop(drives);

    // What went through the kernel is an ordinary cartridge file.
    let library = EmulatedLibrary::new(folder.path(), LARGE.capacity_bytes, LARGE.early_warning_bytes);
    let cache = folder.path().join("stage");
    let options = TapeOptions { block_bytes: 256 << 10, cache, cache_bytes: 32 << 20 };
    let store = TapeStore::open(library, Uuid::from_u128(CONFORMANCE_STORE), options, "tape")?;
    let mut once = Vec::new();
    store.get(&Name::new("once")?, &mut once)?;
    assert_eq!(once, b"first");
    assert_eq!(store.list("live/", None, 100)?.objects.len(), 40);
    Ok(())
}
