//! `group_*`: volumes that are marked, opened and rolled back together.

use serde::Deserialize;

use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::volume::{GroupCloneInfo, GroupInfo, NamedPoint};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task("group_create", "Makes a group of volumes.", create).changing(),
        Method::on_reactor("group_list", "Every group with its volumes, or the one with a name.", list),
        Method::task("group_add", "Adds volumes to a group.", add).changing(),
        Method::task("group_remove", "Takes volumes out of a group.", remove).changing(),
        Method::task("group_rename", "Gives a group another name.", rename).changing(),
        Method::task("group_delete", "Deletes a group; its volumes stay.", delete).changing(),
        Method::task(
            "group_clone",
            "Opens a group as it was at a point, as new volumes and a new group of them.",
            clone,
        )
        .changing(),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VolumesParams {
    name: String,
    volumes: Vec<String>,
}

async fn create(app: App, params: VolumesParams) -> Result<GroupInfo, RpcError> {
    Ok(app.pool()?.create_group(params.name, params.volumes).await?)
}

async fn add(app: App, params: VolumesParams) -> Result<GroupInfo, RpcError> {
    Ok(app.pool()?.add_to_group(params.name, params.volumes).await?)
}

async fn remove(app: App, params: VolumesParams) -> Result<GroupInfo, RpcError> {
    Ok(app.pool()?.remove_from_group(params.name, params.volumes).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    name: Option<String>,
}

fn list(app: &App, params: ListParams) -> Result<Vec<GroupInfo>, RpcError> {
    Ok(app.pool()?.groups(params.name.as_deref())?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RenameParams {
    name: String,
    to: String,
}

async fn rename(app: App, params: RenameParams) -> Result<GroupInfo, RpcError> {
    Ok(app.pool()?.rename_group(params.name, params.to).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NameParams {
    name: String,
}

async fn delete(app: App, params: NameParams) -> Result<bool, RpcError> {
    app.pool()?.delete_group(params.name).await?;
    Ok(true)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloneParams {
    group: String,
    at: String,
    name: String,
    #[serde(default)]
    read_only: bool,
}

async fn clone(app: App, params: CloneParams) -> Result<GroupCloneInfo, RpcError> {
    let point: NamedPoint = params.at.parse()?;
    Ok(app.pool()?.clone_group(params.group, point, params.name, params.read_only).await?)
}
