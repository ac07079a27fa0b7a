//! Programs of operators that list everything: eight clients at once repeatedly list all synchs,
//! from the first to the last. The normal count is 5000 synchs; `--scale 20` makes it 100,000.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use varve::cli::{Client, ClientError};

use super::Told;
use super::bed::{Bed, Until};
use super::error::CanaryError;

const CLIENTS: u64 = 8;
/// The normal number of synchs; 100,000 take long to make.
const SYNCHS: u64 = 5000;
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// Makes the synchs.
pub(super) fn prepare(bed: &Bed) -> Result<(), CanaryError> {
    let each = bed.scaled(SYNCHS).div_ceil(CLIENTS);
    std::thread::scope(|scope| {
        let makers: Vec<_> = (0..CLIENTS).map(|maker| scope.spawn(move || make(bed, maker, each))).collect();
        makers.into_iter().try_for_each(|maker| maker.join().unwrap_or(Ok(())))
    })
}

fn make(bed: &Bed, maker: u64, count: u64) -> Result<(), CanaryError> {
    let mut client = Client::connect(&bed.rpc_socket(), CALL_LIMIT)?;
    for index in 0..count {
        let params =
            json!({"label": format!("canary-{maker}-{index}"), "details": {"by": maker, "at": index}});
        client.call("synch_create", members(params))?;
    }
    Ok(())
}

pub(super) fn attack(bed: &Bed, until: Until) -> Told {
    let (synchs, lists, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let list_on = || {
        let mut from = 0;
        while !until.is_over() {
            match page(bed, from) {
                Ok((0, _)) => {
                    lists.fetch_add(1, Ordering::Relaxed);
                    from = 0;
                }
                Ok((count, last)) => {
                    synchs.fetch_add(count, Ordering::Relaxed);
                    from = last + 1;
                }
                Err(_) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    until.sleep(Duration::from_millis(10));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(list_on);
        }
    });
    let [synchs, lists, failed] = [synchs, lists, failed].map(AtomicU64::into_inner);
    let told = format!("{synchs} synchs listed, {lists} times to the end, {failed} calls failed");
    Told { told, is_harmless: synchs == 0 }
}

/// Lists one page; returns how many synchs it has, and the LSN of the last.
fn page(bed: &Bed, from: u64) -> Result<(u64, u64), ClientError> {
    let mut client = Client::connect(&bed.rpc_socket(), CALL_LIMIT)?;
    let listed = client.call("synch_list", members(json!({"from": from})))?;
    let synchs = listed.as_array().map(Vec::as_slice).unwrap_or_default();
    let last = synchs.last().and_then(|last| last["lsn"].as_u64()).unwrap_or(from);
    Ok((synchs.len() as u64, last))
}

fn members(params: Value) -> Map<String, Value> {
    match params {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}
