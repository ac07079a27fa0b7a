//! The interface of a tape drive: the smallest common set of the SSC command set and Linux's `st`.

use std::io;

/// The largest block: a size that drives commonly support.
pub(super) const BLOCK_BYTES_MAX: usize = 1 << 20;

/// The position of the tape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Blocks and filemarks before this position, as `READ POSITION` and `MTTELL` count them.
    pub object: u64,
    /// Whether the early-warning mark has been passed.
    pub early_warning: bool,
}

/// The result of a successful write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The tape's end is near: end the file now. The data of this write is on the tape.
    pub early_warning: bool,
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// A block of this many bytes.
    Block(usize),
    /// A filemark; the tape is now after it.
    Filemark,
    /// Nothing was written after this position.
    EndOfData,
}

/// A place of a cartridge where its structure is damaged. What follows it may be intact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The number of the affected object, as [`Position`] counts.
    pub object: u64,
    /// The offset in the cartridge's file.
    pub offset_bytes: u64,
    /// The number of unusable bytes.
    pub len_bytes: u64,
    /// Bytes of the file from the damaged object on.
    pub behind_bytes: u64,
}

/// Why a drive failed.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// No room for this block: the physical end. No part of it can be read.
    #[error("end of medium")]
    EndOfMedium,
    /// The block is larger than the buffer, or larger than the drive can write.
    #[error("a block of {0} bytes is too large")]
    BlockTooLarge(usize),
    /// The medium cannot be read at this position.
    #[error("medium error at object {0}")]
    Medium(u64),
    /// The tape has no such position.
    #[error("no such position: object {0}")]
    NoSuchPosition(u64),
    /// The library has no such cartridge.
    #[error("no such cartridge")]
    NoSuchCartridge,
    /// Another cartridge is in the place of this one, or it does not end where it ended before:
    /// nothing was written.
    #[error("the cartridge is not as it was left")]
    Changed,
    /// Something is stored at that position, and no caller has allowed overwriting it.
    #[error("object {0} must not be overwritten")]
    Protected(u64),
    /// An error of the operating system.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A drive with a cartridge in it. Calls block. A write makes its position the new end of data:
/// anything after it is lost.
///
/// The interface fits Linux's `st` (`/dev/nst*`, variable blocks, SCSI-2 logical addresses): `read`
/// and `write`; MTWEOF and MTWEOFI; MTFSF and MTBSF; MTSEEK and MTIOCPOS; MTREW; MTEOM. With `st`,
/// the write that passes the early-warning mark succeeds and the next one gives ENOSPC, after which
/// writes are allowed again. The driver then repeats the write and reports
/// [`Written::early_warning`].
pub trait Drive: Send {
    /// The largest block, in bytes.
    fn block_bytes_max(&self) -> usize;

    /// Writes one block.
    ///
    /// # Errors
    /// [`DriveError`].
    fn write_block(&mut self, block: &[u8]) -> Result<Written, DriveError>;

    /// Writes filemarks. Unless `immediate`, everything before them is on the medium when this
    /// returns, and deferred errors of earlier writes are reported here.
    ///
    /// # Errors
    /// [`DriveError`].
    fn write_filemarks(&mut self, count: u32, immediate: bool) -> Result<Written, DriveError>;

    /// Reads the next block, or moves past the next filemark.
    ///
    /// # Errors
    /// [`DriveError::BlockTooLarge`] when the buffer is too small (the tape is then after the
    /// block), or others.
    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError>;

    /// Moves past `count` filemarks forward (the tape is then after the last one) or, if negative,
    /// backward (the tape is then before the last one). Returns how many were passed: fewer at the
    /// end of data or at the beginning of the tape.
    ///
    /// # Errors
    /// [`DriveError`].
    fn space_filemarks(&mut self, count: i64) -> Result<u64, DriveError>;

    /// Moves after the last block or filemark.
    ///
    /// # Errors
    /// [`DriveError`].
    fn space_end_of_data(&mut self) -> Result<(), DriveError>;

    /// Moves to a position that [`position`](Self::position) returned.
    ///
    /// # Errors
    /// [`DriveError::NoSuchPosition`] after the end of data, or others.
    fn locate(&mut self, object: u64) -> Result<(), DriveError>;

    /// The position of the tape.
    ///
    /// # Errors
    /// [`DriveError`].
    fn position(&mut self) -> Result<Position, DriveError>;

    /// Makes all written data stable, without a filemark.
    ///
    /// # Errors
    /// [`DriveError`].
    fn flush(&mut self) -> Result<(), DriveError>;

    /// Declares that nothing from a position on is needed, for drives that require this before a
    /// write.
    fn allow_writes(&mut self, _from: u64) {}

    /// The damaged places of the cartridge's structure, as far as the drive knows them without a
    /// read.
    fn damage(&self) -> Vec<Damage> {
        Vec::new()
    }

    /// Bytes after the end of data that are not records: from a write that was cut off, or after a
    /// lost end.
    fn tail_bytes(&self) -> u64 {
        0
    }

    /// Moves to the beginning of the tape.
    ///
    /// # Errors
    /// [`DriveError`].
    fn rewind(&mut self) -> Result<(), DriveError>;
}

/// One drive and the cartridges that can be mounted in it.
pub trait Library: Send {
    /// The cartridges' barcodes, in order; at most some thousands.
    ///
    /// # Errors
    /// [`DriveError`].
    fn cartridges(&mut self) -> Result<Vec<String>, DriveError>;

    /// Whether a barcode identifies a cartridge, and not the drive that contains it.
    fn names_cartridges(&self) -> bool {
        true
    }

    /// The drive with that cartridge in it. The position of the tape is undefined if another
    /// cartridge was mounted before.
    ///
    /// # Errors
    /// [`DriveError::NoSuchCartridge`], or others.
    fn mount(&mut self, barcode: &str) -> Result<Mounted<'_>, DriveError>;
}

/// A drive with a cartridge in it.
pub struct Mounted<'a> {
    /// The drive.
    pub drive: &'a mut dyn Drive,
    /// Whether it may be another cartridge than at the last call: its label must then be read.
    pub is_new: bool,
}
