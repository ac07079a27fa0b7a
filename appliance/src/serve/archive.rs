//! The archive of a served pool: its store is opened before the pool is touched, and attached once the pool is open.
//!
//! ```text
//! open      before anything of the pool is made or opened: the store is opened and probed, the rules of retention are read
//! learn     once the pool's UUID is known, on a thread of its own: the store is listed, objects that are new to the local catalog are read for their synchs
//! await     instead, when the pool's archive is away: `late` opens it as soon as it is there
//! attach    the archivist's threads start; the pool gets the store, its objects and the synchs of the whole history
//! ```

pub(super) mod late;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::begin::refuse_new_archive;
use super::identity::{ArchiveIdentity, Found};
use super::owner;
use super::progress::StartProgress;
use super::record::RecordingArchive;
use super::store::{StoreSpec, ensure_id, open_reader, open_store, pools_in, read_id};
use super::{ApplianceConfig, ServeError, Started};
use crate::archive::catalog::{ArchiveCatalog, CatalogError, Counts, SynchRow};
use crate::archive::owner::OwnedStore;
use crate::archive::service::{
    BdevSource, READS_IN_FLIGHT_DEFAULT, ThreadedArchive, ThreadedOptions, VerifyPolicy, WorkerOptions,
};
use crate::archive::store::Store;
use crate::bdev::FileDevice;
use crate::log::Lsn;
use crate::manage::ArchiveManager;
use crate::reactor::{Local, ReactorHandle};
use crate::rpc::App;
use crate::volume::{ArchivePolicy, BackPressure, KnownObjects, Pool, SynchInfo};

/// The name of the local catalog in the pool's directory.
pub const CATALOG_FILE_NAME: &str = "archive-catalog.redb";
/// The name of the file with the rules of retention in the pool's directory.
pub const KEEP_FILE_NAME: &str = "archive-keep";
/// The name of the directory that is the archive by default, in the pool's directory.
pub const ARCHIVE_DIRECTORY_NAME: &str = "archive";

/// How often the reactor looks at the archive while nothing else happens: increments and second tries are a matter of time.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often what has expired is deleted, unless configured otherwise.
const EXPIRE_INTERVAL_DEFAULT: Duration = Duration::from_secs(crate::options::EXPIRE_SECONDS_DEFAULT);
/// How long after a start nothing expires by itself, unless configured otherwise.
const EXPIRE_GRACE_DEFAULT: Duration = Duration::from_mins(10);
/// How often the end of the learning is looked for.
const LEARN_INTERVAL: Duration = Duration::from_millis(2);
/// The same once it has taken a while: a store may not answer for minutes.
const LEARN_INTERVAL_LAST: Duration = Duration::from_millis(50);

/// What an operator is told when a pool that had an archive begins another one, and nothing shows that
/// something is lost.
const MOVED_NOTE: &str = "this pool had an archive before, and begins a new one here. If its file was moved, stop the appliance, move its archive and pool.varve.id to this directory too (or name the archive with --archive), and start it again";

/// How a pool is archived.
#[derive(Debug, Clone)]
pub struct ArchiveConfig {
    /// Where to.
    pub store: StoreSpec,
    /// How the pool uses it.
    pub policy: ArchivePolicy,
    /// The compression level; `None`: the usual one.
    pub level: Option<i32>,
    /// How objects are verified, until [`set_archive_verify`](Pool::set_archive_verify) says otherwise.
    pub verify: VerifyPolicy,
    /// The core that the archivist is pinned to.
    pub core: Option<usize>,
    /// Where the local catalog is.
    pub catalog: PathBuf,
    /// Where the rules of retention are.
    pub keep: PathBuf,
    /// How often what has expired is deleted; zero: only by command.
    pub expire_interval: Duration,
    /// How long after a start nothing expires by itself.
    pub expire_grace: Duration,
    /// Whether a pool that is older than its archive, or was overtaken, goes on as a history of its
    /// own.
    pub fork: bool,
}

impl ArchiveConfig {
    /// An archive in `store`, with its local files in `directory`, and defaults for all else.
    pub fn new(store: StoreSpec, directory: &Path) -> Self {
        ArchiveConfig {
            store,
            policy: ArchivePolicy::default(),
            level: None,
            verify: VerifyPolicy::default(),
            core: None,
            catalog: directory.join(CATALOG_FILE_NAME),
            keep: directory.join(KEEP_FILE_NAME),
            expire_interval: EXPIRE_INTERVAL_DEFAULT,
            expire_grace: EXPIRE_GRACE_DEFAULT,
            fork: false,
        }
    }
}

/// What an appliance says of its archive when it starts.
#[derive(Debug, Clone)]
pub struct ArchiveStarted {
    /// The store's label.
    pub store: String,
    /// Objects of the pool in it.
    pub objects: u64,
    /// Synchs of the whole history.
    pub synchs: u64,
    /// Why it could not be reached; it is tried again.
    pub away: Option<String>,
    /// What the operator must know.
    pub notes: Vec<String>,
}

/// The archive as a start finds it.
pub(super) enum FoundArchive {
    /// There.
    Opened(Box<OpenedArchive>),
    /// Known, and away.
    Away(Box<late::AwayArchive>),
}

impl FoundArchive {
    /// What the command plane sees of it.
    pub(super) fn manager(&self) -> &Arc<ArchiveManager> {
        match self {
            FoundArchive::Opened(opened) => &opened.manager,
            FoundArchive::Away(away) => away.manager(),
        }
    }

    /// Whether it holds objects of a pool, whichever.
    pub(super) fn holds_something(&self) -> bool {
        matches!(self, FoundArchive::Opened(opened) if !opened.known.pools.is_empty())
    }
}

/// An archive that was opened, on its way to the pool.
pub(super) struct OpenedArchive {
    config: ArchiveConfig,
    pub(super) manager: Arc<ArchiveManager>,
    known: KnownStore,
    /// Whether it may be another.
    may_be_new: bool,
}

impl OpenedArchive {
    fn new(
        known: KnownStore,
        config: &ArchiveConfig,
        appliance: &ApplianceConfig,
        manager: Arc<ArchiveManager>,
    ) -> Self {
        OpenedArchive { config: config.clone(), manager, known, may_be_new: appliance.new_archive }
    }
}

/// A store that was opened, and whose it is.
struct KnownStore {
    store: Arc<OwnedStore>,
    notes: Vec<String>,
    /// What the store says of itself.
    id: Option<Uuid>,
    /// Whether it is the archive that the pool had, as far as that is known.
    is_known: bool,
    pools: Vec<Uuid>,
}

/// Opens the archive. One that the pool is known to have had at this place, and that is away for a
/// reason that may pass, is waited for.
///
/// # Errors
/// See [`open`].
pub(super) fn find(
    config: &ArchiveConfig,
    appliance: &ApplianceConfig,
    found: &Found,
    is_new: bool,
) -> Result<FoundArchive, ServeError> {
    match open(config, appliance, found, is_new) {
        Ok(opened) => Ok(FoundArchive::Opened(Box::new(opened))),
        Err(error) if late::waits_for(config, appliance, found, is_new, &error) => {
            let away = late::AwayArchive::new(config, appliance, found, &error)?;
            Ok(FoundArchive::Away(Box::new(away)))
        }
        Err(error) => Err(error),
    }
}

/// Opens the store, finds out whether it is the pool's, and reads the rules.
fn open(
    config: &ArchiveConfig,
    appliance: &ApplianceConfig,
    found: &Found,
    is_new: bool,
) -> Result<OpenedArchive, ServeError> {
    let known = open_known(config, appliance, found, is_new)?;
    let manager = ArchiveManager::new(Arc::clone(&known.store) as Arc<dyn Store>, &config.keep)?;
    Ok(OpenedArchive::new(known, config, appliance, Arc::new(manager)))
}

/// Opens the store and finds out whether it is the pool's. Nothing of the pool is needed but what
/// is `found` of its identity.
fn open_known(
    config: &ArchiveConfig,
    appliance: &ApplianceConfig,
    found: &Found,
    is_new: bool,
) -> Result<KnownStore, ServeError> {
    refuse_new_archive(config, appliance, found, is_new)?;
    let mut opened =
        if found.is_rehearsal() { open_reader(&config.store)? } else { open_store(&config.store)? };
    let pools = pools_in(&*opened.store).map_err(CatalogError::from)?;
    let id = match read_id(&*opened.store) {
        Ok(id) => id,
        // A part of the store that is away, a cartridge, may come back. What is there tells as well whose it is.
        Err(error) => match (found, found.archive()) {
            (Found::Known(identity), Some(known))
                if error.is_retryable() && pools.contains(&identity.pool) =>
            {
                opened.notes.push(format!(
                    "the archive's identity cannot be read; what is there is of the pool, so it is taken for archive {}: {error}",
                    known.id
                ));
                Some(known.id)
            }
            _ => return Err(CatalogError::from(error).into()),
        },
    };
    let is_known = found.archive().is_some_and(|known| Some(known.id) == id);
    if let (Found::Known(identity), Some(known), false) = (found, found.archive(), is_known) {
        let holds_ours = pools.contains(&identity.pool);
        if !holds_ours && !appliance.new_archive {
            let what = match id {
                Some(id) => format!(
                    "archive {id} is there, which holds nothing of the pool; it had archive {} in {}",
                    known.id, known.store
                ),
                None => format!(
                    "what is there holds nothing of the pool; it had archive {} in {}",
                    known.id, known.store
                ),
            };
            return Err(ServeError::ArchiveGone { place: opened.store.label().to_owned(), what });
        }
        opened
            .notes
            .push(format!("this is another archive than before, which was {} in {}", known.id, known.store));
    }
    let store = Arc::new(OwnedStore::new(opened.store));
    Ok(KnownStore { store, notes: opened.notes, id, is_known, pools })
}

/// What the local catalog knows must be in the archive, or it is another.
fn refuse_empty(known: u64, listed: u64, label: &str) -> Result<(), ServeError> {
    if known == 0 || listed > 0 {
        return Ok(());
    }
    let what = format!("it holds no object of the pool, and the local catalog knows of {known}");
    Err(ServeError::ArchiveGone { place: label.to_owned(), what })
}

/// What the log says is archived must be in the archive, or it is another: the pool's file was moved,
/// for example, without what belongs beside it.
fn refuse_unlike_log(archived_below: Lsn, label: &str) -> Result<(), ServeError> {
    if archived_below == Lsn(0) {
        return Ok(());
    }
    let what = format!(
        "it holds no object of the pool, whose log says that everything before LSN {archived_below} is archived. If the pool's file was moved here, its archive and pool.varve.id belong beside it"
    );
    Err(ServeError::ArchiveGone { place: label.to_owned(), what })
}

/// What the store holds of a pool.
pub(super) struct Learned {
    pub(super) known: KnownObjects,
    pub(super) synchs: Vec<SynchInfo>,
    pub(super) catalog: ArchiveCatalog,
    /// Objects that the local catalog knew before the store was listed.
    known_before: u64,
    pub(super) notes: Vec<String>,
}

/// Lists the store and brings the local catalog up to date. Objects of which `counts` says that
/// they are not of the pool's history are left alone. Blocks.
///
/// # Errors
/// The store's, when it cannot be listed; the catalog's file.
pub(super) fn learn(
    store: &dyn Store,
    pool: Uuid,
    catalog_path: &Path,
    is_new: bool,
    counts: Counts,
) -> Result<Learned, CatalogError> {
    let mut progress = StartProgress::new();
    let mut notes = Vec::new();
    let (mut catalog, state) = ArchiveCatalog::open(catalog_path, pool, store.label())?;
    if let Some(replaced) = state.replaced.filter(|_| !is_new) {
        notes.push(format!(
            "the archive's local catalog was made anew: {}; the old one is {}",
            replaced.reason,
            replaced.moved_to.display()
        ));
    }
    let mut known_before = 0;
    catalog.for_each_object(|_| known_before += 1)?;
    catalog.count_only(counts);
    // Always: names are the truth, and what another start has put there must be known.
    catalog.rebuild(store, &mut |found| {
        progress.listed(found.objects);
        ControlFlow::Continue(())
    })?;
    let missing = count_missing(&catalog)?;
    let filled = catalog.fill_details(store, &mut |read| {
        progress.read(read.objects, missing);
        ControlFlow::Continue(())
    });
    progress.finish();
    match filled {
        Ok(report) => notes.extend(report.problems.into_iter().map(|problem| format!("archive: {problem}"))),
        // The pool can be served: only synchs may be missing until the next start.
        Err(CatalogError::Store(error)) => {
            notes.push(format!("the archive was not read to its end, synchs may be missing: {error}"));
        }
        Err(error) => return Err(error),
    }
    let mut known = KnownObjects::default();
    let mut ids = Vec::new();
    catalog.for_each_object(|row| ids.push(row.id))?;
    known.extend(ids);
    notes.extend(
        catalog
            .gaps()?
            .into_iter()
            .map(|gap| format!("archive: LSN {} to {}: {}", gap.range.start, gap.range.end, gap.reason)),
    );
    known.note_lost(catalog.lost_objects()?.into_iter().map(|row| row.id));
    if known.is_empty() {
        let others = pools_in(store)?.into_iter().filter(|&other| other != pool).count();
        if others > 0 {
            notes.push(format!(
                "the archive holds nothing of this pool, but something of other pools ({others}); varve pool recover brings one back into an empty directory"
            ));
        }
    }
    let synchs = catalog.synchs()?.into_iter().map(synch_of).collect();
    Ok(Learned { known, synchs, catalog, known_before, notes })
}

fn count_missing(catalog: &ArchiveCatalog) -> Result<u64, CatalogError> {
    let mut missing = 0;
    catalog.for_each_object(|row| missing += u64::from(row.details.is_none()))?;
    Ok(missing)
}

/// A synch as the pool shows it. One whose text is lost is still a point.
fn synch_of(row: SynchRow) -> SynchInfo {
    let lsn = row.lsn.0;
    match serde_json::from_slice::<SynchInfo>(&row.text) {
        Ok(synch) => SynchInfo { lsn, ..synch },
        Err(_) => SynchInfo::damaged(lsn, row.time_ns),
    }
}

/// The archivist for a device, started.
pub(super) fn start_service(
    config: &ArchiveConfig,
    store: &Arc<dyn Store>,
    device: Arc<FileDevice>,
    waker: Arc<dyn Fn() + Send + Sync>,
) -> Result<ThreadedArchive, ServeError> {
    let mut worker = WorkerOptions { verify: config.verify, ..WorkerOptions::default() };
    if let Some(level) = config.level {
        worker.level = level;
    }
    let options = ThreadedOptions { core: config.core, worker, waker, ..ThreadedOptions::default() };
    let source = Box::new(move || {
        // A queue of its own, made on the thread that uses it.
        let device = device.handle().map_err(|error| error.to_string())?;
        Ok(Box::new(BdevSource::new(device, READS_IN_FLIGHT_DEFAULT)) as _)
    });
    Ok(ThreadedArchive::start(Arc::clone(store), source, options)?)
}

/// Gives the pool its archive. An error leaves the pool as it was.
pub(super) async fn attach(
    opened: OpenedArchive,
    pool: Rc<Pool>,
    is_new: bool,
    device: Arc<FileDevice>,
    local: Local,
    handle: ReactorHandle<App>,
) -> Result<(ArchiveStarted, Option<ArchiveIdentity>), ServeError> {
    let owned = Arc::clone(&opened.known.store);
    let found = owner::find(&local, &owned, &pool, &opened.config, is_new).await?;
    let mut lost = None;
    if !opened.known.is_known && !opened.may_be_new {
        let there = found.learned.known.ids().count() as u64;
        refuse_empty(found.learned.known_before, there, owned.label())?;
        if !is_new && there == 0 {
            refuse_unlike_log(pool.archived_below(), owned.label())?;
            lost = pool.ownership().history.map(|_| MOVED_NOTE.to_owned());
        }
    }
    let rules = opened.manager.rules_text();
    let (learned, claim, told) = owner::take(&local, &owned, &pool, found, rules).await?;
    let is_rehearsal = pool.ownership().rehearsal_lsn.is_some();
    let (id, note) =
        if is_rehearsal { (opened.known.id, None) } else { identify(&opened.known, &local).await? };
    let OpenedArchive { mut config, manager, known: KnownStore { mut notes, .. }, .. } = opened;
    notes.extend(told);
    notes.extend(note);
    notes.extend(lost);
    if is_rehearsal {
        // Nothing of it is ever archived, so its writes must not wait for that.
        config.policy.back_pressure = BackPressure::Degrade;
    }
    let label = owned.label().to_owned();
    let identity = id.map(|id| ArchiveIdentity { store: label.clone(), id });
    let store = Arc::clone(&owned) as Arc<dyn Store>;
    let waker = handle.clone();
    let service = start_service(&config, &store, device, Arc::new(move || waker.wake()))?;
    let service = RecordingArchive::new(Box::new(service), Arc::clone(&manager), handle)?;
    let objects = learned.known.ids().count() as u64;
    manager.set_owned(owned);
    manager.set_catalog(learned.catalog);
    let known = learned.known.with_claim(claim);
    pool.attach_archive(Box::new(service), config.policy, known, learned.synchs)?;
    notes.extend(learned.notes);
    let synchs = pool.synch_count() as u64;
    Ok((ArchiveStarted { store: label, objects, synchs, away: None, notes }, identity))
}

/// The identity of an archive, which is given one if it has none; what is to be said of that.
async fn identify(known: &KnownStore, local: &Local) -> Result<(Option<Uuid>, Option<String>), ServeError> {
    if known.id.is_some() {
        return Ok((known.id, None));
    }
    let store = Arc::clone(&known.store);
    Ok(match off_reactor(local, move || ensure_id(&*store)).await? {
        Ok(id) => (Some(id), None),
        Err(error) => {
            let note =
                format!("the archive was given no identity, so that its loss might not be noticed: {error}");
            (None, Some(note))
        }
    })
}

/// Has the reactor turn now and then, also when nobody asks it for anything.
pub(super) fn look_often(local: &Local, seal_interval_ns: u64) {
    let interval = match seal_interval_ns {
        0 => LOOK_INTERVAL,
        interval_ns => LOOK_INTERVAL.min(Duration::from_nanos(interval_ns / 4)).max(Duration::from_millis(1)),
    };
    let sleeper = local.clone();
    drop(local.spawn(async move {
        loop {
            sleeper.sleep(interval).await;
        }
    }));
}

/// Runs what blocks on a thread of its own, while the reactor turns.
pub(super) async fn off_reactor<T: Send + 'static>(
    local: &Local,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServeError> {
    let thread = std::thread::Builder::new()
        .name("archive-start".to_owned())
        .spawn(work)
        .map_err(ServeError::Reactor)?;
    let mut interval = LEARN_INTERVAL;
    while !thread.is_finished() {
        local.sleep(interval).await;
        interval = (interval * 2).min(LEARN_INTERVAL_LAST);
    }
    thread.join().map_err(|_| ServeError::ThreadEnded)
}

/// The lines that a start says of the archive.
pub(super) fn lines(started: &Started) -> Vec<String> {
    let Some(archive) = &started.archive else {
        return vec!["no archive: the past is kept only as far as the primary reaches".to_owned()];
    };
    let mut lines = vec![match &archive.away {
        Some(why) => format!("archive in {}: not reached, it is tried again: {why}", archive.store),
        None => {
            format!("archive in {}: {} objects, {} synchs", archive.store, archive.objects, archive.synchs)
        }
    }];
    lines.extend(archive.notes.iter().map(|note| format!("note: {note}")));
    lines
}
