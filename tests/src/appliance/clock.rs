//! The time of day of a program under test, which a test changes while the program runs. The
//! preloaded library that does this is built like the program.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::ApplianceError;
use super::program::clock_shim;

/// The time of day that an appliance reads.
#[derive(Debug)]
pub struct WallClock {
    environment: Vec<(String, String)>,
    offset: File,
    offset_s: i64,
    _folder: TempDir,
}

impl WallClock {
    /// Starts with the system's time, until the test changes it.
    ///
    /// # Errors
    /// The library cannot be built, or its file cannot be made.
    pub fn new() -> Result<Self, ApplianceError> {
        let shim = clock_shim()?;
        let folder =
            tempfile::tempdir().map_err(ApplianceError::host("making a folder in", std::env::temp_dir()))?;
        let path = folder.path().join("offset");
        let offset = File::create(&path).map_err(ApplianceError::host("making", &path))?;
        offset.write_all_at(&0_i64.to_ne_bytes(), 0).map_err(ApplianceError::host("writing", &path))?;
        let environment = vec![
            ("LD_PRELOAD".to_owned(), shim.display().to_string()),
            ("VARVE_CLOCK_OFFSET_FILE".to_owned(), path.display().to_string()),
        ];
        Ok(WallClock { environment, offset, offset_s: 0, _folder: folder })
    }

    /// The variables that the program needs in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        self.environment.clone()
    }

    /// Sets how many seconds the clock is ahead of the system's, from now on.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn set_ahead_s(&mut self, seconds: i64) {
        let offset_ns = seconds * 1_000_000_000;
        self.offset.write_all_at(&offset_ns.to_ne_bytes(), 0).expect("the file of the offset");
        self.offset_s = seconds;
    }

    /// The clock's time now, in ns since the Unix epoch.
    pub fn now_ns(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        (now.as_nanos() as u64).saturating_add_signed(self.offset_s * 1_000_000_000)
    }
}
