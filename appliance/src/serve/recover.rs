//! `varve pool recover`: a lost pool's primary, made again from its archive alone (R27, R32). Offline: it makes the file, says what it found, and ends; `varve serve` goes on from there.
//!
//! **Order**, so that a failure harms nothing: the store is opened and probed, the pool is chosen and its objects listed, and only then the new primary is made. A primary that
//! exists is never touched. One that could not be filled is removed again.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::archive::{Learned, learn, look_often, start_service};
use super::store::{open_store, pools_in};
use super::thread::share;
use super::{
    ArchiveConfig, DMA_BUDGET_BYTES, FIRST_VOLUME_BYTES, POOL_FILE_NAME, POOL_PER_VOLUME, ServeError,
    StoreSpec,
};
use crate::archive::object::Decompressor;
use crate::archive::service::{WorkerOptions, read_entries};
use crate::archive::store::Store;
use crate::bdev::{FileDevice, FileOptions, SharedBdev};
use crate::cli::{CommandError, RecoverOptions};
use crate::dma::{BLOCK_BYTES, DmaPool};
use crate::log::{CreateLog, Environment, Recycling};
use crate::reactor::{Reactor, ReactorConfig, Source};
use crate::rpc::units::format_time;
use crate::volume::{KnownObjects, Pool, PoolOptions, RecoverFrom, VolumeError};

/// Why a pool was not recovered.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// There is a primary already.
    #[error("{} exists; a pool is recovered into an empty directory (--dir), or after that file was moved away", path.display())]
    Exists {
        /// The primary.
        path: PathBuf,
    },
    /// There is no archive.
    #[error("{} does not exist; --from names the archive of the pool", path.display())]
    NoStore {
        /// Its place.
        path: PathBuf,
    },
    /// The archive holds no pool.
    #[error("{store} holds no pool")]
    NoPool {
        /// The store's label.
        store: String,
    },
    /// The archive does not hold that pool.
    #[error("{store} holds nothing of pool {pool}; it holds {others}")]
    OtherPools {
        /// The store's label.
        store: String,
        /// What was asked for.
        pool: Uuid,
        /// The pools there are.
        others: String,
    },
    /// The archive holds several.
    #[error("{store} holds several pools; choose one with --pool: {pools}")]
    SeveralPools {
        /// The store's label.
        store: String,
        /// The pools there are.
        pools: String,
    },
}

/// Recovers a pool and says what came back.
///
/// # Errors
/// Why it was not recovered; nothing is left behind then.
pub fn recover(options: &RecoverOptions) -> Result<(), CommandError> {
    let spec: StoreSpec = options.from.parse()?;
    let path = options.dir.join(POOL_FILE_NAME);
    if path.exists() {
        return Err(RecoverError::Exists { path }.into());
    }
    let spec = existing(spec)?;
    let opened = open_store(&spec)?;
    let pool = choose(&*opened.store, options.pool)?;
    std::fs::create_dir_all(&options.dir)
        .map_err(|source| ServeError::Directory { path: options.dir.clone(), source })?;
    let config = ArchiveConfig::new(spec, &options.dir);
    let Learned { known, catalog, .. } = learn(&*opened.store, pool, &config.catalog, false)?;
    // Complete in its file before the work, which may end early.
    catalog.close()?;
    let segment_blocks = segment_blocks(&*opened.store, &known)?;
    let pool_bytes = options.pool_size.map_or(POOL_PER_VOLUME * FIRST_VOLUME_BYTES, |size| size.0);
    let pool_bytes = pool_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    super::check_new(&path, pool_bytes, Some(segment_blocks))?;
    let file_options =
        FileOptions { create_len_blocks: Some(pool_bytes / BLOCK_BYTES as u64), ..FileOptions::default() };
    let file = Arc::new(FileDevice::open(&path, &file_options).map_err(ServeError::Device)?);
    let work = Work { config, pool, known, segment_blocks, store: opened.store, file };
    let report = work.run().inspect_err(|_| {
        // What is left of it would only be in the way of the next try.
        drop(std::fs::remove_file(&path));
    })?;
    let text = if options.json { format!("{report:#}\n") } else { report_text(&report, options) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// The place, if there is something: what is missing is not made here.
fn existing(spec: StoreSpec) -> Result<StoreSpec, RecoverError> {
    match spec {
        StoreSpec::Directory { path } if !path.is_dir() => Err(RecoverError::NoStore { path }),
        StoreSpec::Tape(tape) if !tape.exists() => Err(RecoverError::NoStore { path: tape.path }),
        StoreSpec::Device { path, .. } if !path.exists() => Err(RecoverError::NoStore { path }),
        StoreSpec::Device { path, .. } => Ok(StoreSpec::Device { path, create_bytes: None }),
        other => Ok(other),
    }
}

/// The size of the pool's segments, as its newest object says.
fn segment_blocks(store: &dyn Store, known: &KnownObjects) -> Result<u64, CommandError> {
    let newest = known.ids().last().ok_or("the archive holds nothing of this pool")?;
    let entries = read_entries(store, &newest, &mut Decompressor::new()?, &WorkerOptions::default())?;
    Ok(entries.header.segment_blocks)
}

/// A report, a line for each member, and what to do next.
fn report_text(report: &Value, options: &RecoverOptions) -> String {
    let members = report.as_object().into_iter().flatten().map(|(name, value)| {
        let text = match (value, name.ends_with("_ns")) {
            (Value::Number(number), true) => format_time(number.as_u64().unwrap_or(0)),
            (Value::String(text), _) => text.clone(),
            (value, _) => value.to_string(),
        };
        format!("{}: {text}\n", name.trim_end_matches("_ns").replace('_', " "))
    });
    let next = format!(
        "the volumes can be used at once; their blocks come from the archive as they are read:\n  varve serve --dir {} --archive {}\n",
        options.dir.display(),
        options.from
    );
    members.chain([next]).collect()
}

/// What a recovery works with.
struct Work {
    config: ArchiveConfig,
    pool: Uuid,
    known: KnownObjects,
    segment_blocks: u64,
    store: Arc<dyn Store>,
    file: Arc<FileDevice>,
}

impl Work {
    /// Runs a reactor of its own until the pool is there; returns the report.
    fn run(self) -> Result<Value, ServeError> {
        let mut reactor: Reactor<()> = Reactor::new(ReactorConfig::default()).map_err(ServeError::Reactor)?;
        let local = reactor.local();
        let (device, wake) = share(&local, self.file.handle()?)?;
        let driven = device.clone();
        local.add_poller(move || {
            let _ = wake.as_ref().map(Source::take_readable);
            driven.queue().drive()
        });
        let handle = reactor.handle();
        let waker = Arc::new(move || handle.wake());
        let service = start_service(&self.config, &self.store, Arc::clone(&self.file), waker)?;
        look_often(&local, 0);
        let environment = Environment::system(DmaPool::new(DMA_BUDGET_BYTES));
        let request = CreateLog { segment_blocks: self.segment_blocks, working_set: None };
        let options = PoolOptions { recycling: Recycling::Archived, ..PoolOptions::default() };
        let from = RecoverFrom {
            service: Box::new(service),
            policy: self.config.policy,
            known: self.known,
            pool: self.pool,
        };
        Ok(reactor.run_until(&(), recover_pool(device, environment, request, options, from))?)
    }
}

/// The pool that is asked for, or the only one.
fn choose(store: &dyn Store, wanted: Option<Uuid>) -> Result<Uuid, CommandError> {
    let pools = pools_in(store)?;
    let text = |pools: &[Uuid]| pools.iter().map(Uuid::to_string).collect::<Vec<_>>().join(", ");
    let label = store.label().to_owned();
    match (wanted, pools.as_slice()) {
        (_, []) => Err(RecoverError::NoPool { store: label }.into()),
        (Some(pool), pools) if pools.contains(&pool) => Ok(pool),
        (Some(pool), pools) => {
            Err(RecoverError::OtherPools { store: label, pool, others: text(pools) }.into())
        }
        (None, [pool]) => Ok(*pool),
        (None, pools) => Err(RecoverError::SeveralPools { store: label, pools: text(pools) }.into()),
    }
}

/// Makes the pool and closes it again.
async fn recover_pool(
    device: SharedBdev,
    environment: Environment,
    request: CreateLog,
    options: PoolOptions,
    from: RecoverFrom,
) -> Result<Value, VolumeError> {
    let (pool, report) = Pool::recover(device, environment, request, options, from).await?;
    pool.close_recovered().await?;
    serde_json::to_value(report).map_err(|error| VolumeError::Failed { reason: error.to_string() })
}
