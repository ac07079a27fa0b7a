//! The grammar of `varve point`, `varve restore plan`, and of what names points in other commands.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::point::{point_or_time_text, point_text, span_text};

/// `varve point ...`
#[derive(Debug, Subcommand)]
pub(super) enum PointCommand {
    /// Show the time line: which points can be opened, gaps, marks, what hosts wrote when.
    ///
    /// Times are those of the log. A time that is copied from here names the mark that it is shown
    /// for.
    ///
    /// Example: varve point list; varve point list accounts --from -1h --every 1m
    #[command(verbatim_doc_comment)]
    List(PointListOptions),
}

/// Which part of the time line to show.
#[derive(Debug, Args)]
pub(super) struct PointListOptions {
    /// Only the commands of this volume or group, and the marks that are for it.
    #[arg(value_name = "VOLUME|GROUP")]
    pub(super) volume: Option<String>,
    /// From this point or time on: -1h, 14:03, synch:LABEL.
    #[arg(long, value_name = "POINT", value_parser = point_or_time_text, allow_hyphen_values = true)]
    pub(super) from: Option<String>,
    /// Up to this point or time.
    #[arg(long, value_name = "POINT", value_parser = point_or_time_text, allow_hyphen_values = true)]
    pub(super) to: Option<String>,
    /// Sum up what hosts wrote in each interval of this length: 1m, 1h.
    #[arg(long, value_name = "SPAN", value_parser = span_text)]
    pub(super) every: Option<String>,
    /// List every single command of a host.
    #[arg(long)]
    pub(super) writes: bool,
    /// Continue at this position, as the last answer said.
    #[arg(long, value_name = "LSN")]
    pub(super) from_lsn: Option<u64>,
    /// At most about this many entries of each kind.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) limit: u64,
}

/// `varve restore plan`
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The volume, by the name that it had at the point, or a group.
    #[arg(value_name = "VOLUME|GROUP")]
    volume: String,
    /// The point, as for varve restore clone.
    #[arg(long, value_name = "POINT", value_parser = point_text)]
    at: String,
    /// Read no entries: what the volume holds where is then not counted.
    #[arg(long)]
    quick: bool,
}

impl PlanArgs {
    /// As parameters of a call.
    pub(super) fn params(&self) -> Value {
        json!({"volume": self.volume, "at": self.at, "quick": self.quick.then_some(true)})
    }
}

/// Which synchs.
#[derive(Debug, Args)]
pub(super) struct SynchListArgs {
    /// Only those from this LSN on.
    #[arg(long, default_value_t = 0, value_name = "LSN")]
    from: u64,
    /// Only those up to this LSN.
    #[arg(long, value_name = "LSN")]
    to: Option<u64>,
    /// At most this many; one answer has at most 10,000.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only those with such a label: * stands for any text, ? for one letter.
    #[arg(long, value_name = "PATTERN")]
    label: Option<String>,
    /// Only those that are marks of this volume, of groups that it is in, or of all volumes.
    #[arg(long, value_name = "VOLUME")]
    volume: Option<String>,
    /// Only those that are marks of this group, or of all volumes.
    #[arg(long, value_name = "GROUP", conflicts_with = "volume")]
    group: Option<String>,
}

impl SynchListArgs {
    /// As parameters of a call.
    pub(super) fn params(&self) -> Value {
        json!({"from": self.from, "to": self.to, "limit": self.limit, "label": self.label, "volume": self.volume, "group": self.group})
    }
}
