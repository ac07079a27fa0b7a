//! Discovery: the log page, its generation, its change events.

use super::{BLOCK, LIMIT, Served};
use crate::nvmf::host::{ConnectOptions, Controller, discover};
use crate::nvmf::nqn;
use crate::nvmf::wire::discovery::SubsystemType;
use crate::nvmf::wire::fabrics::DISCOVERY_NQN;
use crate::nvmf::wire::feature::AsyncEvent;
use crate::nvmf::wire::log_page::LogPageId;

#[test]
fn every_subsystem_is_listed_at_every_listener() {
    let served = Served::start();
    let second = served
        .with(|state| state.target.listen("0.0.0.0:0".parse().expect("an address")).expect("a free port"));
    let entries = discover(served.address, ConnectOptions::default()).expect("the page");
    let seen: Vec<(u8, String, String)> = entries
        .iter()
        .map(|entry| {
            let port = entry.service_id().expect("text").to_owned();
            assert_eq!(entry.transport_address().expect("text"), "127.0.0.1");
            (entry.subsystem_type, entry.subsystem_nqn().expect("text").to_owned(), port)
        })
        .collect();
    let ports = [served.address.port().to_string(), second.port().to_string()];
    let mut expected = Vec::new();
    for (kind, name) in [
        (SubsystemType::CurrentDiscovery, DISCOVERY_NQN.to_owned()),
        (SubsystemType::Nvm, nqn::of_volume("fixed")),
        (SubsystemType::Nvm, nqn::of_volume("one")),
    ] {
        for port in &ports {
            expected.push((kind.into(), name.clone(), port.clone()));
        }
    }
    assert_eq!(seen, expected);
    assert!(served.with(move |state| state.target.remove_listener(second)));
    assert_eq!(discover(served.address, ConnectOptions::default()).expect("the page").len(), 3);
    served.finish();
}

#[test]
fn changes_raise_the_generation_and_are_told() {
    let served = Served::start();
    let options = ConnectOptions { keep_alive_timeout_ms: 10_000, ..ConnectOptions::default() };
    let mut controller =
        Controller::connect_admin(served.address, DISCOVERY_NQN, options).expect("the target answers");
    controller.arm_events().expect("it arms");
    controller.keep_alive().expect("it is answered");
    let (generation, entries) = controller.discovery_log().expect("the page");
    served.with(|state| state.storage.create("two", 64 * BLOCK as u64, false));
    assert_eq!(controller.next_event(LIMIT).expect("it lives"), Some(AsyncEvent::DISCOVERY_CHANGED));
    let (after, more) = controller.discovery_log().expect("the page");
    assert!(after > generation);
    assert_eq!(more.len(), entries.len() + 1);
    let id = served.volume("two");
    served.with(move |state| state.storage.delete(id));
    assert_eq!(controller.next_event(LIMIT).expect("it lives"), Some(AsyncEvent::DISCOVERY_CHANGED));
    assert_eq!(controller.discovery_log().expect("the page").1.len(), entries.len());
    // A discovery controller does not have what an I/O controller has.
    assert!(controller.log_page(LogPageId::Smart.into(), u32::MAX, 512).is_err());
    assert!(controller.namespaces().is_err());
    controller.shutdown().expect("it shuts down");
    served.finish();
}

#[test]
fn a_thousand_subsystems_are_found_and_served() {
    let served = Served::start();
    served.with(|state| {
        for index in 0..1000 {
            state.storage.create(&format!("v{index:04}"), BLOCK as u64, false);
        }
    });
    assert_eq!(discover(served.address, ConnectOptions::default()).expect("the page").len(), 1003);
    let last = nqn::of_volume("v0999");
    drop(Controller::connect(served.address, &last, ConnectOptions::default()).expect("the target answers"));
    served.finish();
}
