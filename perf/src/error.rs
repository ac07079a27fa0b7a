//! Why a measurement could not be made.

use std::net::SocketAddr;

use varve::bdev::{BdevError, MemoryError, OpenError};
use varve::dma::DmaError;
use varve::nvmf::host::HostError;
use varve::serve::ServeError;
use varve::volume::{IoError, VolumeError};

/// Why a measurement could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PerfError {
    /// The host side failed.
    #[error("{}{}", .0, causes(.0))]
    Host(#[from] HostError),
    /// The subsystem has no namespace.
    #[error("volume {volume} at {address} has no namespace")]
    NoNamespace {
        /// The address.
        address: SocketAddr,
        /// The volume.
        volume: String,
    },
    /// The controller grants fewer queues than connections were asked for.
    #[error(
        "{asked} connections were asked for and the controller grants {granted}; use --connections {granted}"
    )]
    TooFewQueues {
        /// How many were requested.
        asked: u16,
        /// How many the controller grants.
        granted: u16,
    },
    /// The controller's queues are shorter than requested.
    #[error(
        "a queue depth of {asked} was asked for and the controller takes {depth_max}; use --queue-depth {depth_max}"
    )]
    QueueDepth {
        /// The requested depth.
        asked: u16,
        /// The greatest depth.
        depth_max: u16,
    },
    /// The size of a command does not fit the namespace.
    #[error(
        "a block size of {block_bytes} bytes is not 1 to {bytes_max} bytes in blocks of the namespace ({namespace_block_bytes} bytes); change --block-size"
    )]
    BlockSize {
        /// Bytes of a command.
        block_bytes: u32,
        /// Bytes of a logical block.
        namespace_block_bytes: u32,
        /// The most bytes of a command.
        bytes_max: u32,
    },
    /// The range to work on is smaller than one command, or beyond the namespace.
    #[error(
        "a range of {range_bytes} bytes does not hold one command, or is larger than the volume ({volume_bytes} bytes)"
    )]
    Range {
        /// The requested range.
        range_bytes: u64,
        /// The size of the volume.
        volume_bytes: u64,
    },
    /// The in-process appliance does not start or stop.
    #[error("the appliance under test: {0}")]
    Serve(#[from] ServeError),
    /// A file for the floor cannot be opened.
    #[error("{0}")]
    Open(#[from] OpenError),
    /// The floor's device failed.
    #[error("{0}")]
    Device(#[from] BdevError),
    /// No memory for the floor's buffers.
    #[error("{0}")]
    Memory(#[from] DmaError),
    /// A call to the system failed.
    #[error("{what}: {source}")]
    Io {
        /// What the call was for.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A result cannot be written as JSON.
    #[error("the result cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A pool under test refused a request.
    #[error("the pool under test: {0}")]
    Pool(#[from] VolumeError),
    /// A floor could not be measured.
    #[error("the floor '{what}' failed: {reason}")]
    Floor {
        /// Which.
        what: String,
        /// Why.
        reason: String,
    },
    /// The appliance under test made no snapshots.
    #[error("no snapshots could be made: {reason}")]
    Snapshots {
        /// Its error.
        reason: String,
    },
    /// A log under test failed.
    #[error("the log under test: {reason}")]
    Log {
        /// Its error.
        reason: String,
    },
    /// A command of a measurement failed.
    #[error("a command to the pool under test failed: {0}")]
    Command(IoError),
    /// A command of a host failed.
    #[error("a command to the appliance under test failed: {status}")]
    Status {
        /// Its status, in words.
        status: String,
    },
    /// Commands to a target failed, so the figures mean nothing.
    #[error("{count} commands to {target} failed, the first with: {reason}")]
    FailedCommands {
        /// The target.
        target: String,
        /// How many.
        count: u64,
        /// The status of the first.
        reason: String,
    },
    /// No memory for a disk.
    #[error("{0}")]
    Disk(#[from] MemoryError),
    /// The archive or its store failed.
    #[error("the archive under test: {reason}")]
    Archive {
        /// Its error.
        reason: String,
    },
    /// A file is not a result.
    #[error("{path} is not a result of varve-perf: {reason}")]
    NoResult {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
    /// The requested measurement is not possible.
    #[error("this cannot be measured: {why}")]
    Shape {
        /// Why not, and what is possible.
        why: &'static str,
    },
    /// A thread of a floor ended without a result, which is a bug.
    #[error("a thread ended without a result")]
    ThreadEnded,
    /// The reactor's thread is not found in /proc.
    #[error("no thread of this process is called {name}")]
    NoThread {
        /// Its name.
        name: String,
    },
}

impl PerfError {
    pub(crate) fn archive(error: impl std::fmt::Display) -> PerfError {
        PerfError::Archive { reason: error.to_string() }
    }

    pub(crate) fn shape(why: &'static str) -> PerfError {
        PerfError::Shape { why }
    }

    /// Converts an error of the system into a [`PerfError::Io`].
    pub fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> PerfError {
        move |source| PerfError::Io { what, source }
    }
}

/// The causes of a host error, which its own text does not include.
fn causes(error: &HostError) -> String {
    let mut text = String::new();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
