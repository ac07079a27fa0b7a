//! `snapshot_*`: named positions of the log.

use serde::Deserialize;

use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::lists::ListText;
use crate::rpc::method::{Method, Registry};
use crate::rpc::params::PageParams;
use crate::rpc::protocol::ResultText;
use crate::volume::{NamedPoint, SnapshotInfo};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task(
            "snapshot_create",
            "Names this moment of every volume, or the point `at`, and retains it.",
            create,
        )
        .changing(),
        Method::list(
            "snapshot_list",
            "The snapshots from an LSN on, oldest first: at most 10,000, or `limit`, and all of the last one's LSN; continue after that.",
            list,
        ),
        Method::task(
            "snapshot_delete",
            "Forgets a snapshot's name; its point is no longer retained.",
            delete,
        )
        .changing(),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NameParams {
    name: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    name: String,
    at: Option<String>,
}

async fn create(app: App, params: CreateParams) -> Result<SnapshotInfo, RpcError> {
    let Some(at) = params.at else { return Ok(app.pool()?.create_snapshot(params.name).await?) };
    let at: NamedPoint = at.parse()?;
    Ok(app.pool()?.create_snapshot_at(params.name, at).await?)
}

fn list(registry: &Registry, page: PageParams) -> Result<ResultText, RpcError> {
    let snapshots = registry.on_reactor("snapshot_list", |app| {
        std::future::ready(app.pool().map(|pool| pool.snapshot_table()))
    })?;
    let mut list = ListText::new();
    for snapshot in snapshots.page(page.first_lsn(), page.limit()) {
        list.push(&SnapshotInfo::from(&snapshot))?;
    }
    Ok(list.finish())
}

async fn delete(app: App, params: NameParams) -> Result<bool, RpcError> {
    app.pool()?.delete_snapshot(params.name).await?;
    Ok(true)
}
