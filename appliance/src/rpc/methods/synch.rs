//! `synch_*`: consistent points that applications mark.

use serde::Deserialize;
use serde_json::Value;

use crate::log::Lsn;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::volume::SynchInfo;

/// Synchs in one answer.
const PAGE_SYNCHS_MAX: usize = 10_000;
/// Bytes of their labels and details in one answer, but for the last.
const PAGE_BYTES_MAX: usize = 2 << 20;

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task("synch_create", "Marks this moment of every volume with a label and details.", create)
            .changing(),
        Method::on_reactor(
            "synch_list",
            "The synchs from an LSN on, oldest first: at most 10,000, or `limit`; go on behind the last.",
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

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
}

/// A page: what fits into a short turn of the reactor, however many synchs there are and whoever
/// asks.
fn list(app: &App, params: ListParams) -> Result<Vec<SynchInfo>, RpcError> {
    let limit = params.limit.unwrap_or(PAGE_SYNCHS_MAX).min(PAGE_SYNCHS_MAX);
    Ok(app.pool()?.synchs_within(Lsn(params.from)..Lsn(u64::MAX), limit, PAGE_BYTES_MAX))
}
