//! `restore_*` on sessions: clones that are moved along the log until the right point is found.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::clones::hydrate_all;
use super::volume::host_guard;
use crate::nvmf::nqn;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::volume::{
    BisectInfo, NamedPoint, OpenSession, SessionInfo, SnapshotInfo, StepInfo, StepTo, Verdict, VolumeError,
    VolumeInfo,
};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task(
            "restore_open",
            "Opens a session: a clone of a volume, or of each volume of a group, at a point, which can be moved along the log.",
            open,
        )
        .changing(),
        Method::task(
            "restore_step",
            "Moves a session over so many commands of hosts, or to a point.",
            step,
        )
        .changing(),
        Method::task(
            "restore_judge",
            "Records that the state where a session stands, or at a point, is good, bad, or to be skipped.",
            judge,
        )
        .changing(),
        Method::task(
            "restore_bisect",
            "Moves a session to the middle between the last good and the first bad position, or names the command.",
            bisect,
        )
        .changing(),
        Method::on_reactor("restore_status", "Every session, or the one with a name.", status),
        Method::task(
            "restore_commit",
            "Ends a session: rolls its volumes back to where it stands, or keeps its clones as volumes.",
            commit,
        )
        .changing(),
        Method::task("restore_abort", "Ends a session and deletes its clones.", abort).changing(),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OpenParams {
    volume: String,
    at: String,
    name: String,
    #[serde(default)]
    read_only: bool,
}

/// A session, and how its clone is reached.
#[derive(Debug, Serialize)]
struct SessionAnswer {
    #[serde(flatten)]
    session: SessionInfo,
    /// The subsystems of its clones, in the order of its members.
    nqns: Vec<String>,
}

impl From<SessionInfo> for SessionAnswer {
    fn from(session: SessionInfo) -> Self {
        let nqns = session.members.iter().map(|member| nqn::of_volume(&member.clone)).collect();
        SessionAnswer { session, nqns }
    }
}

async fn open(app: App, params: OpenParams) -> Result<SessionAnswer, RpcError> {
    let OpenParams { volume, at, name, read_only } = params;
    let at: NamedPoint = at.parse()?;
    let (session, _) = app.pool()?.open_session(OpenSession { volume, at, name, read_only }).await?;
    Ok(session.into())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepParams {
    name: String,
    /// How many commands; negative: backward.
    count: Option<i64>,
    /// Or the point.
    to: Option<String>,
    #[serde(default)]
    discard_writes: bool,
    #[serde(default)]
    force: bool,
}

async fn step(app: App, params: StepParams) -> Result<StepInfo, RpcError> {
    let StepParams { name, count, to, discard_writes, force } = params;
    let to = match (count, to) {
        (Some(count), None) => StepTo::Commands(count),
        (None, Some(point)) => StepTo::Point(point.parse()?),
        _ => {
            let reason = "give either how many commands (`count`), or the point (`to`)".to_owned();
            return Err(VolumeError::Invalid { what: "step", reason }.into());
        }
    };
    Ok(app.pool()?.step_session(name, to, discard_writes, host_guard(&app, force)).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct JudgeParams {
    name: String,
    verdict: Verdict,
    at: Option<String>,
}

async fn judge(app: App, params: JudgeParams) -> Result<SessionAnswer, RpcError> {
    let at = params.at.map(|point| point.parse::<NamedPoint>()).transpose()?;
    Ok(app.pool()?.judge_session(params.name, params.verdict, at).await?.into())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BisectParams {
    name: String,
    #[serde(default)]
    discard_writes: bool,
    #[serde(default)]
    force: bool,
}

async fn bisect(app: App, params: BisectParams) -> Result<BisectInfo, RpcError> {
    let BisectParams { name, discard_writes, force } = params;
    Ok(app.pool()?.bisect_session(name, discard_writes, host_guard(&app, force)).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusParams {
    name: Option<String>,
}

fn status(app: &App, params: StatusParams) -> Result<Vec<SessionAnswer>, RpcError> {
    let sessions = app.pool()?.sessions(params.name.as_deref())?;
    Ok(sessions.into_iter().map(SessionAnswer::from).collect())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitParams {
    name: String,
    /// Rolls the volume back to where the session stands.
    #[serde(default)]
    roll_back: bool,
    /// Or the name under which the clone is kept.
    keep: Option<String>,
    #[serde(default)]
    discard_writes: bool,
    #[serde(default)]
    force: bool,
}

/// How a session ended.
#[derive(Debug, Serialize)]
struct Committed {
    /// The volumes that were rolled back, or the clones that were kept.
    volumes: Vec<VolumeInfo>,
    /// After a roll-back: the snapshot that names the state before.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<SnapshotInfo>,
}

async fn commit(app: App, params: CommitParams) -> Result<Committed, RpcError> {
    let CommitParams { name, roll_back, keep, discard_writes, force } = params;
    let pool = app.pool()?;
    match (roll_back, keep) {
        (true, None) => {
            let guard = host_guard(&app, force);
            let done = Rc::clone(&pool).roll_back_session(name, discard_writes, force, guard).await?;
            hydrate_all(&app, &pool, &done);
            let volumes = done.volumes.into_iter().map(|rolled| rolled.volume).collect();
            Ok(Committed { volumes, before: Some(done.before) })
        }
        (false, Some(keep)) => {
            let volumes = pool.keep_session(name, keep, host_guard(&app, force)).await?;
            Ok(Committed { volumes, before: None })
        }
        _ => {
            let reason = "say either that the volume is rolled back (`roll_back`), or under which name the clone is kept (`keep`)".to_owned();
            Err(VolumeError::Invalid { what: "commit", reason }.into())
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AbortParams {
    name: String,
    #[serde(default)]
    force: bool,
}

async fn abort(app: App, params: AbortParams) -> Result<bool, RpcError> {
    app.pool()?.abort_session(params.name, host_guard(&app, params.force)).await?;
    Ok(true)
}
