//! Connects to a volume as a host: where it is served, and who uses it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::commands::Commands;
use super::error::TransferError;
use crate::cli::client::Client;
use crate::nvmf::nqn;
use crate::options::CommandError;

/// How long a connection that was ended may still be reported.
const FREE_WAIT: Duration = Duration::from_secs(5);
/// How long to wait between two looks at it.
const FREE_LOOK_WAIT: Duration = Duration::from_millis(20);

/// Makes a [`TransferError::File`].
pub(super) fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> TransferError {
    move |source| TransferError::File { action, path: path.to_owned(), source }
}

/// Makes a call and reads its result.
pub(super) fn call<T: DeserializeOwned>(
    client: &mut Client,
    method: &str,
    params: Value,
) -> Result<T, CommandError> {
    let params = if let Value::Object(members) = params { members } else { Map::new() };
    let result = client.call(method, params)?;
    T::deserialize(&result).map_err(|error| {
        format!("{method}: the appliance is of another version than this command: {error}").into()
    })
}

/// The address at which this machine reaches a subsystem.
pub(in crate::cli) fn address_of(client: &mut Client, nqn: &str) -> Result<SocketAddr, CommandError> {
    let listeners: Vec<Listener> = call(client, "nvmf_subsystem_get_listeners", json!({"nqn": nqn}))?;
    let address = nearest(listeners.iter().filter_map(|listener| listener.address.socket_address()));
    Ok(address.ok_or(TransferError::NoListener)?)
}

/// Connects to a volume as a host.
pub(super) fn connect(client: &mut Client, volume: &str) -> Result<Commands, CommandError> {
    let nqn = nqn::of_volume(volume);
    let address = address_of(client, &nqn)?;
    let connected = Commands::connect(address, &nqn);
    Ok(connected.map_err(|source| TransferError::Connect { volume: volume.to_owned(), address, source })?)
}

/// An address of a subsystem, as `nvmf_subsystem_get_listeners` shows it.
#[derive(Debug, Deserialize)]
struct Listener {
    address: ListenAddress,
}

#[derive(Debug, Deserialize)]
struct ListenAddress {
    traddr: IpAddr,
    trsvcid: String,
}

impl ListenAddress {
    /// Where to connect on this machine: an unspecified address (`0.0.0.0`, `::`) is reached by
    /// loopback.
    fn socket_address(&self) -> Option<SocketAddr> {
        let ip = match self.traddr {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Some(SocketAddr::new(ip, self.trsvcid.parse().ok()?))
    }
}

/// A loopback address if there is one; otherwise the first.
fn nearest(addresses: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    let addresses: Vec<SocketAddr> = addresses.collect();
    addresses.iter().find(|address| address.ip().is_loopback()).or(addresses.first()).copied()
}

/// Refuses to write to a volume that hosts are connected to.
pub(super) fn refuse_in_use(client: &mut Client, volume: &str) -> Result<(), CommandError> {
    #[derive(Deserialize)]
    struct Controller {
        hostnqn: String,
    }
    let params = json!({"nqn": nqn::of_volume(volume)});
    let controllers: Vec<Controller> = call(client, "nvmf_subsystem_get_controllers", params)?;
    let hosts: Vec<String> = controllers.into_iter().map(|controller| controller.hostnqn).collect();
    if hosts.is_empty() {
        return Ok(());
    }
    Err(TransferError::InUse { volume: volume.to_owned(), hosts: hosts.join(", ") }.into())
}

/// Waits for the end of the connections that a host has ended: the appliance may report them for a
/// short time after. Those of other hosts are left to whoever is refused because of them.
pub(in crate::cli) fn wait_until_free(client: &mut Client, volume: &str) {
    let until = Instant::now() + FREE_WAIT;
    while refuse_in_use(client, volume).is_err() && Instant::now() < until {
        std::thread::sleep(FREE_LOOK_WAIT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_on_this_machine_connect_by_loopback() {
        let listener = |traddr: &str, trsvcid: &str| {
            let value = json!({"address": {"trtype": "TCP", "traddr": traddr, "trsvcid": trsvcid}});
            serde_json::from_value::<Listener>(value).expect("a listener").address.socket_address()
        };
        assert_eq!(listener("0.0.0.0", "4420"), Some(([127, 0, 0, 1], 4420).into()));
        assert_eq!(listener("::", "1"), Some((Ipv6Addr::LOCALHOST, 1).into()));
        assert_eq!(listener("10.1.0.5", "x"), None);
        let far: SocketAddr = ([10, 1, 0, 5], 4420).into();
        let near: SocketAddr = ([127, 0, 0, 1], 4421).into();
        assert_eq!(nearest([far, near].into_iter()), Some(near));
        assert_eq!(nearest([far].into_iter()), Some(far));
        assert_eq!(nearest(std::iter::empty()), None);
    }
}
