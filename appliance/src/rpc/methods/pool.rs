//! `pool_*`: the pool and its log.

use serde::{Deserialize, Serialize};

use crate::log::time::ClockStatus;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::NoParams;
use crate::volume::{Pool, PoolInfo, PoolStats, SegmentInfo, clock_problem};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::on_reactor("pool_list", "The pools, with their devices and what is wrong with them.", list),
        Method::on_reactor("pool_stats", "Counters and gauges of the pool.", stats),
        Method::on_reactor(
            "pool_segments",
            "Every slot of the pool's device and the segment in it.",
            segments,
        ),
        Method::task(
            "pool_set_working_set",
            "Changes how many segments the live data may use; a smaller number applies when all live data fits.",
            set_working_set,
        ).changing(),
        Method::task("pool_grow", "Uses the space by which the pool's device has grown.", grow).changing(),
        Method::on_reactor(
            "pool_get_clock",
            "The time that records carry, the machine's time, and whether they agree.",
            get_clock,
        ),
        Method::on_reactor(
            "pool_confirm_clock",
            "Confirms that the machine's clock is right: expiry goes on, and records follow the clock.",
            confirm_clock,
        ).changing(),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetWorkingSetParams {
    segments: u64,
}

async fn set_working_set(app: App, params: SetWorkingSetParams) -> Result<PoolInfo, RpcError> {
    Ok(app.pool()?.set_working_set(params.segments).await?)
}

async fn grow(app: App, _: NoParams) -> Result<PoolInfo, RpcError> {
    Ok(app.pool()?.grow().await?)
}

/// The answer of `pool_get_clock` and `pool_confirm_clock`.
#[derive(Debug, Serialize)]
struct ClockReport {
    #[serde(flatten)]
    clock: ClockStatus,
    /// What the operator must know and do if the clocks disagree.
    problem: Option<String>,
}

fn clock_report(clock: ClockStatus, pool: &Pool) -> ClockReport {
    ClockReport { clock, problem: clock_problem(&clock, pool.has_archive()) }
}

fn get_clock(app: &App, _: NoParams) -> Result<ClockReport, RpcError> {
    let pool = app.pool()?;
    Ok(clock_report(pool.clock(), &pool))
}

fn confirm_clock(app: &App, _: NoParams) -> Result<ClockReport, RpcError> {
    let pool = app.pool()?;
    Ok(clock_report(pool.confirm_clock(), &pool))
}

fn list(app: &App, _: NoParams) -> Result<Vec<PoolInfo>, RpcError> {
    Ok(vec![app.pool()?.info()])
}

fn stats(app: &App, _: NoParams) -> Result<PoolStats, RpcError> {
    Ok(app.pool()?.stats())
}

fn segments(app: &App, _: NoParams) -> Result<Vec<SegmentInfo>, RpcError> {
    Ok(app.pool()?.segments())
}
