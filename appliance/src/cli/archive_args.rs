//! The grammar of `varve archive ...`.

use clap::Subcommand;

use super::point::point_text;
use crate::options::VerifyChoice;

#[derive(Debug, Subcommand)]
pub(super) enum ArchiveCommand {
    /// How the archive is, and how far behind.
    Status,
    /// Archive everything up to now, and wait until it is there.
    Seal,
    /// The objects of the pool in the archive, in the order of the log.
    List {
        /// From this segment on.
        #[arg(long, value_name = "SEQUENCE")]
        from: Option<u64>,
        /// At most so many.
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
    },
    /// Read the archive back with every check.
    Verify {
        /// From this segment on.
        #[arg(long, value_name = "SEQUENCE")]
        from: Option<u64>,
        /// Up to and with this segment.
        #[arg(long, value_name = "SEQUENCE")]
        to: Option<u64>,
    },
    /// Show how an archived object is verified, or set it.
    VerifyPolicy {
        /// From the next object on.
        policy: Option<VerifyChoice>,
    },
    /// Why a point is kept, what it needs, and when it goes.
    Explain {
        /// The point.
        #[arg(value_parser = point_text)]
        point: String,
    },
    /// Delete what no point that the rules keep needs, at most 5 % of the archive's segments in an hour; it is also done by time.
    Expire {
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
        /// Confirm the machine's clock first: nothing expires while it is too far ahead of the log to be believed.
        #[arg(long, conflicts_with = "dry_run")]
        clock_is_right: bool,
        /// All of it at once, not a part each hour.
        #[arg(long, conflicts_with = "dry_run")]
        all: bool,
    },
    /// Show the rules of retention, or set them: 'every-write 48h; synch 30d; every 1d keep 1y'; an empty text keeps everything.
    Keep {
        /// The rules.
        rules: Option<String>,
    },
}
