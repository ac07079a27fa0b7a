//! `varve serve`, the appliance as a program: options, output, signals.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::attach::lines;
use super::notify::Notifier;
use super::signals::{self, StopSignals};
use super::watchdog::{LOOK_INTERVAL, Verdict, Watchdog, describe};
use super::{
    ARCHIVE_DIRECTORY_NAME, Appliance, ApplianceConfig, ArchiveConfig, Backing, FIRST_VOLUME_BYTES,
    FIRST_VOLUME_NAME, POOL_FILE_NAME, POOL_PER_VOLUME, ServeError, Started, StoreSpec,
};
use crate::bdev::Engine;
use crate::dma::BLOCK_BYTES;
use crate::log::geometry::with_tail;
use crate::log::time::ClockBounds;
use crate::nvmf::nqn;
use crate::nvmf::server::TargetConfig;
use crate::options::{BackPressureChoice, CommandError, IoEngineChoice, ServeOptions};
use crate::reactor::{Cores, IdlePolicy, ReactorConfig};
use crate::rpc::config::apply_file;
use crate::text::units::SizeBytes;
use crate::volume::BackPressure;

/// Serves until a signal or `spdk_kill_instance`.
///
/// # Errors
/// Why the appliance could not start or did not close well.
pub fn serve(options: &ServeOptions) -> Result<(), CommandError> {
    super::abort::install();
    super::heap::give_back();
    let notifier = Notifier::from_environment();
    // Taken first, so that no signal is lost between the start and the wait.
    let signals = StopSignals::take(|signal| {
        eprintln!("varve: stopped by {} while it was starting", signals::name(signal));
        0
    })?;
    if let Err(error) = crate::descriptors::raise_limit() {
        tracing::warn!(%error, "the limit of file descriptors stays as it is");
    }
    if let Err(error) = crate::descriptors::prepare(std::io::stderr()) {
        tracing::warn!(%error, "the table of file descriptors grows while hosts connect, and delays them then");
    }
    let config = configure(options)?;
    notifier.status("opening the pool");
    let appliance = Appliance::start(config)?;
    if let Some(file) = &options.config {
        apply_file(file, &**appliance.registry()).map_err(ServeError::Config)?;
    }
    // From here on, a stop is a clean one.
    signals.serving();
    announce(options, appliance.started())?;
    let volumes = appliance.started().volumes.len();
    notifier.ready(&format!("serving {volumes} volumes of {}", appliance.started().pool.device));
    let limit = (options.turn_limit > 0).then(|| Duration::from_secs(options.turn_limit));
    watch(&appliance, &signals, &notifier, limit);
    notifier.stopping();
    appliance.stop()?;
    Ok(())
}

/// What the options ask for. Nothing is created here, so that a wrong option creates nothing.
fn configure(options: &ServeOptions) -> Result<ApplianceConfig, ServeError> {
    check_cores(options)?;
    let archive = configure_archive(options)?;
    let volume_bytes = options.volume_size.map_or(FIRST_VOLUME_BYTES, |size| size.0);
    let pool_bytes = options.pool_size.map_or(POOL_PER_VOLUME * volume_bytes, |size| size.0);
    let pool_bytes = pool_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    let engine = match options.io_engine {
        IoEngineChoice::Auto => Engine::Auto,
        IoEngineChoice::Uring => Engine::Uring,
        IoEngineChoice::Threads => Engine::Threads,
    };
    let backing = match options.memory {
        Some(size) => Backing::Memory { len_bytes: size.0 / BLOCK_BYTES as u64 * BLOCK_BYTES as u64 },
        None => Backing::File { path: options.dir.join(POOL_FILE_NAME), create_bytes: pool_bytes, engine },
    };
    let first_volume_bytes = match (options.memory, options.volume_size) {
        (Some(memory), None) => memory.0 / POOL_PER_VOLUME / BLOCK_BYTES as u64 * BLOCK_BYTES as u64,
        _ => volume_bytes,
    };
    let clock_bounds = ClockBounds {
        running_ns: options.clock_ahead_seconds * 1_000_000_000,
        start_ns: options.clock_ahead_start_hours * 3600 * 1_000_000_000,
    };
    let idle = if options.poll { IdlePolicy::Poll } else { IdlePolicy::default() };
    Ok(ApplianceConfig {
        first_volume_bytes: Some(first_volume_bytes),
        first_volume_thin: options.thin,
        overprovisioning_percent: options.overprovisioning,
        read_ahead_blocks: options.read_ahead.map(|size| size.0 / BLOCK_BYTES as u64),
        archive,
        clock_bounds,
        scrub_pass: options.scrub_days,
        listen: options.listen.clone(),
        directory: Some(options.dir.clone()),
        rpc_socket: Some(options.rpc_socket()),
        reactor: ReactorConfig {
            core: options.reactors.as_ref().map(Cores::first),
            idle,
            ..ReactorConfig::default()
        },
        host_memory_bytes: usize::try_from(options.host_memory.0).unwrap_or(usize::MAX),
        target: TargetConfig { busy_poll_us: options.busy_poll, ..TargetConfig::default() },
        allocate: !options.sparse,
        new_pool: options.new_pool,
        new_archive: options.new_archive,
        idle_cores: options.reactors.as_ref().map_or_else(Vec::new, |cores| cores.rest().to_vec()),
        ..ApplianceConfig::new(backing, options.listen[0])
    })
}

/// Refuses cores that do not exist: the appliance would not run as requested.
fn check_cores(options: &ServeOptions) -> Result<(), ServeError> {
    let available = Cores::available();
    let archive_core = options.archive_core.map(Cores::from);
    for (option, cores) in [("--reactors", &options.reactors), ("--archive-core", &archive_core)] {
        if let Some(cores) = cores {
            cores.check(&available).map_err(|source| ServeError::Core { option, source })?;
        }
    }
    Ok(())
}

fn configure_archive(options: &ServeOptions) -> Result<Option<ArchiveConfig>, ServeError> {
    if options.no_archive || options.memory.is_some() {
        return Ok(None);
    }
    let store = match &options.archive {
        Some(text) => text.parse::<StoreSpec>()?,
        None => StoreSpec::Directory { path: options.dir.join(ARCHIVE_DIRECTORY_NAME) },
    };
    let mut config = ArchiveConfig::new(store.absolute(), &options.dir);
    config.policy.seal_interval_ns = options.seal_seconds * 1_000_000_000;
    config.policy.back_pressure = match options.back_pressure {
        BackPressureChoice::Throttle => BackPressure::Throttle,
        BackPressureChoice::Degrade => BackPressure::Degrade,
    };
    config.policy.rpo_alarm_ns = options.rpo_alarm_seconds() * 1_000_000_000;
    config.expire_interval = Duration::from_secs(options.expire_seconds);
    config.expire_grace = Duration::from_secs(options.expire_grace_seconds);
    config.level = options.archive_level;
    // The first core is for the pool's reactor alone.
    let second = options.reactors.as_ref().and_then(|cores| cores.rest().first().copied());
    config.core = options.archive_core.or(second);
    config.verify = options.archive_verify.into();
    config.fork = options.fork;
    Ok(Some(config))
}

/// Prints what runs, how to connect, and what to try.
fn announce(options: &ServeOptions, started: &Started) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let program = std::env::args().next().unwrap_or_else(|| "varve".to_owned());
    let pool = &started.pool;
    writeln!(
        out,
        "varve {} serves {} pool of {} on {}",
        env!("CARGO_PKG_VERSION"),
        if started.is_new { "a new" } else { "the" },
        SizeBytes(pool.device_bytes),
        pool.device
    )?;
    if options.memory.is_some() {
        writeln!(out, "  it lives in memory: nothing is kept when it stops")?;
    }
    for line in lines(started.archive.as_ref()) {
        writeln!(out, "  {line}")?;
    }
    for problem in &pool.problems {
        writeln!(out, "  problem: {problem}")?;
    }
    for volume in &started.volumes {
        let mode = if volume.read_only { ", read-only" } else { "" };
        writeln!(out, "  volume {}: {}{mode}", volume.name, SizeBytes(volume.size_bytes))?;
    }
    for note in unused_sizes(options, started) {
        writeln!(out, "  note: {note}")?;
    }
    out.write_all(suggestions(options, started, &program).as_bytes())?;
    let end = if options.memory.is_some() {
        "what was written is gone then, because it is in memory only"
    } else {
        "the next start finds the data again"
    };
    writeln!(out, "\nCtrl-C stops it; {end}.")?;
    out.flush()
}

/// What to do next: how a host connects, and what to try.
fn suggestions(options: &ServeOptions, started: &Started, program: &str) -> String {
    let rpc = rpc_option(options);
    let first = started.volumes.first().map(|volume| volume.name.as_str());
    let mut lines = Vec::new();
    if first.is_some() {
        lines.push("\nConnect a Linux host (as root; once before: modprobe nvme-tcp):".to_owned());
    } else {
        lines.push("\nThere is no volume yet. Make one from another terminal:".to_owned());
        lines.push(format!("  {program} volume create NAME 1GiB{rpc}"));
        lines.push("\nThen connect a Linux host (as root; once before: modprobe nvme-tcp):".to_owned());
    }
    let name = first.unwrap_or("NAME");
    lines.extend(started.listen.iter().map(|address| format!("  {}", connect_line(*address, name))));
    lines.push("\nWorth trying from another terminal:".to_owned());
    lines.push(format!("  {program} volume list{rpc}"));
    lines.push(format!("  {program} top{rpc}"));
    if started.archive.is_some() {
        lines.push(format!("  {program} archive status{rpc}"));
    }
    if first.is_some() {
        lines.push(format!("  {program} synch create --label first{rpc}"));
        lines.push(format!("  {program} restore clone {name} --at synch:first --name {name}-first{rpc}"));
    }
    lines.join("\n") + "\n"
}

/// Notes for sizes that were given but apply only to a new pool, with the command that changes them
/// now.
fn unused_sizes(options: &ServeOptions, started: &Started) -> Vec<String> {
    let mut notes = Vec::new();
    if started.is_new {
        return notes;
    }
    let pool = &started.pool;
    if let Some(size) =
        options.pool_size.filter(|size| with_tail(size.0 / BLOCK) * BLOCK != pool.device_bytes)
    {
        notes.push(format!(
            "--pool-size {size} is for a new pool only; this one has {}. To enlarge it: stop, truncate --size {} {}, start, varve pool grow",
            SizeBytes(pool.device_bytes), size.0, pool.device
        ));
    }
    if let Some(size) = options.volume_size {
        let first = started.volumes.iter().find(|volume| volume.name == FIRST_VOLUME_NAME);
        match first {
            Some(volume) if volume.size_bytes == size.0 => {}
            Some(volume) => notes.push(format!(
                "--volume-size {size} is for a new pool only; {FIRST_VOLUME_NAME} has {}. To enlarge it: varve volume resize {FIRST_VOLUME_NAME} {}",
                SizeBytes(volume.size_bytes), size.0
            )),
            None => notes.push(format!(
                "--volume-size {size} is for a new pool only, and this one has no {FIRST_VOLUME_NAME}. To make one: varve volume create {FIRST_VOLUME_NAME} {}",
                size.0
            )),
        }
    }
    notes
}

const BLOCK: u64 = BLOCK_BYTES as u64;

/// The exact command that connects a Linux host to a volume.
fn connect_line(address: SocketAddr, volume: &str) -> String {
    format!("nvme connect -t tcp -a {} -s {} -n {}", address.ip(), address.port(), nqn::of_volume(volume))
}

fn rpc_option(options: &ServeOptions) -> String {
    let socket = options.rpc_socket();
    if socket == Path::new(crate::options::DEFAULT_SOCKET) {
        String::new()
    } else {
        format!(" --rpc {}", socket.display())
    }
}

/// Waits for a signal, and watches the reactor meanwhile. If a turn of the reactor does not end, it
/// ends the process.
fn watch(appliance: &Appliance, signals: &StopSignals, notifier: &Notifier, limit: Option<Duration>) {
    let reactor = appliance.handle();
    let mut watchdog = Watchdog::new(limit, Instant::now());
    let mut told = Instant::now();
    loop {
        if let Some(signal) = signals.asked() {
            tracing::info!(signal, "stopping");
            return;
        }
        if appliance.has_ended() {
            tracing::error!("the reactor has ended");
            return;
        }
        std::thread::sleep(LOOK_INTERVAL);
        let verdict = watchdog.look(reactor.turn_under_way(), Instant::now());
        match verdict {
            Verdict::Well | Verdict::StillSlow => {}
            Verdict::Slow => {
                tracing::error!(doing = describe(reactor), "a turn of the reactor does not end");
            }
            Verdict::Stuck => {
                eprintln!(
                    "varve {}: a turn of the reactor has lasted more than {} s (--turn-limit): {}\nThe process ends at once. What was acknowledged is in the pool; the next start finds it. Please report this.",
                    env!("CARGO_PKG_VERSION"),
                    watchdog.lasted().as_secs(),
                    describe(reactor),
                );
                std::process::abort();
            }
        }
        // Slow turns are left to this watchdog: the service manager's would end the process without
        // a report.
        if notifier.watchdog.is_some_and(|span| told.elapsed() > span / 4) {
            notifier.alive();
            told = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: ServeOptions,
    }

    fn options(line: &str) -> ServeOptions {
        Line::parse_from(std::iter::once("varve").chain(line.split_whitespace())).options
    }

    fn started(is_new: bool, device_bytes: u64, volumes: Value) -> Started {
        let pool = json!({
            "uuid": Uuid::nil(), "device": "varve-data/pool.varve", "device_kind": "uring",
            "device_bytes": device_bytes, "segment_bytes": 1 << 20, "slots": 64, "working_set_segments": 31,
            "created_ns": 0, "volumes": 1, "state": "online", "problems": [],
        });
        Started {
            listen: vec![([127, 0, 0, 1], 4420).into()],
            pool: serde_json::from_value(pool).expect("a pool"),
            volumes: serde_json::from_value(volumes).expect("volumes"),
            is_new,
            archive: None,
        }
    }

    fn volume(name: &str, size_bytes: u64) -> Value {
        json!({
            "name": name, "uuid": Uuid::nil(), "size_bytes": size_bytes, "read_only": false, "state": "online",
            "image": 1, "parent": null, "created_ns": 0, "mapped_blocks": 0,
            "stats": {"reads": 0, "read_bytes": 0, "writes": 0, "written_bytes": 0, "trims": 0,
                      "trimmed_bytes": 0, "flushes": 0, "errors": 0},
        })
    }

    #[test]
    fn the_greeting_names_a_volume_only_if_there_is_one() {
        let text = suggestions(&options(""), &started(false, 4 << 30, json!([])), "varve");
        assert!(!text.contains("vol0") && text.contains("varve volume create NAME 1GiB"), "{text}");
        assert!(text.contains("varve:NAME\n") && text.contains("modprobe nvme-tcp"), "{text}");
        let other = json!([volume("accounts", 4096)]);
        let text = suggestions(&options(""), &started(false, 4 << 30, other), "varve");
        assert!(
            !text.contains("vol0") && text.contains("-s 4420 -n nqn.2026-11.dev.varve:accounts"),
            "{text}"
        );
        assert!(text.contains("restore clone accounts --at synch:first"), "{text}");
    }

    #[test]
    fn sizes_that_are_for_a_new_pool_are_explained_on_one_that_exists() {
        let pool_bytes = with_tail((4 << 30) / BLOCK) * BLOCK;
        let of =
            |line: &str, is_new, volumes| unused_sizes(&options(line), &started(is_new, pool_bytes, volumes));
        let vol0 = || json!([volume("vol0", 1 << 30)]);
        assert!(of("", false, vol0()).is_empty());
        assert!(of("--pool-size 4GiB --volume-size 1GiB", false, vol0()).is_empty(), "it is as asked");
        assert!(of("--pool-size 8GiB --volume-size 2GiB", true, vol0()).is_empty(), "they are used");
        let notes = of("--pool-size 8GiB --volume-size 2GiB", false, vol0());
        assert!(notes[0].contains("truncate --size 8589934592 varve-data/pool.varve"), "{notes:?}");
        assert!(
            notes[1].contains("vol0 has 1 GiB") && notes[1].contains("volume resize vol0 2147483648"),
            "{notes:?}"
        );
        let notes = of("--volume-size 1GiB", false, json!([]));
        assert!(notes[0].contains("has no vol0") && notes.len() == 1, "{notes:?}");
    }
}
