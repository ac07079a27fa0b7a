//! The arguments of rolling back and of clones.

use clap::{Args, Subcommand};

use super::point::point_text;

/// What to roll back, and where to.
#[derive(Debug, Args)]
pub(super) struct RollBackOptions {
    /// The name of the volume, or of a group.
    #[arg(value_name = "VOLUME|GROUP")]
    pub(super) volume: String,
    /// The point: lsn:N, time:2026-01-31T12:00:00Z, time:-10m, synch:LABEL, synch:ID or
    /// snapshot:NAME.
    #[arg(long, value_name = "POINT", value_parser = point_text)]
    pub(super) at: String,
    /// Do it also while hosts are connected, which may still use what they have in their caches,
    /// and while the archive is away and has a part of the point's state.
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum CloneCommand {
    /// List the clones: where they began, and what is their own.
    List,
    /// Set a clone to the point from which it was made, or to another point of its origin.
    ///
    /// What was written to the clone is no longer in it; its past keeps that.
    ///
    /// Example: varve clone reset accounts-test --at time:-10m
    #[command(verbatim_doc_comment)]
    Reset {
        /// The name of the clone.
        name: String,
        /// The point [default: the one from which the clone was made].
        #[arg(long, value_name = "POINT", value_parser = point_text)]
        at: Option<String>,
        /// Do it also while hosts are connected to it.
        #[arg(long)]
        force: bool,
    },
    /// Swap the names of a clone and its origin, so that hosts find the clone in its place.
    ///
    /// Example: varve clone promote accounts-before
    #[command(verbatim_doc_comment)]
    Promote {
        /// The name of the clone.
        name: String,
        /// Swap nothing: copy what the clone inherited, so that it needs its origin no more.
        #[arg(long, conflicts_with = "force")]
        stand_alone: bool,
        /// Do it also while hosts are connected to one of them: they lose it at once.
        #[arg(long)]
        force: bool,
    },
}
