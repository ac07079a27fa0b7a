//! Rolling back, clones and names: `restore_roll_back`, `clone_*`, `volume_rename`.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::volume::host_guard;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::NoParams;
use crate::volume::{CloneSpace, NamedPoint, Pool, RollBackInfo, RollBacks, VolumeError, VolumeInfo};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task(
            "restore_roll_back",
            "Rolls a volume, or all volumes of a group at once, back in place to a point; a snapshot names the state before. With force also while hosts are connected, or while the archive is away and has a part of the point's state.",
            roll_back,
        )
        .changing(),
        Method::on_reactor("clone_list", "The clones: where they began, and what is their own.", list),
        Method::task(
            "clone_reset",
            "Sets a clone to the point from which it was made, or to another point of its origin; what was written to it is no longer in it.",
            reset,
        )
        .changing(),
        Method::task(
            "clone_promote",
            "Swaps the names of a clone and its origin; with stand_alone starts to make it need its origin no more instead.",
            promote,
        )
        .changing(),
        Method::task("volume_rename", "Gives a volume another name.", rename).changing(),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RollBackParams {
    volume: String,
    at: String,
    #[serde(default)]
    force: bool,
}

/// What was rolled back: one volume, or those of a group.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum RolledBackAnswer {
    Volume(Box<RollBackInfo>),
    Group(Box<RollBacks>),
}

async fn roll_back(app: App, params: RollBackParams) -> Result<RolledBackAnswer, RpcError> {
    let RollBackParams { volume, at, force } = params;
    let point: NamedPoint = at.parse()?;
    let pool = app.pool()?;
    let guard = host_guard(&app, force);
    let done = Rc::clone(&pool).roll_back_members(volume.clone(), point, force, guard).await?;
    hydrate_all(&app, &pool, &done);
    if done.group.is_some() {
        return Ok(RolledBackAnswer::Group(Box::new(done)));
    }
    let first = done.into_first().ok_or(VolumeError::NoSuchVolume { name: volume })?;
    Ok(RolledBackAnswer::Volume(Box::new(first)))
}

/// Copies what is not in the working set in the background; the volumes show their progress.
pub(super) fn hydrate_all(app: &App, pool: &Rc<Pool>, done: &RollBacks) {
    for rolled in &done.volumes {
        drop(app.local().spawn(Rc::clone(pool).hydrate(rolled.volume.id)));
    }
}

fn list(app: &App, _: NoParams) -> Result<Vec<CloneSpace>, RpcError> {
    Ok(app.pool()?.clones())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetParams {
    name: String,
    at: Option<String>,
    #[serde(default)]
    force: bool,
}

async fn reset(app: App, params: ResetParams) -> Result<VolumeInfo, RpcError> {
    let ResetParams { name, at, force } = params;
    let point = at.map(|at| at.parse::<NamedPoint>()).transpose()?;
    Ok(app.pool()?.reset_clone(name, point, host_guard(&app, force)).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PromoteParams {
    name: String,
    #[serde(default)]
    stand_alone: bool,
    #[serde(default)]
    force: bool,
}

async fn promote(app: App, params: PromoteParams) -> Result<Vec<VolumeInfo>, RpcError> {
    let PromoteParams { name, stand_alone, force } = params;
    let pool = app.pool()?;
    if stand_alone {
        let clone = Rc::clone(&pool).begin_hydration(name).await?;
        drop(app.local().spawn(pool.hydrate(clone.id)));
        return Ok(vec![VolumeInfo { hydrating: true, ..clone }]);
    }
    Ok(pool.promote_clone(name, host_guard(&app, force)).await?.into())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RenameParams {
    name: String,
    to: String,
    #[serde(default)]
    force: bool,
}

async fn rename(app: App, params: RenameParams) -> Result<VolumeInfo, RpcError> {
    let RenameParams { name, to, force } = params;
    Ok(app.pool()?.rename_volume(name, to, host_guard(&app, force)).await?)
}
