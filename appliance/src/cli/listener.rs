//! `varve nvmf subsystem-add-listener ADDRESS:0`: the system chooses the port, and the command
//! prints which one.

use std::io::Write;

use serde_json::{Map, Value, json};

use super::render::address_text;
use super::request::{full_nqn, of_listener};
use super::spdk_args::ListenerArgs;
use super::{Client, CommandError, print};

/// Adds a listener on a port that the system chooses, and prints the address with the port.
pub(super) fn add_on_any_port(
    client: &mut Client,
    args: ListenerArgs,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let nqn = full_nqn(args.nqn.clone());
    let address = args.address;
    let before = listeners(client, &nqn)?;
    let request = of_listener("nvmf_subsystem_add_listener", args, String::new());
    client.call(&request.method, request.params)?;
    let after = listeners(client, &nqn)?;
    let new: Vec<String> = after.into_iter().filter(|listener| !before.contains(listener)).collect();
    // Nothing is new if somebody removed the listener immediately.
    let text = if new.is_empty() { address.to_string() } else { new.join(" and ") };
    print(output, &format!("listening on {text}\n"))
}

/// The addresses that a subsystem listens on.
fn listeners(client: &mut Client, nqn: &str) -> Result<Vec<String>, CommandError> {
    let params = Map::from_iter([("nqn".to_owned(), json!(nqn))]);
    let answer = client.call("nvmf_subsystem_get_listeners", params)?;
    let listeners = answer.as_array().into_iter().flatten();
    let address = |listener: &Value| address_text(listener.get("address")?);
    Ok(listeners.filter_map(address).collect())
}
