//! `synch_*`: consistent points that applications mark.
//!
//! A list is written on the caller's thread, from a copy of the pool's table that shares its pages.
//! Only details that are not in memory need the reactor again.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::log::Lsn;
use crate::reactor::CallError;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::lists::ListText;
use crate::rpc::method::{Method, Registry};
use crate::rpc::params::PageParams;
use crate::rpc::protocol::ResultText;
use crate::volume::{SynchDetails, SynchFilter, SynchInfo, SynchRef, SynchTable, VolumeError, WantedSynchs};

/// The maximum length of one answer, in bytes. The last entry may exceed it.
const PAGE_BYTES_MAX: usize = 2 << 20;
/// The maximum number of details in one answer that are read from the log or the archive.
const PAGE_READS_MAX: usize = 1024;
/// A page ends after this time; the caller continues after it.
const PAGE_TIME_MAX: Duration = Duration::from_secs(10);
/// The maximum number of entries that are written at once, after their details were read.
const PIECE_ENTRIES_MAX: usize = 128;
/// The maximum length of the details that are read at once, in bytes. The last may exceed it.
const PIECE_BYTES_MAX: usize = 512 << 10;
/// How long a piece waits for its details.
const DETAILS_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task(
            "synch_create",
            "Marks this moment of every volume, of one, or of a group, with a label and details.",
            create,
        )
        .changing(),
        Method::list(
            "synch_list",
            "The synchs from an LSN on, oldest first: at most 10,000, or `limit`; continue after the last.",
            list,
        ),
        Method::task(
            "synch_delete",
            "Deletes a synch by its id or label, or with `all` every one with the label; their points are no marks any more.",
            delete,
        )
        .changing(),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    label: String,
    #[serde(default)]
    details: Value,
    volume: Option<String>,
    group: Option<String>,
}

/// The name of the volume or of the group, of which at most one is given.
fn one_of(app: &App, volume: Option<String>, group: Option<String>) -> Result<Option<String>, RpcError> {
    match (volume, group) {
        (Some(_), Some(_)) => {
            let reason = "give either a volume or a group".to_owned();
            Err(VolumeError::Invalid { what: "mark", reason }.into())
        }
        (None, Some(group)) if !app.pool()?.is_group(&group) => {
            Err(VolumeError::NoSuchGroup { name: group }.into())
        }
        (volume, group) => Ok(volume.or(group)),
    }
}

async fn create(app: App, params: CreateParams) -> Result<SynchInfo, RpcError> {
    let of = one_of(&app, params.volume, params.group)?;
    Ok(app.pool()?.create_synch_of(params.label, params.details, of).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteParams {
    synch: String,
    #[serde(default)]
    all: bool,
}

async fn delete(app: App, params: DeleteParams) -> Result<Vec<SynchInfo>, RpcError> {
    Ok(app.pool()?.delete_synch(params.synch, params.all).await?)
}

/// A page, and which synchs are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
    /// Those up to this position.
    to: Option<u64>,
    /// Those with such a label: a pattern with `*` and `?`.
    label: Option<String>,
    /// Those of this volume and of the groups that it is in, and those of all volumes.
    volume: Option<String>,
    /// Those of this group, and those of all volumes.
    group: Option<String>,
}

async fn table_for(app: App, params: ListParams) -> Result<(SynchTable, WantedSynchs), RpcError> {
    let pool = app.pool()?;
    let of = one_of(&app, params.volume, params.group)?;
    let filter = SynchFilter { to: params.to.map(Lsn), label: params.label, of };
    let wanted = Rc::clone(&pool).wanted_synchs(filter).await?;
    Ok((pool.synchs(), wanted))
}

fn list(registry: &Registry, params: ListParams) -> Result<ResultText, RpcError> {
    let began = Instant::now();
    let page = PageParams::new(params.from, params.limit);
    let (table, wanted) = registry.on_reactor("synch_list", |app| table_for(app, params))?;
    let mut list = ListText::new();
    let mut synchs = wanted.of(&table, page.first_lsn()).take(page.limit());
    let mut reader = DetailsReader { registry, left: PAGE_READS_MAX, failure: None };
    while list.len_bytes() < PAGE_BYTES_MAX && reader.left > 0 && began.elapsed() < PAGE_TIME_MAX {
        let left_bytes = PAGE_BYTES_MAX.saturating_sub(list.len_bytes());
        let piece = next_piece(&mut synchs, left_bytes.min(PIECE_BYTES_MAX), reader.left);
        if piece.is_empty() {
            break;
        }
        let mut details = reader.read(&piece)?.into_iter();
        for synch in piece {
            if list.count() > 0 && list.len_bytes() >= PAGE_BYTES_MAX {
                break;
            }
            let info = match synch.details {
                SynchDetails::Kept(_) => synch.to_info(),
                SynchDetails::Elsewhere { .. } => {
                    let unknown = || Err("they were not read".to_owned());
                    synch.with_details(details.next().unwrap_or_else(unknown))
                }
            };
            list.push(&info)?;
        }
    }
    Ok(list.finish())
}

/// The next synchs: few enough to read the details that are not in memory at once.
fn next_piece<'a>(
    synchs: &mut impl Iterator<Item = SynchRef<'a>>,
    bytes_max: usize,
    reads_max: usize,
) -> Vec<SynchRef<'a>> {
    let (mut piece, mut bytes, mut reads) = (Vec::new(), 0_usize, 0_usize);
    while piece.len() < PIECE_ENTRIES_MAX && bytes < bytes_max && reads < reads_max {
        let Some(synch) = synchs.next() else { break };
        if let SynchDetails::Elsewhere { len_bytes } = synch.details {
            bytes = bytes.saturating_add(len_bytes);
            reads = reads.saturating_add(1);
        }
        piece.push(synch);
    }
    piece
}

/// Details, or why they cannot be read now.
type Details = Result<Value, String>;

/// Reads the details of a page that are not in memory.
struct DetailsReader<'a> {
    registry: &'a Registry,
    /// How many may still be read.
    left: usize,
    /// Why nothing more is read.
    failure: Option<String>,
}

impl DetailsReader<'_> {
    /// The details of those synchs of a piece that need it, in order; for each that cannot be read
    /// now, the reason. After one piece that took too long, no others are tried.
    fn read(&mut self, piece: &[SynchRef<'_>]) -> Result<Vec<Details>, RpcError> {
        let elsewhere = piece.iter().filter(|synch| matches!(synch.details, SynchDetails::Elsewhere { .. }));
        let lsns: Vec<Lsn> = elsewhere.map(|synch| synch.lsn).collect();
        self.left = self.left.saturating_sub(lsns.len());
        let count = lsns.len();
        if count == 0 {
            return Ok(Vec::new());
        }
        if self.failure.is_none() {
            match self.details_of(lsns) {
                Ok(details) => return details,
                Err(reason) => self.failure = Some(reason),
            }
        }
        let failure = self.failure.clone().unwrap_or_default();
        Ok(vec![Err(failure); count])
    }

    /// The details of synchs, or why they cannot be read now. The reads are never given up
    /// half-way, because they keep segments in their slots: they go on when nobody waits any more,
    /// and so there is a bound on how many are under way.
    fn details_of(&self, lsns: Vec<Lsn>) -> Result<Result<Vec<Details>, RpcError>, String> {
        let busy = || "earlier reads from the archive are still under way; try again later".to_owned();
        let reading = self.registry.begin_reading().ok_or_else(busy)?;
        let answer = self.registry.handle().call(DETAILS_TIMEOUT, move |app: &App, reply| {
            let pool = app.pool();
            let read = async move {
                let details = match pool {
                    Ok(pool) => Ok(pool.synch_details(lsns).await),
                    Err(error) => Err(error),
                };
                drop(reading);
                reply.send(details);
            };
            // The task's handle is dropped: its result goes to the waiting thread.
            drop(app.local().spawn(read));
        });
        answer.map_err(|error| match error {
            CallError::TimedOut { .. } => {
                let limit = DETAILS_TIMEOUT.as_secs();
                format!("the device or the archive did not return them within {limit} s; try again later")
            }
            CallError::Full | CallError::Stopped => error.to_string(),
        })
    }
}
