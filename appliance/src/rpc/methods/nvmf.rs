//! `nvmf_*`: the NVMe-oF target in SPDK's terms.
//!
//! Two things differ from SPDK. The appliance itself makes every subsystem, so there are no methods
//! to make one. A listener belongs to the appliance, so adding it to one subsystem adds it to all.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::rpc::app::App;
use crate::rpc::error::RpcError;
use crate::rpc::method::Method;
use crate::rpc::target_view::{
    ControllerView, DISCOVERY_NQN, ListenerError, QueuePairView, SubsystemView, TARGET_NAME, TargetView,
};

pub(super) fn methods() -> Vec<Method> {
    vec![
        Method::on_reactor("nvmf_get_subsystems", "Every subsystem, or the one with an NQN.", get_subsystems),
        Method::on_reactor("nvmf_get_transports", "The transports and their limits.", get_transports),
        Method::on_reactor("nvmf_get_stats", "Connections and commands since start.", get_stats),
        Method::on_reactor("nvmf_subsystem_get_listeners", "Where a subsystem is reached.", get_listeners),
        Method::on_reactor(
            "nvmf_subsystem_get_controllers",
            "The hosts that are connected.",
            get_controllers,
        ),
        Method::on_reactor("nvmf_subsystem_get_qpairs", "The connections of a subsystem.", get_qpairs),
        Method::on_reactor(
            "nvmf_subsystem_add_listener",
            "Starts listening on an address, for every subsystem.",
            add_listener,
        )
        .changing(),
        Method::on_reactor(
            "nvmf_subsystem_remove_listener",
            "Stops listening on an address, for every subsystem; hosts that are connected stay.",
            remove_listener,
        )
        .changing(),
    ]
}

/// Transport types; there is only TCP. SPDK accepts any case.
#[derive(Debug, Clone, Copy, Deserialize)]
enum TransportType {
    #[serde(rename = "TCP", alias = "tcp", alias = "Tcp")]
    Tcp,
}

/// Address families of TCP, in the spellings that clients use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum AddressFamily {
    #[serde(rename = "ipv4", alias = "IPv4", alias = "IPV4")]
    V4,
    #[serde(rename = "ipv6", alias = "IPv6", alias = "IPV6")]
    V6,
}

/// An address as SPDK's clients give it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenAddressParam {
    #[serde(rename = "trtype")]
    _transport: TransportType,
    #[serde(default)]
    adrfam: Option<AddressFamily>,
    traddr: IpAddr,
    trsvcid: String,
}

impl ListenAddressParam {
    fn socket_address(&self) -> Result<SocketAddr, RpcError> {
        let unsupported = |reason: String| Err(RpcError::Unsupported { reason });
        let Ok(port) = self.trsvcid.parse() else {
            return unsupported(format!(
                "trsvcid '{}' is not a port; it is a number from 0 to 65535",
                self.trsvcid
            ));
        };
        let family = if self.traddr.is_ipv4() { AddressFamily::V4 } else { AddressFamily::V6 };
        if self.adrfam.is_some_and(|adrfam| adrfam != family) {
            return unsupported(format!(
                "traddr {} is not of the family that adrfam names; leave adrfam out",
                self.traddr
            ));
        }
        Ok(SocketAddr::new(self.traddr, port))
    }
}

/// An address as SPDK shows it.
#[derive(Debug, Clone, Serialize)]
struct ListenAddress {
    trtype: &'static str,
    adrfam: &'static str,
    traddr: IpAddr,
    trsvcid: String,
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        ListenAddress {
            trtype: "TCP",
            adrfam: if address.is_ipv4() { "IPv4" } else { "IPv6" },
            traddr: address.ip(),
            trsvcid: address.port().to_string(),
        }
    }
}

fn check_target(tgt_name: Option<&str>) -> Result<(), RpcError> {
    match tgt_name {
        Some(name) if name != TARGET_NAME => Err(RpcError::NoSuchObject {
            kind: "target",
            name: name.to_owned(),
            advice: "leave tgt_name out, there is only one",
        }),
        _ => Ok(()),
    }
}

fn find_subsystem(target: &Rc<dyn TargetView>, nqn: &str) -> Result<SubsystemView, RpcError> {
    target.subsystems().into_iter().find(|subsystem| subsystem.nqn == nqn).ok_or_else(|| {
        RpcError::NoSuchObject {
            kind: "subsystem",
            name: nqn.to_owned(),
            advice: "nvmf_get_subsystems lists those that exist",
        }
    })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetParams {
    tgt_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MaybeSubsystemParams {
    nqn: Option<String>,
    tgt_name: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SubsystemParams {
    nqn: String,
    tgt_name: Option<String>,
}

impl SubsystemParams {
    /// The target and the subsystem's NQN, if the subsystem exists.
    fn find(self, app: &App) -> Result<(Rc<dyn TargetView>, String), RpcError> {
        check_target(self.tgt_name.as_deref())?;
        let target = app.target()?;
        find_subsystem(&target, &self.nqn)?;
        Ok((target, self.nqn))
    }
}

fn get_subsystems(app: &App, params: MaybeSubsystemParams) -> Result<Vec<Value>, RpcError> {
    let MaybeSubsystemParams { nqn, tgt_name } = params;
    check_target(tgt_name.as_deref())?;
    let target = app.target()?;
    let subsystems = match nqn {
        Some(nqn) => vec![find_subsystem(&target, &nqn)?],
        None => target.subsystems(),
    };
    let listeners: Vec<ListenAddress> = target.listeners().into_iter().map(ListenAddress::from).collect();
    Ok(subsystems.iter().map(|subsystem| show_subsystem(subsystem, &listeners)).collect())
}

fn show_subsystem(subsystem: &SubsystemView, listeners: &[ListenAddress]) -> Value {
    let mut shown = json!({
        "nqn": subsystem.nqn,
        "subtype": if subsystem.discovery { "Discovery" } else { "NVMe" },
        "listen_addresses": listeners,
        "allow_any_host": true,
        "hosts": [],
    });
    if subsystem.discovery {
        return shown;
    }
    let namespaces: Vec<Value> = subsystem
        .namespaces
        .iter()
        .map(|namespace| {
            json!({
                "nsid": namespace.nsid,
                "bdev_name": namespace.volume,
                "name": namespace.volume,
                "nguid": namespace.uuid.simple().to_string().to_uppercase(),
                "uuid": namespace.uuid,
            })
        })
        .collect();
    if let Value::Object(members) = &mut shown {
        members.insert("serial_number".to_owned(), json!(subsystem.serial_number));
        members.insert("model_number".to_owned(), json!(subsystem.model_number));
        members.insert("max_namespaces".to_owned(), json!(subsystem.max_namespaces));
        members.insert("min_cntlid".to_owned(), json!(subsystem.min_cntlid));
        members.insert("max_cntlid".to_owned(), json!(subsystem.max_cntlid));
        members.insert("namespaces".to_owned(), json!(namespaces));
    }
    shown
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TransportParams {
    /// The only transport type. Decoding the parameters already refuses all others.
    #[serde(rename = "trtype")]
    _transport: Option<TransportType>,
    tgt_name: Option<String>,
}

#[derive(Serialize)]
struct ShownTransport {
    trtype: &'static str,
    #[serde(flatten)]
    limits: crate::rpc::target_view::TransportView,
}

fn get_transports(app: &App, params: TransportParams) -> Result<Vec<ShownTransport>, RpcError> {
    let TransportParams { tgt_name, .. } = params;
    check_target(tgt_name.as_deref())?;
    Ok(vec![ShownTransport { trtype: "TCP", limits: app.target()?.transport() }])
}

fn get_stats(app: &App, params: TargetParams) -> Result<Value, RpcError> {
    let TargetParams { tgt_name } = params;
    check_target(tgt_name.as_deref())?;
    let stats = app.target()?.stats();
    Ok(json!({
        "tick_rate": 1_000_000_000_u64,
        "poll_groups": [{
            "name": app.reactor_name(),
            "admin_qpairs": stats.admin_qpairs,
            "io_qpairs": stats.io_qpairs,
            "current_admin_qpairs": stats.current_admin_qpairs,
            "current_io_qpairs": stats.current_io_qpairs,
            "pending_bdev_io": stats.pending_bdev_io,
            "completed_nvme_io": stats.completed_nvme_io,
            "host_memory_bytes": stats.host_memory_bytes,
            "host_memory_bytes_max": stats.host_memory_bytes_max,
            "waiting_for_memory": stats.waiting_for_memory,
            "memory_waits": stats.memory_waits,
            "slow_peers_ended": stats.slow_peers_ended,
            "transports": [{"trtype": "TCP"}],
        }],
    }))
}

fn get_listeners(app: &App, params: SubsystemParams) -> Result<Vec<Value>, RpcError> {
    let (target, _) = params.find(app)?;
    Ok(target
        .listeners()
        .into_iter()
        .map(|address| json!({"address": ListenAddress::from(address)}))
        .collect())
}

fn get_controllers(app: &App, params: SubsystemParams) -> Result<Vec<ControllerView>, RpcError> {
    let (target, nqn) = params.find(app)?;
    Ok(target.controllers(&nqn))
}

fn get_qpairs(app: &App, params: SubsystemParams) -> Result<Vec<Value>, RpcError> {
    let (target, nqn) = params.find(app)?;
    Ok(target.queue_pairs(&nqn).iter().map(|qpair| show_qpair(app, qpair)).collect())
}

fn show_qpair(app: &App, qpair: &QueuePairView) -> Value {
    json!({
        "cntlid": qpair.cntlid,
        "qid": qpair.qid,
        "state": qpair.state,
        "thread": app.reactor_name(),
        "hostnqn": qpair.hostnqn,
        "listen_address": ListenAddress::from(qpair.listen_address),
        "peer_address": qpair.peer_address.map(ListenAddress::from),
    })
}

/// Asymmetric access states; a listener is always in the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AnaState {
    Optimized,
    NonOptimized,
    Inaccessible,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AddListenerParams {
    nqn: String,
    listen_address: ListenAddressParam,
    tgt_name: Option<String>,
    #[serde(default)]
    secure_channel: bool,
    ana_state: Option<AnaState>,
    sock_impl: Option<String>,
}

fn add_listener(app: &App, params: AddListenerParams) -> Result<bool, RpcError> {
    let AddListenerParams { nqn, listen_address, tgt_name, secure_channel, ana_state, sock_impl } = params;
    let unsupported = |reason: &str| Err(RpcError::Unsupported { reason: reason.to_owned() });
    if secure_channel {
        return unsupported("secure_channel: listeners with TLS are not offered; leave it out");
    }
    if ana_state.is_some_and(|state| state != AnaState::Optimized) {
        return unsupported("ana_state: there is one path, which is always optimized; leave it out");
    }
    if sock_impl.is_some_and(|name| name != "posix") {
        return unsupported("sock_impl: sockets are the kernel's, which SPDK calls posix; leave it out");
    }
    let address = listen_address.socket_address()?;
    let (target, _) = SubsystemParams { nqn, tgt_name }.find(app)?;
    match target.add_listener(address) {
        // As in SPDK, adding a listener that exists succeeds, so that a configuration can be loaded
        // twice.
        Ok(_) | Err(ListenerError::Exists { .. }) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveListenerParams {
    nqn: String,
    listen_address: ListenAddressParam,
    tgt_name: Option<String>,
}

fn remove_listener(app: &App, params: RemoveListenerParams) -> Result<bool, RpcError> {
    let RemoveListenerParams { nqn, listen_address, tgt_name } = params;
    let address = listen_address.socket_address()?;
    let (target, _) = SubsystemParams { nqn, tgt_name }.find(app)?;
    target.remove_listener(address)?;
    Ok(true)
}

/// The calls that would produce the target's current configuration: its listeners. Subsystems
/// follow from the volumes.
pub(super) fn config(app: &App) -> Vec<Value> {
    let listeners = app.find_target().map_or_else(Vec::new, |target| target.listeners());
    listeners
        .into_iter()
        .map(|address| {
            json!({
                "method": "nvmf_subsystem_add_listener",
                "params": {"nqn": DISCOVERY_NQN, "listen_address": ListenAddress::from(address)},
            })
        })
        .collect()
}
