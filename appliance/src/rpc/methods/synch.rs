//! `synch_*`: consistent points that applications mark.

use serde::Deserialize;
use serde_json::Value;

use crate::log::Lsn;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::{PAGE_ENTRIES_MAX, PageParams};
use crate::volume::{SynchFilter, SynchInfo};

/// The maximum size of the labels and details in one answer, in bytes. The last entry may exceed
/// it.
const PAGE_BYTES_MAX: usize = 2 << 20;
/// The same limit for the entries collected in one turn of the reactor.
const PIECE_BYTES_MAX: usize = 128 << 10;

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task("synch_create", "Marks this moment of every volume, or of one, with a label and details.", create)
            .changing(),
        Method::task(
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
}

async fn create(app: App, params: CreateParams) -> Result<SynchInfo, RpcError> {
    Ok(app.pool()?.create_synch_of(params.label, params.details, params.volume).await?)
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
    to: Option<u64>,
    label: Option<String>,
    volume: Option<String>,
}

async fn list(app: App, params: ListParams) -> Result<Vec<SynchInfo>, RpcError> {
    if params.to.is_none() && params.label.is_none() && params.volume.is_none() {
        return list_all(app, PageParams::new(params.from, params.limit)).await;
    }
    let filter = SynchFilter { to: params.to.map(Lsn), label: params.label, volume: params.volume };
    let limit = params.limit.unwrap_or(PAGE_ENTRIES_MAX).min(PAGE_ENTRIES_MAX);
    Ok(app.pool()?.synchs_where(Lsn(params.from), limit, PAGE_BYTES_MAX, filter).await?)
}

async fn list_all(app: App, page: PageParams) -> Result<Vec<SynchInfo>, RpcError> {
    let mut left_bytes = PAGE_BYTES_MAX;
    let piece = |from, wanted| {
        let bytes_max = PIECE_BYTES_MAX.min(left_bytes);
        let synchs = app.pool()?.synchs_within(from..Lsn(u64::MAX), wanted, bytes_max);
        left_bytes = left_bytes.saturating_sub(synchs.iter().map(SynchInfo::text_bytes).sum());
        Ok(synchs)
    };
    page.gather(piece, |synch| synch.lsn).await
}
