//! A real drive, through Linux's `st` driver: `/dev/nst0` and the like, with variable block sizes.
//!
//! ```text
//! write, read      write(2), read(2): one block each
//! filemarks        MTWEOF, which waits for the medium; MTWEOFI, which does not
//! positions        MTSEEK and MTIOCPOS, in logical objects (blocks and filemarks),
//!                  as LOCATE and READ POSITION count them
//! end of data      after a filemark a read of 0 bytes, which the flag GMT_EOD of MTIOCGET
//!                  distinguishes from another filemark; after a block an I/O error
//! end of medium    from the early warning on the driver returns ENOSPC for writes that were done,
//!                  or were refused and succeed when they are repeated once; the position shows
//!                  which of the two
//! ```
//!
//! **What the kernel does by itself.** It ends the data being written with a filemark when the tape
//! is moved, when the device is closed, and when the process dies. So a file that a crash cut off
//! has a filemark, and no trailer: the scan takes this into account.
//!
//! **State.** The position is counted while operations succeed, and read from the drive after every
//! filemark that was waited for, every move and every failure. So a block costs one system call for
//! its data and one for the driver's flags, and no second command to the drive.
//!
//! A drive has the one cartridge that an operator has inserted; changers are not supported.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::io::Errno;
use rustix::ioctl::{Getter, Opcode, Setter, opcode};

use super::drive::{BLOCK_BYTES_MAX, Drive, DriveError, Library, Mounted, Position, Read, Written};

/// The major number of `st`'s devices.
const ST_MAJOR: u32 = 9;
/// This bit of a minor number means: the tape is not rewound when the device is closed.
const NO_REWIND_MINOR: u32 = 0x80;

/// The argument of `MTIOCTOP` (`struct mtop`).
#[repr(C)]
struct TapeOperation {
    code: libc::c_short,
    count: libc::c_int,
}

/// The result of `MTIOCGET` (`struct mtget`).
#[repr(C)]
struct Status {
    kind: libc::c_long,
    residual: libc::c_long,
    sizes: libc::c_long,
    flags: libc::c_long,
    errors: libc::c_long,
    file: libc::c_int,
    block: libc::c_int,
}

/// The result of `MTIOCPOS` (`struct mtpos`).
#[repr(C)]
struct Place {
    object: libc::c_long,
}

const MTIOCTOP: Opcode = opcode::write::<TapeOperation>(b'm', 1);
const MTIOCGET: Opcode = opcode::read::<Status>(b'm', 2);
const MTIOCPOS: Opcode = opcode::read::<Place>(b'm', 3);

const MTFSF: libc::c_short = 1;
const MTBSF: libc::c_short = 2;
const MTWEOF: libc::c_short = 5;
const MTREW: libc::c_short = 6;
const MTNOP: libc::c_short = 8;
const MTEOM: libc::c_short = 12;
const MTSETBLK: libc::c_short = 20;
const MTSEEK: libc::c_short = 22;
const MTSETDRVBUFFER: libc::c_short = 24;
const MTWEOFI: libc::c_short = 35;

/// `MTSETDRVBUFFER` sets options with this value.
const MT_ST_SETBOOLEANS: libc::c_int = 0x3000_0000;
/// The option for logical objects as positions; without it a drive may count positions differently.
const MT_ST_SCSI2LOGICAL: libc::c_int = 0x800;

const GMT_EOT: libc::c_long = 0x2000_0000;
const GMT_EOD: libc::c_long = 0x0800_0000;

/// The kind of an `st` device at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StDevice {
    /// Not an `st` device.
    None,
    /// A device that rewinds the tape whenever it is closed: the next write would destroy
    /// everything.
    Rewinding,
    /// A device that can be used.
    Drive,
}

impl StDevice {
    /// Examines a path, following symbolic links. A path that cannot be examined is
    /// [`StDevice::None`].
    pub fn at(path: &Path) -> Self {
        let Ok(metadata) = fs::metadata(path) else { return StDevice::None };
        if !metadata.file_type().is_char_device() || rustix::fs::major(metadata.rdev()) != ST_MAJOR {
            StDevice::None
        } else if rustix::fs::minor(metadata.rdev()) & NO_REWIND_MINOR == 0 {
            StDevice::Rewinding
        } else {
            StDevice::Drive
        }
    }
}

/// An open drive of `st`. The kernel prevents other processes from opening it.
#[derive(Debug)]
pub struct StDrive {
    file: File,
    // The position of the tape, while it is known.
    object: Option<u64>,
    early_warning: bool,
}

impl StDrive {
    /// Opens a drive with a cartridge in it, rewinds it, and sets variable blocks and logical
    /// positions. The kernel waits up to two minutes for a drive that is getting ready.
    ///
    /// # Errors
    /// The operating system's: `ENOMEDIUM` without a cartridge, `EROFS` when it is write-protected,
    /// `EBUSY` when another process has the drive; `PermissionDenied` when positions are not
    /// logical and this process may not change that.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let drive = StDrive { file, object: None, early_warning: false };
        drive.operate(MTSETBLK, 0)?;
        drive.count_logically()?;
        drive.operate(MTREW, 1)?;
        Ok(drive)
    }

    /// Sets the option. This needs administrator rights, so the administrator may have set it
    /// before.
    fn count_logically(&self) -> io::Result<()> {
        match self.operate(MTSETDRVBUFFER, MT_ST_SETBOOLEANS | MT_ST_SCSI2LOGICAL) {
            Err(Errno::PERM | Errno::ACCESS) if !self.counts_logically() => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the drive does not count in logical blocks; set that as root: mt -f DEVICE stsetoptions scsi2logical",
            )),
            Ok(()) | Err(Errno::PERM | Errno::ACCESS) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn counts_logically(&self) -> bool {
        let Ok(device) = self.file.metadata().map(|metadata| metadata.rdev()) else { return false };
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let Ok(text) = fs::read_to_string(format!("/sys/dev/char/{major}:{minor}/options")) else {
            return false;
        };
        let options = libc::c_int::from_str_radix(text.trim().trim_start_matches("0x"), 16);
        options.is_ok_and(|options| options & MT_ST_SCSI2LOGICAL != 0)
    }

    fn operate(&self, code: libc::c_short, count: libc::c_int) -> Result<(), Errno> {
        let operation = TapeOperation { code, count };
        // SAFETY: this request only reads the structure, which has the layout of the kernel's
        // `struct mtop`.
        unsafe { rustix::ioctl::ioctl(&self.file, Setter::<MTIOCTOP, TapeOperation>::new(operation)) }
    }

    /// Whether a flag is set. Sends no command to the drive.
    fn has_flag(&self, flag: libc::c_long) -> Result<bool, Errno> {
        // SAFETY: this request writes the kernel's `struct mtget`, and `Status` has its layout.
        let status = unsafe { rustix::ioctl::ioctl(&self.file, Getter::<MTIOCGET, Status>::new()) }?;
        Ok(status.flags & flag != 0)
    }

    /// Moves the tape; the position is read when it is needed.
    fn go(&mut self, code: libc::c_short, count: libc::c_int) -> Result<(), Errno> {
        self.object = None;
        self.early_warning = false;
        self.operate(code, count)
    }

    fn object(&mut self) -> Result<u64, DriveError> {
        if let Some(object) = self.object {
            return Ok(object);
        }
        // SAFETY: this request writes the kernel's `struct mtpos`, and `Place` has its layout.
        let place = unsafe { rustix::ioctl::ioctl(&self.file, Getter::<MTIOCPOS, Place>::new()) };
        let object = place.map_err(io::Error::from)?.object as u64;
        self.object = Some(object);
        Ok(object)
    }

    /// Counts the objects that were passed or written, while the position is known.
    fn advance(&mut self, objects: u64) {
        self.object = self.object.map(|object| object.saturating_add(objects));
    }

    /// Whether nothing was written after `object`, the current position. The driver returns the
    /// same error for that and for an unreadable block, unless the previous object is a filemark.
    /// So this tries to move past a filemark.
    fn is_at_end_of_data(&mut self, object: u64) -> Result<bool, DriveError> {
        // An unreadable block stops the tape at the same position: only the drive's own flag proves
        // the end.
        if self.go(MTFSF, 1) == Err(Errno::IO)
            && self.has_flag(GMT_EOD).map_err(io::Error::from)?
            && self.object()? == object
        {
            return Ok(true);
        }
        // Back to the earlier position; if that fails too, the position cannot be read.
        let back = libc::c_int::try_from(object).map_err(|_| DriveError::NoSuchPosition(object))?;
        self.go(MTSEEK, back).map_err(|errno| self.move_failed(errno))?;
        Ok(false)
    }

    fn failed(&mut self, error: io::Error) -> DriveError {
        self.object = None;
        DriveError::Io(error)
    }

    /// A move that failed: a drive that still knows its position has met something unreadable.
    fn move_failed(&mut self, errno: Errno) -> DriveError {
        self.object = None;
        match self.object() {
            Ok(object) if errno == Errno::IO => DriveError::Medium(object),
            _ => DriveError::Io(errno.into()),
        }
    }
}

impl Drive for StDrive {
    fn block_bytes_max(&self) -> usize {
        BLOCK_BYTES_MAX
    }

    fn write_block(&mut self, block: &[u8]) -> Result<Written, DriveError> {
        if block.is_empty() || block.len() > BLOCK_BYTES_MAX {
            return Err(DriveError::BlockTooLarge(block.len()));
        }
        let before = self.object()?;
        for _ in 0..2 {
            match self.file.write(block) {
                Ok(len) if len == block.len() => {
                    self.advance(1);
                    self.early_warning |= self.has_flag(GMT_EOT).map_err(io::Error::from)?;
                    return Ok(Written { early_warning: self.early_warning });
                }
                Ok(_) => return Err(self.failed(io::ErrorKind::WriteZero.into())),
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    // The driver returns this for the early warning, whether the block was written
                    // or not, and for the end of the medium.
                    self.early_warning = true;
                    self.object = None;
                    if self.object()? > before {
                        return Ok(Written { early_warning: true });
                    }
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        Err(DriveError::EndOfMedium)
    }

    fn write_filemarks(&mut self, count: u32, immediate: bool) -> Result<Written, DriveError> {
        let wanted = libc::c_int::try_from(count).unwrap_or(libc::c_int::MAX);
        let done = self.operate(if immediate { MTWEOFI } else { MTWEOF }, wanted);
        if let Err(errno) = done {
            let error = self.failed(errno.into());
            return Err(if errno == Errno::NOSPC { DriveError::EndOfMedium } else { error });
        }
        if immediate {
            self.advance(u64::from(count));
        } else {
            self.object = None;
        }
        Ok(Written { early_warning: self.early_warning })
    }

    fn read_block(&mut self, buffer: &mut [u8]) -> Result<Read, DriveError> {
        match self.file.read(buffer) {
            Ok(0) => {
                if self.has_flag(GMT_EOD).map_err(io::Error::from)? {
                    return Ok(Read::EndOfData);
                }
                self.advance(1);
                Ok(Read::Filemark)
            }
            Ok(len) => {
                self.advance(1);
                Ok(Read::Block(len))
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) => {
                self.object = None;
                // The driver does not return the block's size.
                Err(DriveError::BlockTooLarge(buffer.len().saturating_add(1)))
            }
            Err(error) if error.raw_os_error() == Some(libc::EIO) => {
                self.object = None;
                let object = self.object()?;
                if self.is_at_end_of_data(object)? {
                    Ok(Read::EndOfData)
                } else {
                    Err(DriveError::Medium(object))
                }
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn space_filemarks(&mut self, count: i64) -> Result<u64, DriveError> {
        // One at a time: after a failure the driver does not report how many of several were
        // passed.
        let code = if count < 0 { MTBSF } else { MTFSF };
        for passed in 0..count.unsigned_abs() {
            match self.go(code, 1) {
                Ok(()) => {}
                Err(Errno::IO) if code == MTFSF && self.has_flag(GMT_EOD).map_err(io::Error::from)? => {
                    return Ok(passed);
                }
                Err(Errno::IO) if code == MTBSF && self.object()? == 0 => return Ok(passed),
                Err(errno) => return Err(self.move_failed(errno)),
            }
        }
        Ok(count.unsigned_abs())
    }

    fn space_end_of_data(&mut self) -> Result<(), DriveError> {
        self.go(MTEOM, 1).map_err(|errno| self.move_failed(errno))
    }

    fn locate(&mut self, object: u64) -> Result<(), DriveError> {
        let count = libc::c_int::try_from(object).map_err(|_| DriveError::NoSuchPosition(object))?;
        match self.go(MTSEEK, count) {
            Ok(()) => Ok(()),
            // A drive that still knows its position has met the end of the data, or something
            // unreadable.
            Err(errno) => match self.move_failed(errno) {
                // If the drive can move to the end of the data, positions after that do not exist.
                DriveError::Medium(_) if self.go(MTEOM, 1).is_ok() && self.object()? < object => {
                    Err(DriveError::NoSuchPosition(object))
                }
                error => Err(error),
            },
        }
    }

    fn flush(&mut self) -> Result<(), DriveError> {
        // Every move of the tape, and so every read of written data, waits for the medium; this is
        // for a tape that has not moved.
        Ok(self.operate(MTNOP, 1).map_err(io::Error::from)?)
    }

    fn position(&mut self) -> Result<Position, DriveError> {
        let object = self.object()?;
        Ok(Position { object, early_warning: self.early_warning })
    }

    fn rewind(&mut self) -> Result<(), DriveError> {
        Ok(self.go(MTREW, 1).map_err(io::Error::from)?)
    }
}

/// A drive with the cartridge that is in it; its barcode is the device's file name.
#[derive(Debug)]
pub struct StLibrary {
    barcode: String,
    drive: StDrive,
}

impl StLibrary {
    /// Opens a drive.
    ///
    /// # Errors
    /// Those of [`StDrive::open`].
    pub fn open(path: &Path) -> io::Result<Self> {
        let barcode = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(StLibrary { barcode, drive: StDrive::open(path)? })
    }
}

impl Library for StLibrary {
    fn cartridges(&mut self) -> Result<Vec<String>, DriveError> {
        Ok(vec![self.barcode.clone()])
    }

    fn names_cartridges(&self) -> bool {
        false
    }

    fn mount(&mut self, barcode: &str) -> Result<Mounted<'_>, DriveError> {
        if barcode != self.barcode {
            return Err(DriveError::NoSuchCartridge);
        }
        // After a failure, and a change of the cartridge causes one, the caller reads the label
        // again.
        Ok(Mounted { drive: &mut self.drive, is_new: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_kernels_header() {
        assert_eq!([MTIOCTOP, MTIOCGET, MTIOCPOS], [0x4008_6d01, 0x8030_6d02, 0x8008_6d03]);
    }

    #[test]
    fn only_devices_of_st_are_drives() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), Path::new("/dev/null"), Path::new("/dev/nothing-there")] {
            assert_eq!(StDevice::at(path), StDevice::None, "{}", path.display());
            assert!(StDrive::open(path).is_err());
        }
    }
}
