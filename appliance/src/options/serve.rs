//! The options of `varve serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::budgets::HOST_MEMORY_BYTES_MIN;
use super::defaults::{DEFAULT_DIR, EXPIRE_SECONDS_DEFAULT};
use crate::archive::service::VerifyPolicy;
use crate::reactor::Cores;
use crate::text::units::{SizeBytes, SizeParseError};

/// How the appliance runs.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct ServeOptions {
    /// The directory of the pool and the socket; it is made if it does not exist.
    #[arg(long, default_value = DEFAULT_DIR, value_name = "DIR")]
    pub dir: PathBuf,

    /// Where NVMe/TCP hosts connect.
    #[arg(
        long,
        default_value = "127.0.0.1:4420",
        value_name = "ADDRESS:PORT",
        help = "Where NVMe/TCP hosts connect, like 10.1.0.5:4420 or [::1]:4420; with port 0 the system chooses one. May be given more than once"
    )]
    pub listen: Vec<SocketAddr>,

    /// The JSON-RPC socket as given by `--rpc` or `VARVE_RPC`; [`rpc_socket`](Self::rpc_socket) has
    /// the default.
    #[arg(skip)]
    pub rpc: Option<PathBuf>,

    /// A file with JSON-RPC calls to make after the start, as `varve config save` prints it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// The size of a new pool's file, like 100GiB [default: 4 times --volume-size, so 4GiB]. Later:
    /// `varve pool grow`.
    #[arg(long, value_name = "SIZE")]
    pub pool_size: Option<SizeBytes>,

    /// Let a new pool's file use space of its file system only as it is written. By default the
    /// space is reserved when the file is made. If the file system of a sparse pool is full, writes
    /// wait until it has space again.
    #[arg(long, conflicts_with = "memory")]
    pub sparse: bool,

    /// Begin an empty pool although there was one here whose file is missing or blank. A file that
    /// holds anything is never overwritten.
    #[arg(long, conflicts_with = "memory")]
    pub new_pool: bool,

    /// Go on with another archive than the pool had. History then lacks what only the old archive
    /// holds.
    #[arg(long, conflicts_with_all = ["memory", "no_archive"])]
    pub new_archive: bool,

    /// Go on from this copy of the pool as a history of its own, although another appliance has
    /// taken the archive over, or the archive is ahead of this copy. The other history stays in the
    /// archive and can be recovered.
    #[arg(long, conflicts_with_all = ["memory", "no_archive"])]
    pub fork: bool,

    /// The size of the volume vol0 that a new pool begins with [default: 1GiB]. Later: `varve
    /// volume resize`.
    #[arg(long, value_name = "SIZE")]
    pub volume_size: Option<SizeBytes>,

    /// Serve from this much memory instead of a file, with the whole log, checksums and history,
    /// for trying and measuring. Nothing is kept when it stops. vol0 has a quarter of it unless
    /// --volume-size says otherwise.
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["pool_size", "io_engine"])]
    pub memory: Option<SizeBytes>,

    /// Reserve no capacity for vol0 of a new pool: it uses it as it is written.
    #[arg(long)]
    pub thin: bool,

    /// Spare blocks of a new pool for each hundred live ones, like 100. More cost capacity and save
    /// writes.
    #[arg(long, value_name = "PERCENT")]
    pub overprovisioning: Option<u64>,

    /// How far to read ahead of a host that reads in order; 0: not at all [default: 1MiB; 0 with
    /// --memory].
    #[arg(long, value_name = "SIZE")]
    pub read_ahead: Option<SizeBytes>,

    /// The most memory for data of hosts, at least 8MiB: what they were asked to send, what is read
    /// for them, and what they have not received yet. Connections that wait for it share it.
    #[arg(long, value_name = "SIZE", default_value = "256MiB", value_parser = host_memory)]
    pub host_memory: SizeBytes,

    /// The archive, where the past is kept: DIRECTORY, `device:FILE[,size=8GiB]`,
    /// `tape:DIRECTORY[,cartridges=4,size=2GiB]`, `tape:/dev/nst0[,stage=DIRECTORY]` or
    /// `s3://BUCKET/PREFIX[?endpoint=URL&region=NAME&allow_http=true]` (credentials from AWS_*)
    /// [default: DIR/archive].
    #[arg(long, value_name = "SPEC", conflicts_with = "memory")]
    pub archive: Option<String>,

    /// Keep the past only as far as the primary reaches.
    #[arg(long, conflicts_with = "archive")]
    pub no_archive: bool,

    /// Seconds after which what is new is archived; 0: whole segments only. If the primary is lost,
    /// you lose at most the writes of this time, provided the archive keeps up.
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub seal_seconds: u64,

    /// Report a problem when the recovery point is older than this, in seconds (a loss of the
    /// primary would lose what was written since then); 0: never [default: ten times
    /// --seal-seconds, at least 60; never with --seal-seconds 0].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(0..=31_536_000))]
    pub rpo_alarm_seconds: Option<u64>,

    /// Days, like 30 or 0.5, in which everything is read back once, to find damage while there is
    /// another copy: the archive's objects and the primary's segments, but not tapes; 0: never.
    #[arg(long, value_name = "DAYS", default_value = "30", value_parser = days)]
    pub scrub_days: Duration,

    /// Seconds between two deletions of what has expired; 0: only by `varve archive expire`.
    /// Without rules (varve archive keep) nothing expires.
    #[arg(long, value_name = "SECONDS", default_value_t = EXPIRE_SECONDS_DEFAULT, value_parser = clap::value_parser!(u64).range(0..=864_000))]
    pub expire_seconds: u64,

    /// Seconds after a start in which nothing is deleted automatically.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(0..=864_000))]
    pub expire_grace_seconds: u64,

    /// Seconds that the machine's clock may be ahead of the log and still be believed. Beyond that
    /// nothing expires, and records carry the log's time, until the clock is right again or is
    /// confirmed (`varve pool clock --is-right`).
    #[arg(long, value_name = "SECONDS", default_value_t = 3600, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub clock_ahead_seconds: u64,

    /// The same after a start, in hours: the time for which the appliance was off counts too.
    #[arg(long, value_name = "HOURS", default_value_t = 168, value_parser = clap::value_parser!(u64).range(1..=876_000))]
    pub clock_ahead_start_hours: u64,

    /// The compression level of the archive (zstd), 1 to 22 [default: 3].
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i32).range(1..=22))]
    pub archive_level: Option<i32>,

    /// The core that compresses and archives [default: the second of --reactors, else the system
    /// chooses].
    #[arg(long, value_name = "N")]
    pub archive_core: Option<usize>,

    /// How an archived object is verified before the primary's copy is given up.
    #[arg(long, value_enum, default_value_t = VerifyChoice::Digest)]
    pub archive_verify: VerifyChoice,

    /// What happens to writes if the archive cannot keep up and the primary fills.
    #[arg(long, value_enum, default_value_t = BackPressureChoice::Throttle)]
    pub back_pressure: BackPressureChoice,

    /// How the pool's file is read and written.
    #[arg(long, value_enum, default_value_t = IoEngineChoice::Auto)]
    pub io_engine: IoEngineChoice,

    /// End the process, so that its supervisor restarts it, if one turn of the pool's reactor lasts
    /// longer than this, in seconds; 0: never.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=3600))]
    pub turn_limit: u64,

    /// Never sleep: for a core that the appliance has to itself. By default it sleeps when idle.
    #[arg(long)]
    pub poll: bool,

    /// Microseconds for which the kernel polls the network card in a receive that finds nothing,
    /// instead of waiting for its interrupt. More than the system's default needs `CAP_NET_ADMIN`.
    #[arg(long, value_name = "MICROSECONDS")]
    pub busy_poll: Option<u16>,

    /// The cores of the reactors, as a list (0,2-3) or a mask (0xd); each reactor is pinned to one.
    /// The first owns the pool and serves its connections. The second compresses the archive
    /// (unless --archive-core names another core). One pool needs no more today, so other reactors
    /// sleep [default: one reactor, and the system chooses its core].
    #[arg(long, value_name = "CORES", alias = "core")]
    pub reactors: Option<Cores>,
}

impl ServeOptions {
    /// The JSON-RPC socket to serve.
    pub fn rpc_socket(&self) -> PathBuf {
        self.rpc.clone().unwrap_or_else(|| self.dir.join("rpc.sock"))
    }
}

/// Parses the memory for data of hosts; fewer bytes than are needed to serve hosts are an error.
fn host_memory(text: &str) -> Result<SizeBytes, String> {
    let size: SizeBytes = text.parse().map_err(|error: SizeParseError| error.to_string())?;
    if size.0 < HOST_MEMORY_BYTES_MIN as u64 {
        return Err(format!("hosts are served with {} at least", SizeBytes(HOST_MEMORY_BYTES_MIN as u64)));
    }
    Ok(size)
}

/// Parses a number of days, from 0 to ten years.
fn days(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(days) if (0.0..=3650.0).contains(&days) => Ok(Duration::from_secs_f64(days * 86_400.0)),
        _ => Err("it is a number of days from 0 to 3650".to_owned()),
    }
}

impl ServeOptions {
    /// The age at which the recovery point is reported as a problem, in seconds; 0: never.
    pub fn rpo_alarm_seconds(&self) -> u64 {
        let usual = if self.seal_seconds == 0 { 0 } else { (10 * self.seal_seconds).max(60) };
        self.rpo_alarm_seconds.unwrap_or(usual)
    }
}

/// How files are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IoEngineChoice {
    /// `uring` where the kernel offers it, else `threads`.
    Auto,
    /// `io_uring`; an error where the kernel refuses it.
    Uring,
    /// A few threads that make blocking calls.
    Threads,
}

/// What happens to writes when the archive cannot keep up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackPressureChoice {
    /// Writes slow down as the primary fills with data that is not archived, then wait, and fail if
    /// that takes too long.
    Throttle,
    /// Writes go on; the oldest history is lost, which is recorded and shown.
    Degrade,
}

/// How an archived object is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum VerifyChoice {
    /// Read it back completely, with every check.
    Digest,
    /// Read its end back and compare: for a store that is trusted to keep what it received.
    Tail,
}

impl From<VerifyChoice> for VerifyPolicy {
    fn from(choice: VerifyChoice) -> Self {
        match choice {
            VerifyChoice::Digest => VerifyPolicy::Digest,
            VerifyChoice::Tail => VerifyPolicy::Tail,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::defaults::DEFAULT_SOCKET;
    use super::*;

    #[derive(Parser)]
    enum Line {
        Serve(ServeOptions),
    }

    fn parse(line: &str) -> Result<ServeOptions, clap::Error> {
        let Line::Serve(options) = Line::try_parse_from(line.split_whitespace())?;
        Ok(options)
    }

    #[test]
    fn serve_has_defaults_and_options() {
        let options = parse("varve serve").expect("no option is required");
        assert_eq!(options.rpc_socket(), PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(options.listen, ["127.0.0.1:4420".parse().expect("an address")]);
        let line = "varve serve --dir d --listen 127.0.0.1:0 --listen [::1]:4420 --config c.json --pool-size 4GiB --volume-size 1GiB --io-engine threads --poll --busy-poll 50 --reactors [1,4-5]";
        let options = parse(line).expect("all are known");
        assert_eq!(options.rpc_socket(), PathBuf::from("d/rpc.sock"));
        assert_eq!(options.listen.len(), 2);
        assert_eq!(options.pool_size, Some(SizeBytes(4 << 30)));
        assert_eq!((options.io_engine, options.poll), (IoEngineChoice::Threads, true));
        assert_eq!(options.busy_poll, Some(50));
        let cores = options.reactors.expect("they were given");
        assert_eq!((cores.first(), cores.rest()), (1, &[4, 5][..]));
    }

    #[test]
    fn the_archive_has_options() {
        let options = parse("varve serve").expect("no option is required");
        assert_eq!((&options.archive, options.no_archive, options.seal_seconds), (&None, false, 20));
        assert_eq!((options.rpo_alarm_seconds(), options.scrub_days), (200, Duration::from_hours(720)));
        for (line, alarm) in [
            ("varve serve --seal-seconds 2", 60),
            ("varve serve --seal-seconds 0", 0),
            ("varve serve --seal-seconds 0 --rpo-alarm-seconds 9", 9),
        ] {
            let options = parse(line).expect("all are known");
            assert_eq!(options.rpo_alarm_seconds(), alarm, "{line}");
        }
        assert!(
            parse("varve serve --scrub-days 0.5").is_ok() && parse("varve serve --scrub-days -1").is_err()
        );
        assert!(parse("varve serve --scrub-days NaN").is_err());
        assert_eq!(options.back_pressure, BackPressureChoice::Throttle);
        assert_eq!(options.archive_verify, VerifyChoice::Digest);
        let line = "varve serve --archive s3://b/p --seal-seconds 0 --archive-level 9 --archive-verify tail --archive-core 1 --back-pressure degrade --overprovisioning 28 --thin --read-ahead 256KiB";
        let options = parse(line).expect("all are known");
        assert_eq!(options.archive.as_deref(), Some("s3://b/p"));
        assert_eq!(
            (options.seal_seconds, options.archive_level, options.archive_core),
            (0, Some(9), Some(1))
        );
        assert_eq!(options.back_pressure, BackPressureChoice::Degrade);
        assert_eq!(options.archive_verify, VerifyChoice::Tail);
        assert_eq!((options.overprovisioning, options.thin), (Some(28), true));
        assert_eq!(options.read_ahead, Some(SizeBytes(256 << 10)));
    }
}
