//! The command line's grammar.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use serde_json::{Map, Value, json};

use super::archive_args::ArchiveCommand;
use super::point::point_text;
use crate::options::{InspectOptions, RecoverOptions, ServeOptions};
use crate::text::units::SizeBytes;

/// The shortest and the longest interval of `varve top`, in seconds.
const INTERVAL_MIN_S: f64 = 0.1;
const INTERVAL_MAX_S: f64 = 3600.0;

/// An NVMe-oF storage appliance whose volumes can be taken back to any write.
#[derive(Debug, Parser)]
#[command(name = "varve", version, propagate_version = true)]
pub(super) struct Cli {
    /// The appliance's JSON-RPC socket [default: varve-data/rpc.sock; for serve: DIR/rpc.sock].
    #[arg(long, global = true, env = "VARVE_RPC", value_name = "SOCKET")]
    pub(super) rpc: Option<PathBuf>,

    /// Print results as JSON, exactly as the appliance answers.
    #[arg(long, global = true)]
    pub(super) json: bool,

    /// How many seconds to wait for an answer.
    #[arg(long = "timeout", global = true, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(super) timeout_s: u64,

    #[command(subcommand)]
    pub(super) command: Command,
}

// Parsed once, at the start.
#[expect(clippy::large_enum_variant)]
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run the appliance.
    Serve(ServeOptions),
    /// Show what is in the file of a pool's device; the appliance must not be using it.
    Inspect(InspectOptions),
    /// Watch a running appliance: reactors, pools, volumes, connections, archive.
    Top(TopOptions),
    /// Save and load the configuration of a running appliance.
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Call(CallCommand),
}

/// How to watch.
#[derive(Debug, Clone, PartialEq, Args)]
pub(super) struct TopOptions {
    /// Print one picture as text and end; so it is, too, when the output is no terminal.
    #[arg(long)]
    pub(super) once: bool,

    /// Seconds between two looks; rates are over this time.
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
    /// Print the configuration, in the shape of SPDK's `save_config`.
    Save,
    /// Make the calls of a configuration file.
    Load {
        /// The file; - reads standard input.
        file: PathBuf,
    },
}

/// Commands that are one call each.
#[derive(Debug, Subcommand)]
pub(super) enum CallCommand {
    /// The log: its device, statistics, segments.
    #[command(subcommand)]
    Pool(PoolCommand),
    /// What hosts see as namespaces.
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Consistent points that applications mark.
    #[command(subcommand)]
    Synch(SynchCommand),
    /// Where the past is kept: status, contents, rules.
    #[command(subcommand)]
    Archive(ArchiveCommand),
    /// Named points.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Go back to a point: lsn:N, time:2026-01-31T12:00:00Z, time:-10m, synch:LABEL, synch:ID, snapshot:NAME.
    #[command(subcommand)]
    Restore(RestoreCommand),
    /// The NVMe-oF target: subsystems, listeners, connections.
    #[command(subcommand)]
    Nvmf(NvmfCommand),
    /// The volumes as SPDK shows block devices.
    #[command(subcommand)]
    Bdev(BdevCommand),
    /// The appliance itself, with SPDK's names.
    #[command(subcommand)]
    Framework(FrameworkCommand),
    /// Reactors as SPDK shows its threads.
    #[command(subcommand)]
    Thread(ThreadCommand),
    /// The running appliance: its version, signals.
    #[command(subcommand)]
    Spdk(SpdkCommand),
    /// Call any method; `rpc_get_methods` lists them.
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
    /// The pools.
    #[command(visible_alias = "info")]
    List,
    /// Counters and gauges.
    Stats,
    /// Every slot of the device and the segment in it.
    Segments,
    /// Change how many segments the live data may span. More of them hold more; fewer leave more of the device to the past, and bound what a point is rebuilt from.
    SetWorkingSet {
        /// The count of segments.
        segments: u64,
    },
    /// Use what the pool's device has grown by.
    Grow,
    /// The time that the log's records carry and the machine's, and how they stand to each other.
    Clock {
        /// Confirm the machine's: expiry that is held goes on, and records follow it.
        #[arg(long)]
        is_right: bool,
    },
    /// Make a lost pool's primary again, from its archive alone; the appliance must not be running.
    Recover(RecoverOptions),
}

#[derive(Debug, Subcommand)]
pub(super) enum VolumeCommand {
    /// Make a volume.
    Create {
        /// Its name.
        name: String,
        #[command(flatten)]
        size: SizeArgs,
        /// Its UUID; by default a new one.
        #[arg(long)]
        uuid: Option<uuid::Uuid>,
        /// Succeed when an equal volume exists.
        #[arg(long)]
        if_absent: bool,
        /// Set no room aside: it takes room as it is written, and is refused more when the pool is full.
        #[arg(long)]
        thin: bool,
    },
    /// The volumes.
    List {
        /// Only this one.
        name: Option<String>,
    },
    /// Delete a volume; its history stays reachable.
    Delete {
        /// Its name.
        name: String,
        /// Also while hosts are connected to it: they lose it at once.
        #[arg(long)]
        force: bool,
    },
    /// Make what a clone inherited its own, and wait until it needs neither its origin nor the archive.
    Hydrate {
        /// Its name.
        name: String,
    },
    /// How long its requests take: measured from --enable on, until --disable.
    Histogram {
        /// Its name.
        name: String,
        /// Begin to measure; not kept across a restart.
        #[arg(long, conflicts_with = "disable")]
        enable: bool,
        /// End it, and forget what was measured.
        #[arg(long)]
        disable: bool,
        /// Measure only this kind: read, write, unmap, `write_zeroes`, flush.
        #[arg(long, value_name = "KIND", requires = "enable")]
        only: Option<String>,
    },
    /// Grow a volume.
    Resize {
        /// Its name.
        name: String,
        #[command(flatten)]
        size: SizeArgs,
    },
}

/// A volume's size, as an argument or an option.
#[derive(Debug, Args)]
pub(super) struct SizeArgs {
    /// Its size: 1GiB, 512MiB, 4096.
    #[arg(value_name = "SIZE", required_unless_present = "size_option")]
    size: Option<SizeBytes>,
    /// The same as an option.
    #[arg(long = "size", value_name = "SIZE", conflicts_with = "size")]
    size_option: Option<SizeBytes>,
}

impl SizeArgs {
    /// The size; the grammar has seen to it that there is exactly one.
    pub(super) fn get(&self) -> Option<SizeBytes> {
        self.size.or(self.size_option)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum SynchCommand {
    /// Mark this moment of every volume.
    Create {
        /// What it is called.
        #[arg(long)]
        label: String,
        /// More about it, as JSON.
        #[arg(long, value_parser = json_value, value_name = "JSON")]
        details: Option<Value>,
    },
    /// The synchs, oldest first.
    List(PageArgs),
}

/// A page of a list.
#[derive(Debug, Args)]
pub(super) struct PageArgs {
    /// Only those from this LSN on.
    #[arg(long, default_value_t = 0, value_name = "LSN")]
    from: u64,
    /// At most so many; 10,000 are the most in one answer.
    #[arg(long)]
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
    /// Name this moment of every volume and retain it.
    Create {
        /// Its name.
        name: String,
    },
    /// The snapshots.
    List(PageArgs),
    /// Forget a snapshot; its point is no longer retained.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum RestoreCommand {
    /// Say what a point is.
    Resolve {
        /// The point.
        #[arg(value_parser = point_text)]
        point: String,
    },
    /// Open a volume as it was at a point, as a new volume.
    Clone {
        /// The volume.
        volume: String,
        /// The point.
        #[arg(long, value_name = "POINT", value_parser = point_text)]
        at: String,
        /// The new volume's name.
        #[arg(long)]
        name: String,
        /// Refuse writes to it.
        #[arg(long)]
        read_only: bool,
    },
}

/// Which subsystem.
#[derive(Debug, Args)]
pub(super) struct SubsystemArgs {
    /// Its NQN; `discovery` stands for the discovery subsystem's.
    pub(super) nqn: String,
}

/// Which listener.
#[derive(Debug, Args)]
pub(super) struct ListenerArgs {
    /// A subsystem's NQN; listeners belong to all of them.
    #[arg(long, default_value = "discovery")]
    pub(super) nqn: String,
    /// The address and port.
    #[arg(value_name = "ADDRESS:PORT")]
    pub(super) address: SocketAddr,
}

#[derive(Debug, Subcommand)]
pub(super) enum NvmfCommand {
    /// Every subsystem, or the one with an NQN.
    GetSubsystems {
        /// Its NQN.
        nqn: Option<String>,
    },
    /// The transports and their limits.
    GetTransports,
    /// Connections and commands since start.
    GetStats,
    /// Where a subsystem is reached.
    SubsystemGetListeners(SubsystemArgs),
    /// The hosts that are connected.
    SubsystemGetControllers(SubsystemArgs),
    /// The connections of a subsystem.
    SubsystemGetQpairs(SubsystemArgs),
    /// Listen on an address, for every subsystem.
    SubsystemAddListener(ListenerArgs),
    /// Stop to listen on an address, for every subsystem.
    SubsystemRemoveListener(ListenerArgs),
}

#[derive(Debug, Subcommand)]
pub(super) enum BdevCommand {
    /// The volumes.
    GetBdevs {
        /// Only this one.
        name: Option<String>,
    },
    /// Begin or end to measure how long a volume's requests take.
    EnableHistogram {
        /// The volume.
        name: String,
        /// Whether to measure.
        #[arg(action = clap::ArgAction::Set)]
        enable: bool,
        /// Measure only this kind: read, write, unmap, `write_zeroes`, flush.
        #[arg(long)]
        opc: Option<String>,
    },
    /// How long a volume's requests took.
    GetHistogram {
        /// The volume.
        name: String,
    },
    /// Activity since start.
    GetIostat {
        /// Only these.
        names: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum FrameworkCommand {
    /// The reactors and how busy they were.
    GetReactors,
    /// The parts that have a configuration.
    GetSubsystems,
    /// The calls that would configure a part as it is now.
    GetConfig {
        /// The part.
        name: String,
    },
    /// Return once the pool is open.
    WaitInit,
}

#[derive(Debug, Subcommand)]
pub(super) enum ThreadCommand {
    /// How busy they were.
    GetStats,
}

#[derive(Debug, Subcommand)]
pub(super) enum SpdkCommand {
    /// The running appliance's version.
    GetVersion,
    /// Send it a signal: SIGTERM and SIGINT stop it cleanly.
    KillInstance {
        /// The signal.
        sig_name: String,
    },
}

fn json_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text)
        .map_err(|error| format!("not JSON: {error}; a text needs quotes within quotes: '\"text\"'"))
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
