//! Which tapes to open.

use std::path::PathBuf;

use crate::archive::store::tape::StDevice;

/// The tapes to open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TapeSpec {
    /// A directory of cartridge files, or the device of a drive.
    pub path: PathBuf,
    /// Cartridges of a new library; a drive has the one that is loaded.
    pub cartridges: Option<u32>,
    /// Bytes of each cartridge of a library; a drive reports its own.
    pub cartridge_bytes: Option<u64>,
    /// Where objects are staged for reading; anything already staged there is removed.
    pub stage: Option<PathBuf>,
}

impl TapeSpec {
    /// Whether something is at the path: a directory, or a drive's device.
    pub fn exists(&self) -> bool {
        self.path.is_dir() || StDevice::at(&self.path) != StDevice::None
    }
}
