//! What a tape drive is: the least that the SSC command set and Linux's `st` have in common.

use std::io;

/// The largest block: as large as drives commonly take.
pub(super) const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Where the tape is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Blocks and filemarks before this place, as `READ POSITION` and `MTTELL` count them.
    pub object: u64,
    /// Whether the early-warning mark has been passed.
    pub early_warning: bool,
}

/// How a write ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The tape's end is near: end the file now. What was written is on the tape.
    pub early_warning: bool,
}

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// A block of that many bytes.
    Block(usize),
    /// A filemark; the tape is then after it.
    Filemark,
    /// Nothing was ever written from here on.
    EndOfData,
}

/// A place of a cartridge where its structure is damaged. What follows it may be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The number of the object that is hit, as [`Position`] counts.
    pub object: u64,
    /// Where in the cartridge's file.
    pub offset_bytes: u64,
    /// How much cannot be used.
    pub len_bytes: u64,
    /// Bytes of the file from the damaged object on.
    pub behind_bytes: u64,
}

/// Why a drive did not do it.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// No room for this block: the physical end. Nothing of it can be read.
    #[error("end of medium")]
    EndOfMedium,
    /// The block is larger than the buffer, or than the drive can write.
    #[error("a block of {0} bytes is too large")]
    BlockTooLarge(usize),
    /// The medium cannot be read here.
    #[error("medium error at object {0}")]
    Medium(u64),
    /// There is no such place on the tape.
    #[error("no such position: object {0}")]
    NoSuchPosition(u64),
    /// The library has no such cartridge.
    #[error("no such cartridge")]
    NoSuchCartridge,
    /// Another cartridge is where this one was, or it does not end where it did: nothing was
    /// written.
    #[error("the cartridge is not as it was left")]
    Changed,
    /// Something is stored at that place, and nobody has said that it may go.
    #[error("object {0} must not be overwritten")]
    Protected(u64),
    /// The operating system's failure.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A drive with a cartridge in it. Calls block. A write makes its place the new end of data: what
/// was after it is lost.
///
/// It fits Linux's `st` (`/dev/nst*`, variable blocks, SCSI-2 logical addresses): `read` and
/// `write`; MTWEOF and MTWEOFI; MTFSF and MTBSF; MTSEEK and MTIOCPOS; MTREW; MTEOM. There the write
/// that passes the early-warning mark ends well and the next one gives ENOSPC, after which writes
/// are allowed again: the driver reports [`Written::early_warning`] then, having repeated the
/// write.
pub trait Drive: Send {
    /// The largest block, in bytes.
    fn block_bytes_max(&self) -> usize;

    /// Writes one block.
    ///
    /// # Errors
    /// [`DriveError`].
    fn write_block(&mut self, block: &[u8]) -> Result<Written, DriveError>;

    /// Writes filemarks. Unless `immediate`, everything before them is on the medium when this
    /// returns, and late errors of writes show up here.
    ///
    /// # Errors
    /// [`DriveError`].
    fn write_filemarks(&mut self, count: u32, immediate: bool) -> Result<Written, DriveError>;

    /// Reads the next block, or passes the next filemark.
    ///
    /// # Errors
    /// [`DriveError::BlockTooLarge`] when the buffer is too small (the tape is then after the
    /// block), or others.
    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError>;

    /// Passes `count` filemarks forward (and is then after the last) or, negative, backward (and is
    /// then before the last). Returns how many were passed: fewer at the end of data or the begin
    /// of the tape.
    ///
    /// # Errors
    /// [`DriveError`].
    fn space_filemarks(&mut self, count: i64) -> Result<u64, DriveError>;

    /// Goes after the last block or filemark.
    ///
    /// # Errors
    /// [`DriveError`].
    fn space_end_of_data(&mut self) -> Result<(), DriveError>;

    /// Goes to a position as [`position`](Self::position) gave it.
    ///
    /// # Errors
    /// [`DriveError::NoSuchPosition`] after the end of data, or others.
    fn locate(&mut self, object: u64) -> Result<(), DriveError>;

    /// Where the tape is.
    ///
    /// # Errors
    /// [`DriveError`].
    fn position(&mut self) -> Result<Position, DriveError>;

    /// Makes everything that was written stable, without a filemark.
    ///
    /// # Errors
    /// [`DriveError`].
    fn flush(&mut self) -> Result<(), DriveError>;

    /// Says that nothing from a position on is needed, where a drive wants to know that before it
    /// writes.
    fn allow_writes(&mut self, _from: u64) {}

    /// Where the cartridge's structure is damaged, as far as the drive knows without a read.
    fn damage(&self) -> Vec<Damage> {
        Vec::new()
    }

    /// Bytes after the end of data that are no records: of a write that was cut off, or of a lost
    /// end.
    fn tail_bytes(&self) -> u64 {
        0
    }

    /// Goes to the begin of the tape.
    ///
    /// # Errors
    /// [`DriveError`].
    fn rewind(&mut self) -> Result<(), DriveError>;
}

/// One drive and the cartridges that can be put into it.
pub trait Library: Send {
    /// The cartridges' barcodes, in order; at most some thousands.
    ///
    /// # Errors
    /// [`DriveError`].
    fn cartridges(&mut self) -> Result<Vec<String>, DriveError>;

    /// Whether a barcode belongs to a cartridge, and not to the drive that it is in.
    fn names_cartridges(&self) -> bool {
        true
    }

    /// The drive with that cartridge in it; where the tape is is not defined when another one was
    /// in it before.
    ///
    /// # Errors
    /// [`DriveError::NoSuchCartridge`], or others.
    fn mount(&mut self, barcode: &str) -> Result<Mounted<'_>, DriveError>;
}

/// A drive with a cartridge in it.
pub struct Mounted<'a> {
    /// The drive.
    pub drive: &'a mut dyn Drive,
    /// Whether it may be another cartridge than at the last call: its label must be read.
    pub is_new: bool,
}
