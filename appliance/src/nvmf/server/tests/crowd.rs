//! More hosts than there is room for, and hosts that vanish and come back: who gives way to whom.

use std::net::TcpStream;
use std::time::Duration;

use zerocopy::IntoBytes;

use super::malformed::RawAssociation;
use super::{BLOCK, LIMIT, Served};
use crate::nvmf::host::{ConnectOptions, Controller, HostError, RawConnection};
use crate::nvmf::nqn;
use crate::nvmf::server::TargetConfig;
use crate::nvmf::server::memory::Behavior;
use crate::nvmf::wire::command::Rw;
use crate::nvmf::wire::fabrics::{CONTROLLER_ID_DYNAMIC, Connect, ConnectData};
use crate::nvmf::wire::opcode::IoOpcode;
use crate::nvmf::wire::pdu::{CapsuleResp, Digests, PduType};
use crate::nvmf::wire::property::{Cc, Csts, Property};
use crate::nvmf::wire::sgl::SglDescriptor;
use crate::nvmf::wire::status::Status;

/// Longer than the silence that [`crowded`] allows.
const SILENCE: Duration = Duration::from_millis(700);

/// A target whose volumes have three controllers, and where half a second without traffic is
/// silence.
fn crowded() -> Served {
    let config = TargetConfig {
        controllers_per_subsystem_max: 3,
        silent_after: Duration::from_millis(500),
        ..TargetConfig::default()
    };
    Served::with_config(config, 16 << 20)
}

/// Options of a host without a keep alive timeout, and with one connection for each controller.
fn forgetful() -> ConnectOptions {
    ConnectOptions { keep_alive_timeout_ms: 0, io_queues: 0, ..ConnectOptions::default() }
}

fn try_connect(served: &Served, host: &ConnectOptions) -> Result<Controller, Status> {
    match Controller::connect(served.address, &nqn::of_volume("one"), host.clone()) {
        Ok(controller) => Ok(controller),
        Err(HostError::Status { status, .. }) => Err(status.code_only()),
        Err(other) => panic!("{other:?}"),
    }
}

/// Connects an admin queue under exactly this name, and returns the answer's status.
fn connect_as(served: &Served, host_nqn: &str) -> (RawConnection, Status) {
    let mut raw = RawConnection::connect(served.address, LIMIT).expect("it connects");
    raw.initialize(Digests::default()).expect("it initializes");
    let mut command = Connect::new(0, 32, 0);
    command.sgl = SglDescriptor::in_capsule(1024);
    let data = ConnectData::new([7; 16], CONTROLLER_ID_DYNAMIC, &nqn::of_volume("one"), host_nqn);
    raw.send_command(command.into(), data.expect("a short name").as_bytes(), Digests::default())
        .expect("sent");
    let answer = raw.read_pdu().expect("an answer");
    let status = answer.view::<CapsuleResp>().expect("a response").cqe.status().code_only();
    (raw, status)
}

#[test]
fn connections_without_a_queue_give_way_the_oldest_first() {
    let config = TargetConfig { connections_max: 4, ..TargetConfig::default() };
    let served = Served::with_config(config, 16 << 20);
    let working = served.connect(forgetful());
    let mut half_open: Vec<RawConnection> = (1..4_u64)
        .map(|count| {
            let raw = RawConnection::connect(served.address, LIMIT).expect("it connects");
            served.await_that("it is accepted", move |state| state.target.stats().connections == 1 + count);
            raw
        })
        .collect();
    half_open[1].initialize(Digests::default()).expect("one is a step further");
    // A flood of hosts. None of them waits until the time for connecting a queue is over.
    let second = served.connect(forgetful());
    assert!(half_open.remove(0).read_until_closed().expect("the oldest is closed").is_empty());
    let third = served.connect(forgetful());
    assert!(half_open.remove(0).read_until_closed().expect("the next is closed").is_empty());
    let fourth = served.connect(forgetful());
    assert!(half_open.remove(0).read_until_closed().expect("and the last").is_empty());
    let stats = served.with(|state| state.target.stats());
    assert_eq!((stats.connections, stats.connections_evicted), (4, 3));
    // All have a queue: the next one waits until one leaves.
    let address = served.address;
    let waiting = std::thread::spawn(move || {
        Controller::connect(address, &nqn::of_volume("one"), forgetful()).expect("it is its turn")
    });
    std::thread::sleep(Duration::from_millis(300));
    assert!(!waiting.is_finished());
    drop(working);
    let fifth = waiting.join().expect("no panic");
    assert_eq!(served.with(|state| state.target.stats().connections_evicted), 3);
    drop((second, third, fourth, fifth));
    served.finish();
}

#[test]
fn a_flood_of_half_open_connections_shuts_no_host_out() {
    let config = TargetConfig { connections_max: 64, ..TargetConfig::default() };
    let served = Served::with_config(config, 16 << 20);
    let flood: Vec<TcpStream> =
        (0..150).map(|_| TcpStream::connect(served.address).expect("it connects")).collect();
    let start = std::time::Instant::now();
    let (controller, mut queue) = served.open(ConnectOptions::default());
    queue.read(0, &mut [0; BLOCK]).expect("it is read");
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    drop((flood, controller, queue));
    served.finish();
}

#[test]
fn a_silent_controller_of_the_same_host_gives_way() {
    let served = crowded();
    let host = forgetful();
    let mut old: Vec<Controller> = (0..3).map(|_| served.connect(host.clone())).collect();
    let early = try_connect(&served, &host).map(|_| ());
    assert_eq!(early, Err(Status::CONTROLLER_BUSY), "none of them is silent yet");
    std::thread::sleep(SILENCE);
    for controller in &mut old[1..] {
        controller.keep_alive().expect("it lives");
    }
    let new = try_connect(&served, &host).expect("the silent one gives way");
    assert!(old[0].keep_alive().is_err());
    for controller in &mut old[1..] {
        controller.keep_alive().expect("who speaks stays");
    }
    drop((old, new));
    served.finish();
}

#[test]
fn one_host_does_not_keep_all_controllers_from_the_others() {
    let served = crowded();
    let greedy = forgetful();
    let mut theirs: Vec<Controller> = (0..3).map(|_| served.connect(greedy.clone())).collect();
    assert_eq!(try_connect(&served, &forgetful()).map(|_| ()), Err(Status::CONTROLLER_BUSY));
    std::thread::sleep(SILENCE);
    let others = [(); 2].map(|()| try_connect(&served, &forgetful()).expect("one of theirs gives way"));
    assert_eq!(theirs.iter_mut().filter_map(|one| one.keep_alive().ok()).count(), 1);
    std::thread::sleep(SILENCE);
    let late = try_connect(&served, &forgetful()).map(|_| ());
    assert_eq!(late, Err(Status::CONTROLLER_BUSY), "each has one, silent or not");
    drop((theirs, others));
    served.finish();
}

#[test]
fn a_controller_that_nobody_enabled_gives_way() {
    let served = crowded();
    let mut held: Vec<RawConnection> = (0..3)
        .map(|number| {
            let (raw, status) = connect_as(&served, &format!("nqn.2026-11.test:{number}"));
            assert_eq!(status, Status::SUCCESS);
            raw
        })
        .collect();
    std::thread::sleep(SILENCE);
    let controller = try_connect(&served, &forgetful()).expect("one gives way");
    assert!(held.remove(0).read_until_closed().expect("the oldest is closed").is_empty());
    drop((held, controller));
    served.finish();
}

#[test]
fn a_queue_can_be_connected_anew_as_soon_as_its_connection_is_closed() {
    let served = Served::start();
    let (mut controller, mut queue) = served.open(ConnectOptions::default());
    for _ in 0..200 {
        let geometry = queue.geometry();
        drop(queue);
        queue = controller.connect_io_queue(1).expect("the one before is closed");
        queue.set_geometry(geometry);
    }
    queue.read(0, &mut [0; BLOCK]).expect("it is read");
    drop((controller, queue));
    served.finish();
}

#[test]
fn host_names_may_be_empty_but_not_steer_a_terminal() {
    let served = Served::start();
    let held = ["", "nqn.2014-08.org.nvmexpress:uuid:1"].map(|name| {
        let (raw, status) = connect_as(&served, name);
        assert_eq!(status, Status::SUCCESS, "{name:?}");
        raw
    });
    for name in ["nqn.a\u{1b}[2J", "nqn.a\nnqn.b", "nqn.a\u{7f}", "nqn.a\u{9b}1m", "host"] {
        assert_eq!(connect_as(&served, name).1, Status::CONNECT_INVALID_PARAMETERS, "{name:?}");
    }
    drop(held);
    served.finish();
}

#[test]
fn ready_falls_when_the_storage_is_done() {
    let served = Served::start();
    let (mut controller, mut queue) = served.open(ConnectOptions::default());
    let is_ready = |controller: &mut Controller| {
        Csts(controller.property(Property::Status).expect("a property") as u32).ready() == 1
    };
    served.behave(Behavior { hold: true, ..Behavior::default() });
    queue.submit_write(0, &[9; BLOCK], false, 1).expect("room");
    queue.send().expect("sent");
    served.await_that("the storage has it", |state| {
        state.target.queue_pairs().iter().any(|pair| pair.queue_id == 1 && pair.outstanding == 1)
    });
    controller.set_property(Property::Configuration, 0).expect("a property");
    served.await_that("the I/O queue stays", |state| state.target.stats().connections == 1);
    std::thread::sleep(Duration::from_millis(200));
    assert!(is_ready(&mut controller), "the write can still take effect");
    served.behave(Behavior::default());
    let start = std::time::Instant::now();
    while is_ready(&mut controller) {
        assert!(start.elapsed() < LIMIT, "it stays ready");
    }
    controller.set_property(Property::Configuration, Cc::enabled().0.into()).expect("a property");
    assert!(is_ready(&mut controller));
    drop((controller, queue));
    served.finish();
}

#[test]
fn nothing_follows_a_termination_request() {
    let served = Served::start();
    let mut raw = RawAssociation::new(&served, Digests::default());
    served.behave(Behavior { hold: true, ..Behavior::default() });
    for command_id in 1..4 {
        let mut command = Rw::new(IoOpcode::Read, 1, 0, 1);
        command.command_id.set(command_id);
        command.sgl = SglDescriptor::transport(BLOCK as u32);
        raw.send(command.into(), &[]);
    }
    served.await_that("the storage has them", |state| {
        state.target.queue_pairs().iter().any(|pair| pair.queue_id == 1 && pair.outstanding == 3)
    });
    raw.io.send_bytes(&[0x7f; 64]).expect("sent");
    let first = raw.io.read_pdu().expect("an answer");
    assert_eq!(first.header.pdu_type, PduType::C2hTermReq as u8);
    // The reads end while the connection waits for its host to close.
    served.behave(Behavior::default());
    assert!(raw.io.read_until_closed().expect("it is closed").is_empty());
    drop(raw);
    served.finish();
}

#[test]
fn commands_use_sgls_and_say_so() {
    let served = Served::start();
    let mut raw = RawAssociation::new(&served, Digests::default());
    for (flags, expected) in [
        (0b0000_0000, Status::INVALID_FIELD),
        (0b1000_0000, Status::INVALID_FIELD),
        (0b1100_0000, Status::INVALID_FIELD),
        (0b0100_0001, Status::INVALID_FIELD),
        (0b0100_0000, Status::SUCCESS),
    ] {
        let mut command = Rw::new(IoOpcode::Flush, 1, 0, 1);
        command.flags = flags;
        raw.send(command.into(), &[]);
        let answer = raw.io.read_pdu().expect("an answer");
        let status = answer.view::<CapsuleResp>().expect("a response").cqe.status();
        assert_eq!(status.code_only(), expected, "{flags:#b}");
        assert_eq!(status.is_do_not_retry(), expected != Status::SUCCESS);
    }
    drop(raw);
    served.finish();
}
