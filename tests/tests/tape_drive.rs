//! A tape drive that a guest's kernel takes for a real one: the store on Linux's `st`, and a pool
//! that lost its primary and has only the tape.

use std::path::Path;
use std::time::Duration;

use uuid::Uuid;
use varve::archive::store::tape::{EmulatedLibrary, TapeOptions, TapeStore};
use varve::archive::store::{Name, Store};
use varve_tests::appliance::program;
use varve_tests::guest::{Guest, GuestConfig};
use varve_tests::tape::{CONFORMANCE_STORE, CartridgeSize, TapeDrives};

type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A limit for commands that do little.
const SHORT: Duration = Duration::from_mins(1);
/// A limit for commands that move data.
const LONG: Duration = Duration::from_mins(8);

const LARGE: CartridgeSize = CartridgeSize { capacity_bytes: 256 << 20, early_warning_bytes: 1 << 20 };
const SMALL: CartridgeSize = CartridgeSize { capacity_bytes: 1 << 20, early_warning_bytes: 68 << 10 };

/// Boots a guest with drives, and with a program as `/run/program`.
fn boot(drives: &TapeDrives, count: usize, program: &Path) -> Result<Guest, Box<dyn std::error::Error>> {
    let guest = Guest::boot(&drives.add_to(GuestConfig::default()))?;
    std::fs::copy(program, guest.share().join("program"))?;
    guest.run_ok("cp /share/program /run/program && chmod 755 /run/program", SHORT)?;
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
    let command = "/run/program /dev/nst0 /dev/nst1 /dev/nst2 /run/stage || { dmesg | tail -n 20; exit 1; }";
    println!("{}", guest.run_ok(command, LONG)?);
    drop(guest);
    drop(drives);

    // The data that went through the kernel is in an ordinary cartridge file.
    let library = EmulatedLibrary::new(folder.path(), LARGE.capacity_bytes, LARGE.early_warning_bytes);
    let cache = folder.path().join("stage");
    let options = TapeOptions { block_bytes: 256 << 10, ledger: cache.clone(), cache, cache_bytes: 32 << 20 };
    let store = TapeStore::open(library, Uuid::from_u128(CONFORMANCE_STORE), options, "tape")?;
    let mut once = Vec::new();
    store.get(&Name::new("once")?, &mut once)?;
    assert_eq!(once, b"first");
    assert_eq!(store.list("live/", None, 100)?.objects.len(), 40);
    Ok(())
}

#[test]
fn guest_recovers_a_lost_primary_from_tape() -> TestResult {
    let folder = tempfile::tempdir()?;
    let drives = TapeDrives::start(folder.path(), &[LARGE])?;
    let guest = boot(&drives, 1, &program()?)?;
    let serve = "/run/program serve --dir /run/pool --rpc /run/rpc --pool-size 64MiB --volume-size 8MiB \
                 --archive tape:/dev/nst0,stage=/run/stage";
    let varve = |arguments: &str| guest.run_ok(&format!("/run/program {arguments} --rpc /run/rpc"), LONG);
    let start = || -> Result<(), Box<dyn std::error::Error>> {
        guest.run_ok(
            &format!(
                "{serve} >/run/said 2>&1 & echo $! >/run/pid
                for try in $(seq 600); do
                    grep -q '^Ctrl-C stops it' /run/said && exit 0
                    kill -0 $(cat /run/pid) || break
                    usleep 100000
                done
                cat /run/said; exit 1"
            ),
            LONG,
        )?;
        Ok(())
    };
    let nqn = varve::nvmf::nqn::of_volume;
    let connect = |volume: &str| guest.nvme_connect_at("127.0.0.1", &nqn(volume), 4420, &[]);
    let fill = |device: &str| {
        guest.run_ok(&format!("dd if=/dev/urandom of={device} bs=1M count=8 oflag=direct"), LONG)
    };

    start()?;
    let device = connect("vol0")?;
    let mut digests = Vec::new();
    for round in 1..=3 {
        fill(&device)?;
        digests.push(guest.device_digest(&device)?);
        varve(&format!("synch create --label round-{round}"))?;
    }
    println!("{}", varve("archive seal")?);
    println!("{}", varve("archive status")?);
    guest.nvme_disconnect(&nqn("vol0"))?;
    let kill = "kill -9 $(cat /run/pid); while kill -0 $(cat /run/pid) 2>/dev/null; do usleep 100000; done";
    guest.run_ok(&format!("{kill}; rm -r /run/pool"), SHORT)?;

    let recover =
        "/run/program pool recover --from tape:/dev/nst0,stage=/run/stage --dir /run/pool --pool-size 64MiB";
    println!("{}", guest.run_ok(recover, LONG)?);
    start()?;
    assert_eq!(guest.device_digest(&connect("vol0")?)?, digests[2], "the newest state");
    for (round, expected) in (1..).zip(&digests) {
        let name = format!("then-{round}");
        varve(&format!("restore clone vol0 --at synch:round-{round} --name {name}"))?;
        assert_eq!(guest.device_digest(&connect(&name)?)?, *expected, "round {round}");
        guest.nvme_disconnect(&nqn(&name))?;
    }
    println!("three rounds of 8 MiB, each as it was, from the tape alone");
    Ok(())
}
