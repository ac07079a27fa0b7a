//! Hosts that are connected while their volume goes back, with the real program: every verb that
//! would change what such a host sees is refused, and nothing changes; with force it is done, and
//! the host sees the new state from the next command on, and is told of another size.

use std::time::Duration;

use serde_json::json;
use varve::nvmf::host::{Controller, Namespace, Queue};
use varve::nvmf::wire::feature::AsyncEvent;
use varve_tests::appliance::rounds::{BLOCK_BYTES, connect, wait_for};
use varve_tests::appliance::{Appliance, ApplianceConfig};

/// Blocks of the volume at first.
const VOLUME_BLOCKS: u64 = 1024;
/// How long an event may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn start() -> Appliance {
    let config = ApplianceConfig::with_arguments(&["--pool-size", "256MiB", "--volume-size", "4MiB"]);
    let appliance = Appliance::start(&config).expect("it starts");
    let size = (VOLUME_BLOCKS * BLOCK_BYTES as u64).to_string();
    appliance.run(&["volume", "create", "data", &size]);
    appliance
}

fn write(queue: &mut Queue, block: u64, byte: u8) {
    queue.write(block, &vec![byte; BLOCK_BYTES]).expect("written");
}

fn read(queue: &mut Queue, block: u64) -> u8 {
    let mut data = vec![0; BLOCK_BYTES];
    queue.read(block, &mut data).expect("read");
    assert!(data.iter().all(|byte| *byte == data[0]), "a block is one write's");
    data[0]
}

/// The blocks that a host sees.
fn size_blocks(controller: &mut Controller) -> u64 {
    let namespaces = controller.namespaces().expect("it identifies");
    namespaces.first().map(Namespace::geometry).expect("a namespace").size_blocks
}

/// Writes a block with each of some bytes; returns the position behind each.
fn history(appliance: &Appliance, queue: &mut Queue, bytes: &[u8]) -> Vec<u64> {
    let write_one = |&byte: &u8| {
        write(queue, 7, byte);
        appliance.newest_lsn()
    };
    bytes.iter().map(write_one).collect()
}

#[test]
fn a_connected_host_is_not_moved_without_force() {
    let appliance = start();
    let (controller, mut queue, _) = connect(&appliance, "data");
    let points = history(&appliance, &mut queue, &[1, 2, 3, 4, 5]);
    let at = format!("lsn:{}", points[2]);
    appliance.run(&["restore", "open", "data", "--at", &at, "--name", "search"]);
    let (of_clone, mut clone, _) = connect(&appliance, "search");
    assert_eq!(read(&mut clone, 7), 3);
    let before = appliance.rpc("restore_status", json!({"name": "search"})).expect("a session");
    let head = appliance.newest_lsn();
    let first = format!("lsn:{}", points[0]);
    for arguments in [
        &["restore", "step", "search", "-1"][..],
        &["restore", "step", "search", "--to", &first],
        &["restore", "commit", "search", "--roll-back"],
        &["restore", "commit", "search", "--keep", "other"],
        &["restore", "abort", "search"],
        &["restore", "roll-back", "data", "--at", &first],
        &["block", "restore", "data", "--block", "7", "--at", &first],
        &["volume", "rename", "data", "other"],
        &["volume", "delete", "data"],
    ] {
        let text = appliance.refused(arguments);
        assert!(text.contains("in use") && text.contains("--force"), "{arguments:?}: {text}");
    }
    assert_eq!(appliance.newest_lsn(), head, "no command has changed a volume");
    appliance.rpc("restore_judge", json!({"name": "search", "verdict": "bad"})).expect("judged");
    appliance
        .rpc("restore_judge", json!({"name": "search", "verdict": "good", "at": first}))
        .expect("judged");
    let text = appliance.refused(&["restore", "bisect", "search"]);
    assert!(text.contains("in use") && text.contains("--force"), "{text}");
    // Nothing has changed, and both hosts go on.
    let after = appliance.rpc("restore_status", json!({"name": "search"})).expect("a session");
    assert_eq!(after[0]["at"], before[0]["at"]);
    assert_eq!((read(&mut clone, 7), read(&mut queue, 7)), (3, 5));
    assert_eq!(appliance.rpc("snapshot_list", json!({})).expect("a list"), json!([]));
    // Once they are gone, the same is done.
    drop((of_clone, clone, controller, queue));
    run_when_gone(&appliance, &["restore", "step", "search", "-1"]);
    let (of_clone, mut clone, _) = connect(&appliance, "search");
    assert_eq!(read(&mut clone, 7), 2);
    drop((of_clone, clone));
    run_when_gone(&appliance, &["restore", "commit", "search", "--roll-back"]);
    let (_controller, mut queue, _) = connect(&appliance, "data");
    assert_eq!(read(&mut queue, 7), 2);
}

/// Runs a command once the appliance has noticed that the hosts have gone.
fn run_when_gone(appliance: &Appliance, arguments: &[&str]) {
    wait_for("the hosts are gone", || appliance.command(arguments).is_ok());
}

#[test]
fn a_forced_step_and_roll_back_are_seen_at_once() {
    let appliance = start();
    let (mut controller, mut queue, _) = connect(&appliance, "data");
    let points = history(&appliance, &mut queue, &[1, 2, 3]);
    let (second, large_bytes) =
        (format!("lsn:{}", points[1]), (2 * VOLUME_BLOCKS * BLOCK_BYTES as u64).to_string());
    appliance.run(&["volume", "resize", "data", &large_bytes]);
    assert_eq!(told_of_size(&mut controller), 2 * VOLUME_BLOCKS);
    write(&mut queue, 7, 4);
    appliance.run(&["restore", "open", "data", "--at", "now", "--name", "search"]);
    let (mut of_clone, mut clone, _) = connect(&appliance, "search");
    assert_eq!((read(&mut clone, 7), size_blocks(&mut of_clone)), (4, 2 * VOLUME_BLOCKS));
    // The step goes back over the change of the size too.
    appliance.run(&["restore", "step", "search", "--to", &second, "--force"]);
    assert_eq!(told_of_size(&mut of_clone), VOLUME_BLOCKS);
    assert_eq!(read(&mut clone, 7), 2);
    appliance.run(&["restore", "roll-back", "data", "--at", &second, "--force"]);
    assert_eq!(told_of_size(&mut controller), VOLUME_BLOCKS);
    assert_eq!(read(&mut queue, 7), 2);
    let beyond = queue.read(VOLUME_BLOCKS, &mut vec![0; BLOCK_BYTES]);
    assert!(beyond.is_err(), "it is behind the end");
    // The host goes on from there, and the roll-back can be undone below it.
    write(&mut queue, 8, 9);
    let snapshots = appliance.rpc("snapshot_list", json!({})).expect("a list");
    let name = snapshots[0]["name"].as_str().expect("a name");
    appliance.run(&["restore", "roll-back", "data", "--at", &format!("snapshot:{name}"), "--force"]);
    assert_eq!(told_of_size(&mut controller), 2 * VOLUME_BLOCKS);
    assert_eq!((read(&mut queue, 7), read(&mut queue, 8)), (4, 0));
}

/// Waits until a host is told that its namespace has changed; the blocks that it then has.
fn told_of_size(controller: &mut Controller) -> u64 {
    let event = controller.next_event(PATIENCE).expect("the connection stands");
    assert_eq!(event, Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED));
    // Reading the list of changed namespaces lets the next event come.
    controller.log_page(4, u32::MAX, 4096).expect("the list of changed namespaces");
    size_blocks(controller)
}
