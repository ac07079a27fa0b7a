//! The thread of an appliance's reactor, from opening the pool to closing it.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::attach::{AwayArchive, FoundArchive, attach, look_often, waits_for};
use super::begin::OpenedDevice;
use super::identity::{self, FormerPool};
use super::identity_note::note_identity;
use super::inherit;
use super::scrub;
use super::view::View;
use super::{
    AHEAD_MEMORY_BYTES, ApplianceConfig, ArchiveStarted, Backing, FIRST_VOLUME_NAME, ServeError, Started,
    segment_blocks_for,
};
use crate::bdev::memory::{MemoryBdev, MemoryDisk};
use crate::bdev::{Bdev, FileDevice, SharedBdev};
use crate::dma::DmaPool;
use crate::log::{CreateLog, Environment, Recycling};
use crate::nvmf::server::{Target, TargetConfig};
use crate::reactor::{Interest, Local, Reactor, ReactorHandle, Source};
use crate::rpc::App;
use crate::volume::{CreateVolume, Pool, PoolOptions, VolumeError};

/// How long a stop waits for room on the device.
const CLOSE_ROOM_WAIT: Duration = Duration::from_secs(5);

/// Runs an appliance on the calling thread until it is asked to stop. If the start of a new pool
/// fails, the pool is removed again, unless it is already complete.
pub(super) fn run(
    config: &ApplianceConfig,
    device: OpenedDevice,
    archive: Option<FoundArchive>,
    handle: &SyncSender<ReactorHandle<App>>,
    started: &SyncSender<Started>,
) -> Result<(), ServeError> {
    // Kept open, and so locked, until an incomplete pool is removed.
    let (file, is_made) = match &device {
        OpenedDevice::File { file, is_made, .. } => (Some(Arc::clone(file)), *is_made),
        OpenedDevice::Memory { .. } => (None, false),
    };
    let mut result = run_device(config, device, archive, handle, started);
    if let (Err(error), Backing::File { path, .. }) = (&mut result, &config.backing) {
        let undone = identity::undo_creation(path, is_made);
        if let ServeError::FirstVolume { left, .. } = error {
            *left = match undone {
                Ok(true) => "Nothing was left behind".to_owned(),
                Ok(false) => format!("{} is complete and stays", path.display()),
                Err(error) => {
                    format!("What was begun is still there, and the next start removes it: {error}")
                }
            };
        } else if let Err(error) = undone {
            tracing::warn!(%error, "what was begun of a new pool is still there; the next start removes it");
        }
    }
    drop(file);
    result
}

/// As [`run`], but whatever a failed start has made of a pool stays.
fn run_device(
    config: &ApplianceConfig,
    device: OpenedDevice,
    archive: Option<FoundArchive>,
    handle: &SyncSender<ReactorHandle<App>>,
    started: &SyncSender<Started>,
) -> Result<(), ServeError> {
    let mut reactor: Reactor<App> = Reactor::new(config.reactor.clone()).map_err(ServeError::Reactor)?;
    reactor.pin();
    let local = reactor.local();
    let app = App::new(local.clone(), config.reactor.name.clone(), config.reactor.core);
    let file = match &device {
        OpenedDevice::File { file, .. } => Some(Arc::clone(file)),
        OpenedDevice::Memory { .. } => None,
    };
    let is_new = !matches!(&device, OpenedDevice::File { blank: false, .. });
    let device = make_device(device, config.memory_resident)?;
    // The caller may have given up; the start continues, and the stop flag ends it.
    let _ = handle.send(reactor.handle());
    let (device, wake) = share(&local, device)?;
    let host_dma = DmaPool::new(config.host_memory_bytes);
    let drive = {
        let device = device.clone();
        local.add_poller(move || {
            let _ = wake.as_ref().map(Source::take_readable);
            device.queue().drive()
        })
    };
    let recycling = if archive.is_some() { Recycling::Archived } else { Recycling::Discard };
    let opening = open(config.clone(), recycling, device, host_dma.clone(), is_new);
    let pool = reactor.run_until(&app, opening).map_err(|error| explain(config, is_new, error))?;
    if is_new && let Some(size_bytes) = config.first_volume_bytes {
        make_first_volume(config, size_bytes, &pool, &mut reactor, &app)?;
    }
    let mut notes = note_identity(config, &pool, is_new, None)?;
    let archive = match (archive, file) {
        (Some(archive), Some(file)) => {
            let mut started = give_archive(config, archive, &pool, is_new, file, &mut reactor, &app)?;
            started.notes.append(&mut notes);
            Some(started)
        }
        _ => None,
    };
    let target_config =
        TargetConfig { host_memory_bytes_max: config.host_memory_bytes, ..config.target.clone() };
    let target = Target::new(local.clone(), Rc::<Pool>::clone(&pool) as _, host_dma, target_config);
    add_pollers(&local, &pool, &target);
    // Writes that wait for room need turns even if no events arrive.
    let seal_interval_ns = config.archive.as_ref().filter(|_| archive.is_some());
    look_often(&local, seal_interval_ns.map_or(0, |archive| archive.policy.seal_interval_ns));
    if !config.scrub_pass.is_zero() && matches!(config.backing, Backing::File { .. }) {
        let scrubbing = scrub::scrub_primary(Rc::clone(&pool), local.clone(), app.clone(), config.scrub_pass);
        drop(local.spawn(scrubbing));
    }
    drop(local.spawn(inherit::keep_loading(Rc::clone(&pool), local.clone())));
    let mut listen = Vec::new();
    for &address in &config.listen {
        listen.push(target.listen(address)?);
    }
    app.set_target(Rc::new(View::new(target.clone(), config.target.clone())));
    app.set_pool(Rc::clone(&pool));
    let message = Started { listen, pool: pool.info(), volumes: pool.volumes(), is_new, archive };
    let _ = started.send(message);
    reactor.run(&app);
    app.take_target();
    target.shutdown();
    // A caller that took the pool away does not want a clean close.
    if app.take_pool().is_some() {
        let closing = Rc::clone(&pool).close();
        reactor.run_until(&app, unless_starved(Rc::clone(&pool), closing))?;
    }
    local.remove_poller(drive);
    Ok(())
}

/// Creates the volume that a new pool begins with.
fn make_first_volume(
    config: &ApplianceConfig,
    size_bytes: u64,
    pool: &Rc<Pool>,
    reactor: &mut Reactor<App>,
    app: &App,
) -> Result<(), ServeError> {
    let request = CreateVolume {
        name: FIRST_VOLUME_NAME.to_owned(),
        size_bytes,
        uuid: None,
        thin: config.first_volume_thin,
    };
    let creating = Rc::clone(pool);
    let creating = async move { creating.create_volume(request).await };
    let created = reactor.run_until(app, Rc::clone(pool).turning(creating));
    created.map(drop).map_err(|source| {
        let pool_bytes = pool.info().device_bytes;
        let left = "Nothing was left behind".to_owned();
        ServeError::FirstVolume { pool_bytes, volume_bytes: size_bytes, source, left }
    })
}

/// Attaches the pool's archive, or makes the pool wait for it.
fn give_archive(
    config: &ApplianceConfig,
    archive: FoundArchive,
    pool: &Rc<Pool>,
    is_new: bool,
    file: Arc<FileDevice>,
    reactor: &mut Reactor<App>,
    app: &App,
) -> Result<ArchiveStarted, ServeError> {
    let local = reactor.local();
    let away = match archive {
        FoundArchive::Away(away) => *away,
        FoundArchive::Opened(opened) => {
            let manager = Arc::clone(&opened.manager);
            let attaching =
                attach(*opened, Rc::clone(pool), is_new, Arc::clone(&file), local.clone(), reactor.handle());
            match reactor.run_until(app, attaching) {
                Ok((mut started, identity)) => {
                    started.notes.extend(note_identity(config, pool, false, identity)?);
                    return Ok(started);
                }
                Err(error) => {
                    let found = found_of(config)?;
                    match &config.archive {
                        Some(archive) if waits_for(archive, config, &found, is_new, &error) => {
                            AwayArchive::with_manager(archive, config, &found, manager, &error)
                        }
                        _ => return Err(error),
                    }
                }
            }
        }
    };
    Ok(away.begin(pool, file, &local, reactor.handle(), app)?)
}

/// What the identity file says about the pool that was here.
fn found_of(config: &ApplianceConfig) -> Result<FormerPool, ServeError> {
    match &config.backing {
        Backing::File { path, .. } => identity::read(path),
        Backing::Memory { .. } => Ok(FormerPool::Nothing),
    }
}

fn make_device(device: OpenedDevice, memory_resident: bool) -> Result<Box<dyn Bdev>, ServeError> {
    match device {
        OpenedDevice::File { file, .. } => Ok(file.handle()?),
        OpenedDevice::Memory { len_blocks } => {
            let disk = if memory_resident {
                MemoryDisk::try_new_resident(len_blocks)?
            } else {
                MemoryDisk::try_new(len_blocks)?
            };
            let device: MemoryBdev = disk.open("memory");
            Ok(Box::new(device))
        }
    }
}

/// Makes the device shareable; its completions wake the reactor.
pub(super) fn share(
    local: &Local,
    device: Box<dyn Bdev>,
) -> Result<(SharedBdev, Option<Source>), ServeError> {
    let wake = match device.wake_fd() {
        Some(fd) => Some(local.register(fd, Interest::Read).map_err(ServeError::Reactor)?),
        None => None,
    };
    Ok((SharedBdev::new(device), wake))
}

/// Closes the pool, but waits for room only for [`CLOSE_ROOM_WAIT`]: what is not written was not
/// acknowledged.
async fn unless_starved(
    pool: Rc<Pool>,
    closing: impl Future<Output = Result<(), VolumeError>>,
) -> Result<(), VolumeError> {
    let mut closing = std::pin::pin!(closing);
    let mut starved_since = None;
    std::future::poll_fn(|context| {
        if let Poll::Ready(closed) = closing.as_mut().poll(context) {
            return Poll::Ready(closed);
        }
        if pool.waits_for_room() {
            // The elapsed time must be checked again, and nothing else wakes this task for that.
            context.waker().wake_by_ref();
            if starved_since.get_or_insert_with(Instant::now).elapsed() > CLOSE_ROOM_WAIT {
                let reason = "the pool's device has no room for what was still to be written, none of which was acknowledged; the pool was not marked as cleanly closed, and the next start finds it all the same";
                return Poll::Ready(Err(VolumeError::NoSpace { reason: reason.to_owned() }));
            }
        } else {
            starved_since = None;
        }
        Poll::Pending
    })
    .await
}

/// Adds the remedies to the error of a pool that cannot be read.
fn explain(config: &ApplianceConfig, is_new: bool, source: VolumeError) -> ServeError {
    match &config.backing {
        Backing::File { path, .. } if !is_new => ServeError::PoolUnreadable { path: path.clone(), source },
        _ => source.into(),
    }
}

/// Opens the pool on a device, or creates one on a blank device.
async fn open(
    config: ApplianceConfig,
    recycling: Recycling,
    device: SharedBdev,
    host_dma: DmaPool,
    is_new: bool,
) -> Result<Rc<Pool>, VolumeError> {
    let dma = DmaPool::new(config.dma_budget_bytes);
    let environment = Environment::system_with(dma, config.clock_bounds)
        .with_host_memory(host_dma, DmaPool::new(AHEAD_MEMORY_BYTES));
    // Memory has no latency to hide.
    let usual = matches!(config.backing, Backing::Memory { .. }).then_some(0);
    let options = PoolOptions {
        recycling,
        overprovisioning_percent: config.overprovisioning_percent,
        read_ahead_blocks: config.read_ahead_blocks.or(usual),
    };
    if is_new {
        let segment_blocks =
            config.segment_blocks.unwrap_or_else(|| segment_blocks_for(device.info().len_blocks));
        let request = CreateLog { segment_blocks, working_set: None };
        return Pool::create(device, environment, request, options).await;
    }
    Pool::open(device, environment, options).await
}

fn add_pollers(local: &Local, pool: &Rc<Pool>, target: &Target) {
    let (receive, poll, send) = (target.clone(), Rc::clone(pool), target.clone());
    local.add_poller(move || receive.poll_receive());
    local.add_poller(move || poll.poll());
    local.add_poller(move || send.poll_send());
}
