//! `bdev_*`: volumes in the terms of SPDK's block device layer, for its stock client. Only known
//! values are reported. For example, `bdev_get_iostat` has no latencies, because they are measured
//! only for volumes with an enabled histogram; `bdev_get_histogram` returns them.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::dma::BLOCK_BYTES;
use crate::histogram::GRANULARITY;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::histogram::HistogramReport;
use crate::rpc::method::Method;
use crate::volume::{Pool, RequestKind, VolumeError, VolumeInfo};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::on_reactor("bdev_get_bdevs", "The volumes as SPDK shows block devices.", get_bdevs),
        Method::on_reactor("bdev_get_iostat", "Activity of the volumes since start.", get_iostat),
        Method::on_reactor(
            "bdev_enable_histogram",
            "Turns the measurement of a volume's requests on or off; a restart turns it off.",
            enable_histogram,
        ),
        Method::on_reactor("bdev_get_histogram", "How long requests of a volume took.", get_histogram),
    ]
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetBdevsParams {
    name: Option<String>,
    /// How long to wait for the bdev to appear, in milliseconds. It has no effect, because volumes
    /// do not appear by themselves.
    #[serde(rename = "timeout")]
    _timeout_ms: Option<u64>,
}

fn get_bdevs(app: &App, params: GetBdevsParams) -> Result<Vec<Value>, RpcError> {
    let GetBdevsParams { name, .. } = params;
    let pool = app.pool()?;
    let volumes = match name {
        Some(name) => vec![find(&pool, &name)?],
        None => pool.volumes(),
    };
    let claimed = app.find_target().is_some();
    Ok(volumes.iter().map(|volume| bdev(volume, claimed)).collect())
}

/// A volume by name or, as SPDK's aliases allow, by UUID.
fn find(pool: &Pool, name: &str) -> Result<VolumeInfo, RpcError> {
    let by_uuid = || {
        pool.volumes()
            .into_iter()
            .find(|volume| name.parse().is_ok_and(|uuid: uuid::Uuid| uuid == volume.uuid))
    };
    pool.find_volume(name)
        .or_else(by_uuid)
        .ok_or_else(|| VolumeError::NoSuchVolume { name: name.to_owned() }.into())
}

/// The size of a block in bytes, as `u64` for sizes of volumes.
const BLOCK_LEN: u64 = BLOCK_BYTES as u64;

fn bdev(volume: &VolumeInfo, claimed: bool) -> Value {
    let writable = !volume.read_only;
    let num_blocks = volume.size_bytes / BLOCK_LEN;
    json!({
        "name": volume.name,
        "aliases": [volume.uuid],
        "product_name": "varve volume",
        "block_size": BLOCK_BYTES,
        "num_blocks": num_blocks,
        "uuid": volume.uuid,
        "assigned_rate_limits": {
            "rw_ios_per_sec": 0,
            "rw_mbytes_per_sec": 0,
            "r_mbytes_per_sec": 0,
            "w_mbytes_per_sec": 0,
        },
        "claimed": claimed,
        "zoned": false,
        "supported_io_types": {
            "read": true,
            "write": writable,
            "unmap": writable,
            "flush": true,
            "reset": false,
            "nvme_admin": false,
            "nvme_io": false,
            "nvme_io_md": false,
            "write_zeroes": writable,
            "zcopy": false,
            "get_zone_info": false,
            "zone_management": false,
            "zone_append": false,
            "compare": true,
            "compare_and_write": false,
            "abort": false,
            "seek_hole": false,
            "seek_data": false,
            "copy": false,
            "nvme_iov_md": false,
        },
        "driver_specific": {
            "varve": {
                "image": volume.image,
                "parent": volume.parent,
                "state": volume.state,
                "read_only": volume.read_only,
                "mapped_blocks": volume.mapped_blocks,
                "created_ns": volume.created_ns,
            },
        },
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct IostatParams {
    names: Option<Vec<String>>,
    #[serde(default)]
    per_channel: bool,
    reset_mode: Option<String>,
}

fn get_iostat(app: &App, params: IostatParams) -> Result<Value, RpcError> {
    let IostatParams { names, per_channel, reset_mode } = params;
    if per_channel {
        let reason =
            "per_channel statistics are not kept: each volume belongs to one reactor; leave per_channel out";
        return Err(RpcError::Unsupported { reason: reason.to_owned() });
    }
    if reset_mode.is_some_and(|mode| mode != "none") {
        let reason =
            "statistics cannot be reset: they count since start; use reset_mode none and differences";
        return Err(RpcError::Unsupported { reason: reason.to_owned() });
    }
    let pool = app.pool()?;
    let volumes = match names {
        Some(names) => names.iter().map(|name| find(&pool, name)).collect::<Result<_, _>>()?,
        None => pool.volumes(),
    };
    let bdevs: Vec<Value> = volumes
        .iter()
        .map(|volume| {
            json!({
                "name": volume.name,
                "bytes_read": volume.stats.read_bytes,
                "num_read_ops": volume.stats.reads,
                "bytes_written": volume.stats.written_bytes,
                "num_write_ops": volume.stats.writes,
                "bytes_unmapped": volume.stats.trimmed_bytes,
                "num_unmap_ops": volume.stats.trims,
            })
        })
        .collect();
    // Ticks are nanoseconds here.
    Ok(json!({
        "tick_rate": 1_000_000_000_u64,
        "ticks": app.started().elapsed().as_nanos() as u64,
        "bdevs": bdevs,
    }))
}

/// The parameters of SPDK's method. All histograms here have the same shape, which covers every
/// latency.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct EnableHistogramParams {
    name: String,
    enable: bool,
    opc: Option<String>,
    granularity: Option<u64>,
    min_nsec: Option<u64>,
    max_nsec: Option<u64>,
}

fn enable_histogram(app: &App, params: EnableHistogramParams) -> Result<bool, RpcError> {
    let EnableHistogramParams { name, enable, opc, granularity, min_nsec, max_nsec } = params;
    if granularity.is_some_and(|granularity| granularity != u64::from(GRANULARITY)) {
        let reason = format!("granularity: every histogram has {GRANULARITY}; leave it out");
        return Err(RpcError::Unsupported { reason });
    }
    if min_nsec.is_some_and(|min_nsec| min_nsec != 0) || max_nsec.is_some_and(|max_nsec| max_nsec != u64::MAX)
    {
        let reason = "min_nsec, max_nsec: a histogram holds every latency; leave them out".to_owned();
        return Err(RpcError::Unsupported { reason });
    }
    let operation = opc.map(|opc| operation(&opc)).transpose()?;
    let pool = app.pool()?;
    let volume = find(&pool, &name)?;
    if enable {
        pool.enable_histogram(&volume.name, operation)?;
    } else {
        pool.disable_histogram(&volume.name)?;
    }
    Ok(true)
}

fn operation(opc: &str) -> Result<RequestKind, RpcError> {
    RequestKind::deserialize(Value::from(opc)).map_err(|_| {
        let reason = format!("opc: volumes have no '{opc}'; give read, write, unmap, write_zeroes or flush");
        RpcError::Unsupported { reason }
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetHistogramParams {
    name: String,
}

fn get_histogram(
    app: &App,
    GetHistogramParams { name }: GetHistogramParams,
) -> Result<HistogramReport, RpcError> {
    let pool = app.pool()?;
    let volume = find(&pool, &name)?;
    match pool.histogram(&volume.name)? {
        Some(histogram) => Ok(HistogramReport::new(&histogram)),
        None => Err(RpcError::WrongState {
            reason: "the volume has no histogram: latencies are measured from bdev_enable_histogram on (varve volume histogram NAME --enable)",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bdev_has_the_kinds_of_requests_that_hosts_are_served() {
        let mut volume: VolumeInfo = serde_json::from_value(json!({
            "name": "a", "uuid": uuid::Uuid::nil(), "size_bytes": 1 << 20, "read_only": false, "state": "online",
            "image": 1, "parent": null, "created_ns": 0, "mapped_blocks": 0,
            "stats": {"reads": 0, "read_bytes": 0, "writes": 0, "written_bytes": 0, "trims": 0,
                      "trimmed_bytes": 0, "flushes": 0, "errors": 0},
        }))
        .expect("a volume");
        let kinds = |volume: &VolumeInfo| {
            let shown = bdev(volume, false);
            ["read", "compare", "write", "unmap", "write_zeroes", "flush"]
                .map(|kind| shown["supported_io_types"][kind].as_bool().expect("a kind"))
        };
        assert_eq!(kinds(&volume), [true; 6]);
        volume.read_only = true;
        assert_eq!(kinds(&volume), [true, true, false, false, false, true]);
    }
}
