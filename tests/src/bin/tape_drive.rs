//! `tape_drive LARGE SMALL SCRATCH STAGE`: checks blank tape drives of Linux's `st`, the last two
//! with room for about 1 MiB: how they move, warn and end, and whether a store on them passes the
//! tests of every store. What was on the cartridges is lost. A failure is a panic that reports what
//! was expected.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use uuid::Uuid;
use varve::archive::store::conformance::{Fixture, run};
use varve::archive::store::tape::{
    Drive, DriveError, Position, Read, StDrive, StLibrary, TapeOptions, TapeStore,
};
use varve_tests::tape::CONFORMANCE_STORE;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [large, small, scratch, stage] = &*arguments else {
        eprintln!("usage: tape_drive LARGE SMALL SCRATCH STAGE");
        return ExitCode::FAILURE;
    };
    let begin = Instant::now();
    let note = |text: &str| println!("[{:6.1} s] {text}", begin.elapsed().as_secs_f64());
    let mut drive = StDrive::open(scratch).expect("the drive opens");
    assert!(StDrive::open(scratch).is_err(), "a drive has one owner");
    moves(&mut drive);
    note("it moves, and knows where it stands");
    ends(&mut drive);
    note("it warns before its end, and ends");
    run(&Drives { large, small, stage });
    note("the store conforms");
    ExitCode::SUCCESS
}

fn position(drive: &mut StDrive) -> u64 {
    drive.position().expect("a position").object
}

/// Three files of two blocks and a filemark: objects 0 to 8.
fn moves(drive: &mut StDrive) {
    let mut buffer = vec![0; 1000];
    assert_eq!(drive.read_block(&mut buffer).expect("readable"), Read::EndOfData, "it is blank");
    for file in 0..3_u8 {
        drive.write_block(&[file; 1000]).expect("written");
        drive.write_block(&[file + 100; 50]).expect("written");
        drive.write_filemarks(1, file == 1).expect("written");
    }
    assert_eq!(position(drive), 9);
    drive.rewind().expect("rewound");
    assert_eq!(position(drive), 0);
    assert_eq!(drive.space_filemarks(2).expect("passed"), 2);
    assert_eq!(position(drive), 6);
    assert_eq!(drive.space_filemarks(-1).expect("passed"), 1);
    assert_eq!(position(drive), 5);
    assert_eq!(drive.read_block(&mut buffer).expect("readable"), Read::Filemark);
    assert_eq!(drive.space_filemarks(-9).expect("passed"), 2);
    assert_eq!(position(drive), 0);
    drive.locate(4).expect("located");
    assert_eq!(drive.read_block(&mut buffer).expect("readable"), Read::Block(50));
    assert_eq!(buffer[..50], [101; 50]);
    assert_eq!(position(drive), 5);
    assert!(matches!(drive.locate(10), Err(DriveError::NoSuchPosition(10))));
    drive.locate(0).expect("located");
    assert!(matches!(drive.read_block(&mut buffer[..10]), Err(DriveError::BlockTooLarge(_))));
    assert_eq!(position(drive), 1);
    assert_eq!(drive.space_filemarks(9).expect("passed"), 3);
    drive.space_end_of_data().expect("the end");
    assert_eq!(position(drive), 9);
    assert_eq!(drive.read_block(&mut buffer).expect("readable"), Read::EndOfData);
    assert_eq!(position(drive), 9);
    // A write in the middle truncates the tape there.
    drive.locate(1).expect("located");
    drive.write_block(&[9; 10]).expect("written");
    assert_eq!(position(drive), 2);
    assert_eq!(drive.read_block(&mut buffer).expect("readable"), Read::EndOfData);
}

/// After the early warning every write reports it, writes fail at the end of the medium, and
/// everything written can be read.
fn ends(drive: &mut StDrive) {
    drive.rewind().expect("rewound");
    let mut buffer = vec![0; 32 << 10];
    let (mut blocks, mut warned) = (0, 0);
    let error = loop {
        match drive.write_block(&block(blocks)) {
            Ok(written) => {
                assert!(written.early_warning || warned == 0, "the warning stays");
                warned += u64::from(written.early_warning);
                blocks += 1;
            }
            Err(error) => break error,
        }
        assert!(blocks < 100, "the cartridge has an end");
    };
    assert!(matches!(error, DriveError::EndOfMedium), "{error}");
    assert!(warned >= 2 && blocks > 20, "{blocks} blocks, {warned} of them behind the warning");
    assert_eq!(drive.position().expect("a position"), Position { object: blocks, early_warning: true });
    assert!(drive.write_filemarks(1, false).expect("room is left for that").early_warning);
    drive.rewind().expect("rewound");
    for number in 0..blocks {
        assert_eq!(drive.read_block(&mut buffer).expect("readable"), Read::Block(32 << 10));
        assert!(buffer == block(number), "block {number}");
    }
    assert_eq!(drive.read_block(&mut buffer).expect("readable"), Read::Filemark);
}

fn block(number: u64) -> Vec<u8> {
    (0..32 << 10).map(|index: u64| (index * 7 + number) as u8).collect()
}

struct Drives<'a> {
    large: &'a Path,
    small: &'a Path,
    stage: &'a Path,
}

impl Drives<'_> {
    fn open(&self, drive: &Path, store: u128, block_bytes: usize) -> TapeStore<StLibrary> {
        let library = StLibrary::open(drive).expect("the drive opens");
        let cache = self.stage.join(drive.file_name().unwrap_or_default());
        let options = TapeOptions { block_bytes, ledger: cache.clone(), cache, cache_bytes: 32 << 20 };
        let label = format!("tape drive {}", drive.display());
        let store =
            TapeStore::open(library, Uuid::from_u128(store), options, &label).expect("the store opens");
        assert_eq!(store.problems(), []);
        store
    }
}

impl Fixture for Drives<'_> {
    type Opened = TapeStore<StLibrary>;

    fn open(&self) -> Self::Opened {
        self.open(self.large, CONFORMANCE_STORE, 256 << 10)
    }

    fn open_small(&self) -> Self::Opened {
        self.open(self.small, CONFORMANCE_STORE + 1, 32 << 10)
    }

    fn big_bytes(&self) -> usize {
        12 << 20
    }
}
