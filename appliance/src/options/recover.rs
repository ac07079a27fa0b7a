//! The options of `varve pool recover`.

use std::path::PathBuf;

use clap::Args;
use uuid::Uuid;

use super::defaults::DEFAULT_DIR;
use crate::text::units::SizeBytes;

/// What to make again, and where.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RecoverOptions {
    /// The archive, as `varve serve --archive` takes it.
    #[arg(long, value_name = "SPEC")]
    pub from: String,

    /// The directory for the new primary; made if it does not exist.
    #[arg(long, default_value = DEFAULT_DIR, value_name = "DIR")]
    pub dir: PathBuf,

    /// The pool, when the archive holds several.
    #[arg(long, value_name = "UUID")]
    pub pool: Option<Uuid>,

    /// The size of the new primary; by default as `varve serve` makes it.
    #[arg(long, value_name = "SIZE")]
    pub pool_size: Option<SizeBytes>,

    /// A history that is beside the newest one, as an error or a report names it.
    #[arg(long, value_name = "UUID")]
    pub history: Option<Uuid>,

    /// Only rehearse: the archive is read and never written, so its owner goes on.
    #[arg(long)]
    pub rehearse: bool,

    /// Recover without objects that the store fails to give, as if they were damaged. What only
    /// they hold is lost then, also when the store gives them again later.
    #[arg(long)]
    pub leave_out_unreadable: bool,

    /// Print JSON (the global `--json`).
    #[arg(skip)]
    pub json: bool,
}
