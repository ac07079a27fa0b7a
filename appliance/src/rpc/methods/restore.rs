//! `restore_*`: points in time, and restoring them.

use serde::{Deserialize, Serialize};

use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::volume::{CloneInfo, NamedPoint, ResolvedPoint, RestorePlan, VolumeError};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task(
            "restore_resolve",
            "Turns a point into a position of the log and says what it is; offsets count the commands of `volume`, or of all.",
            resolve,
        ),
        Method::task(
            "restore_plan",
            "What opening a volume, or each volume of a group, as it was at a point would read from where; nothing is changed.",
            plan,
        ),
        Method::task("restore_clone", "Opens a volume as it was at a point, as a new volume.", clone)
            .changing(),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResolveParams {
    point: String,
    volume: Option<String>,
}

async fn resolve(app: App, params: ResolveParams) -> Result<ResolvedPoint, RpcError> {
    let point: NamedPoint = params.point.parse()?;
    Ok(app.pool()?.resolve_of(point, params.volume).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanParams {
    volume: String,
    at: String,
    /// Reads no entries.
    #[serde(default)]
    quick: bool,
}

/// The plan for a volume, or those for the volumes of a group.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Plans {
    Volume(Box<RestorePlan>),
    Group { group: String, volumes: Vec<RestorePlan> },
}

async fn plan(app: App, params: PlanParams) -> Result<Plans, RpcError> {
    let point: NamedPoint = params.at.parse()?;
    let name = params.volume.clone();
    let (group, mut volumes) = app.pool()?.restore_plans(params.volume, point, params.quick).await?;
    match group {
        Some(group) => Ok(Plans::Group { group, volumes }),
        None => match volumes.pop() {
            Some(plan) => Ok(Plans::Volume(Box::new(plan))),
            None => Err(VolumeError::NoSuchVolume { name }.into()),
        },
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CloneParams {
    volume: String,
    at: String,
    name: String,
    #[serde(default)]
    read_only: bool,
}

async fn clone(app: App, params: CloneParams) -> Result<CloneInfo, RpcError> {
    let point: NamedPoint = params.at.parse()?;
    Ok(app.pool()?.clone_volume(params.volume, point, params.name, params.read_only).await?)
}
