//! `framework_*`, `rpc_*`, `spdk_*` and `thread_*`: the appliance itself, with SPDK's names, so
//! that SPDK's stock client works.

#![expect(clippy::unnecessary_wraps, reason = "the registry takes methods that may fail; some cannot")]

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{archive, nvmf};
use crate::reactor::ReactorStats;
use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::{Method, Phase, Registry};
use crate::rpc::params::NoParams;

/// Ticks are nanoseconds.
const TICK_RATE: u64 = 1_000_000_000;

/// How often `framework_wait_init` checks.
const READY_INTERVAL: Duration = Duration::from_millis(10);

/// How long `framework_wait_init` waits at most: less than its client does.
const WAIT_INIT_LIMIT: Duration = Duration::from_secs(50);

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::direct("rpc_get_methods", "The methods that can be called.", get_methods),
        Method::direct("spdk_get_version", "The appliance's version.", get_version),
        Method::direct(
            "spdk_kill_instance",
            "Sends the appliance a signal; SIGTERM and SIGINT stop it cleanly.",
            kill,
        )
        .changing(),
        Method::direct("framework_start_init", "Starts the framework, which is started already.", start_init)
            .in_phase(Phase::Startup),
        Method::task("framework_wait_init", "Returns once the pool is open.", wait_init),
        Method::direct(
            "framework_get_reactors",
            "The reactors, how busy they were and how long their turns took.",
            get_reactors,
        ),
        Method::direct("framework_get_subsystems", "The parts that have a configuration.", get_subsystems),
        Method::direct(
            "framework_get_config",
            "The calls that would configure a part as it is now.",
            get_config,
        ),
        Method::direct("thread_get_stats", "The reactors as SPDK shows its threads.", thread_stats),
    ]
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetMethodsParams {
    #[serde(default)]
    current: bool,
    /// There are no aliases to include.
    #[serde(default, rename = "include_aliases")]
    _include_aliases: bool,
}

fn get_methods(registry: &Registry, params: GetMethodsParams) -> Result<Vec<&'static str>, RpcError> {
    let GetMethodsParams { current, .. } = params;
    Ok(registry
        .methods()
        .filter(|method| !current || method.phase() == Phase::Runtime)
        .map(Method::name)
        .collect())
}

fn get_version(_: &Registry, _: NoParams) -> Result<Value, RpcError> {
    let number = |text: &str| text.parse::<u64>().unwrap_or(0);
    let suffix = env!("CARGO_PKG_VERSION_PRE");
    Ok(json!({
        "version": concat!("varve v", env!("CARGO_PKG_VERSION")),
        "fields": {
            "major": number(env!("CARGO_PKG_VERSION_MAJOR")),
            "minor": number(env!("CARGO_PKG_VERSION_MINOR")),
            "patch": number(env!("CARGO_PKG_VERSION_PATCH")),
            "suffix": suffix,
        },
    }))
}

/// The signals that may be sent, with SPDK's names. SPDK accepts numbers as well.
#[derive(Debug, Clone, Copy, Deserialize)]
enum KillSignal {
    #[serde(rename = "SIGINT", alias = "2")]
    Int,
    #[serde(rename = "SIGTERM", alias = "15")]
    Term,
    #[serde(rename = "SIGQUIT", alias = "3")]
    Quit,
    #[serde(rename = "SIGKILL", alias = "9")]
    Kill,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct KillParams {
    sig_name: KillSignal,
}

fn kill(_: &Registry, params: KillParams) -> Result<bool, RpcError> {
    let signal = match params.sig_name {
        KillSignal::Int => Signal::INT,
        KillSignal::Term => Signal::TERM,
        KillSignal::Quit => Signal::QUIT,
        KillSignal::Kill => Signal::KILL,
    };
    rustix::process::kill_process(rustix::process::getpid(), signal)
        .map_err(|error| RpcError::Internal { reason: format!("the signal could not be sent: {error}") })?;
    Ok(true)
}

/// Listed because clients look for it. The registry refuses the call because of its phase, so this
/// never runs.
fn start_init(_: &Registry, _: NoParams) -> Result<bool, RpcError> {
    Ok(true)
}

async fn wait_init(app: App, _: NoParams) -> Result<bool, RpcError> {
    let began = Instant::now();
    while !app.is_ready() {
        // A task must not wait forever for a client that has disconnected.
        if began.elapsed() > WAIT_INIT_LIMIT {
            return Err(RpcError::WrongState {
                reason: "the pool is still being opened; call framework_wait_init again",
            });
        }
        app.local().sleep(READY_INTERVAL).await;
    }
    Ok(true)
}

/// A core as a mask.
fn cpumask(core: Option<usize>) -> String {
    // SPDK writes masks in hex without a prefix.
    core.map_or_else(String::new, |core| format!("{:x}", 1_u128.checked_shl(core as u32).unwrap_or(0)))
}

fn get_reactors(registry: &Registry, _: NoParams) -> Result<Value, RpcError> {
    let reactors: Vec<Value> = (1..)
        .zip(registry.reactor_reports("framework_get_reactors")?)
        .map(|(id, report)| {
            let ReactorStats { turns, busy_turns, busy_ns, idle_ns, sleeps, long_turns, tasks } =
                report.stats;
            json!({
                "lcore": report.core.unwrap_or(0),
                "pinned": report.core.is_some(),
                "busy": busy_ns,
                "idle": idle_ns,
                "turns": turns,
                "busy_turns": busy_turns,
                "sleeps": sleeps,
                "long_turns": long_turns,
                "tasks": tasks,
                "turn_ns": report.turn_times.summary(),
                "turn_times": report.turn_times.ranges(),
                "lw_threads": [{
                    "name": report.name,
                    "id": id,
                    "cpumask": cpumask(report.core),
                    "elapsed": report.elapsed.as_nanos() as u64,
                }],
            })
        })
        .collect();
    Ok(json!({"tick_rate": TICK_RATE, "pid": std::process::id(), "reactors": reactors}))
}

fn thread_stats(registry: &Registry, _: NoParams) -> Result<Value, RpcError> {
    let threads: Vec<Value> = (1..)
        .zip(registry.reactor_reports("thread_get_stats")?)
        .map(|(id, report)| {
            json!({
                "name": report.name,
                "id": id,
                "cpumask": cpumask(report.core),
                "busy": report.stats.busy_ns,
                "idle": report.stats.idle_ns,
                "turns": report.stats.turns,
            })
        })
        .collect();
    Ok(json!({"tick_rate": TICK_RATE, "threads": threads}))
}

fn get_subsystems(_: &Registry, _: NoParams) -> Result<Value, RpcError> {
    Ok(json!([
        {"subsystem": "bdev", "depends_on": []},
        {"subsystem": "nvmf", "depends_on": ["bdev"]},
        {"subsystem": "archive", "depends_on": ["bdev"]},
    ]))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct GetConfigParams {
    name: String,
    /// Whether calls may be grouped in arrays. It has no effect, because there is nothing to group.
    #[serde(default, rename = "with_batches")]
    _with_batches: bool,
}

fn get_config(registry: &Registry, params: GetConfigParams) -> Result<Vec<Value>, RpcError> {
    let GetConfigParams { name, .. } = params;
    match name.as_str() {
        // Volumes are stored in the pool: they are state, not configuration.
        "bdev" => Ok(Vec::new()),
        "nvmf" => {
            registry.on_reactor("framework_get_config", |app| std::future::ready(Ok(nvmf::config(&app))))
        }
        "archive" => Ok(archive::config(registry)),
        _ => Err(RpcError::NoSuchObject {
            kind: "subsystem",
            name,
            advice: "framework_get_subsystems lists those that exist",
        }),
    }
}
