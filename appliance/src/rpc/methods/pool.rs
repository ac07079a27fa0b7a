//! `pool_*`: the log itself.

use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::NoParams;
use crate::volume::{PoolInfo, PoolStats, SegmentInfo};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::on_reactor("pool_list", "The pools, with their devices and what is wrong with them.", list),
        Method::on_reactor("pool_stats", "Counters and gauges of the pool.", stats),
        Method::on_reactor(
            "pool_segments",
            "Every slot of the pool's device and the segment in it.",
            segments,
        ),
    ]
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
