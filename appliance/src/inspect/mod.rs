//! `varve inspect`: shows what the file of a pool's device contains, without an appliance, and
//! checks it.
//!
//! [`Inspection::open`] finds the log as a start does, rebuilds every volume's index from the
//! segments alone (R8), reads every record and every data block, and compares: the totals must
//! agree (R3). It opens the file read-only and writes nothing. Damage is not an error: it is in the
//! [`Report`].

mod build;
mod render;
pub mod report;

use std::io::{BufWriter, Write};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

pub use report::Report;

use crate::bdev::{Bdev, FileOptions, OpenError, SharedBdev, open_file};
use crate::dma::{BLOCK_BYTES, DmaPool};
use crate::log::checksum::crc32c;
use crate::log::inspect::LogView;
use crate::log::reader::ReadError;
use crate::log::{Environment, LogError, Lsn};
use crate::options::{CommandError, InspectOptions};
use crate::reactor::{Interest, Reactor, ReactorConfig, Source};
use crate::volume::inspect::VolumesView;

/// DMA memory of an inspection, in bytes. It is enough for a few reads of at most 1 MiB.
const DMA_BUDGET_BYTES: usize = 32 << 20;

/// Why a device could not be inspected, or that it is damaged.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// The file cannot be opened, or is in use.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// There is no pool on it.
    #[error("{0}")]
    Log(#[from] LogError),
    /// A read failed for another reason than damage.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// The reactor for reading does not start.
    #[error("reading cannot start: {0}")]
    Reactor(std::io::Error),
    /// There is no such volume.
    #[error("there is no volume '{name}'")]
    NoSuchVolume {
        /// The name.
        name: String,
    },
    /// A block of a volume cannot be read.
    #[error("block {block} of volume '{volume}' cannot be read: {reason}")]
    Damaged {
        /// The volume.
        volume: String,
        /// The block.
        block: u64,
        /// Why.
        reason: String,
    },
    /// Checks failed; the report lists them.
    #[error("{file}: {problems} problems were found, and are listed above")]
    Problems {
        /// The file.
        file: String,
        /// How many.
        problems: u64,
    },
    /// The report could not be printed.
    #[error("the report cannot be printed: {0}")]
    Print(std::io::Error),
}

/// An inspected device, which can be read further.
pub struct Inspection {
    reader: Reader,
    log: Rc<LogView>,
    volumes: Rc<VolumesView>,
    report: Report,
}

impl Inspection {
    /// Inspects a file or block device; with `with_entries` the report lists every record and
    /// index.
    ///
    /// # Errors
    /// [`InspectError::Open`]; [`InspectError::Log`] if there is no pool; no memory. Damage is in
    /// the report.
    pub fn open(path: &Path, with_entries: bool) -> Result<Self, InspectError> {
        let device = open_file(path, &FileOptions { read_only: true, ..FileOptions::default() })?;
        let mut reader = Reader::new(device)?;
        let device = reader.device.clone();
        let environment = Environment::system(DmaPool::new(DMA_BUDGET_BYTES));
        let (log, volumes, report) = reader.run(async move {
            let log = LogView::open(device.clone(), environment).await?;
            let volumes = VolumesView::build(&log).await?;
            let report = build::report(&log, &volumes, &device.info(), with_entries).await?;
            Ok::<_, InspectError>((Rc::new(log), Rc::new(volumes), report))
        })?;
        Ok(Inspection { reader, log, volumes, report })
    }

    /// What was found.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// Reads blocks of a volume as it is at the end of the log, from the segments alone (R8).
    /// Blocks without contents are zeroes.
    ///
    /// # Errors
    /// [`InspectError::NoSuchVolume`]; [`InspectError::Damaged`] for the first block whose contents
    /// are damaged or uncertain.
    pub fn read_volume(
        &mut self,
        volume: &str,
        block: u64,
        len_blocks: u64,
    ) -> Result<Vec<u8>, InspectError> {
        let (log, volumes, name) = (Rc::clone(&self.log), Rc::clone(&self.volumes), volume.to_owned());
        self.reader.run(async move {
            let Some(volume) = volumes.find(&name) else {
                return Err(InspectError::NoSuchVolume { name });
            };
            let mut bytes = Vec::new();
            for block in block..block.saturating_add(len_blocks).min(volume.catalog.size_blocks) {
                let mapping = volume.index.get(block);
                let damaged = |reason: String| InspectError::Damaged { volume: name.clone(), block, reason };
                if mapping.lsn() < volume.uncertain_below {
                    // An unmapped block is uncertain too: the write that mapped it may be lost.
                    return Err(damaged("it may have been replaced by something that is lost".to_owned()));
                }
                if mapping.is_none() {
                    bytes.resize(bytes.len() + BLOCK_BYTES, 0);
                    continue;
                }
                bytes.extend(read_block(&log, mapping.lsn(), mapping.crc16()).await.map_err(damaged)?);
            }
            Ok(bytes)
        })
    }
}

async fn read_block(log: &LogView, lsn: Lsn, crc16: u16) -> Result<Vec<u8>, String> {
    let Some(device_block) = log.device_block(lsn) else {
        return Err(format!("the segment of LSN {lsn} is not on the device"));
    };
    let read = log.reader().read_blocks(device_block, 1).await.map_err(|error| error.to_string())?;
    let bytes = read.as_slice();
    if crc32c(bytes) as u16 == crc16 { Ok(bytes.to_vec()) } else { Err("checksum mismatch".to_owned()) }
}

/// A device and the reactor that drives it.
struct Reader {
    reactor: Reactor<()>,
    device: SharedBdev,
}

impl Reader {
    fn new(device: Box<dyn Bdev>) -> Result<Self, InspectError> {
        // The checks run in long turns, and nothing else waits for this reactor.
        let config = ReactorConfig {
            name: "inspect".to_owned(),
            turn_limit: Duration::MAX,
            ..ReactorConfig::default()
        };
        let reactor = Reactor::new(config).map_err(InspectError::Reactor)?;
        let local = reactor.local();
        let wake = match device.wake_fd() {
            Some(fd) => Some(local.register(fd, Interest::Read).map_err(InspectError::Reactor)?),
            None => None,
        };
        let device = SharedBdev::new(device);
        let driven = device.clone();
        local.add_poller(move || {
            let _ = wake.as_ref().map(Source::take_readable);
            driven.queue().drive()
        });
        Ok(Reader { reactor, device })
    }

    fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        self.reactor.run_until(&(), future)
    }
}

/// Inspects a file and prints the report.
///
/// # Errors
/// [`InspectError`]; [`InspectError::Problems`], after the report, if checks failed.
pub fn run(options: &InspectOptions) -> Result<(), CommandError> {
    let inspection = Inspection::open(&options.file, options.entries)?;
    let mut output = BufWriter::new(std::io::stdout().lock());
    print(inspection.report(), options.json, &mut output)?;
    Ok(finish(inspection.report())?)
}

/// Prints a report: as tables for people, or as one JSON document.
///
/// # Errors
/// [`InspectError::Print`].
pub fn print(report: &Report, json: bool, output: &mut dyn Write) -> Result<(), InspectError> {
    let printed = if json {
        serde_json::to_writer_pretty(&mut *output, report)
            .map_err(std::io::Error::from)
            .and_then(|()| output.write_all(b"\n"))
    } else {
        render::render(report, output)
    };
    match printed.and_then(|()| output.flush()) {
        // The reader closed the pipe early (`| head`).
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(InspectError::Print),
    }
}

/// The command's result: an error if checks failed.
fn finish(report: &Report) -> Result<(), InspectError> {
    if report.ok {
        return Ok(());
    }
    let problems = report.problems.len() as u64 + report.problems_omitted;
    Err(InspectError::Problems { file: report.file.clone(), problems })
}
