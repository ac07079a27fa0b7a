//! `varve serve`: the appliance as a program: options, what it prints, signals.

use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::archive::lines;
use super::{
    ARCHIVE_DIRECTORY_NAME, Appliance, ApplianceConfig, ArchiveConfig, Backing, FIRST_VOLUME_BYTES,
    POOL_FILE_NAME, POOL_PER_VOLUME, ServeError, Started, StoreSpec,
};
use crate::bdev::Engine;
use crate::cli::{BackPressureChoice, CommandError, IoEngineChoice, ServeOptions};
use crate::dma::BLOCK_BYTES;
use crate::nvmf::nqn;
use crate::nvmf::target::TargetConfig;
use crate::reactor::{Cores, IdlePolicy, ReactorConfig};
use crate::rpc::config::apply_file;
use crate::rpc::units::SizeBytes;
use crate::volume::BackPressure;

/// How often the reactor is looked after.
const WATCH_INTERVAL: Duration = Duration::from_millis(500);
/// A turn that lasts longer is reported while it lasts.
const TURN_ALARM: Duration = Duration::from_secs(2);

/// Serves until a signal or `spdk_kill_instance`.
///
/// # Errors
/// Why the appliance could not start or did not close well.
pub fn serve(options: &ServeOptions) -> Result<(), CommandError> {
    // Taken first, so that no signal is lost between start and wait.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let config = configure(options)?;
    let appliance = Appliance::start(config)?;
    if let Some(file) = &options.config {
        apply_file(file, &**appliance.registry()).map_err(ServeError::Config)?;
    }
    announce(options, appliance.started())?;
    watch(&appliance, &mut signals);
    appliance.stop()?;
    Ok(())
}

fn configure(options: &ServeOptions) -> Result<ApplianceConfig, ServeError> {
    // Before anything is made: a mistake in it makes nothing.
    check_cores(options)?;
    let archive = configure_archive(options)?;
    std::fs::create_dir_all(&options.dir)
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
    let idle = if options.poll { IdlePolicy::Poll } else { IdlePolicy::default() };
    Ok(ApplianceConfig {
        first_volume_bytes: Some(first_volume_bytes),
        first_volume_thin: options.thin,
        overprovisioning_percent: options.overprovisioning,
        read_ahead_blocks: options.read_ahead.map(|size| size.0 / BLOCK_BYTES as u64),
        archive,
        listen: options.listen.clone(),
        rpc_socket: Some(options.rpc_socket()),
        reactor: ReactorConfig {
            core: options.reactors.as_ref().map(Cores::first),
            idle,
            ..ReactorConfig::default()
        },
        target: TargetConfig { busy_poll_us: options.busy_poll, ..TargetConfig::default() },
        idle_cores: options.reactors.as_ref().map_or_else(Vec::new, |cores| cores.rest().to_vec()),
        ..ApplianceConfig::new(backing, options.listen[0])
    })
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
    config.expire_interval = Duration::from_secs(options.expire_seconds);
    config.level = options.archive_level;
    // The pool's reactor has the first to itself.
    let second = options.reactors.as_ref().and_then(|cores| cores.rest().first().copied());
    config.core = options.archive_core.or(second);
    config.verify = options.archive_verify.into();
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
    for line in lines(started) {
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
    if socket == Path::new(crate::cli::DEFAULT_SOCKET) {
        String::new()
    } else {
        format!(" --rpc {}", socket.display())
    }
}

/// Waits for a signal, and looks after the reactor meanwhile.
fn watch(appliance: &Appliance, signals: &mut Signals) {
    let mut alarmed = false;
    loop {
        if let Some(signal) = signals.pending().next() {
            tracing::info!(signal, "stopping");
            return;
        }
        std::thread::sleep(WATCH_INTERVAL.min(Duration::from_millis(100)));
        let age = appliance.handle().turn_age().unwrap_or_default();
        if age > TURN_ALARM && !alarmed {
            tracing::error!(turn_ms = age.as_millis() as u64, "a turn of the reactor does not end");
        }
        alarmed = age > TURN_ALARM;
    }
}
