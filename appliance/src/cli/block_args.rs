//! The grammar of `varve block` and `varve diff`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::point::point_text;
use crate::volume::HistoryPosition;

/// The word for a volume without contents, in the place of a point.
pub(super) const NOTHING: &str = "nothing";

#[derive(Debug, Subcommand)]
pub(super) enum BlockCommand {
    /// Show what happened to a block, or to a range of blocks, newest first.
    ///
    /// The log does not record which host wrote. Blocks have 4096 bytes.
    ///
    /// Example: varve block history accounts --block 42
    #[command(verbatim_doc_comment)]
    History(HistoryArgs),
    /// Show which command wrote what a block holds, now or at a point.
    ///
    /// Example: varve block who accounts --block 42 --at synch:before-upgrade
    #[command(verbatim_doc_comment)]
    Who {
        /// The volume, by name or UUID.
        volume: String,
        /// The block.
        #[arg(long, value_name = "N")]
        block: u64,
        /// The point [default: now].
        #[arg(long, value_name = "POINT", value_parser = point_text)]
        at: Option<String>,
    },
    /// Write what blocks held at a point again, as ordinary writes.
    ///
    /// Only blocks that differ are written; blocks that held nothing are discarded. The state
    /// before it stays a point: the answer names it.
    ///
    /// Example: varve block restore accounts --range 40..48 --at time:-10m
    #[command(verbatim_doc_comment)]
    Restore {
        /// The volume.
        volume: String,
        #[command(flatten)]
        blocks: BlocksArgs,
        /// The point whose contents are written.
        #[arg(long, value_name = "POINT", value_parser = point_text)]
        at: String,
        /// Also while hosts are connected to the volume: what they have cached is wrong then.
        #[arg(long)]
        force: bool,
    },
}

/// Which blocks.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct BlocksArgs {
    /// One block.
    #[arg(long, value_name = "N")]
    block: Option<u64>,
    /// A range: the first block, and the block behind the last.
    #[arg(long, value_name = "A..B", value_parser = range)]
    range: Option<(u64, u64)>,
}

impl BlocksArgs {
    /// The first block, and how many.
    pub(super) fn get(&self) -> (u64, u64) {
        let one = self.block.map(|block| (block, 1));
        one.or(self.range.map(|(start, end)| (start, end - start))).unwrap_or_default()
    }
}

/// Which history.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// The volume, by name or UUID.
    pub(super) volume: String,
    #[command(flatten)]
    pub(super) blocks: BlocksArgs,
    /// Look back from this point [default: now]; needed for a volume that is deleted.
    #[arg(long, value_name = "POINT", value_parser = point_text)]
    pub(super) at: Option<String>,
    /// Continue where a list ended, as it says.
    #[arg(long, value_name = "POSITION", value_parser = position)]
    pub(super) from: Option<HistoryPosition>,
    /// At most this many changes, up to 1000.
    #[arg(long, value_name = "N")]
    pub(super) limit: Option<u64>,
}

/// How a difference is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum DiffFormat {
    /// A table of ranges.
    Ranges,
    /// The changed-block list of backup software: offset and length in bytes, and `data` or `zero`.
    Blocks,
    /// JSON, all ranges in one object.
    Json,
}

/// `varve diff`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["export", "apply"]))]
pub(super) struct DiffArgs {
    /// The volume, or a group, whose volumes follow each other; with --apply the volume to change.
    #[arg(value_name = "VOLUME|GROUP")]
    pub(super) volume: String,
    /// The first point, or `nothing` for an empty volume.
    #[arg(required_unless_present_any = ["apply", "after"], value_parser = from_text)]
    pub(super) from: Option<String>,
    /// The second point [default: now].
    #[arg(value_parser = point_text)]
    pub(super) to: Option<String>,
    /// How it is printed.
    #[arg(long, value_enum, default_value_t = DiffFormat::Ranges, value_name = "FORMAT")]
    pub(super) format: DiffFormat,
    /// Write the changed blocks into a file, which `--apply` puts onto a volume that is as the
    /// first point was.
    #[arg(long, value_name = "FILE")]
    pub(super) export: Option<PathBuf>,
    /// Begin where the export in this file ended; the second point is then the only one.
    #[arg(long, value_name = "FILE", requires = "export", conflicts_with = "to")]
    pub(super) after: Option<PathBuf>,
    /// Put the changes of a file onto the volume.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "to"])]
    pub(super) apply: Option<PathBuf>,
    /// Replace the file; with --apply: also while hosts are connected, and without checking that
    /// the volume is as the first point was.
    #[arg(long, requires = "what")]
    pub(super) force: bool,
}

fn range(text: &str) -> Result<(u64, u64), String> {
    let parsed =
        text.split_once("..").and_then(|(start, end)| Some((start.parse().ok()?, end.parse().ok()?)));
    match parsed {
        Some((start, end)) if start < end => Ok((start, end)),
        _ => Err("give the first block and the block behind the last, like 40..48".to_owned()),
    }
}

fn from_text(text: &str) -> Result<String, String> {
    if text == NOTHING { Ok(text.to_owned()) } else { point_text(text).map_err(|error| error.to_string()) }
}

/// A position as text: its numbers with dots between them; the last one may be missing.
pub(super) fn position_text(position: &HistoryPosition) -> String {
    let HistoryPosition { lsn, image, known_lsn, version_lsn } = position;
    let version = version_lsn.map_or_else(String::new, |version| format!(".{version}"));
    format!("{lsn}.{image}.{known_lsn}{version}")
}

fn position(text: &str) -> Result<HistoryPosition, String> {
    let numbers: Option<Vec<u64>> = text.split('.').map(|number| number.parse().ok()).collect();
    let found = match numbers.as_deref() {
        Some(&[lsn, image, known_lsn, ref version @ ..]) if version.len() <= 1 => {
            let version_lsn = version.first().copied();
            u32::try_from(image).ok().map(|image| HistoryPosition { lsn, image, known_lsn, version_lsn })
        }
        _ => None,
    };
    found.ok_or_else(|| "give the position that the list before it ended with".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_it_is_shown() {
        for version_lsn in [None, Some(7)] {
            let shown = HistoryPosition { lsn: 123, image: 4, known_lsn: 200, version_lsn };
            assert_eq!(position(&position_text(&shown)), Ok(shown));
        }
        for text in ["", "1", "1.2", "1.2.3.4.5", "1.x.3", "1.99999999999.2"] {
            assert!(position(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_has_a_block() {
        assert_eq!(range("40..48"), Ok((40, 48)));
        for text in ["", "4", "4..", "..4", "4..4", "5..4", "a..b"] {
            assert!(range(text).is_err(), "{text}");
        }
    }
}
