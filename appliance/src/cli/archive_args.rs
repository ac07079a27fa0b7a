//! The grammar of `varve archive ...`.

use clap::Subcommand;

use super::point::point_text;
use crate::options::VerifyChoice;

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
    /// Read the archive back with every check: objects, then anchors.
    ///
    /// Damaged or missing objects make it fail. Damaged anchors do not: points open without
    /// them, only slower.
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
        /// The point: lsn:N, time:2026-01-31T12:00:00Z, time:-10m, synch:LABEL, synch:ID or
        /// snapshot:NAME.
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
        /// First confirm that the machine's clock is right: nothing expires while it is too far
        /// ahead of the log.
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
