//! `varve pool recover`: makes the primary of a lost pool again, from its archive alone (R27, R32).
//! It works offline: it makes the file, reports what it found, and ends; `varve serve` continues
//! from there.
//!
//! **Order**, so that a failure harms nothing: the store is opened and probed, the pool is chosen
//! and its objects are listed, and only then is the new primary made. An existing primary is never
//! touched. The new one is made under a temporary name, and gets the pool's name when it is
//! complete. The next try removes an incomplete one, and `varve serve` never takes it for a pool.

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use uuid::Uuid;

use super::attach::{Learned, learn, look_often, start_service};
use super::claim;
use super::identity::{self, ArchiveIdentity, Identity, with_suffix};
use super::new_pool::check_new;
use super::owner::OwnerError;
use super::signals::{self, StopSignals};
use super::store::{open_reader, open_store, pools_in, read_id};
use super::thread::share;
use super::{
    ArchiveConfig, DMA_BUDGET_BYTES, FIRST_VOLUME_BYTES, HOST_MEMORY_BYTES, POOL_FILE_NAME, POOL_PER_VOLUME,
    ServeError, StoreSpec,
};
use crate::archive::catalog::Counts;
use crate::archive::object::{ClaimId, Decompressor, ObjectId};
use crate::archive::owner::{Chain, HistoryId, Inheritance, OwnedStore, Recovered, read_chain};
use crate::archive::service::{ArchiveError, WorkerOptions, read_entries};
use crate::archive::store::Store;
use crate::audit::{self, Caller};
use crate::bdev::{FileDevice, FileOptions, OpenError, SharedBdev};
use crate::dma::{BLOCK_BYTES, DmaPool};
use crate::log::geometry::with_tail;
use crate::log::{CreateLog, Environment, Lsn, Recycling};
use crate::options::{CommandError, RecoverOptions};
use crate::reactor::{Reactor, ReactorConfig, Source};
use crate::text::units::format_time;
use crate::volume::{
    KnownObjects, Ownership, Pool, PoolOptions, RecoverFrom, TakeOver, VolumeError, WAY_WITHOUT_UNREADABLE,
};

/// The suffix of the name of a pool that is being recovered.
const RECOVERING_SUFFIX: &str = ".recovering";

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
        /// Its path.
        path: PathBuf,
    },
    /// The archive holds no pool.
    #[error(
        "{store} holds no pool; --from names the archive of the pool, as `varve serve --archive` takes it"
    )]
    NoPool {
        /// The store's label.
        store: String,
    },
    /// The archive does not hold that pool.
    #[error("{store} holds nothing of pool {pool}; it holds {others}")]
    OtherPools {
        /// The store's label.
        store: String,
        /// The pool that was requested.
        pool: Uuid,
        /// The pools that the archive holds.
        others: String,
    },
    /// The archive holds several.
    #[error("{store} holds several pools; choose one with --pool: {pools}")]
    SeveralPools {
        /// The store's label.
        store: String,
        /// The pools that the archive holds.
        pools: String,
    },
}

/// Recovers a pool and reports what was recovered.
///
/// # Errors
/// Why it was not recovered; nothing is left behind in that case.
pub fn recover(options: &RecoverOptions) -> Result<(), CommandError> {
    super::abort::install();
    let spec = options.from.parse::<StoreSpec>()?.absolute();
    let path = options.dir.join(POOL_FILE_NAME);
    let unfinished = with_suffix(&path, RECOVERING_SUFFIX);
    let stage = Arc::new(Mutex::new(Stage::Looking));
    let _signals = stop_by_signals(&stage, unfinished.clone())?;
    if path.exists() {
        return Err(RecoverError::Exists { path }.into());
    }
    let spec = existing(spec)?;
    let opened = if options.rehearse { open_reader(&spec)? } else { open_store(&spec)? };
    let pool = choose(&*opened.store, options.pool)?;
    let store = Arc::clone(&opened.store);
    let chain = read_chain(&*store, pool)?;
    let wanted = options.history.map(HistoryId);
    if wanted.is_none() {
        chain.certain(&*store).map_err(OwnerError::Chain)?;
    }
    let recovered = claim::find_history(&*store, pool, &chain, wanted)?;
    crate::private::create_dir_all(&options.dir)
        .map_err(|source| ServeError::Directory { path: options.dir.clone(), source })?;
    let config = ArchiveConfig::new(spec, &options.dir);
    let counts = counts(&recovered);
    let Learned { known, catalog, .. } = learn(&*store, pool, &config.catalog, false, counts)?;
    // The catalog's file is completed before the work, which may end early.
    catalog.close()?;
    let segment_blocks = segment_blocks(&*opened.store, &known, options.leave_out_unreadable)?;
    let pool_bytes = options.pool_size.map_or(POOL_PER_VOLUME * FIRST_VOLUME_BYTES, |size| size.0);
    let pool_bytes = pool_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
    check_new(&path, pool_bytes, Some(segment_blocks))?;
    let file = make_unfinished(&unfinished, pool_bytes)?;
    *lock(&stage) = Stage::Making;
    let keep = config.keep.clone();
    let rules = recovered.rules.clone();
    let (ownership, take_over) = plan(&store, pool, &chain, recovered, &known, options.rehearse);
    let work = RecoveryParts {
        config,
        pool,
        known,
        segment_blocks,
        store: opened.store,
        file,
        ownership,
        take_over,
        leaves_out_unreadable: options.leave_out_unreadable,
    };
    let report = work.run().and_then(|report| {
        restore_rules(&keep, rules.as_deref())?;
        let mut stage = lock(&stage);
        finish(&unfinished, &path, pool, &*store, options.rehearse)?;
        *stage = Stage::Done;
        Ok(report)
    });
    let what = json!({"from": options.from, "dir": options.dir, "pool": pool}).to_string();
    audit::note(&Caller::myself(), "pool_recover", &what, report.as_ref());
    let report = report.inspect_err(|_| {
        // The file would only take space until the next try.
        drop(std::fs::remove_file(&unfinished));
    })?;
    let text = if options.json { format!("{report:#}\n") } else { report_text(&report, options) };
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Ends the process on a signal, without leaving a part of a pool behind.
fn stop_by_signals(stage: &Arc<Mutex<Stage>>, unfinished: PathBuf) -> Result<StopSignals, CommandError> {
    let seen = Arc::clone(stage);
    let signals = StopSignals::take(move |signal| {
        // Locked until the process ends. While the pool gets its name, this waits.
        let stage = std::mem::ManuallyDrop::new(lock(&seen));
        let by = signals::name(signal);
        if **stage == Stage::Done {
            eprintln!("varve: stopped by {by} when the pool was recovered: it can be served");
            return 128 + signal;
        }
        if **stage == Stage::Making {
            drop(std::fs::remove_file(&unfinished));
        }
        eprintln!("varve: stopped by {by}: nothing was recovered; it can be run again");
        128 + signal
    })?;
    Ok(signals)
}

/// How far a recovery has progressed, for the signal handler.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing was made yet.
    Looking,
    /// A file exists under a temporary name.
    Making,
    /// The pool has its name and its identity.
    Done,
}

fn lock(stage: &Mutex<Stage>) -> MutexGuard<'_, Stage> {
    stage.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the file that the pool is recovered into. A file that an earlier try has left is removed,
/// unless that try is still running.
fn make_unfinished(path: &Path, pool_bytes: u64) -> Result<Arc<FileDevice>, ServeError> {
    if path.exists() {
        match FileDevice::open(path, &FileOptions::default()) {
            Err(error @ OpenError::Locked { .. }) => return Err(error.into()),
            // Whatever it is, it is incomplete.
            _ => std::fs::remove_file(path).map_err(|source| failed(path, source))?,
        }
    }
    let create_len_blocks = Some(with_tail(pool_bytes / BLOCK_BYTES as u64));
    let options = FileOptions { create_len_blocks, allocate: true, ..FileOptions::default() };
    Ok(Arc::new(FileDevice::open(path, &options)?))
}

/// Gives the recovered pool its identity, and then its name. If the process ended between the two
/// in the other order, there would be a pool whose archive is not known. An identity alone means a
/// pool whose file is gone: a start refuses that, and the next recovery replaces it.
fn finish(
    unfinished: &Path,
    path: &Path,
    pool: Uuid,
    store: &dyn Store,
    rehearsal: bool,
) -> Result<(), ServeError> {
    let file = std::fs::File::open(unfinished).map_err(|source| failed(unfinished, source))?;
    let device_bytes = file.metadata().map_err(|source| failed(unfinished, source))?.len();
    file.sync_all().map_err(|source| failed(unfinished, source))?;
    // Without the identity, the next start would check less strictly that the archive is the same.
    // That is no reason to fail now.
    let id = read_id(store).ok().flatten();
    let archive = id.map(|id| ArchiveIdentity { store: store.label().to_owned(), id });
    if path.exists() {
        return Err(failed(path, std::io::ErrorKind::AlreadyExists.into()));
    }
    identity::write(path, &Identity { pool, created_ns: 0, device_bytes, archive, rehearsal })?;
    // A file that was put there meanwhile is not replaced.
    rename_new(unfinished, path).map_err(|source| failed(path, source))
}

fn rename_new(from: &Path, to: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    use rustix::io::Errno;
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => {}
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => std::fs::rename(from, to)?,
        Err(errno) => return Err(errno.into()),
    }
    crate::private::sync_parent(to)
}

fn failed(path: &Path, source: std::io::Error) -> ServeError {
    OpenError::Io { path: path.to_owned(), action: "finish", source }.into()
}

/// The place, if something is there: a recovery does not create a missing store.
fn existing(spec: StoreSpec) -> Result<StoreSpec, RecoverError> {
    match spec {
        StoreSpec::Directory { path } if !path.is_dir() => Err(RecoverError::NoStore { path }),
        StoreSpec::Tape(tape) if !tape.exists() => Err(RecoverError::NoStore { path: tape.path }),
        StoreSpec::Device { path, .. } if !path.exists() => Err(RecoverError::NoStore { path }),
        StoreSpec::Device { path, .. } => Ok(StoreSpec::Device { path, create_bytes: None }),
        // A bucket is never created. No arm for all others: whoever adds a store decides it here.
        spec @ (StoreSpec::Directory { .. } | StoreSpec::Tape(_) | StoreSpec::S3(_)) => Ok(spec),
    }
}

/// The size of the pool's segments, from the newest object that can be read. The recovery itself
/// reports damaged objects.
fn segment_blocks(
    store: &dyn Store,
    known: &KnownObjects,
    leaves_out_unreadable: bool,
) -> Result<u64, CommandError> {
    let mut codec = Decompressor::new()?;
    let mut ids: Vec<ObjectId> = known.ids().collect();
    let mut first = None;
    while let Some(id) = ids.pop() {
        match read_entries(store, &id, &mut codec, &WorkerOptions::default()) {
            Ok(entries) => return Ok(entries.header.segment_blocks),
            // A retry may read it, so an older object does not replace it.
            Err(error @ ArchiveError::Store { retry: true, .. }) if !leaves_out_unreadable => {
                return Err(format!("{error}. {WAY_WITHOUT_UNREADABLE}").into());
            }
            Err(error) => {
                tracing::warn!(%error, "an object cannot be read; the one before it is looked at");
                first.get_or_insert(error);
            }
        }
    }
    Err(first.map_or_else(|| "the archive holds nothing of this pool".into(), CommandError::from))
}

/// A report, one line for each member, and what to do next.
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

/// The parts of a recovery.
struct RecoveryParts {
    config: ArchiveConfig,
    pool: Uuid,
    known: KnownObjects,
    segment_blocks: u64,
    store: Arc<dyn Store>,
    file: Arc<FileDevice>,
    ownership: Ownership,
    take_over: Option<TakeOver>,
    leaves_out_unreadable: bool,
}

impl RecoveryParts {
    /// Runs a reactor until the pool is complete; returns the report.
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
        let environment = Environment::system(DmaPool::new(DMA_BUDGET_BYTES + HOST_MEMORY_BYTES));
        let request = CreateLog { segment_blocks: self.segment_blocks, working_set: None };
        let options = PoolOptions { recycling: Recycling::Archived, ..PoolOptions::default() };
        let from = RecoverFrom {
            service: Box::new(service),
            policy: self.config.policy,
            known: self.known,
            pool: self.pool,
            ownership: self.ownership,
            take_over: self.take_over,
            leaves_out_unreadable: self.leaves_out_unreadable,
        };
        Ok(reactor.run_until(&(), recover_pool(device, environment, request, options, from))?)
    }
}

/// Which objects belong to the history.
fn counts(recovered: &Recovered) -> Counts {
    let lineage = recovered.lineage.clone();
    let gone: HashSet<String> = recovered.tombstones.iter().cloned().collect();
    Box::new(move |id: &ObjectId| {
        let is_gone = || id.name().is_ok_and(|name| gone.contains(name.as_str()));
        lineage.counts(id) && (gone.is_empty() || !is_gone())
    })
}

/// What the recovered pool records about its claim, and how it takes the archive over. A rehearsal
/// takes nothing over.
fn plan(
    store: &Arc<dyn Store>,
    pool: Uuid,
    chain: &Chain,
    recovered: Recovered,
    known: &KnownObjects,
    rehearse: bool,
) -> (Ownership, Option<TakeOver>) {
    if rehearse {
        let (history, rehearsal_lsn) = (recovered.history, Some(Lsn::MAX));
        let ownership = Ownership { history, rehearsal_lsn, ..Ownership::default() };
        return (ownership, None);
    }
    let claim = ClaimId::random();
    let history = HistoryId::random();
    let (store, chain) = (Arc::clone(store), chain.clone());
    let ids: Vec<ObjectId> = known.ids().collect();
    let take_over = Box::new(move |cut_lsn: Lsn| {
        let inheritance = Inheritance::of_recovery(&chain, &recovered, cut_lsn, history);
        let mut generation = inheritance.generation(pool, claim, cut_lsn, ids.into_iter());
        claim::sign(&mut generation);
        let owned = OwnedStore::new(store);
        owned.claim(generation);
        owned.ensure_owner("claim").map_err(|error| claim::failed(&OwnerError::Store(error)))
    });
    (Ownership::of(history, claim), Some(take_over))
}

/// Restores the retention rules if there are none.
fn restore_rules(path: &Path, rules: Option<&str>) -> Result<(), ServeError> {
    let Some(rules) = rules.filter(|_| !path.exists()) else { return Ok(()) };
    let written = crate::private::write(path, format!("{rules}\n").as_bytes());
    written.map_err(|source| ServeError::Write { path: path.to_owned(), source })
}

/// The requested pool, or the only one.
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

/// Makes the pool and closes it.
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
