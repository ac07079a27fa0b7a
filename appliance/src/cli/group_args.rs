//! The grammar of `varve group`.

use clap::{Args, Subcommand};

use super::point::point_text;

/// Which volumes of which group.
#[derive(Debug, Args)]
pub(super) struct VolumesArgs {
    /// The name of the group.
    pub(super) name: String,
    /// The volumes.
    #[arg(required = true, value_name = "VOLUME")]
    pub(super) volumes: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// Make a group of volumes.
    ///
    /// Its name may be used where a volume's may: in varve synch create, varve restore plan, open
    /// and roll-back, varve point list and varve diff. All its volumes are then at one position.
    ///
    /// Example: varve group create shop accounts orders journal
    #[command(verbatim_doc_comment)]
    Create(VolumesArgs),
    /// List the groups with their volumes.
    List,
    /// Show the volumes of a group.
    ///
    /// Example: varve group show shop
    #[command(verbatim_doc_comment)]
    Show {
        /// The name of the group.
        name: String,
    },
    /// Add volumes to a group. A volume may be in several groups.
    ///
    /// Example: varve group add shop mails
    #[command(verbatim_doc_comment)]
    Add(VolumesArgs),
    /// Take volumes out of a group. Points of the past know that they were in it.
    ///
    /// Example: varve group remove shop mails
    #[command(verbatim_doc_comment)]
    Remove(VolumesArgs),
    /// Give a group another name.
    ///
    /// Example: varve group rename shop shop-old
    #[command(verbatim_doc_comment)]
    Rename {
        /// The name of the group.
        name: String,
        /// Its new name.
        to: String,
    },
    /// Delete a group. Its volumes stay.
    ///
    /// Example: varve group delete shop
    #[command(verbatim_doc_comment)]
    Delete {
        /// The name of the group.
        name: String,
    },
    /// Open a group as it was at a point, as new volumes and a new group of them.
    ///
    /// The volumes are those of the group at the point. Their clones are NAME-VOLUME.
    ///
    /// Example: varve group clone shop --at synch:before-upgrade --name before
    #[command(verbatim_doc_comment)]
    Clone {
        /// The name of the group.
        group: String,
        /// The point: lsn:N, time:2026-01-31T12:00:00Z, time:-10m, synch:LABEL, synch:ID or
        /// snapshot:NAME.
        #[arg(long, value_name = "POINT", value_parser = point_text)]
        at: String,
        /// The name of the new group, and the beginning of the names of its volumes.
        #[arg(long)]
        name: String,
        /// Refuse writes to the new volumes.
        #[arg(long)]
        read_only: bool,
    },
}
