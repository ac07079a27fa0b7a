//! The grammar of `varve archive ...` and `varve pool recover`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use uuid::Uuid;

use super::args::{DEFAULT_DIR, point_text};
use super::serve_args::VerifyChoice;
use crate::rpc::units::SizeBytes;

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveCommand {
    /// Show the state of the archive and how far behind it is.
    Status,
    /// Archive everything up to now, and wait until that is done.
    Seal,
    /// List the pool's objects in the archive, in the order of the log.
    List {
        /// Only from the segment with this number on.
        #[arg(long, value_name = "SEQUENCE")]
        from: Option<u64>,
        /// At most this many.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Read the archive back with every check.
    ///
    /// Example: varve archive verify --from 100 --to 199
    #[command(verbatim_doc_comment)]
    Verify {
        /// Only from the segment with this number on.
        #[arg(long, value_name = "SEQUENCE")]
        from: Option<u64>,
        /// Only up to the segment with this number, including it.
        #[arg(long, value_name = "SEQUENCE")]
        to: Option<u64>,
    },
    /// Show or set how archived objects are verified.
    VerifyPolicy {
        /// How to verify from the next object on.
        policy: Option<VerifyChoice>,
    },
    /// Show why a point is kept, which segments it needs, and when it expires.
    ///
    /// Example: varve archive explain synch:before-upgrade
    #[command(verbatim_doc_comment)]
    Explain {
        /// The point: lsn:N, time:2026-01-31T12:00:00Z, time:-10m, synch:LABEL, synch:ID or snapshot:NAME.
        #[arg(value_parser = point_text)]
        point: String,
    },
    /// Delete what no kept point needs, at most 5 % of the archive's segments in an hour.
    ///
    /// The appliance does this automatically too (varve serve --expire-seconds). Without rules
    /// (varve archive keep) nothing expires.
    #[command(verbatim_doc_comment)]
    Expire {
        /// Only show what would be deleted.
        #[arg(long)]
        dry_run: bool,
        /// First confirm that the machine's clock is right: nothing expires while it is too far ahead of the log.
        #[arg(long, conflicts_with = "dry_run")]
        clock_is_right: bool,
        /// Delete all of it now, not a part each hour.
        #[arg(long, conflicts_with = "dry_run")]
        all: bool,
    },
    /// Show or set the rules of retention.
    ///
    /// Example: varve archive keep 'every-write 48h; synch 30d; every 1d keep 1y'
    #[command(verbatim_doc_comment)]
    Keep {
        /// The rules, with semicolons between them; an empty text keeps everything.
        rules: Option<String>,
    },
}

/// What to make again, and where.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct RecoverOptions {
    /// The archive: DIRECTORY, device:FILE, tape:DIRECTORY, tape:/dev/nst0 or s3://BUCKET/PREFIX, as for `varve serve --archive`.
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
