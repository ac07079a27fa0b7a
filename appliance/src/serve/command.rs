//! `varve serve`: the appliance as a program: options, what it prints, signals.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use super::attach::lines;
use super::notify::Notifier;
use super::signals::{self, StopSignals};
use super::watchdog::{LOOK_INTERVAL, Verdict, Watchdog, describe};
use super::{
    ARCHIVE_DIRECTORY_NAME, Appliance, ApplianceConfig, ArchiveConfig, Backing, CATALOG_FILE_NAME,
    FIRST_VOLUME_BYTES, KEEP_FILE_NAME, POOL_FILE_NAME, POOL_PER_VOLUME, ServeError, Started, StoreSpec,
};
use crate::bdev::Engine;
use crate::dma::BLOCK_BYTES;
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
    let notifier = Notifier::from_environment();
    // Taken first, so that no signal is lost between start and wait.
    let signals = StopSignals::take(|signal| {
        eprintln!("varve: stopped by {} while it started", signals::name(signal));
        0
    })?;
    if let Err(error) = crate::descriptors::raise_limit() {
        tracing::warn!(%error, "the limit of file descriptors stays as it is");
    }
    let config = configure(options)?;
    notifier.status("opening the pool");
    let appliance = Appliance::start(config)?;
    if let Some(file) = &options.config {
        apply_file(file, &**appliance.registry()).map_err(ServeError::Config)?;
    }
    // From here on a stop is a clean one.
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

fn configure(options: &ServeOptions) -> Result<ApplianceConfig, ServeError> {
    // Before anything is made: a mistake in it makes nothing.
    check_cores(options)?;
    let archive = configure_archive(options)?;
    crate::private::create_dir_all(&options.dir)
        .and_then(|()| crate::private::tighten_own(&options.dir, is_own_name))
        .map_err(|source| ServeError::Directory { path: options.dir.clone(), source })?;
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

/// Whether a pool's directory has a file or directory of this name.
fn is_own_name(name: &str) -> bool {
    let whole = [ARCHIVE_DIRECTORY_NAME, KEEP_FILE_NAME, "archive-scrub", "rpc.sock", "rpc.sock.lock"];
    whole.contains(&name) || [POOL_FILE_NAME, CATALOG_FILE_NAME].iter().any(|own| name.starts_with(own))
}

/// Cores that do not exist would be a start that is not what was asked for.
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
        Some(text) => text.parse()?,
        None => StoreSpec::Directory { path: options.dir.join(ARCHIVE_DIRECTORY_NAME) },
    };
    let mut config = ArchiveConfig::new(store, &options.dir);
    config.policy.seal_interval_ns = options.seal_seconds * 1_000_000_000;
    config.policy.back_pressure = match options.back_pressure {
        BackPressureChoice::Throttle => BackPressure::Throttle,
        BackPressureChoice::Degrade => BackPressure::Degrade,
    };
    config.policy.rpo_alarm_ns = options.rpo_alarm_seconds() * 1_000_000_000;
    config.expire_interval = Duration::from_secs(options.expire_seconds);
    config.expire_grace = Duration::from_secs(options.expire_grace_seconds);
    config.level = options.archive_level;
    // The pool's reactor has the first to itself.
    let second = options.reactors.as_ref().and_then(|cores| cores.rest().first().copied());
    config.core = options.archive_core.or(second);
    config.verify = options.archive_verify.into();
    config.fork = options.fork;
    Ok(Some(config))
}

/// Says what runs, how to connect, and what is worth trying.
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
    let rpc = rpc_option(options);
    let name = started.volumes.first().map_or("vol0", |volume| volume.name.as_str());
    writeln!(out, "\nConnect a Linux host (as root):")?;
    for address in &started.listen {
        writeln!(out, "  {}", connect_line(*address, name))?;
    }
    writeln!(out, "\nWorth trying from another terminal:")?;
    writeln!(out, "  {program} volume list{rpc}")?;
    writeln!(out, "  {program} synch create --label first{rpc}")?;
    if started.archive.is_some() {
        writeln!(out, "  {program} archive status{rpc}")?;
    }
    writeln!(out, "  {program} restore clone {name} --at synch:first --name {name}-first{rpc}")?;
    let end = if options.memory.is_some() {
        "what was written is gone then, for it lives in memory"
    } else {
        "a second start finds the data again"
    };
    writeln!(out, "\nCtrl-C stops it; {end}.")?;
    out.flush()
}

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

/// Waits for a signal, and looks after the reactor meanwhile. A reactor whose turn does not end ends the process.
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
        // A slow turn is this watchdog's to judge: that of the service manager would end the process without a word of it.
        if notifier.watchdog.is_some_and(|span| told.elapsed() > span / 4) {
            notifier.alive();
            told = Instant::now();
        }
    }
}
