//! `snapshot_*`: named positions of the log.

use serde::Deserialize;

use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::PageParams;
use crate::volume::{NamedPoint, SnapshotInfo};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task(
            "snapshot_create",
            "Names this moment of every volume, or the point `at`, and retains it.",
            create,
        )
        .changing(),
        Method::task(
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

async fn list(app: App, page: PageParams) -> Result<Vec<SnapshotInfo>, RpcError> {
    page.gather(|from, wanted| Ok(app.pool()?.snapshots_from(from, wanted)), |snapshot| snapshot.lsn).await
}

async fn delete(app: App, params: NameParams) -> Result<bool, RpcError> {
    app.pool()?.delete_snapshot(params.name).await?;
    Ok(true)
}
