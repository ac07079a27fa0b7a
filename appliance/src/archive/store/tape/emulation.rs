//! A drive whose cartridges are SIMH .tap files, which other tools read too.
//!
//! ```text
//! block      | length u32 | data, padded to an even length | length u32 |
//! filemark   | 0 u32 |
//! end        | 0xFFFFFFFF u32 |, or the end of the file
//! erase gap  | 0xFFFFFFFE u32 |, passed over
//! ```
//!
//! The top four bits of a length are a class: 0 for good data, 8 for a block that could not be read. What stands behind a damaged or cut record
//! is taken for the end of data, as on a tape that lost power while it wrote. The places of all blocks are held in memory: 8 bytes each.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::drive::{BLOCK_BYTES_MAX, Drive, DriveError, Library, Position, Read, Written};

const FILEMARK: u32 = 0;
const END_OF_MEDIUM: u32 = 0xFFFF_FFFF;
const ERASE_GAP: u32 = 0xFFFF_FFFE;
const CLASS_MASK: u32 = 0xF000_0000;
const CLASS_BAD: u32 = 0x8000_0000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    Filemark,
    Block { len: u32 },
    Bad,
}

/// A drive with one .tap file in it.
#[derive(Debug)]
pub struct TapDrive {
    file: File,
    // Where each object begins, and where the data ends.
    offsets: Vec<u64>,
    end_bytes: u64,
    position: usize,
    capacity_bytes: u64,
    early_warning_bytes: u64,
}

impl TapDrive {
    /// Loads a cartridge. Its capacity is `capacity_bytes` of the file, and the early warning comes `early_warning_bytes` before that.
    ///
    /// # Errors
    /// The operating system's.
    pub fn load(path: &Path, capacity_bytes: u64, early_warning_bytes: u64) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut drive = TapDrive {
            file,
            offsets: Vec::new(),
            end_bytes: 0,
            position: 0,
            capacity_bytes,
            early_warning_bytes,
        };
        let file_bytes = drive.file.metadata()?.len();
        let mut offset = 0;
        // Gaps belong to the object behind them.
        let mut begin = 0;
        while offset + 4 <= file_bytes {
            let mark = drive.u32_at(offset)?;
            match mark {
                END_OF_MEDIUM => break,
                ERASE_GAP => {
                    offset += 4;
                    continue;
                }
                FILEMARK => offset += 4,
                _ => {
                    let len = mark & !CLASS_MASK;
                    let end = offset + 4 + u64::from(len.next_multiple_of(2)) + 4;
                    if end > file_bytes || drive.u32_at(end - 4)? != mark {
                        break;
                    }
                    offset = end;
                }
            }
            drive.offsets.push(begin);
            drive.end_bytes = offset;
            begin = offset;
        }
        Ok(drive)
    }

    fn u32_at(&self, offset: u64) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.file.read_exact_at(&mut bytes, offset)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn begin_of(&self, index: usize) -> u64 {
        self.offsets.get(index).copied().unwrap_or(self.end_bytes)
    }

    /// The object at an index, and where its data is.
    fn record(&self, index: usize) -> io::Result<Option<(Record, u64)>> {
        let Some(&(mut offset)) = self.offsets.get(index) else { return Ok(None) };
        loop {
            let mark = self.u32_at(offset)?;
            let record = match mark {
                ERASE_GAP => {
                    offset += 4;
                    continue;
                }
                FILEMARK => Record::Filemark,
                _ if mark & CLASS_MASK == 0 => Record::Block { len: mark },
                _ => Record::Bad,
            };
            return Ok(Some((record, offset + 4)));
        }
    }

    /// Cuts off everything from the position on, and checks that `bytes` more have room.
    fn begin_write(&mut self, bytes: u64) -> Result<(), DriveError> {
        let offset = self.begin_of(self.position);
        if offset + bytes > self.capacity_bytes {
            return Err(DriveError::EndOfMedium);
        }
        self.file.set_len(offset)?;
        self.offsets.truncate(self.position);
        self.end_bytes = offset;
        Ok(())
    }

    fn written(&self) -> Written {
        Written { early_warning: self.end_bytes + self.early_warning_bytes > self.capacity_bytes }
    }

    /// Marks a block as one that cannot be read, in the way that SIMH does: for tests of damage.
    ///
    /// # Errors
    /// [`DriveError::NoSuchPosition`] when no block is there.
    pub fn spoil(&mut self, object: u64) -> Result<(), DriveError> {
        let Some((Record::Block { len }, data)) = self.record(object as usize)? else {
            return Err(DriveError::NoSuchPosition(object));
        };
        let mark = (len | CLASS_BAD).to_le_bytes();
        self.file.write_all_at(&mark, data - 4)?;
        self.file.write_all_at(&mark, data + u64::from(len.next_multiple_of(2)))?;
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
        let mut record = Vec::with_capacity(block.len() + 9);
        let mark = (block.len() as u32).to_le_bytes();
        record.extend_from_slice(&mark);
        record.extend_from_slice(block);
        record.resize(4 + block.len().next_multiple_of(2), 0);
        record.extend_from_slice(&mark);
        self.begin_write(record.len() as u64)?;
        self.file.write_all_at(&record, self.end_bytes)?;
        self.offsets.push(self.end_bytes);
        self.end_bytes += record.len() as u64;
        self.position += 1;
        Ok(self.written())
    }

    fn write_filemarks(&mut self, count: u32, immediate: bool) -> Result<Written, DriveError> {
        for _ in 0..count {
            self.begin_write(4)?;
            self.file.write_all_at(&FILEMARK.to_le_bytes(), self.end_bytes)?;
            self.offsets.push(self.end_bytes);
            self.end_bytes += 4;
            self.position += 1;
        }
        if !immediate {
            self.file.sync_data()?;
        }
        Ok(self.written())
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError> {
        let Some((record, data)) = self.record(self.position)? else { return Ok(Read::EndOfData) };
        self.position += 1;
        match record {
            Record::Filemark => Ok(Read::Filemark),
            Record::Bad => Err(DriveError::Medium(self.position as u64 - 1)),
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
        let mut passed = 0;
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
            self.position = if count > 0 { index + 1 } else { index };
            passed += u64::from(record == Record::Filemark);
        }
        Ok(passed)
    }

    fn space_end_of_data(&mut self) -> Result<(), DriveError> {
        self.position = self.offsets.len();
        Ok(())
    }

    fn locate(&mut self, object: u64) -> Result<(), DriveError> {
        if object > self.offsets.len() as u64 {
            return Err(DriveError::NoSuchPosition(object));
        }
        self.position = object as usize;
        Ok(())
    }

    fn position(&mut self) -> Result<Position, DriveError> {
        let early_warning = self.begin_of(self.position) + self.early_warning_bytes > self.capacity_bytes;
        Ok(Position { object: self.position as u64, early_warning })
    }

    fn rewind(&mut self) -> Result<(), DriveError> {
        self.position = 0;
        Ok(())
    }
}

/// A directory of .tap files as a library: the file's name without its ending is the barcode.
#[derive(Debug)]
pub struct EmulatedLibrary {
    root: PathBuf,
    capacity_bytes: u64,
    early_warning_bytes: u64,
    mounted: Option<(String, TapDrive)>,
}

impl EmulatedLibrary {
    /// A library whose cartridges all have the same capacity; see [`TapDrive::load`].
    pub fn new(root: &Path, capacity_bytes: u64, early_warning_bytes: u64) -> Self {
        EmulatedLibrary { root: root.to_owned(), capacity_bytes, early_warning_bytes, mounted: None }
    }

    /// Puts a blank cartridge into it.
    ///
    /// # Errors
    /// The operating system's; `AlreadyExists` when the barcode is taken.
    pub fn add_blank(&mut self, barcode: &str) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        File::create_new(self.root.join(format!("{barcode}.tap"))).map(|_| ())
    }
}

impl Library for EmulatedLibrary {
    fn cartridges(&mut self) -> Result<Vec<String>, DriveError> {
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

    fn mount(&mut self, barcode: &str) -> Result<&mut dyn Drive, DriveError> {
        let mounted = match self.mounted.take() {
            Some(mounted) if mounted.0 == barcode => mounted,
            _ => {
                let path = self.root.join(format!("{barcode}.tap"));
                if !path.is_file() {
                    return Err(DriveError::NoSuchCartridge);
                }
                let drive = TapDrive::load(&path, self.capacity_bytes, self.early_warning_bytes)?;
                (barcode.to_owned(), drive)
            }
        };
        Ok(&mut self.mounted.insert(mounted).1)
    }
}
