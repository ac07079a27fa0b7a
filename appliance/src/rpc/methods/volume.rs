//! `volume_*`: the volumes that hosts see as namespaces.

use std::rc::Rc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::nvmf::nqn;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::text::units::SizeBytes;
use crate::volume::{CreateVolume, HostGuard, VolumeError, VolumeInfo};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task("volume_create", "Makes a volume; with if_absent an equal one may exist.", create)
            .changing(),
        Method::on_reactor("volume_list", "Every volume, or the one with a name.", list),
        Method::task(
            "volume_delete",
            "Deletes a volume, with force also one that hosts are connected to; its history stays reachable. The answer names the groups that it was in.",
            delete,
        )
        .changing(),
        Method::task("volume_resize", "Grows a volume.", resize).changing(),
        Method::task(
            "volume_hydrate",
            "Starts copying what a clone inherited, so that it needs neither its origin nor the archive.",
            hydrate,
        )
        .changing(),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateParams {
    name: String,
    size: SizeBytes,
    uuid: Option<Uuid>,
    #[serde(default)]
    if_absent: bool,
    #[serde(default)]
    thin: bool,
}

async fn create(app: App, params: CreateParams) -> Result<VolumeInfo, RpcError> {
    let pool = app.pool()?;
    if params.if_absent
        && let Some(existing) = pool.find_volume(&params.name)
    {
        return same(existing, &params);
    }
    let CreateParams { name, size, uuid, thin, .. } = params;
    Ok(pool.create_volume(CreateVolume { name, size_bytes: size.0, uuid, thin }).await?)
}

/// Returns the existing volume if it equals the requested one.
fn same(existing: VolumeInfo, wanted: &CreateParams) -> Result<VolumeInfo, RpcError> {
    let differs = |what, actual, wanted_text| RpcError::VolumeDiffers {
        name: wanted.name.clone(),
        what,
        actual,
        wanted: wanted_text,
    };
    if existing.size_bytes != wanted.size.0 {
        return Err(differs("size", existing.size_bytes.to_string(), wanted.size.0.to_string()));
    }
    match wanted.uuid {
        Some(uuid) if uuid != existing.uuid => {
            Err(differs("UUID", existing.uuid.to_string(), uuid.to_string()))
        }
        _ => {
            tracing::info!(volume = %existing.name, "the volume exists already as it was asked for; nothing to create");
            Ok(existing)
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    name: Option<String>,
}

fn list(app: &App, ListParams { name }: ListParams) -> Result<Vec<VolumeInfo>, RpcError> {
    let pool = app.pool()?;
    match name {
        Some(name) => match pool.find_volume(&name) {
            Some(volume) => Ok(vec![volume]),
            None => Err(VolumeError::NoSuchVolume { name }.into()),
        },
        None => Ok(pool.volumes()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteParams {
    name: String,
    #[serde(default)]
    force: bool,
}

/// A deleted volume: `true`, or the groups that it is no longer in.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Deleted {
    Plain(bool),
    LeftGroups { left_groups: Vec<String> },
}

async fn delete(app: App, params: DeleteParams) -> Result<Deleted, RpcError> {
    let DeleteParams { name, force } = params;
    let pool = app.pool()?;
    let left_groups = pool.group_names_of(&name);
    pool.delete_unused_volume(name, host_guard(&app, force)).await?;
    Ok(if left_groups.is_empty() { Deleted::Plain(true) } else { Deleted::LeftGroups { left_groups } })
}

/// Refuses what hosts that are connected to a volume would notice, unless it is forced.
pub(super) fn host_guard(app: &App, force: bool) -> HostGuard {
    if force {
        return HostGuard::none();
    }
    let app = app.clone();
    HostGuard::new(move |name| {
        app.find_target().map_or_else(Vec::new, |target| target.hosts(&nqn::of_volume(name)))
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResizeParams {
    name: String,
    size: SizeBytes,
}

async fn resize(app: App, params: ResizeParams) -> Result<VolumeInfo, RpcError> {
    Ok(app.pool()?.resize_volume(params.name, params.size.0).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HydrateParams {
    name: String,
}

async fn hydrate(app: App, HydrateParams { name }: HydrateParams) -> Result<VolumeInfo, RpcError> {
    let pool = app.pool()?;
    let volume = Rc::clone(&pool).begin_hydration(name).await?;
    // Hydration continues in the background; the volume shows its progress.
    drop(app.local().spawn(pool.hydrate(volume.id)));
    Ok(VolumeInfo { hydrating: true, ..volume })
}
