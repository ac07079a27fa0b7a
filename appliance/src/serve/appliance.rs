//! A running appliance: starts in an order in which a failure harms nothing, and stops.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use super::reactors::IdleReactors;
use super::{
    ARCHIVE_DIRECTORY_NAME, ApplianceConfig, CATALOG_FILE_NAME, KEEP_FILE_NAME, POOL_FILE_NAME, ServeError,
    Started, addresses, begin, thread,
};
use crate::manage::{Expirer, Scrubber};
use crate::reactor::ReactorHandle;
use crate::rpc::{App, BoundRpcServer, Registry, RpcServer, RpcServerConfig};

/// A running appliance. Dropping it stops it without a clean close, as a crash would.
pub struct Appliance {
    handle: ReactorHandle<App>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
    rpc: Option<RpcServer>,
    expirer: Option<Expirer>,
    scrubber: Option<Scrubber>,
    _idle_reactors: IdleReactors,
    registry: Arc<Registry>,
    started: Started,
    clean: bool,
}

impl Appliance {
    /// Starts an appliance; returns when hosts can connect.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn start(config: ApplianceConfig) -> Result<Self, ServeError> {
        addresses::check(&config)?;
        if let Some(directory) = &config.directory {
            make_directory(directory)?;
        }
        let locked = begin::lock(&config)?;
        let rpc_socket = config.rpc_socket.as_ref().map(RpcServerConfig::new);
        let rpc_socket = rpc_socket.map(BoundRpcServer::bind).transpose()?;
        let (device, archive) = begin::open(locked, &config)?;
        let manager = archive.as_ref().map(|archive| Arc::clone(archive.manager()));
        let (sender, receiver) = mpsc::sync_channel(1);
        let (handle_sender, handle_receiver) = mpsc::sync_channel(1);
        let idle_reactors = IdleReactors::start(&config.idle_cores)?;
        let thread_config = config.clone();
        let thread = std::thread::Builder::new()
            .name(config.reactor.name.clone())
            .spawn(move || thread::run(&thread_config, device, archive, &handle_sender, &sender))
            .map_err(ServeError::Reactor)?;
        let handle: ReactorHandle<App> = match handle_receiver.recv() {
            Ok(handle) => handle,
            Err(_) => return Err(join(thread).err().unwrap_or(ServeError::ThreadEnded)),
        };
        let (expire_interval, expire_grace) =
            config.archive.as_ref().map_or((Duration::ZERO, Duration::ZERO), |archive| {
                (archive.expire_interval, archive.expire_grace)
            });
        let expiring = manager.clone().filter(|_| !expire_interval.is_zero());
        let scrubbing = manager.clone().filter(|_| !config.scrub_pass.is_zero());
        let registry = Registry::new(handle.clone()).with_idle_reactors(idle_reactors.views());
        let registry = Arc::new(match manager {
            Some(manager) => registry.with_archive(manager),
            None => registry,
        });
        let rpc = rpc_socket.map(|socket| socket.serve(Arc::<Registry>::clone(&registry) as _));
        let rpc = match rpc.transpose() {
            Ok(rpc) => rpc,
            Err(error) => {
                handle.stop();
                // Why the thread ended matters less than the error that stopped it.
                let _ = join(thread);
                return Err(error.into());
            }
        };
        match receiver.recv() {
            Ok(started) => {
                let expirer = expiring
                    .map(|manager| Expirer::start(manager, handle.clone(), expire_interval, expire_grace));
                let expirer = expirer.transpose().map_err(ServeError::Reactor)?;
                let scrubber =
                    scrubbing.map(|manager| Scrubber::start(manager, handle.clone(), config.scrub_pass));
                let scrubber = scrubber.transpose().map_err(ServeError::Reactor)?;
                Ok(Appliance {
                    handle,
                    thread: Some(thread),
                    rpc,
                    expirer,
                    scrubber,
                    _idle_reactors: idle_reactors,
                    registry,
                    started,
                    clean: false,
                })
            }
            Err(_) => Err(join(thread).err().unwrap_or(ServeError::ThreadEnded)),
        }
    }

    /// What it reported when it started.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// The first address that hosts connect to.
    pub fn address(&self) -> SocketAddr {
        self.started.listen[0]
    }

    /// How to reach the reactor.
    pub fn handle(&self) -> &ReactorHandle<App> {
        &self.handle
    }

    /// Every JSON-RPC method.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Whether its reactor has ended, for whatever reason.
    pub(crate) fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops it: disconnects the hosts, writes the log and marks it as cleanly closed.
    ///
    /// # Errors
    /// Why the pool did not close well. What was acknowledged is safe in any case.
    pub fn stop(mut self) -> Result<(), ServeError> {
        self.clean = true;
        self.end()
    }

    fn end(&mut self) -> Result<(), ServeError> {
        // The expirer and the scrubber use the pool and the store.
        self.expirer = None;
        self.scrubber = None;
        if let Some(rpc) = self.rpc.take() {
            rpc.stop();
        }
        let clean = self.clean;
        // If the mailbox is full or the reactor has stopped, the stop flag below is still seen.
        let _ = self.handle.send(move |app| {
            if !clean {
                app.take_pool();
            }
        });
        self.handle.stop();
        self.thread.take().map_or(Ok(()), join)
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the appliance did not stop well");
        }
    }
}

/// Makes the directory of a pool if it is missing, and keeps what is varve's own in it private.
fn make_directory(path: &Path) -> Result<(), ServeError> {
    crate::private::create_dir_all(path)
        .and_then(|()| crate::private::tighten_own(path, is_own_name))
        .map_err(|source| ServeError::Directory { path: path.to_owned(), source })
}

/// Whether a file or directory of this name in the pool's directory is varve's own.
fn is_own_name(name: &str) -> bool {
    let whole = [ARCHIVE_DIRECTORY_NAME, KEEP_FILE_NAME, "archive-scrub", "rpc.sock", "rpc.sock.lock"];
    whole.contains(&name) || [POOL_FILE_NAME, CATALOG_FILE_NAME].iter().any(|own| name.starts_with(own))
}

fn join(thread: JoinHandle<Result<(), ServeError>>) -> Result<(), ServeError> {
    thread.join().unwrap_or(Err(ServeError::ThreadEnded))
}
