//! `synch_*`: consistent points that applications mark.

use serde::Deserialize;
use serde_json::Value;

use crate::log::Lsn;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::PageParams;
use crate::volume::SynchInfo;

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

/// A page: what fits into a short turn of the reactor, however many synchs there are and whoever
/// asks.
fn list(app: &App, page: PageParams) -> Result<Vec<SynchInfo>, RpcError> {
    Ok(app.pool()?.synchs_within(page.from()..Lsn(u64::MAX), page.limit(), PAGE_BYTES_MAX))
}
