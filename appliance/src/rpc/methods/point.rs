//! `point_*`: the time line.

use serde::Deserialize;

use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::params::SpanNs;
use crate::volume::{NamedPoint, PointParseError, TimeLine, TimeLineRequest};

pub(super) fn methods() -> Vec<Method> {
    vec![Method::task(
        "point_list",
        "The time line: which points can be opened, marks, what hosts wrote in each interval (`every`), single commands (`writes`); continue at `next_lsn` with `from_lsn`.",
        list,
    )]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    volume: Option<String>,
    from: Option<String>,
    to: Option<String>,
    from_lsn: Option<u64>,
    every: Option<SpanNs>,
    #[serde(default)]
    writes: bool,
    limit: Option<usize>,
}

async fn list(app: App, params: ListParams) -> Result<TimeLine, RpcError> {
    let point = |text: Option<String>| -> Result<Option<NamedPoint>, PointParseError> {
        text.map(|text| NamedPoint::of_point_or_time(&text)).transpose()
    };
    let request = TimeLineRequest {
        volume: params.volume,
        from: point(params.from)?,
        to: point(params.to)?,
        from_lsn: params.from_lsn,
        every_ns: params.every.map(|SpanNs(span_ns)| span_ns),
        commands: params.writes,
        limit: params.limit,
    };
    Ok(app.pool()?.time_line(request).await?)
}
