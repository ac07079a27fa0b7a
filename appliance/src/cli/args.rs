//! The command line's grammar.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value, json};

use super::archive_args::ArchiveCommand;
use super::block_args::{BlockCommand, DiffArgs};
use super::clone_args::{CloneCommand, RollBackOptions};
use super::group_args::GroupCommand;
use super::point::point_text;
use super::point_args::{PlanArgs, PointCommand, SynchListArgs};
use super::session_args::SessionCommand;
use super::spdk_args::{BdevCommand, FrameworkCommand, NvmfCommand, SpdkCommand, ThreadCommand};
use crate::options::{InspectOptions, RecoverOptions, ServeOptions};
use crate::text::units::SizeBytes;

/// The shortest and the longest interval of `varve top`, in seconds.
const INTERVAL_MIN_S: f64 = 0.1;
const INTERVAL_MAX_S: f64 = 3600.0;

/// An NVMe-oF storage appliance whose volumes can be taken back to any write.
#[derive(Debug, Parser)]
#[command(name = "varve", version, propagate_version = true)]
pub(super) struct Cli {
    /// The appliance's JSON-RPC socket [default: varve-data/rpc.sock, or /run/varve/rpc.sock if
    /// that does not exist; for serve: DIR/rpc.sock].
    #[arg(long, global = true, env = "VARVE_RPC", value_name = "SOCKET")]
    pub(super) rpc: Option<PathBuf>,

    /// Print results as JSON, exactly as the appliance answers.
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// Seconds to wait for an answer, 1 to 86400.
    #[arg(long = "timeout", global = true, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) timeout_s: u64,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the appliance until a signal stops it.
    ///
    /// Example: varve serve --dir /srv/varve --listen 10.1.0.5:4420 --archive /mnt/archive
    #[command(verbatim_doc_comment)]
    Serve(ServeOptions),
    /// Show what is in the file of a pool's device, while no appliance uses it.
    ///
    /// Example: varve inspect varve-data/pool.varve
    #[command(verbatim_doc_comment)]
    Inspect(InspectOptions),
    /// Watch a running appliance: reactors, pool, archive, volumes, connections. Press ? for help.
    ///
    /// Example: varve top --interval 2
    #[command(verbatim_doc_comment)]
    Top(TopOptions),
    /// Save or load the configuration of a running appliance.
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Call(CallCommand),
}

/// How to watch.
#[derive(Debug, Clone, PartialEq, Args)]
pub(super) struct TopOptions {
    /// Print one snapshot and exit (the default when output is not a terminal).
    #[arg(long)]
    pub(super) once: bool,

    /// Seconds between two samples, 0.1 to 3600; rates are over this time.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub(super) interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "give a number of seconds, like 2 or 0.5".to_owned())?;
    if (INTERVAL_MIN_S..=INTERVAL_MAX_S).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(format!("give {INTERVAL_MIN_S} to {INTERVAL_MAX_S} seconds"))
    }
}

/// `varve config ...`
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print the configuration as JSON, in the format of SPDK's `save_config`.
    Save,
    /// Make the calls of a configuration file.
    ///
    /// Example: varve config save > varve.json; varve config load varve.json
    #[command(verbatim_doc_comment)]
    Load {
        /// The file, as `varve config save` prints it; - reads standard input.
        file: PathBuf,
    },
}

/// Commands that are one call each.
#[derive(Debug, Subcommand)]
pub(super) enum CallCommand {
    /// The pool: its device, statistics, segments, size.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Volumes, which hosts see as disks (NVMe namespaces).
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Groups: volumes that are marked, opened and rolled back together.
    #[command(subcommand)]
    Group(GroupCommand),
    /// Consistent points that applications mark.
    #[command(subcommand)]
    Synch(SynchCommand),
    /// The archive, where the past is kept: status, contents, rules.
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// Snapshots: named points that are kept until they are deleted.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Points in time: which there are, and what happened when.
    #[command(subcommand)]
    Point(PointCommand),
    /// Go back to a point.
    ///
    /// A point is now, lsn:N, write:N, time:2026-01-31T12:00:00Z, 'time:2026-01-31 12:00',
    /// time:14:03, time:-10m, synch:LABEL, synch:ID or snapshot:NAME; +N or -N after it moves it by
    /// so many commands of hosts. varve point list shows which points there are.
    #[command(verbatim_doc_comment)]
    #[command(subcommand)]
    Restore(RestoreCommand),
    /// Clones: their space, going back to their origin, taking its place.
    #[command(subcommand)]
    Clone(CloneCommand),
    /// Single blocks: their history, who wrote them, their old contents.
    #[command(subcommand)]
    Block(BlockCommand),
    /// Show which blocks of a volume differ between two points, or carry the difference in a file.
    ///
    /// Example: varve diff accounts synch:monday synch:tuesday
    /// Example: varve diff accounts synch:monday --export accounts.inc
    /// Example: varve diff accounts-copy --apply accounts.inc
    #[command(verbatim_doc_comment)]
    Diff(Box<DiffArgs>),
    /// The NVMe-oF target: subsystems, listeners, connections.
    #[command(subcommand)]
    Nvmf(NvmfCommand),
    /// The volumes, as SPDK shows block devices.
    #[command(subcommand)]
    Bdev(BdevCommand),
    /// The appliance itself, with SPDK's names.
    #[command(subcommand)]
    Framework(FrameworkCommand),
    /// The reactors, as SPDK shows its threads.
    #[command(subcommand)]
    Thread(ThreadCommand),
    /// The running appliance: its version, signals.
    #[command(subcommand)]
    Spdk(SpdkCommand),
    /// Call any JSON-RPC method and print its answer; `varve rpc rpc_get_methods` lists them.
    ///
    /// Example: varve rpc volume_list '{"name": "vol0"}'
    #[command(verbatim_doc_comment)]
    Rpc {
        /// The method.
        method: String,
        /// Its parameters, as a JSON object.
        #[arg(value_parser = json_object, value_name = "JSON-PARAMS")]
        params: Option<Map<String, Value>>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum PoolCommand {
    /// Show the pool: device, segments, working set, problems.
    #[command(visible_alias = "info")]
    List,
    /// Show counters and gauges of the pool.
    Stats,
    /// Show every slot of the device and the segment in it.
    Segments,
    /// Change how many segments the live data may use (the working set).
    ///
    /// More segments hold more. Fewer leave more of the device to the past, and make any point
    /// faster to rebuild: it is rebuilt from at most N+1 segments.
    ///
    /// Example: varve pool set-working-set 40
    #[command(verbatim_doc_comment)]
    SetWorkingSet {
        /// The number of segments, from 2 to all slots but four; `varve pool info` shows both
        /// numbers.
        segments: u64,
    },
    /// Use the space by which the pool's device has grown.
    ///
    /// First stop the appliance, enlarge the file (truncate --size 8G varve-data/pool.varve) or the
    /// device, and start the appliance again.
    #[command(verbatim_doc_comment)]
    Grow,
    /// Compare the time that the log's records carry with the machine's clock.
    Clock {
        /// Confirm that the machine's clock is right: expiry goes on, and records follow the clock.
        #[arg(long)]
        is_right: bool,
    },
    /// Make the primary of a lost pool again, from its archive alone, while no appliance serves it.
    ///
    /// Example: varve pool recover --from /mnt/archive --dir /srv/varve
    #[command(verbatim_doc_comment)]
    Recover(RecoverOptions),
}

#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    /// Make a volume.
    ///
    /// Example: varve volume create accounts 512MiB
    #[command(verbatim_doc_comment)]
    Create {
        /// The name of the volume.
        name: String,
        #[command(flatten)]
        size: SizeArgs,
        /// The UUID of the volume [default: a new one].
        #[arg(long)]
        uuid: Option<uuid::Uuid>,
        /// Succeed also if a volume of this name and size exists.
        #[arg(long)]
        if_absent: bool,
        /// Reserve no capacity: the volume uses it as it is written, and writes fail when the pool
        /// is full.
        #[arg(long)]
        thin: bool,
    },
    /// List the volumes.
    List {
        /// Only the volume of this name.
        name: Option<String>,
    },
    /// Delete a volume. Its past stays: `varve restore clone` brings it back.
    ///
    /// Example: varve volume delete accounts-recently
    #[command(verbatim_doc_comment)]
    Delete {
        /// The name of the volume.
        name: String,
        /// Delete it also while hosts are connected to it: they lose it at once.
        #[arg(long)]
        force: bool,
    },
    /// Give a volume another name, under which hosts find it then.
    ///
    /// Example: varve volume rename accounts-before accounts
    #[command(verbatim_doc_comment)]
    Rename {
        /// The name of the volume.
        name: String,
        /// Its new name.
        to: String,
        /// Rename it also while hosts are connected to it: they lose it at once.
        #[arg(long)]
        force: bool,
    },
    /// Write a file into a volume, as an NVMe/TCP host.
    ///
    /// The volume is made if it does not exist. Nothing of the file's holes is written. What the
    /// volume holds beyond the end of the file stays. What was there before can be had back:
    /// `varve volume export NAME FILE --at POINT`.
    ///
    /// Example: varve volume import accounts accounts.img
    #[command(verbatim_doc_comment)]
    Import(ImportOptions),
    /// Read a volume into a file, as it is now or as it was at a point, as an NVMe/TCP host.
    ///
    /// The file gets the volume's size, with holes where the volume holds zeroes, and its name when
    /// it is complete. With --at a read-only clone is made, read and deleted again.
    ///
    /// Example: varve volume export accounts before.img --at synch:before-upgrade
    #[command(verbatim_doc_comment)]
    Export(ExportOptions),
    /// Copy what a clone inherited into the pool, until it needs neither origin nor archive.
    ///
    /// Example: varve volume hydrate accounts-before
    #[command(verbatim_doc_comment)]
    Hydrate {
        /// The name of the clone.
        name: String,
    },
    /// Show how long a volume's requests take, or turn the measurement on or off.
    ///
    /// Example: varve volume histogram vol0 --enable; varve volume histogram vol0
    #[command(verbatim_doc_comment)]
    Histogram {
        /// The name of the volume.
        name: String,
        /// Start measuring; a restart ends it.
        #[arg(long, conflicts_with = "disable")]
        enable: bool,
        /// Stop measuring, and forget what was measured.
        #[arg(long)]
        disable: bool,
        /// Measure only this kind of request: read, write, unmap, `write_zeroes`, flush.
        #[arg(long, value_name = "KIND", requires = "enable")]
        only: Option<String>,
    },
    /// Grow a volume. Volumes do not shrink.
    ///
    /// Example: varve volume resize accounts 1GiB
    #[command(verbatim_doc_comment)]
    Resize {
        /// The name of the volume.
        name: String,
        #[command(flatten)]
        size: SizeArgs,
    },
}

/// What `volume import` writes where.
#[derive(Debug, Args)]
pub(super) struct ImportOptions {
    /// The volume; it is made with the file's size if there is none.
    pub(super) name: String,
    /// The file or block device to read.
    pub(super) file: PathBuf,
    /// Also while hosts are connected to the volume: what they have cached is wrong then.
    #[arg(long)]
    pub(super) force: bool,
}

/// What `volume export` reads into what.
#[derive(Debug, Args)]
pub(super) struct ExportOptions {
    /// The volume, by the name that it had at the point.
    pub(super) name: String,
    /// The file to make.
    pub(super) file: PathBuf,
    /// Read the volume as it was: lsn:N, time:2026-01-31T12:00:00Z, time:-10m, synch:LABEL,
    /// synch:ID or snapshot:NAME.
    #[arg(long, value_name = "POINT", value_parser = point_text)]
    pub(super) at: Option<String>,
    /// Replace the file if it exists.
    #[arg(long)]
    pub(super) force: bool,
}

/// A volume's size, as an argument or an option.
#[derive(Debug, Args)]
pub(super) struct SizeArgs {
    /// The size, in bytes or with a binary unit: 4096, 512MiB, 1GiB, 2TiB.
    #[arg(value_name = "SIZE", required_unless_present = "size_option")]
    size: Option<SizeBytes>,
    /// The same as an option.
    #[arg(long = "size", value_name = "SIZE", conflicts_with = "size")]
    size_option: Option<SizeBytes>,
}

impl SizeArgs {
    /// The size. The grammar guarantees that exactly one of the two is given.
    pub(super) fn get(&self) -> Option<SizeBytes> {
        self.size.or(self.size_option)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum SynchCommand {
    /// Mark this moment of every volume as a consistent point.
    ///
    /// Example: varve synch create --label before-upgrade --details '{"by": "me"}'
    #[command(verbatim_doc_comment)]
    Create {
        /// The name of the point; it may be used again, and synch:LABEL is the newest.
        #[arg(long)]
        label: String,
        /// More about it, as JSON.
        #[arg(long, value_parser = json_value, value_name = "JSON")]
        details: Option<Value>,
        /// The mark is one of this volume; nothing is said of the others.
        #[arg(long, value_name = "VOLUME")]
        volume: Option<String>,
        /// The mark is one of this group; nothing is said of other volumes.
        #[arg(long, value_name = "GROUP", conflicts_with = "volume")]
        group: Option<String>,
    },
    /// List the synchs, oldest first.
    List(SynchListArgs),
    /// Delete a synch: its point is no longer a mark, and kept only as long as the rules of
    /// retention say.
    ///
    /// Example: varve synch delete nightly-1
    #[command(verbatim_doc_comment)]
    Delete {
        /// The synch: its id, or its label if only one synch has it.
        synch: String,
        /// Delete every synch that has the label.
        #[arg(long)]
        all: bool,
    },
}

/// A page of a list.
#[derive(Debug, Args)]
pub(super) struct PageArgs {
    /// Only those from this LSN on.
    #[arg(long, default_value_t = 0, value_name = "LSN")]
    from: u64,
    /// At most this many; one answer has at most 10,000.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

impl PageArgs {
    /// As parameters of a call.
    pub(super) fn params(&self) -> Value {
        json!({"from": self.from, "limit": self.limit})
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum SnapshotCommand {
    /// Name this moment of every volume, and keep it until the snapshot is deleted.
    ///
    /// Example: varve snapshot create before-upgrade; varve snapshot create good --at synch:nightly
    #[command(verbatim_doc_comment)]
    Create {
        /// The name of the snapshot.
        name: String,
        /// Name this point of the past instead, and keep it from now on.
        #[arg(long, value_name = "POINT", value_parser = point_text)]
        at: Option<String>,
    },
    /// List the snapshots.
    List(PageArgs),
    /// Delete a snapshot; its point is then kept only as long as the rules of retention say.
    ///
    /// Example: varve snapshot delete before-upgrade
    #[command(verbatim_doc_comment)]
    Delete {
        /// The name of the snapshot.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RestoreCommand {
    /// Show which position of the log a point is.
    ///
    /// Example: varve restore resolve time:-10m
    #[command(verbatim_doc_comment)]
    Resolve {
        /// The point: lsn:N, time:2026-01-31T12:00:00Z, time:-10m, synch:LABEL, synch:ID or
        /// snapshot:NAME.
        #[arg(value_parser = point_text)]
        point: String,
        /// Count offsets in commands of this volume, which must exist at the point.
        #[arg(long, value_name = "VOLUME")]
        volume: Option<String>,
    },
    /// Show what opening a point would read from where, and how long it takes. Nothing is changed.
    ///
    /// Example: varve restore plan accounts --at time:-3d
    #[command(verbatim_doc_comment)]
    Plan(PlanArgs),
    /// Open a volume as it was at a point, as a new volume.
    ///
    /// Example: varve restore clone accounts --at synch:before-upgrade --name accounts-before
    #[command(verbatim_doc_comment)]
    Clone {
        /// The volume, by the name that it had at the point.
        volume: String,
        /// The point: lsn:N, time:2026-01-31T12:00:00Z, time:-10m, synch:LABEL, synch:ID or
        /// snapshot:NAME.
        #[arg(long, value_name = "POINT", value_parser = point_text)]
        at: String,
        /// The name of the new volume.
        #[arg(long)]
        name: String,
        /// Refuse writes to the new volume.
        #[arg(long)]
        read_only: bool,
    },
    /// Roll a volume back in place: it shows, and goes on from, its state at a point.
    ///
    /// All volumes of a group go back together, to one position. The state before is named by a
    /// snapshot, which the answer shows; rolling back to it undoes the roll-back.
    ///
    /// Example: varve restore roll-back accounts --at synch:before-upgrade
    #[command(verbatim_doc_comment)]
    RollBack(RollBackOptions),
    #[command(flatten)]
    Session(SessionCommand),
}

fn json_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("not JSON: {error}; a text is given in both kinds of quotes: '\"text\"'"))
}

fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    match json_value(text)? {
        Value::Object(members) => Ok(members),
        _ => Err("parameters are given by name: '{\"name\": \"value\"}'".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    /// Every command, with its full name starting at the program's.
    fn all_commands(command: &clap::Command, name: &str) -> Vec<(String, clap::Command)> {
        let subcommands = command.get_subcommands().filter(|command| command.get_name() != "help");
        let below =
            subcommands.flat_map(|command| all_commands(command, &format!("{name} {}", command.get_name())));
        below.chain([(name.to_owned(), command.clone())]).collect()
    }

    #[test]
    fn every_command_and_option_explains_itself() {
        // Phrases that people would have to read twice.
        let odd = [
            "so it is",
            "Stop to ",
            "Begin to ",
            "so often",
            "so long",
            "how it stands",
            "goes by",
            "when it goes",
        ];
        let commands = all_commands(&Cli::command(), "varve");
        assert!(commands.len() > 50, "{} commands", commands.len());
        for (name, command) in commands {
            let about = command.get_long_about().or(command.get_about()).map(ToString::to_string);
            let about = about.unwrap_or_else(|| panic!("{name} says nothing"));
            let mut needs_arguments = false;
            let mut texts = vec![about.clone()];
            for argument in command.get_arguments().filter(|argument| !argument.is_global_set()) {
                let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string);
                let id = argument.get_id().as_str();
                texts.push(help.unwrap_or_else(|| panic!("{name} does not explain {id}")));
                needs_arguments |= argument.is_required_set();
            }
            assert!(!needs_arguments || about.contains("Example: varve "), "{name} has no example: {about}");
            for text in texts {
                assert!(!odd.iter().any(|odd| text.contains(odd)), "{name}: {text}");
            }
        }
    }

    #[test]
    fn the_examples_of_the_help_are_understood() {
        let mut run = 0;
        for (_, command) in all_commands(&Cli::command(), "varve") {
            let Some(about) = command.get_long_about().map(ToString::to_string) else { continue };
            for line in about.lines().filter_map(|line| line.strip_prefix("Example: ")) {
                for line in line.split("; ").filter(|line| line.starts_with("varve ")) {
                    let line = line.split(" > ").next().unwrap_or(line);
                    let mut words = Vec::new();
                    for (index, part) in line.split('\'').enumerate() {
                        if index % 2 == 1 {
                            words.push(part.to_owned());
                        } else {
                            words.extend(part.split_whitespace().map(str::to_owned));
                        }
                    }
                    Cli::try_parse_from(&words).unwrap_or_else(|error| panic!("{line}: {error}"));
                    run += 1;
                }
            }
        }
        assert!(run > 25, "{run} examples");
    }

    #[test]
    fn mistakes_are_usage_errors() {
        for (line, text) in [
            ("varve", "Usage"),
            ("varve volume create a", "<SIZE>"),
            ("varve volume create a 1GB", "units of 1000"),
            ("varve restore resolve yesterday", "synch:LABEL"),
            ("varve restore clone v --at lsn:x --name n", "LSN is not a number"),
            ("varve synch create --label l --details {", "not JSON"),
            ("varve rpc pool_list []", "by name"),
            ("varve serve --listen nowhere", "--listen"),
            ("varve serve --archive a --no-archive", "cannot be used with"),
            ("varve serve --memory 1GiB --archive a", "cannot be used with"),
            ("varve serve --back-pressure maybe", "throttle"),
            ("varve top --interval 0", "0.1 to 3600"),
            ("varve volume histogram v --enable --disable", "cannot be used with"),
            ("varve serve --reactors 0,x", "'x' is no core"),
            ("varve serve --archive-level 99", "1..=22"),
            ("varve archive explain yesterday", "synch:LABEL"),
            ("varve pool recover", "--from"),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(text), "{line}: {error}");
        }
    }
}
