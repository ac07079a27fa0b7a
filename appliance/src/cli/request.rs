//! Turns a command into its call: method, parameters, and how the result is shown.

use serde_json::{Map, Value, json};

use super::archive_args::ArchiveCommand;
use super::args::{CallCommand, PoolCommand, RestoreCommand, SnapshotCommand, SynchCommand, VolumeCommand};
use super::block_request;
use super::clone_request;
use super::group_request;
use super::render::View;
use super::session_request::session;
use super::spdk_args::{
    BdevCommand, FrameworkCommand, ListenerArgs, NvmfCommand, SpdkCommand, SubsystemArgs, ThreadCommand,
};
use crate::archive::service::VerifyPolicy;
use crate::rpc::DISCOVERY_NQN;

/// A call and the view of its result.
pub(super) struct MethodCall {
    pub(super) method: String,
    pub(super) params: Map<String, Value>,
    pub(super) view: View,
}

impl MethodCall {
    /// `params` is an object; null members are left out, as SPDK's client does.
    pub(super) fn new(method: &str, params: Value, view: View) -> Self {
        let params = match params {
            Value::Object(members) => members.into_iter().filter(|(_, value)| !value.is_null()).collect(),
            _ => Map::new(),
        };
        MethodCall { method: method.to_owned(), params, view }
    }
}

impl MethodCall {
    fn of((method, params, view): clone_request::Call) -> Self {
        MethodCall::new(method, params, view)
    }
}

impl From<CallCommand> for MethodCall {
    fn from(command: CallCommand) -> Self {
        match command {
            CallCommand::Pool(command) => pool(&command),
            CallCommand::Volume(command) => volume(command),
            CallCommand::Group(command) => MethodCall::of(group_request::group(&command)),
            CallCommand::Synch(command) => synch(command),
            CallCommand::Archive(command) => archive(command),
            CallCommand::Snapshot(command) => snapshot(command),
            CallCommand::Restore(command) => restore(command),
            CallCommand::Clone(command) => MethodCall::of(clone_request::clone(&command)),
            CallCommand::Block(command) => {
                let (method, params, view) = block_request::call(command);
                MethodCall::new(method, params, view)
            }
            CallCommand::Diff(_) => unreachable!("it is no single call; see `blocks`"),
            // It may need more than one call; see `points`.
            CallCommand::Point(_) => unreachable!("it is no single call"),
            CallCommand::Nvmf(command) => nvmf(command),
            CallCommand::Bdev(command) => bdev(command),
            CallCommand::Framework(command) => framework(command),
            CallCommand::Thread(ThreadCommand::GetStats) => {
                MethodCall::new("thread_get_stats", Value::Null, View::Rows("threads"))
            }
            CallCommand::Spdk(SpdkCommand::GetVersion) => {
                MethodCall::new("spdk_get_version", Value::Null, View::Version)
            }
            CallCommand::Spdk(SpdkCommand::KillInstance { sig_name }) => MethodCall::new(
                "spdk_kill_instance",
                json!({"sig_name": sig_name}),
                View::Done("the signal was sent".to_owned()),
            ),
            CallCommand::Rpc { method, params } => {
                MethodCall { method, params: params.unwrap_or_default(), view: View::Json }
            }
        }
    }
}

fn pool(command: &PoolCommand) -> MethodCall {
    match command {
        PoolCommand::List => MethodCall::new("pool_list", Value::Null, View::Pools),
        PoolCommand::Stats => MethodCall::new("pool_stats", Value::Null, View::PoolStats),
        PoolCommand::Segments => MethodCall::new("pool_segments", Value::Null, View::Segments),
        PoolCommand::SetWorkingSet { segments } => {
            MethodCall::new("pool_set_working_set", json!({"segments": segments}), View::Pool)
        }
        PoolCommand::Grow => MethodCall::new("pool_grow", Value::Null, View::GrownPool),
        PoolCommand::Clock { is_right: false } => MethodCall::new("pool_get_clock", Value::Null, View::Clock),
        PoolCommand::Clock { is_right: true } => {
            MethodCall::new("pool_confirm_clock", Value::Null, View::Clock)
        }
        PoolCommand::Recover(_) => unreachable!("it is no call"),
    }
}

fn volume(command: VolumeCommand) -> MethodCall {
    match command {
        VolumeCommand::Create { name, size, uuid, if_absent, thin } => {
            let mut params = json!({"name": name, "size": size.get(), "uuid": uuid});
            if if_absent {
                params["if_absent"] = Value::Bool(true);
            }
            if thin {
                params["thin"] = Value::Bool(true);
            }
            MethodCall::new("volume_create", params, View::Volume)
        }
        VolumeCommand::List { name } => MethodCall::new("volume_list", json!({"name": name}), View::Volumes),
        VolumeCommand::Delete { name, force } => {
            let mut params = json!({"name": name});
            if force {
                params["force"] = Value::Bool(true);
            }
            MethodCall::new("volume_delete", params, View::Deleted(name))
        }
        // These need more than one call; see `transfer`.
        VolumeCommand::Import(_) | VolumeCommand::Export(_) => unreachable!("it is no call"),
        VolumeCommand::Hydrate { name } => {
            MethodCall::new("volume_hydrate", json!({"name": name}), View::Json)
        }
        VolumeCommand::Rename { name, to, force } => MethodCall::of(clone_request::rename(&name, &to, force)),
        VolumeCommand::Histogram { name, enable: false, disable: false, .. } => {
            MethodCall::new("bdev_get_histogram", json!({"name": name}), View::Histogram)
        }
        VolumeCommand::Histogram { name, enable, only, .. } => enable_histogram(&name, enable, only),
        VolumeCommand::Resize { name, size } => {
            MethodCall::new("volume_resize", json!({"name": name, "size": size.get()}), View::Volume)
        }
    }
}

fn enable_histogram(name: &str, enable: bool, only: Option<String>) -> MethodCall {
    let done = if enable {
        format!("latencies of {name} are measured; varve volume histogram {name} shows them")
    } else {
        format!("latencies of {name} are no longer measured")
    };
    let params = json!({"name": name, "enable": enable, "opc": only});
    MethodCall::new("bdev_enable_histogram", params, View::Done(done))
}

fn synch(command: SynchCommand) -> MethodCall {
    match command {
        SynchCommand::Create { label, details, volume, group } => {
            let params = json!({"label": label, "details": details, "volume": volume, "group": group});
            MethodCall::new("synch_create", params, View::Synch)
        }
        SynchCommand::List(which) => MethodCall::new("synch_list", which.params(), View::Synchs),
        SynchCommand::Delete { synch, all } => {
            let params = json!({"synch": synch, "all": all.then_some(true)});
            MethodCall::new("synch_delete", params, View::Synchs)
        }
    }
}

fn archive(command: ArchiveCommand) -> MethodCall {
    match command {
        ArchiveCommand::Status => MethodCall::new("archive_get_status", Value::Null, View::Archive),
        // With a progress bar, these need more than one call; see `archive`.
        ArchiveCommand::Seal => MethodCall::new("archive_seal", Value::Null, View::Json),
        ArchiveCommand::Verify { from, to } => {
            MethodCall::new("archive_verify", json!({"from": from, "to": to}), View::Json)
        }
        ArchiveCommand::List { from, limit } => {
            MethodCall::new("archive_list", json!({"from": from, "limit": limit}), View::ArchivedObjects)
        }
        ArchiveCommand::Explain { point } => {
            MethodCall::new("archive_explain", json!({"point": point}), View::Explanation)
        }
        ArchiveCommand::Expire { dry_run, .. } => {
            MethodCall::new("archive_expire", json!({"dry_run": dry_run}), View::Expiry)
        }
        ArchiveCommand::VerifyPolicy { policy: None } => {
            MethodCall::new("archive_get_verify", Value::Null, View::VerifyPolicy)
        }
        ArchiveCommand::VerifyPolicy { policy } => {
            let policy = policy.map(VerifyPolicy::from);
            MethodCall::new("archive_set_verify", json!({"policy": policy}), View::VerifyPolicy)
        }
        ArchiveCommand::Keep { rules: None } => MethodCall::new("archive_get_keep", Value::Null, View::Keep),
        ArchiveCommand::Keep { rules } => {
            MethodCall::new("archive_set_keep", json!({"rules": rules}), View::Keep)
        }
    }
}

fn snapshot(command: SnapshotCommand) -> MethodCall {
    match command {
        SnapshotCommand::Create { name, at } => {
            MethodCall::new("snapshot_create", json!({"name": name, "at": at}), View::Snapshot)
        }
        SnapshotCommand::List(page) => MethodCall::new("snapshot_list", page.params(), View::Snapshots),
        SnapshotCommand::Delete { name } => {
            let done = format!("snapshot {name} is deleted");
            MethodCall::new("snapshot_delete", json!({"name": name}), View::Done(done))
        }
    }
}

fn restore(command: RestoreCommand) -> MethodCall {
    match command {
        RestoreCommand::Resolve { point, volume } => {
            MethodCall::new("restore_resolve", json!({"point": point, "volume": volume}), View::Point)
        }
        RestoreCommand::Plan(plan) => MethodCall::new("restore_plan", plan.params(), View::RestorePlan),
        RestoreCommand::Clone { volume, at, name, read_only } => {
            let mut params = json!({"volume": volume, "at": at, "name": name});
            if read_only {
                params["read_only"] = Value::Bool(true);
            }
            MethodCall::new("restore_clone", params, View::Clone)
        }
        RestoreCommand::RollBack(options) => MethodCall::of(clone_request::roll_back(&options)),
        RestoreCommand::Session(command) => MethodCall::of(session(command)),
    }
}

pub(super) fn full_nqn(nqn: String) -> String {
    if nqn == "discovery" { DISCOVERY_NQN.to_owned() } else { nqn }
}

fn of_subsystem(method: &str, SubsystemArgs { nqn }: SubsystemArgs, view: View) -> MethodCall {
    MethodCall::new(method, json!({"nqn": full_nqn(nqn)}), view)
}

/// The call that adds or removes a listener.
pub(super) fn of_listener(
    method: &str,
    ListenerArgs { nqn, address }: ListenerArgs,
    done: String,
) -> MethodCall {
    let params = json!({
        "nqn": full_nqn(nqn),
        "listen_address": {
            "trtype": "TCP",
            "adrfam": if address.is_ipv4() { "IPv4" } else { "IPv6" },
            "traddr": address.ip(),
            "trsvcid": address.port().to_string(),
        },
    });
    MethodCall::new(method, params, View::Done(done))
}

fn nvmf(command: NvmfCommand) -> MethodCall {
    match command {
        NvmfCommand::GetSubsystems { nqn } => {
            MethodCall::new("nvmf_get_subsystems", json!({"nqn": nqn.map(full_nqn)}), View::Subsystems)
        }
        NvmfCommand::GetTransports => MethodCall::new("nvmf_get_transports", Value::Null, View::Rows("")),
        NvmfCommand::GetStats => MethodCall::new("nvmf_get_stats", Value::Null, View::Rows("poll_groups")),
        NvmfCommand::SubsystemGetListeners(args) => {
            of_subsystem("nvmf_subsystem_get_listeners", args, View::Rows(""))
        }
        NvmfCommand::SubsystemGetControllers(args) => {
            of_subsystem("nvmf_subsystem_get_controllers", args, View::Rows(""))
        }
        NvmfCommand::SubsystemGetQpairs(args) => {
            of_subsystem("nvmf_subsystem_get_qpairs", args, View::Rows(""))
        }
        NvmfCommand::SubsystemAddListener(args) => {
            let done = format!("listening on {}", args.address);
            of_listener("nvmf_subsystem_add_listener", args, done)
        }
        NvmfCommand::SubsystemRemoveListener(args) => {
            let done = format!("no longer listening on {}", args.address);
            of_listener("nvmf_subsystem_remove_listener", args, done)
        }
    }
}

fn bdev(command: BdevCommand) -> MethodCall {
    match command {
        BdevCommand::EnableHistogram { name, enable, opc } => enable_histogram(&name, enable, opc),
        BdevCommand::GetHistogram { name } => {
            MethodCall::new("bdev_get_histogram", json!({"name": name}), View::Histogram)
        }
        BdevCommand::GetBdevs { name } => {
            MethodCall::new("bdev_get_bdevs", json!({"name": name}), View::Bdevs)
        }
        BdevCommand::GetIostat { names } => {
            let params = if names.is_empty() { Value::Null } else { json!({"names": names}) };
            MethodCall::new("bdev_get_iostat", params, View::Rows("bdevs"))
        }
    }
}

fn framework(command: FrameworkCommand) -> MethodCall {
    match command {
        FrameworkCommand::GetReactors => {
            MethodCall::new("framework_get_reactors", Value::Null, View::Reactors)
        }
        FrameworkCommand::GetSubsystems => {
            MethodCall::new("framework_get_subsystems", Value::Null, View::Rows(""))
        }
        FrameworkCommand::GetConfig { name } => {
            MethodCall::new("framework_get_config", json!({"name": name}), View::Json)
        }
        FrameworkCommand::WaitInit => MethodCall::new(
            "framework_wait_init",
            Value::Null,
            View::Done("the appliance is ready".to_owned()),
        ),
    }
}
