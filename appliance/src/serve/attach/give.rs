//! Attaches the archive to the pool: starts the archivist's threads, and gives the pool the store,
//! its objects and the synchs of the whole history.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::config::ArchiveConfig;
use super::off_reactor::off_reactor;
use super::open::{KnownStore, OpenedArchive};
use super::started::ArchiveStarted;
use crate::archive::service::{
    BdevSource, READS_IN_FLIGHT_DEFAULT, ThreadedArchive, ThreadedOptions, WorkerOptions,
};
use crate::archive::store::Store;
use crate::bdev::FileDevice;
use crate::log::Lsn;
use crate::reactor::{Local, ReactorHandle};
use crate::rpc::App;
use crate::serve::identity::ArchiveIdentity;
use crate::serve::record::RecordingArchive;
use crate::serve::store::ensure_id;
use crate::serve::{ServeError, claim};
use crate::volume::{BackPressure, Pool};

/// How often the reactor polls the archive if nothing else happens: parts and retries depend
/// on time.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The note for the operator if a pool that had an archive begins another one, and nothing shows
/// that something is lost.
const MOVED_NOTE: &str = "this pool had an archive before, and begins a new one here. If its file was moved, stop the appliance, move its archive and pool.varve.id to this directory too (or name the archive with --archive), and start it again";

/// If the local catalog knows objects, the archive must hold some; otherwise it is another archive.
fn refuse_empty(known: u64, listed: u64, label: &str) -> Result<(), ServeError> {
    if known == 0 || listed > 0 {
        return Ok(());
    }
    let what = format!("it holds no object of the pool, and the local catalog knows of {known}");
    Err(ServeError::ArchiveGone { place: label.to_owned(), what })
}

/// What the log says is archived must be in the archive; otherwise it is another archive. This
/// happens, for example, if the pool's file was moved without the files that belong beside it.
fn refuse_unlike_log(archived_below: Lsn, label: &str) -> Result<(), ServeError> {
    if archived_below == Lsn(0) {
        return Ok(());
    }
    let what = format!(
        "it holds no object of the pool, whose log says that everything before LSN {archived_below} is archived. If the pool's file was moved here, its archive and pool.varve.id belong beside it"
    );
    Err(ServeError::ArchiveGone { place: label.to_owned(), what })
}

/// Starts the archivist for a device.
pub(in crate::serve) fn start_service(
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
        // A separate queue, created on the thread that uses it.
        let device = device.handle().map_err(|error| error.to_string())?;
        Ok(Box::new(BdevSource::new(device, READS_IN_FLIGHT_DEFAULT)) as _)
    });
    Ok(ThreadedArchive::start(Arc::clone(store), source, options)?)
}

/// Attaches the archive to the pool. An error leaves the pool unchanged.
pub(in crate::serve) async fn attach(
    opened: OpenedArchive,
    pool: Rc<Pool>,
    is_new: bool,
    device: Arc<FileDevice>,
    local: Local,
    handle: ReactorHandle<App>,
) -> Result<(ArchiveStarted, Option<ArchiveIdentity>), ServeError> {
    let owned = Arc::clone(&opened.known.store);
    let found = claim::find(&local, &owned, &pool, &opened.config, is_new).await?;
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
    let (learned, claim, told) = claim::take(&local, &owned, &pool, found, rules).await?;
    let is_rehearsal = pool.ownership().rehearsal_lsn.is_some();
    let (id, note) =
        if is_rehearsal { (opened.known.id, None) } else { identify(&opened.known, &local).await? };
    let OpenedArchive { mut config, manager, known: KnownStore { mut notes, .. }, .. } = opened;
    notes.extend(told);
    notes.extend(note);
    notes.extend(lost);
    if is_rehearsal {
        // A rehearsal archives nothing, so its writes must not wait for the archive.
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

/// The identity of an archive, which is assigned if it has none; and a note for the operator if
/// that failed.
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

/// Makes the reactor run a turn regularly, even if no events arrive.
pub(in crate::serve) fn look_often(local: &Local, seal_interval_ns: u64) {
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
