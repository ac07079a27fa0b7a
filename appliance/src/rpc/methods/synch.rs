//! `synch_*`: consistent points that applications mark.

use serde::Deserialize;
use serde_json::Value;

use crate::log::Lsn;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::PageParams;
use crate::volume::SynchInfo;

/// The maximum size of the labels and details in one answer, in bytes. The last entry may exceed
/// it.
const PAGE_BYTES_MAX: usize = 2 << 20;
/// The same limit for the entries collected in one turn of the reactor.
const PIECE_BYTES_MAX: usize = 128 << 10;

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task("synch_create", "Marks this moment of every volume with a label and details.", create)
            .changing(),
        Method::task(
            "synch_list",
            "The synchs from an LSN on, oldest first: at most 10,000, or `limit`; continue after the last.",
            list,
        ),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    label: String,
    #[serde(default)]
    details: Value,
}

async fn create(app: App, params: CreateParams) -> Result<SynchInfo, RpcError> {
    Ok(app.pool()?.create_synch(params.label, params.details).await?)
}

async fn list(app: App, page: PageParams) -> Result<Vec<SynchInfo>, RpcError> {
    let mut left_bytes = PAGE_BYTES_MAX;
    let piece = |from, wanted| {
        let bytes_max = PIECE_BYTES_MAX.min(left_bytes);
        let synchs = app.pool()?.synchs_within(from..Lsn(u64::MAX), wanted, bytes_max);
        left_bytes = left_bytes.saturating_sub(synchs.iter().map(SynchInfo::text_bytes).sum());
        Ok(synchs)
    };
    page.gather(piece, |synch| synch.lsn).await
}
