//! The options of `varve inspect`.

use std::path::PathBuf;

use clap::Args;

/// What to show of a device's file.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct InspectOptions {
    /// The file or block device.
    pub file: PathBuf,

    /// Show every record with its entries, and every volume's index.
    #[arg(long)]
    pub entries: bool,

    /// Print JSON (the global `--json`).
    #[arg(skip)]
    pub json: bool,
}
