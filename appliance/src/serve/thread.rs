//! The reactor's thread of an appliance, from the opening of the pool to its close.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use super::archive::{self, OpenedArchive};
use super::view::View;
use super::{ApplianceConfig, FIRST_VOLUME_NAME, OpenedDevice, ServeError, Started, segment_blocks_for};
use crate::bdev::memory::{MemoryBdev, MemoryDisk};
use crate::bdev::{Bdev, SharedBdev};
use crate::dma::DmaPool;
use crate::log::{CreateLog, Environment, Recycling};
use crate::nvmf::target::Target;
use crate::reactor::{Interest, Local, Reactor, ReactorHandle, Source};
use crate::rpc::App;
use crate::volume::{CreateVolume, Pool, PoolOptions, VolumeError};

/// Runs an appliance on the calling thread until it is told to stop.
pub(super) fn run(
    config: &ApplianceConfig,
    device: OpenedDevice,
    archive: Option<OpenedArchive>,
    handle: &SyncSender<ReactorHandle<App>>,
    started: &SyncSender<Started>,
) -> Result<(), ServeError> {
    let mut reactor: Reactor<App> = Reactor::new(config.reactor.clone()).map_err(ServeError::Reactor)?;
    reactor.pin();
    let local = reactor.local();
    let app = App::new(local.clone(), config.reactor.name.clone(), config.reactor.core);
    let file = match &device {
        OpenedDevice::File(file) => Some(Arc::clone(file)),
        OpenedDevice::Memory { .. } => None,
    };
    let device = make_device(device, config.memory_resident)?;
    // The starter may have given up; the start goes on, and the stop flag ends it.
    let _ = handle.send(reactor.handle());
    let (device, wake) = share(&local, device)?;
    let dma = DmaPool::new(config.dma_budget_bytes);
    let drive = {
        let device = device.clone();
        local.add_poller(move || {
            let _ = wake.as_ref().map(Source::take_readable);
            device.queue().drive()
        })
    };
    let recycling = if archive.is_some() { Recycling::Archived } else { Recycling::Discard };
    let (pool, is_new) = reactor.run_until(&app, open(config.clone(), recycling, device, dma.clone()))?;
    let archive = match (archive, file) {
        (Some(archive), Some(file)) => {
            let (pool, local, handle) = (Rc::clone(&pool), local.clone(), reactor.handle());
            Some(reactor.run_until(&app, archive::attach(archive, pool, is_new, file, local, handle))?)
        }
        _ => None,
    };
    let target = Target::new(local.clone(), Rc::<Pool>::clone(&pool) as _, dma, config.target.clone());
    add_pollers(&local, &pool, &target);
    if is_new && let Some(size_bytes) = config.first_volume_bytes {
        let request = CreateVolume {
            name: FIRST_VOLUME_NAME.to_owned(),
            size_bytes,
            uuid: None,
            thin: config.first_volume_thin,
        };
        reactor.run_until(&app, Rc::clone(&pool).create_volume(request))?;
    }
    let inheriting = Rc::clone(&pool);
    drop(local.spawn(async move {
        Rc::clone(&inheriting).load_inherited().await;
        inheriting.hydrate_all().await;
    }));
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
    // Whoever took the pool away wants no clean close.
    if app.take_pool().is_some() {
        reactor.run_until(&app, Rc::clone(&pool).close())?;
    }
    local.remove_poller(drive);
    Ok(())
}

fn make_device(device: OpenedDevice, memory_resident: bool) -> Result<Box<dyn Bdev>, ServeError> {
    match device {
        OpenedDevice::File(file) => Ok(file.handle()?),
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

/// Makes the device shareable, and has its completions wake the reactor.
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

/// Opens the pool on a device, or creates one on a blank device.
async fn open(
    config: ApplianceConfig,
    recycling: Recycling,
    device: SharedBdev,
    dma: DmaPool,
) -> Result<(Rc<Pool>, bool), VolumeError> {
    let environment = Environment::system(dma);
    // Memory has no latency to hide.
    let usual = matches!(config.backing, super::Backing::Memory { .. }).then_some(0);
    let options = PoolOptions {
        recycling,
        overprovisioning_percent: config.overprovisioning_percent,
        read_ahead_blocks: config.read_ahead_blocks.or(usual),
    };
    if crate::log::recovery::is_blank(&device, &environment).await? {
        let segment_blocks =
            config.segment_blocks.unwrap_or_else(|| segment_blocks_for(device.info().len_blocks));
        let request = CreateLog { segment_blocks, working_set: None };
        return Ok((Pool::create(device, environment, request, options).await?, true));
    }
    Ok((Pool::open(device, environment, options).await?, false))
}

fn add_pollers(local: &Local, pool: &Rc<Pool>, target: &Target) {
    let (receive, poll, send) = (target.clone(), Rc::clone(pool), target.clone());
    local.add_poller(move || receive.poll_receive());
    local.add_poller(move || poll.poll());
    local.add_poller(move || send.poll_send());
}
