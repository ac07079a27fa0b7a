//! `archive_*`: the archive of the pool.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::archive::object::ObjectId;
use crate::archive::retention::KeepRules;
use crate::archive::service::{StopFlag, VerifyPolicy};
use crate::log::Lsn;
use crate::manage::{
    ArchiveManager, ArchiveReport, ArchivedObject, EXPIRE_OBJECTS_DEFAULT, ExpiryReport, ExpiryRequest,
    Explained, LIST_LIMIT_DEFAULT, Sealed, Verification,
};
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::{Method, Registry};
use crate::rpc::params::NoParams;
use crate::volume::NamedPoint;

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::direct("archive_get_status", "The state of the archive, and how far behind it is.", status),
        Method::task("archive_seal", "Archives everything up to now; with wait false only begins it.", seal).changing(),
        Method::direct(
            "archive_list",
            "The objects of the pool in the archive, in the order of the log.",
            list,
        ),
        Method::direct("archive_verify", "Begins to read the archive back, objects and then anchors, with every check.", verify),
        Method::direct("archive_verify_check", "How far a verification is.", verify_check),
        Method::direct("archive_explain", "Why a point is kept, which segments it needs, and when it expires.", explain),
        Method::direct(
            "archive_expire",
            "Deletes what no point that the rules keep needs, a part each hour; dry_run only says what would go, all waits for nothing, clock_is_right confirms the clock.",
            expire,
        ).changing(),
        Method::direct("archive_set_keep", "Sets the rules of retention.", set_keep).changing(),
        Method::direct("archive_get_keep", "The rules of retention.", get_keep),
        Method::direct(
            "archive_set_verify",
            "Sets how an archived object is verified: digest or tail, from the next one on.",
            set_verify,
        ).changing(),
        Method::direct("archive_get_verify", "How an archived object is verified.", get_verify),
    ]
}

const NO_ARCHIVE: RpcError = RpcError::WrongState {
    reason: "the pool has no archive: the appliance was started with --no-archive or --memory; start it with --archive DIRECTORY",
};

fn status(registry: &Registry, _: NoParams) -> Result<ArchiveReport, RpcError> {
    // If the store does not answer, the archivist notices too and reports it.
    let looked = registry.archive().and_then(|archive| {
        archive.look_for_lost()?;
        lost_of(archive)
    });
    let (status, clock) = registry.on_reactor("archive_get_status", move |app| {
        std::future::ready(app.pool().and_then(|pool| {
            if let Ok(lost) = &looked {
                pool.learn_lost_objects(lost);
            }
            Ok((pool.archive_status().ok_or(NO_ARCHIVE)?, pool.clock()))
        }))
    })?;
    Ok(registry.archive()?.report(status, &clock))
}

/// The objects that the store has lost, as of its last listing.
fn lost_of(archive: &ArchiveManager) -> Result<Vec<ObjectId>, RpcError> {
    Ok(archive.lost()?.into_iter().map(|row| row.id).collect())
}

/// Reports to the pool what the store has lost, so that all answers agree.
fn tell_lost(registry: &Registry, method: &'static str) -> Result<(), RpcError> {
    let lost = lost_of(registry.archive()?)?;
    registry.on_reactor(method, move |app| {
        std::future::ready(app.pool().map(|pool| pool.learn_lost_objects(&lost)))
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SealParams {
    #[serde(default = "yes")]
    wait: bool,
}

fn yes() -> bool {
    true
}

async fn seal(app: App, SealParams { wait }: SealParams) -> Result<Sealed, RpcError> {
    let pool = app.pool()?;
    if !pool.has_archive() {
        return Err(NO_ARCHIVE);
    }
    if wait {
        return Ok(Sealed { lsn: pool.seal_archive().await?.0, done: true });
    }
    // The status shows its result.
    Ok(Sealed { lsn: pool.begin_seal()?.0, done: false })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListParams {
    #[serde(default)]
    from: u64,
    limit: Option<usize>,
}

fn list(
    registry: &Registry,
    ListParams { from, limit }: ListParams,
) -> Result<Vec<ArchivedObject>, RpcError> {
    let objects = registry.archive()?.list(from, limit.unwrap_or(LIST_LIMIT_DEFAULT))?;
    tell_lost(registry, "archive_list")?;
    Ok(objects)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyParams {
    #[serde(default)]
    from: u64,
    to: Option<u64>,
}

fn verify(registry: &Registry, VerifyParams { from, to }: VerifyParams) -> Result<Verification, RpcError> {
    let archive = registry.archive()?;
    let lineage = registry
        .on_reactor("archive_verify", |app| std::future::ready(app.pool().map(|pool| pool.lineage())))?;
    let begun = archive.verify(from, to.unwrap_or(u64::MAX), lineage, registry.handle().clone())?;
    tell_lost(registry, "archive_verify")?;
    Ok(begun)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyCheckParams {
    id: u64,
}

fn verify_check(
    registry: &Registry,
    VerifyCheckParams { id }: VerifyCheckParams,
) -> Result<Verification, RpcError> {
    Ok(registry.archive()?.verification(id)?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainParams {
    point: String,
}

fn explain(registry: &Registry, ExplainParams { point }: ExplainParams) -> Result<Explained, RpcError> {
    let point: NamedPoint = point.parse()?;
    let archive = registry.archive()?;
    let (point, lineage) = registry.on_reactor("archive_explain", |app| async move {
        let pool = app.pool()?;
        let lineage = pool.lineage();
        Ok((pool.resolve(point).await?, lineage))
    })?;
    let explanation = archive.explain(&lineage, Lsn(point.lsn))?;
    Ok(Explained { point, explanation })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpireParams {
    #[serde(default)]
    dry_run: bool,
    objects_max: Option<usize>,
    /// Confirms the machine's clock first.
    #[serde(default)]
    clock_is_right: bool,
    /// Ignores the hourly limit.
    #[serde(default)]
    all: bool,
}

fn expire(
    registry: &Registry,
    ExpireParams { dry_run, objects_max, clock_is_right, all }: ExpireParams,
) -> Result<ExpiryReport, RpcError> {
    let archive = registry.archive()?;
    if clock_is_right {
        registry.on_reactor("archive_expire", |app| {
            std::future::ready(app.pool().map(|pool| pool.confirm_clock()))
        })?;
    }
    let objects_max = objects_max.unwrap_or(EXPIRE_OBJECTS_DEFAULT);
    let request = ExpiryRequest { dry_run, objects_max, all };
    Ok(archive.expire_carefully(registry.handle(), request, &StopFlag::default())?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetKeepParams {
    rules: String,
}

fn set_keep(registry: &Registry, SetKeepParams { rules }: SetKeepParams) -> Result<Value, RpcError> {
    let rules =
        KeepRules::parse(&rules).map_err(|error| RpcError::Unsupported { reason: error.to_string() })?;
    let archive = registry.archive()?;
    archive.set_keep(rules).map_err(|error| RpcError::Internal { reason: error.to_string() })?;
    Ok(json!({"rules": archive.keep()}))
}

fn get_keep(registry: &Registry, _: NoParams) -> Result<Value, RpcError> {
    Ok(json!({"rules": registry.archive()?.keep()}))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetVerifyParams {
    policy: VerifyPolicy,
}

fn set_verify(registry: &Registry, SetVerifyParams { policy }: SetVerifyParams) -> Result<Value, RpcError> {
    registry.archive()?;
    registry.on_reactor("archive_set_verify", move |app| {
        std::future::ready(
            app.pool().and_then(|pool| pool.set_archive_verify(policy).map_err(RpcError::from)),
        )
    })?;
    Ok(json!({"policy": policy}))
}

fn get_verify(registry: &Registry, _: NoParams) -> Result<Value, RpcError> {
    Ok(json!({"policy": verify_policy(registry)?}))
}

fn verify_policy(registry: &Registry) -> Result<VerifyPolicy, RpcError> {
    registry.archive()?;
    registry.on_reactor("archive_get_verify", |app| {
        std::future::ready(app.pool().and_then(|pool| pool.archive_verify().ok_or(NO_ARCHIVE)))
    })
}

/// The calls that would produce the archive's current configuration.
pub(super) fn config(registry: &Registry) -> Vec<Value> {
    let mut calls = Vec::new();
    if let Ok(rules) = registry.archive().map(ArchiveManager::keep)
        && !rules.keep_everything()
    {
        calls.push(json!({"method": "archive_set_keep", "params": {"rules": rules}}));
    }
    if let Ok(policy) = verify_policy(registry)
        && policy != VerifyPolicy::default()
    {
        calls.push(json!({"method": "archive_set_verify", "params": {"policy": policy}}));
    }
    calls
}

impl Registry {
    fn archive(&self) -> Result<&ArchiveManager, RpcError> {
        self.find_archive().ok_or(NO_ARCHIVE)
    }
}
