//! The pool's shape, changed with the real program while a real host writes: the working set shorter and longer, and a file that was made larger.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use varve::nvmf::host::{ConnectOptions, Controller, Namespace, Queue};
use varve::nvmf::nqn;
use varve_tests::appliance::{Appliance, ApplianceConfig};

const BLOCK_BYTES: usize = 4096;
/// Blocks of one write.
const WRITE_BLOCKS: u64 = 32;
const VOLUME_BLOCKS: u64 = 2048;
/// How long the appliance may take for what it does by itself.
const PATIENCE: Duration = Duration::from_mins(2);

fn connect(appliance: &Appliance) -> (Controller, Queue) {
    let address: SocketAddr = ([127, 0, 0, 1], appliance.port()).into();
    let options = ConnectOptions { keep_alive_timeout_ms: 0, ..ConnectOptions::default() };
    let mut controller =
        Controller::connect(address, &nqn::of_volume("vol0"), options).expect("a host connects");
    let geometry = controller.namespaces().expect("it identifies").first().map(Namespace::geometry);
    let mut queue = controller.take_queues().pop().expect("an I/O queue");
    queue.set_geometry(geometry.expect("a namespace"));
    (controller, queue)
}

/// Writes the whole volume, each byte with the round's number.
fn write_round(queue: &mut Queue, round: u8) {
    let data = vec![round; WRITE_BLOCKS as usize * BLOCK_BYTES];
    for first in (0..VOLUME_BLOCKS).step_by(WRITE_BLOCKS as usize) {
        queue.write(first, &data).expect("written");
    }
}

fn check_round(queue: &mut Queue, round: u8) {
    let mut data = vec![0; WRITE_BLOCKS as usize * BLOCK_BYTES];
    for first in (0..VOLUME_BLOCKS).step_by(WRITE_BLOCKS as usize) {
        queue.read(first, &mut data).expect("read");
        assert!(data.iter().all(|&byte| byte == round), "block {first} is not that of round {round}");
    }
}

fn pool(appliance: &Appliance) -> Value {
    appliance.rpc("pool_list", Value::Null).expect("it answers")[0].clone()
}

#[test]
fn the_shape_changes_while_a_host_writes() {
    let arguments = ["--pool-size", "40MiB", "--volume-size", "8MiB", "--no-archive"];
    let mut appliance = Appliance::start(&ApplianceConfig::with_arguments(&arguments)).expect("it starts");
    let (controller, mut queue) = connect(&appliance);
    for round in 1..=6 {
        write_round(&mut queue, round);
    }
    let before = pool(&appliance);
    let (slots, longest) = (before["slots"].as_u64(), before["working_set_segments"].as_u64());
    let (slots, longest) = (slots.expect("a count"), longest.expect("a length"));
    assert_eq!((before["device_slots"].as_u64(), longest), (Some(slots), slots - 4), "{before}");

    let refused = appliance.command(&["pool", "set-working-set", "3"]).expect_err("vol0 does not fit");
    assert!(refused.to_string().contains("need 8 MiB"), "{refused}");
    let refused = appliance.command(&["pool", "grow"]).expect_err("the file has the old size");
    assert!(refused.to_string().contains("enlarge the device"), "{refused}");

    let shorter = longest - 8;
    appliance.rpc("pool_set_working_set", json!({"segments": shorter})).expect("it drains");
    let began = Instant::now();
    let mut round = 6;
    while pool(&appliance)["working_set_segments"] != shorter {
        round = 7 + round % 200;
        write_round(&mut queue, round);
        assert!(began.elapsed() < PATIENCE, "{}", pool(&appliance));
    }
    check_round(&mut queue, round);
    drop((controller, queue));

    appliance.stop().expect("it stops cleanly");
    let file = std::fs::OpenOptions::new().write(true).open(appliance.pool_folder().join("pool.varve"));
    file.expect("the pool's file").set_len(60 << 20).expect("it becomes larger");
    appliance.restart().expect("it starts again");
    let now = pool(&appliance);
    assert_eq!(
        (now["working_set_segments"].as_u64(), now["slots"].as_u64(), now["device_slots"].as_u64()),
        (Some(shorter), Some(slots), Some(slots + 20)),
        "{now}"
    );
    let shown = appliance.command(&["pool", "info"]).expect("it is shown");
    assert!(shown.contains(&format!("room for {}", slots + 20)), "{shown}");
    let grown = appliance.command(&["pool", "grow"]).expect("it grows");
    assert!(grown.contains(&format!("{} slots", slots + 20)), "{grown}");
    let longer = longest + 16;
    let shown =
        appliance.command(&["pool", "set-working-set", &longer.to_string()]).expect("it becomes longer");
    assert!(shown.contains(&format!("{longer} segments")), "{shown}");
    let (controller, mut queue) = connect(&appliance);
    check_round(&mut queue, round);
    for round in 1..=9 {
        write_round(&mut queue, round);
    }
    drop((controller, queue));
    appliance.kill_9();
    appliance.restart().expect("it starts again");
    let now = pool(&appliance);
    assert_eq!(
        (now["working_set_segments"].as_u64(), now["slots"].as_u64()),
        (Some(longer), Some(slots + 20))
    );
    let (_controller, mut queue) = connect(&appliance);
    check_round(&mut queue, 9);
    appliance.stop().expect("it stops cleanly");
}
