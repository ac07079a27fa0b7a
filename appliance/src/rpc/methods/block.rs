//! `block_*` and `volume_diff`: single blocks in the history, and what differs between two points.

use std::rc::Rc;

use serde::Deserialize;

use super::volume::host_guard;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::volume::{
    BlockRestoreInfo, BlockRestoreRequest, BlockWho, DiffPage, DiffRequest, HistoryPage, HistoryPosition,
    HistoryRequest, NamedPoint, PointParseError,
};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::task(
            "block_history",
            "The changes of a block or a range of blocks, newest first: at most 1000, or `limit`; continue with `from` = the answer's `next`.",
            history,
        ),
        Method::task("block_who", "The command that wrote what a block holds, now or at a point.", who),
        Method::task(
            "block_restore",
            "Starts writing what a range of blocks held at a point, as ordinary writes, with force also while hosts are connected.",
            restore,
        )
        .changing(),
        Method::on_reactor("block_get_restore", "The last restore of blocks; null if there was none.", get_restore),
        Method::task(
            "volume_diff",
            "The blocks that differ between two points: at most 10,000 ranges, or `limit`; continue with `first_block` = the answer's `next_block`.",
            diff,
        ),
    ]
}

fn one() -> u64 {
    1
}

fn point(text: Option<&String>) -> Result<Option<NamedPoint>, PointParseError> {
    text.map(|text| text.parse()).transpose()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryParams {
    volume: String,
    block: u64,
    #[serde(default = "one")]
    blocks: u64,
    at: Option<String>,
    from: Option<HistoryPosition>,
    limit: Option<usize>,
}

async fn history(app: App, params: HistoryParams) -> Result<HistoryPage, RpcError> {
    let at = point(params.at.as_ref())?;
    let HistoryParams { volume, block, blocks, from, limit, .. } = params;
    Ok(app.pool()?.block_history(HistoryRequest { volume, block, blocks, at, from, limit }).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WhoParams {
    volume: String,
    block: u64,
    at: Option<String>,
}

async fn who(app: App, params: WhoParams) -> Result<BlockWho, RpcError> {
    let at = point(params.at.as_ref())?;
    Ok(app.pool()?.block_who(params.volume, params.block, at).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RestoreParams {
    volume: String,
    block: u64,
    #[serde(default = "one")]
    blocks: u64,
    at: String,
    #[serde(default)]
    force: bool,
}

async fn restore(app: App, params: RestoreParams) -> Result<BlockRestoreInfo, RpcError> {
    let at: NamedPoint = params.at.parse()?;
    let RestoreParams { volume, block, blocks, force, .. } = params;
    let pool = app.pool()?;
    host_guard(&app, force).check(&volume, "write the old blocks")?;
    let request = BlockRestoreRequest { volume, block, blocks, at };
    let (info, restore) = Rc::clone(&pool).begin_block_restore(request).await?;
    // It goes on in the background; `block_get_restore` shows its progress.
    drop(app.local().spawn(pool.restore_blocks(restore)));
    Ok(info)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetRestoreParams {}

fn get_restore(
    app: &App,
    GetRestoreParams {}: GetRestoreParams,
) -> Result<Option<BlockRestoreInfo>, RpcError> {
    Ok(app.pool()?.block_restore())
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffParams {
    volume: String,
    from: Option<String>,
    to: Option<String>,
    to_volume: Option<String>,
    #[serde(default)]
    first_block: u64,
    limit: Option<usize>,
}

async fn diff(app: App, params: DiffParams) -> Result<DiffPage, RpcError> {
    let (from, to) = (point(params.from.as_ref())?, point(params.to.as_ref())?);
    let DiffParams { volume, to_volume, first_block, limit, .. } = params;
    Ok(app.pool()?.volume_diff(DiffRequest { volume, from, to, to_volume, first_block, limit }).await?)
}
