//! The interface to the device store's medium: bytes at offsets, and a flush.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// A fixed range of bytes. Reads and writes are aligned to 4096 bytes. After a crash, a write that
/// was not followed by a flush may have been done completely, partly, or not at all.
pub trait Medium: Send + Sync {
    /// The length in bytes.
    fn len_bytes(&self) -> u64;

    /// Fills `buffer`.
    ///
    /// # Errors
    /// The operating system's.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The operating system's.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes every completed write stable.
    ///
    /// # Errors
    /// The operating system's.
    fn flush(&self) -> io::Result<()>;
}

/// A file or a block device, locked against other processes while it is open.
#[derive(Debug)]
pub struct FileMedium {
    file: File,
    len_bytes: u64,
}

impl FileMedium {
    /// Opens an existing file or block device.
    ///
    /// # Errors
    /// The operating system's; `WouldBlock` when it is open elsewhere.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut file = File::options().read(true).write(true).open(path)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        crate::private::tighten(path)?;
        // The end position is also the length of a block device.
        let len_bytes = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        Ok(FileMedium { file, len_bytes })
    }
}

impl Medium for FileMedium {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
