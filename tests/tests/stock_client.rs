//! SPDK's stock client manages a real appliance: all of its commands whose method varve has, and
//! `save_config` into `load_config`.

use std::collections::BTreeSet;

use serde_json::Value;
use varve_tests::appliance::{Appliance, ApplianceConfig};
use varve_tests::stock_client::StockClient;

const DISCOVERY: &str = "nqn.2014-08.org.nvmexpress.discovery";
const VOLUME_SUBSYSTEM: &str = "nqn.2026-11.dev.varve:vol0";

/// The stock commands whose method varve has, with arguments, in an order that works, and a text
/// that the answer contains. `spdk_kill_instance` is called at the end.
const COMMANDS: [(&[&str], &str); 21] = [
    (&["rpc_get_methods"], "volume_create"),
    (&["spdk_get_version"], "varve v"),
    (&["framework_wait_init"], ""),
    (&["framework_get_reactors"], "reactors"),
    (&["framework_get_subsystems"], "nvmf"),
    (&["framework_get_config", "nvmf"], "nvmf_subsystem_add_listener"),
    (&["thread_get_stats"], "threads"),
    (&["bdev_get_bdevs"], "vol0"),
    (&["bdev_get_bdevs", "-b", "vol0"], "num_blocks"),
    (&["bdev_get_iostat"], "num_read_ops"),
    (&["bdev_enable_histogram", "--histogram", "vol0"], ""),
    (&["bdev_get_histogram", "vol0"], "granularity"),
    (&["nvmf_get_subsystems"], VOLUME_SUBSYSTEM),
    (&["nvmf_get_transports"], "TCP"),
    (&["nvmf_get_stats"], "poll_groups"),
    (&["nvmf_subsystem_get_listeners", DISCOVERY], "127.0.0.1"),
    (&["nvmf_subsystem_get_controllers", VOLUME_SUBSYSTEM], "["),
    (&["nvmf_subsystem_get_qpairs", VOLUME_SUBSYSTEM], "["),
    (&["nvmf_subsystem_add_listener", "discovery", "-t", "TCP", "-a", "127.0.0.2", "-s", "0"], ""),
    (&["save_config"], "subsystems"),
    (&["save_subsystem_config", "-n", "nvmf"], "nvmf"),
];

fn appliance() -> Appliance {
    let arguments = ["--pool-size", "256MiB", "--volume-size", "32MiB", "--no-archive"];
    Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("starts")
}

/// The commands of the client.
fn commands_of(stock: &StockClient) -> BTreeSet<String> {
    let output = stock.python(&["-c", "from spdk.spdk_rpc import main; main()", "-h"]);
    let help = String::from_utf8_lossy(&output.stdout).into_owned();
    let words = help.lines().filter_map(|line| line.strip_prefix("    ")?.split_whitespace().next());
    words.map(str::to_owned).collect()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The port of the listener that was added on 127.0.0.2.
fn added_port(stock: &StockClient, appliance: &Appliance) -> Option<String> {
    let listeners = stock.rpc(&appliance.rpc_socket(), &["nvmf_subsystem_get_listeners", DISCOVERY]);
    let listeners = json(&listeners);
    let mut addresses = listeners.as_array().expect("a list").iter().map(|listener| &listener["address"]);
    let added = addresses.find(|address| address["traddr"] == "127.0.0.2")?;
    Some(added["trsvcid"].as_str().expect("a port").to_owned())
}

#[test]
fn every_stock_command_that_varve_has_works() {
    let Some(stock) = StockClient::install("every_stock_command_that_varve_has_works") else { return };
    let mut appliance = appliance();
    let socket = appliance.rpc_socket();
    for (arguments, wanted) in COMMANDS {
        let answer = stock.rpc(&socket, arguments);
        assert!(answer.contains(wanted), "{arguments:?} gave {answer}");
    }
    let port = added_port(&stock, &appliance).expect("the listener was added");
    let remove = ["nvmf_subsystem_remove_listener", "discovery", "-t", "TCP", "-a", "127.0.0.2", "-s", &port];
    stock.rpc(&socket, &remove);
    assert_eq!(added_port(&stock, &appliance), None);
    // The appliance has already passed this phase.
    let refused = stock.run(&socket, &["framework_start_init"]);
    assert!(!refused.status.success(), "it has started");
    let words = String::from_utf8_lossy(&refused.stdout) + String::from_utf8_lossy(&refused.stderr);
    assert!(words.contains("it is started; leave the call out"), "{words}");

    // Each method that both have was called.
    let methods = json(&stock.rpc(&socket, &["rpc_get_methods"]));
    let methods = methods.as_array().expect("a list").iter().map(|name| name.as_str().expect("text"));
    let commands = commands_of(&stock);
    let both: BTreeSet<&str> = methods.filter(|method| commands.contains(*method)).collect();
    let called = COMMANDS.iter().map(|(arguments, _)| arguments[0]);
    let others = ["nvmf_subsystem_remove_listener", "framework_start_init", "spdk_kill_instance"];
    let called: BTreeSet<&str> = called.chain(others).collect();
    assert!(both.len() >= 18, "{both:?}");
    assert!(both.is_subset(&called), "not called: {:?}", both.difference(&called));

    stock.rpc(&socket, &["spdk_kill_instance", "SIGTERM"]);
    let begin = std::time::Instant::now();
    while socket.exists() && begin.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert!(!socket.exists(), "SIGTERM ends it");
    appliance.kill_9();
}

#[test]
fn a_saved_configuration_is_loaded_into_another_appliance() {
    let Some(stock) = StockClient::install("a_saved_configuration_is_loaded") else { return };
    let first = appliance();
    let add = ["nvmf_subsystem_add_listener", "discovery", "-t", "TCP", "-a", "127.0.0.2", "-s", "0"];
    stock.rpc(&first.rpc_socket(), &add);
    let port = added_port(&stock, &first).expect("the listener was added");
    let saved = stock.rpc(&first.rpc_socket(), &["save_config"]);
    drop(first);

    let second = appliance();
    assert_eq!(added_port(&stock, &second), None);
    let file = second.pool_folder().join("saved.json");
    std::fs::write(&file, &saved).expect("writable");
    stock.rpc(&second.rpc_socket(), &["load_config", "-j", file.to_str().expect("UTF-8")]);
    assert_eq!(added_port(&stock, &second), Some(port));
    // The configuration saved there contains the loaded listeners, besides its own first listener.
    let again = json(&stock.rpc(&second.rpc_socket(), &["save_config"]));
    let listeners = |config: &Value| {
        let parts = config["subsystems"].as_array().expect("a list").clone();
        let calls = parts.into_iter().flat_map(|part| part["config"].as_array().cloned().unwrap_or_default());
        let listeners = calls.filter(|call| call["method"] == "nvmf_subsystem_add_listener");
        listeners.map(|call| call["params"]["listen_address"].to_string()).collect::<BTreeSet<_>>()
    };
    assert!(listeners(&again).is_superset(&listeners(&json(&saved))), "{saved}\n{again}");
}
