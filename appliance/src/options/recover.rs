//! The options of `varve pool recover`.

use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use super::defaults::DEFAULT_DIR;
use crate::text::units::SizeBytes;

/// What to make again, and where.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RecoverOptions {
    /// The archive: DIRECTORY, device:FILE, tape:DIRECTORY, tape:/dev/nst0 or s3://BUCKET/PREFIX,
    /// as for `varve serve --archive`.
    #[arg(long, value_name = "SPEC")]
    pub from: String,

    /// The directory for the new primary; it is made if it does not exist.
    #[arg(long, default_value = DEFAULT_DIR, value_name = "DIR")]
    pub dir: PathBuf,

    /// The pool to recover, if the archive holds several.
    #[arg(long, value_name = "UUID")]
    pub pool: Option<Uuid>,

    /// The size of the new primary [default: 4GiB].
    #[arg(long, value_name = "SIZE")]
    pub pool_size: Option<SizeBytes>,

    /// Recover this history instead of the newest one; errors and reports name it.
    #[arg(long, value_name = "UUID")]
    pub history: Option<Uuid>,

    /// Only rehearse: the archive is read and never written, and its owner keeps it.
    #[arg(long)]
    pub rehearse: bool,

    /// Recover without the objects that the store cannot read, as if they were damaged. What only
    /// they hold is then lost, also if the store can read them again later.
    #[arg(long)]
    pub leave_out_unreadable: bool,

    /// Print JSON (the global `--json`).
    #[arg(skip)]
    pub json: bool,
}
