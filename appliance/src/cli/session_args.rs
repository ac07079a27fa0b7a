//! The grammar of the commands of sessions, below `varve restore`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::point::point_text;

/// `varve restore open ...` and the commands of what it opens.
#[derive(Debug, Subcommand)]
pub(super) enum SessionCommand {
    /// Open a volume or a group as it was at a point, as clones that can be moved along the log.
    ///
    /// The clone has the session's name; those of a group are NAME-VOLUME. Move it with step, or
    /// search with good, bad and bisect; end with commit or abort. The archive keeps everything
    /// between the oldest and the newest position at which the session stood.
    ///
    /// Example: varve restore open accounts --at time:-10m --name search
    #[command(verbatim_doc_comment)]
    Open {
        /// The volume, by the name that it had at the point, or a group.
        #[arg(value_name = "VOLUME|GROUP")]
        volume: String,
        /// The point at which it begins.
        #[arg(long, value_name = "POINT", value_parser = point_text)]
        at: String,
        /// The name of the session and of its clone, or the beginning of its clones' names.
        #[arg(long)]
        name: String,
        /// Refuse writes to the clones.
        #[arg(long)]
        read_only: bool,
    },
    /// Move a session over commands of hosts, or to a point.
    ///
    /// Disconnect the clones' hosts first: their caches know nothing of the step. The clones of a
    /// group are moved together, over commands to any of its volumes.
    ///
    /// Example: varve restore step search -1
    ///          varve restore step search +100
    ///          varve restore step search --to lsn:8123
    #[command(verbatim_doc_comment)]
    Step {
        /// The session.
        name: String,
        /// Over how many commands: +N forward, -N back.
        #[arg(allow_negative_numbers = true, required_unless_present = "to", value_name = "+N|-N")]
        count: Option<i64>,
        /// To this point instead.
        #[arg(long, value_name = "POINT", value_parser = point_text, conflicts_with = "count")]
        to: Option<String>,
        #[command(flatten)]
        how: StepArgs,
    },
    /// Say that the state where a session stands, or at a point, is as it should be.
    ///
    /// Example: varve restore good search --at synch:nightly
    #[command(verbatim_doc_comment)]
    Good(JudgeArgs),
    /// Say that the state where a session stands, or at a point, is not as it should be.
    ///
    /// Example: varve restore bad search
    #[command(verbatim_doc_comment)]
    Bad(JudgeArgs),
    /// Say that nothing can be said about the state where a session stands, or at a point.
    ///
    /// Example: varve restore skip search
    #[command(verbatim_doc_comment)]
    Skip(JudgeArgs),
    /// Show the sessions, or one: where each stands, and its verdicts.
    ///
    /// Example: varve restore status search
    #[command(verbatim_doc_comment)]
    Status {
        /// The session; without it, all.
        name: Option<String>,
    },
    /// Move a session to the middle between the last good and the first bad position.
    ///
    /// When one command is left, it is named with its time and blocks. With --check the search runs
    /// by itself: the command runs at each position and says by its exit code what it finds: 0
    /// good, 125 skip, any other up to 127 bad; anything else ends the search. It gets
    ///   VARVE_ADDRESS  address and port of the appliance
    ///   VARVE_NQN      the clone's subsystem, for nvme connect
    ///   VARVE_POINT    the position, as lsn:N
    ///   VARVE_IMAGE    a sparse file with the clone's contents; only what changed is read again
    /// and for a group, instead of VARVE_NQN and VARVE_IMAGE, all in the same order,
    ///   VARVE_VOLUMES  the names of its volumes, with spaces between
    ///   VARVE_NQNS     the clones' subsystems, with spaces between
    ///   VARVE_IMAGES   a folder with one such file for each volume, named as the volume
    /// The check may write to the clone: the next step discards that. It must disconnect before it
    /// ends.
    ///
    /// Example: varve restore bisect search --good synch:nightly --bad lsn:902 --check './check.sh'
    #[command(verbatim_doc_comment)]
    Bisect(BisectOptions),
    /// End a session: roll the volumes back to where it stands, or keep the clones as volumes.
    ///
    /// A roll-back does not have what was written to the clones; --keep has. The clones of a group
    /// become a group of the name, and its volumes are NAME-VOLUME.
    ///
    /// Example: varve restore commit search --roll-back
    ///          varve restore commit search --keep accounts-before
    #[command(verbatim_doc_comment)]
    Commit(CommitArgs),
    /// End a session and delete its clones.
    ///
    /// Example: varve restore abort search
    #[command(verbatim_doc_comment)]
    Abort {
        /// The session.
        name: String,
        /// Delete the clone although a host is connected to it.
        #[arg(long)]
        force: bool,
    },
}

/// How a session is moved.
#[derive(Debug, Clone, Args)]
pub(super) struct StepArgs {
    /// Discard what hosts wrote to the clone.
    #[arg(long)]
    pub(super) discard_writes: bool,
    /// Move it although a host is connected to the clone.
    #[arg(long)]
    pub(super) force: bool,
}

/// What was found where.
#[derive(Debug, Clone, Args)]
pub(super) struct JudgeArgs {
    /// The session.
    pub(super) name: String,
    /// The point; without it, where the session stands.
    #[arg(long, value_name = "POINT", value_parser = point_text)]
    pub(super) at: Option<String>,
}

/// How to search.
#[derive(Debug, Clone, Args)]
pub(super) struct BisectOptions {
    /// The session.
    pub(super) name: String,
    /// A point that is good.
    #[arg(long, value_name = "POINT", value_parser = point_text)]
    pub(super) good: Option<String>,
    /// A point that is bad.
    #[arg(long, value_name = "POINT", value_parser = point_text)]
    pub(super) bad: Option<String>,
    /// Run this shell command at each position, until the search is over.
    #[arg(long, value_name = "COMMAND")]
    pub(super) check: Option<String>,
    /// Where to keep the clone's contents for --check: a file, or for a group a folder [default: a
    /// temporary one].
    #[arg(long, value_name = "FILE", requires = "check")]
    pub(super) image: Option<PathBuf>,
    /// Do not read the clone's contents into a file: the check connects to it.
    #[arg(long, requires = "check", conflicts_with = "image")]
    pub(super) no_image: bool,
    #[command(flatten)]
    pub(super) how: StepArgs,
}

/// How a session ends.
#[derive(Debug, Clone, Args)]
#[command(group = clap::ArgGroup::new("result").required(true))]
pub(super) struct CommitArgs {
    /// The session.
    pub(super) name: String,
    /// Roll the volumes back, and delete the clones.
    #[arg(long, group = "result")]
    pub(super) roll_back: bool,
    /// Keep the clone as a volume of this name; those of a group become a group.
    #[arg(long, group = "result", value_name = "NAME")]
    pub(super) keep: Option<String>,
    /// Roll back although hosts wrote to the clone: what they wrote is discarded.
    #[arg(long)]
    pub(super) discard_writes: bool,
    /// Do it although hosts are connected.
    #[arg(long)]
    pub(super) force: bool,
}
