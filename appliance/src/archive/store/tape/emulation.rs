//! A drive whose cartridges are SIMH .tap files, which other tools read too.
//!
//! ```text
//! block      | length u32 | data, padded to an even length | length u32 |
//! filemark   | 0 u32 |
//! end        | 0xFFFFFFFF u32 |, or the end of the file
//! erase gap  | 0xFFFFFFFE u32 |, passed over
//! ```
//!
//! The top four bits of a length are a class: 0 for good data, 8 for a block that could not be
//! read. After a damaged place the records are found again (`simh`); such a place reads as a medium
//! error, as on a tape. The offsets of all blocks are held in memory: 8 bytes each.
//!
//! **Nothing is cut off without permission.** A write makes its position the end of the file. So a
//! cartridge of a library accepts writes only from a position on that the store has declared with
//! [`Drive::allow_writes`]. A drive that was loaded directly does not require this.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::drive::{BLOCK_BYTES_MAX, Damage, Drive, DriveError, Library, Mounted, Position, Read, Written};
use super::simh::{
    CLASS_BAD, CLASS_MASK, ERASE_GAP, FILEMARK, Index, Record, after_word, before_word, block_bytes,
    padded_bytes, parse, u32_at,
};
use crate::private;

/// A drive with one .tap file in it.
#[derive(Debug)]
pub struct TapDrive {
    file: File,
    index: Index,
    position: usize,
    capacity_bytes: u64,
    early_warning_bytes: u64,
    // Writes before this position are refused.
    writable_from: u64,
    // The length of the file as this drive left it.
    len_bytes: u64,
}

impl TapDrive {
    /// Loads a cartridge. Its capacity is `capacity_bytes` of the file, and the early warning
    /// begins `early_warning_bytes` before that.
    ///
    /// # Errors
    /// The operating system's.
    pub fn load(path: &Path, capacity_bytes: u64, early_warning_bytes: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        private::tighten(path)?;
        let index = parse(&file)?;
        let len_bytes = index.end_bytes.max(file.metadata()?.len());
        let writable_from = 0;
        Ok(TapDrive {
            file,
            index,
            position: 0,
            capacity_bytes,
            early_warning_bytes,
            writable_from,
            len_bytes,
        })
    }

    fn begin_of(&self, index: usize) -> u64 {
        self.index.offsets.get(index).copied().unwrap_or(self.index.end_bytes)
    }

    /// The object at an index, and the offset of its data.
    fn record(&self, index: usize) -> io::Result<Option<(Record, u64)>> {
        let Some(&(mut offset)) = self.index.offsets.get(index) else { return Ok(None) };
        if self.index.repaired.get(&index) == Some(&Record::Bad) {
            return Ok(Some((Record::Bad, offset)));
        }
        loop {
            let mark = u32_at(&self.file, offset)?;
            let record = match (self.index.repaired.get(&index), mark) {
                (_, ERASE_GAP) => {
                    offset = after_word(offset);
                    continue;
                }
                (Some(&record), _) => record,
                (None, FILEMARK) => Record::Filemark,
                (None, _) if mark & CLASS_MASK == 0 => Record::Block { len: mark },
                (None, _) => Record::Bad,
            };
            return Ok(Some((record, after_word(offset))));
        }
    }

    /// Cuts off everything from the position on, and checks that there is room for `bytes` more.
    fn begin_write(&mut self, bytes: u64) -> Result<(), DriveError> {
        if (self.position as u64) < self.writable_from {
            return Err(DriveError::Protected(self.position as u64));
        }
        let offset = self.begin_of(self.position);
        if offset.saturating_add(bytes) > self.capacity_bytes {
            return Err(DriveError::EndOfMedium);
        }
        self.file.set_len(offset)?;
        self.len_bytes = offset;
        let index = &mut self.index;
        index.offsets.truncate(self.position);
        index.end_bytes = offset;
        index.tail_bytes = 0;
        index.repaired.split_off(&self.position);
        index.damage.retain(|damage| damage.object < self.position as u64);
        Ok(())
    }

    /// Counts an object that was written at the end, and moves past it.
    fn count_object(&mut self, bytes: u64) {
        self.index.offsets.push(self.index.end_bytes);
        self.index.end_bytes = self.index.end_bytes.saturating_add(bytes);
        self.len_bytes = self.index.end_bytes;
        self.position = self.position.saturating_add(1);
    }

    /// Whether the file at a path is the loaded one, and has the length that this drive gave it.
    fn is_of(&self, path: &Path) -> bool {
        let (Ok(ours), Ok(there)) = (self.file.metadata(), fs::metadata(path)) else { return false };
        (ours.dev(), ours.ino()) == (there.dev(), there.ino()) && there.len() == self.len_bytes
    }

    fn is_nearly_full(&self, offset: u64) -> bool {
        offset.saturating_add(self.early_warning_bytes) > self.capacity_bytes
    }

    fn written(&self) -> Written {
        Written { early_warning: self.is_nearly_full(self.index.end_bytes) }
    }

    /// Marks a block as unreadable, as SIMH does: for tests of damage.
    ///
    /// # Errors
    /// [`DriveError::NoSuchPosition`] when there is no block at that position.
    pub fn spoil(&mut self, object: u64) -> Result<(), DriveError> {
        let Some((Record::Block { len }, data)) = self.record(object as usize)? else {
            return Err(DriveError::NoSuchPosition(object));
        };
        let mark = (len | CLASS_BAD).to_le_bytes();
        self.file.write_all_at(&mark, before_word(data))?;
        self.file.write_all_at(&mark, data.saturating_add(padded_bytes(len)))?;
        Ok(())
    }
}

impl Drive for TapDrive {
    fn block_bytes_max(&self) -> usize {
        BLOCK_BYTES_MAX
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Written, DriveError> {
        if block.is_empty() || block.len() > BLOCK_BYTES_MAX {
            return Err(DriveError::BlockTooLarge(block.len()));
        }
        let record_bytes = block_bytes(block.len() as u32) as usize;
        let mut record = Vec::with_capacity(record_bytes);
        let mark = (block.len() as u32).to_le_bytes();
        record.extend_from_slice(&mark);
        record.extend_from_slice(block);
        record.resize(record_bytes.saturating_sub(mark.len()), 0);
        record.extend_from_slice(&mark);
        self.begin_write(record.len() as u64)?;
        self.file.write_all_at(&record, self.index.end_bytes)?;
        self.count_object(record.len() as u64);
        Ok(self.written())
    }

    fn write_filemarks(&mut self, count: u32, immediate: bool) -> Result<Written, DriveError> {
        for _ in 0..count {
            self.begin_write(4)?;
            self.file.write_all_at(&FILEMARK.to_le_bytes(), self.index.end_bytes)?;
            self.count_object(4);
        }
        if !immediate {
            self.file.sync_data()?;
        }
        Ok(self.written())
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError> {
        let index = self.position;
        let Some((record, data)) = self.record(index)? else { return Ok(Read::EndOfData) };
        self.position = index.saturating_add(1);
        match record {
            Record::Filemark => Ok(Read::Filemark),
            Record::Bad => Err(DriveError::Medium(index as u64)),
            Record::Block { len } => {
                let len = len as usize;
                let target = buffer.get_mut(..len).ok_or(DriveError::BlockTooLarge(len))?;
                self.file.read_exact_at(target, data)?;
                Ok(Read::Block(len))
            }
        }
    }

    fn space_filemarks(&mut self, count: i64) -> Result<u64, DriveError> {
        let wanted = count.unsigned_abs();
        let mut passed = 0_u64;
        while passed < wanted {
            let index = if count > 0 {
                self.position
            } else {
                match self.position.checked_sub(1) {
                    Some(index) => index,
                    None => break,
                }
            };
            let Some((record, _)) = self.record(index)? else { break };
            self.position = if count > 0 { index.saturating_add(1) } else { index };
            passed = passed.saturating_add(u64::from(record == Record::Filemark));
        }
        Ok(passed)
    }

    fn space_end_of_data(&mut self) -> Result<(), DriveError> {
        self.position = self.index.offsets.len();
        Ok(())
    }

    fn locate(&mut self, object: u64) -> Result<(), DriveError> {
        if object > self.index.offsets.len() as u64 {
            return Err(DriveError::NoSuchPosition(object));
        }
        self.position = object as usize;
        Ok(())
    }

    fn position(&mut self) -> Result<Position, DriveError> {
        let early_warning = self.is_nearly_full(self.begin_of(self.position));
        Ok(Position { object: self.position as u64, early_warning })
    }

    fn flush(&mut self) -> Result<(), DriveError> {
        Ok(self.file.sync_all()?)
    }

    fn allow_writes(&mut self, from: u64) {
        self.writable_from = from;
    }

    fn damage(&self) -> Vec<Damage> {
        self.index.damage.clone()
    }

    fn tail_bytes(&self) -> u64 {
        self.index.tail_bytes
    }

    fn rewind(&mut self) -> Result<(), DriveError> {
        self.position = 0;
        Ok(())
    }
}

/// A directory of .tap files as a library: the file name without its extension is the barcode. It
/// has one owner at a time.
#[derive(Debug)]
pub struct EmulatedLibrary {
    root: PathBuf,
    capacity_bytes: u64,
    early_warning_bytes: u64,
    mounted: Option<(String, TapDrive)>,
    // Held for its lock, from the first use on.
    lock: Option<File>,
}

impl EmulatedLibrary {
    /// A library whose cartridges all have the same capacity; see [`TapDrive::load`].
    pub fn new(root: &Path, capacity_bytes: u64, early_warning_bytes: u64) -> Self {
        EmulatedLibrary {
            root: root.to_owned(),
            capacity_bytes,
            early_warning_bytes,
            mounted: None,
            lock: None,
        }
    }

    /// Adds a blank cartridge.
    ///
    /// # Errors
    /// The operating system's; `AlreadyExists` when the barcode is taken.
    pub fn add_blank(&mut self, barcode: &str) -> io::Result<()> {
        private::create_dir_all(&self.root)?;
        private::create_new(&self.root.join(format!("{barcode}.tap")))?.sync_all()?;
        File::open(&self.root)?.sync_all()
    }

    fn own(&mut self) -> io::Result<()> {
        if self.lock.is_none() {
            let lock = File::open(&self.root)?;
            flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
                let error = io::Error::from(errno);
                if error.kind() == io::ErrorKind::WouldBlock {
                    return io::Error::new(error.kind(), "another process has the library open");
                }
                error
            })?;
            self.lock = Some(lock);
        }
        Ok(())
    }
}

impl Library for EmulatedLibrary {
    fn cartridges(&mut self) -> Result<Vec<String>, DriveError> {
        self.own()?;
        let mut barcodes = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tap") {
                barcodes.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            }
        }
        barcodes.sort();
        Ok(barcodes)
    }

    fn mount(&mut self, barcode: &str) -> Result<Mounted<'_>, DriveError> {
        self.own()?;
        let path = self.root.join(format!("{barcode}.tap"));
        let (mounted, is_new) = match self.mounted.take() {
            // A file that replaced the mounted one is another cartridge.
            Some(mounted) if mounted.0 == barcode && mounted.1.is_of(&path) => (mounted, false),
            _ => {
                if !path.is_file() {
                    return Err(DriveError::NoSuchCartridge);
                }
                let mut drive = TapDrive::load(&path, self.capacity_bytes, self.early_warning_bytes)?;
                drive.writable_from = u64::MAX;
                ((barcode.to_owned(), drive), true)
            }
        };
        Ok(Mounted { drive: &mut self.mounted.insert(mounted).1, is_new })
    }
}
