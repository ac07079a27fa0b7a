//! `snapshot_*`: positions of the log with a name.

use serde::Deserialize;

use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::NoParams;
use crate::volume::SnapshotInfo;

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task("snapshot_create", "Names this moment of every volume and retains it.", create)
            .changing(),
        Method::on_reactor("snapshot_list", "Every snapshot.", list),
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

async fn create(app: App, params: NameParams) -> Result<SnapshotInfo, RpcError> {
    Ok(app.pool()?.create_snapshot(params.name).await?)
}

fn list(app: &App, _: NoParams) -> Result<Vec<SnapshotInfo>, RpcError> {
    Ok(app.pool()?.snapshots())
}

async fn delete(app: App, params: NameParams) -> Result<bool, RpcError> {
    app.pool()?.delete_snapshot(params.name).await?;
    Ok(true)
}
