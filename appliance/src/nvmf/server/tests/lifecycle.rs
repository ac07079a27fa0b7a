//! Associations: connecting, refusals, resets, keep alive, abrupt ends, and volumes that change or
//! are deleted.

use std::time::Duration;

use zerocopy::IntoBytes;

use super::{BLOCK, LIMIT, Served, pattern};
use crate::nvmf::host::{
    ConnectOptions, Controller, HostError, Payload, Queue, QueueOptions, RawConnection, Wait,
};
use crate::nvmf::nqn;
use crate::nvmf::server::TargetConfig;
use crate::nvmf::server::memory::Behavior;
use crate::nvmf::wire::command::{Cns, Identify, Sqe};
use crate::nvmf::wire::fabrics::{
    CONTROLLER_ID_DYNAMIC, CONTROLLER_ID_STATIC, Connect, ConnectData, Disconnect, PropertySet,
    connect_attribute, connect_invalid_parameter,
};
use crate::nvmf::wire::feature::AsyncEvent;
use crate::nvmf::wire::log_page::{ChangedNamespaces, LogPageId};
use crate::nvmf::wire::opcode::AdminOpcode;
use crate::nvmf::wire::pdu::{C2hData, CapsuleResp, Digests, PduType, flags};
use crate::nvmf::wire::property::{Cc, Csts, Property};
use crate::nvmf::wire::sgl::SglDescriptor;
use crate::nvmf::wire::status::Status;

fn quick(keep_alive_timeout_ms: u32) -> ConnectOptions {
    ConnectOptions { keep_alive_timeout_ms, ..ConnectOptions::default() }
}

/// A connection that has only been initialized.
fn bare_queue(served: &Served, queue_id: u16) -> Queue {
    let options = QueueOptions {
        queue_id,
        depth: 31,
        transfer_bytes_max: 4096,
        in_capsule_bytes_max: 8192,
        digests: Digests::default(),
        timeout: LIMIT,
    };
    Queue::open(served.address, options).expect("it initializes")
}

fn connect_data(controller_id: u16, subsystem: &str, options: &ConnectOptions) -> ConnectData {
    ConnectData::new(options.host_id, controller_id, subsystem, &options.host_nqn).expect("short names")
}

fn connect(queue: &mut Queue, command: Connect, data: &ConnectData) -> (Status, u64) {
    let (status, result) = queue
        .execute_with(command.into(), Payload::Write(data.as_bytes()), &mut [], |_| {})
        .expect("the connection lives");
    (status.code_only(), result)
}

#[test]
fn connect_is_refused_with_the_reason() {
    let served = Served::start();
    let one = nqn::of_volume("one");
    let host = ConnectOptions::default();
    let good = connect_data(CONTROLLER_ID_DYNAMIC, &one, &host);
    let invalid =
        |offset, in_data| (Status::CONNECT_INVALID_PARAMETERS, connect_invalid_parameter(offset, in_data));
    let mut queue = bare_queue(&served, 0);
    let mut refused = |command: Connect, data: &ConnectData| connect(&mut queue, command, data);

    let unknown = connect_data(CONTROLLER_ID_DYNAMIC, &nqn::of_volume("none"), &host);
    assert_eq!(refused(Connect::new(0, 32, 0), &unknown), invalid(256, true));
    let fixed = connect_data(CONTROLLER_ID_STATIC, &one, &host);
    assert_eq!(refused(Connect::new(0, 32, 0), &fixed), invalid(16, true));
    assert_eq!(refused(Connect::new(0, 1, 0), &good), invalid(44, false));
    assert_eq!(refused(Connect::new(0, 60_000, 0), &good), invalid(44, false));
    let mut nameless = good;
    nameless.host_nqn.fill(b'x');
    assert_eq!(refused(Connect::new(0, 32, 0), &nameless), invalid(512, true));
    let mut format = Connect::new(0, 32, 0);
    format.record_format.set(1);
    assert_eq!(refused(format, &good).0, Status::INCOMPATIBLE_FORMAT);
    // An I/O queue of a controller that does not exist, and of the discovery subsystem.
    assert_eq!(refused(Connect::new(1, 32, 0), &connect_data(77, &one, &host)), invalid(16, true));
    let discovery = connect_data(1, crate::nvmf::wire::fabrics::DISCOVERY_NQN, &host);
    assert_eq!(refused(Connect::new(1, 32, 0), &discovery), invalid(42, false));
    // Any other command before Connect.
    let early = queue.execute_with(Sqe::admin(AdminOpcode::KeepAlive), Payload::None, &mut [], |_| {});
    assert_eq!(early.expect("the connection lives").0.code_only(), Status::COMMAND_SEQUENCE_ERROR);
    // After all that it can still be connected, once.
    let (status, result) = connect(&mut queue, Connect::new(0, 32, 0), &good);
    assert_eq!(status, Status::SUCCESS);
    let id = result as u16;
    assert_eq!(connect(&mut queue, Connect::new(0, 32, 0), &good).0, Status::COMMAND_SEQUENCE_ERROR);
    let mut io = bare_queue(&served, 1);
    let data = connect_data(id, &one, &host);
    assert_eq!(connect(&mut io, Connect::new(1, 32, 0), &data).0, Status::COMMAND_SEQUENCE_ERROR);
    // Admin commands need CC.EN.
    let command = Identify::new(Cns::Controller, 0);
    let early = queue.execute_with(command.into(), Payload::Read(4096), &mut [], |_| {});
    assert_eq!(early.expect("the connection lives").0.code_only(), Status::COMMAND_SEQUENCE_ERROR);
    drop((queue, io));
    served.finish();
}

#[test]
fn an_io_queue_must_fit_its_association() {
    let served = Served::start();
    let options = ConnectOptions { io_queues: 2, ..ConnectOptions::default() };
    let controller = served.connect(options.clone());
    let one = nqn::of_volume("one");
    let id = controller.controller_id();
    let good = connect_data(id, &one, &options);
    let mut queue = bare_queue(&served, 1);
    let invalid =
        |offset, in_data| (Status::CONNECT_INVALID_PARAMETERS, connect_invalid_parameter(offset, in_data));
    let stranger = ConnectOptions { host_id: options.host_id, ..ConnectOptions::default() };
    assert_eq!(
        connect(&mut queue, Connect::new(1, 32, 0), &connect_data(id, &one, &stranger)),
        invalid(512, true)
    );
    let stranger = ConnectOptions { host_id: [9; 16], ..options.clone() };
    assert_eq!(
        connect(&mut queue, Connect::new(1, 32, 0), &connect_data(id, &one, &stranger)),
        invalid(0, true)
    );
    let elsewhere = connect_data(id, &nqn::of_volume("fixed"), &options);
    assert_eq!(connect(&mut queue, Connect::new(1, 32, 0), &elsewhere), invalid(16, true));
    // Beyond the granted number, and the same again.
    assert_eq!(connect(&mut queue, Connect::new(3, 32, 0), &good), invalid(42, false));
    assert_eq!(connect(&mut queue, Connect::new(1, 32, 0), &good).0, Status::COMMAND_SEQUENCE_ERROR);
    drop((queue, controller));
    served.finish();
}

#[test]
fn the_end_of_the_admin_connection_ends_the_io_queues() {
    let served = Served::start();
    let (controller, mut queue) = served.open(ConnectOptions::default());
    drop(controller);
    served.await_that("the I/O queue stays", |state| state.target.stats().connections == 0);
    assert!(queue.read(0, &mut [0; BLOCK]).is_err());
    served.finish();
}

#[test]
fn abrupt_ends_in_the_middle_of_everything_leave_nothing_behind() {
    let served = Served::start();
    served.behave(Behavior { delay_polls: 50, ..Behavior::default() });
    for round in 0..20_u64 {
        let deep =
            ConnectOptions { queue_depth: 64, transfer_bytes_max: 512 * 1024, ..ConnectOptions::default() };
        let (controller, mut queue) = served.open(deep);
        let data = pattern(round, 100 * BLOCK);
        for tag in 0..10 {
            queue.submit_write(tag * 128, &data, false, tag).expect("room");
            queue.submit_read(tag * 128, 128, 100 + tag).expect("room");
        }
        let _ = queue.poll(Wait::Block(Duration::from_millis(round % 4)), |_| {});
        if round % 2 == 0 {
            queue.abandon();
            drop(controller);
        } else {
            drop((controller, queue));
        }
    }
    served.finish();
}

#[test]
fn asilent_host_is_dropped_and_one_that_speaks_is_not() {
    let served = Served::start();
    let (silent, silent_queue) = served.open(quick(1000));
    let (mut admin_traffic, admin_queue) = served.open(quick(1000));
    // Traffic on an I/O queue counts too (TBKAS).
    let (io_traffic, mut io_queue) = served.open(quick(1000));
    let (mut unlimited, unlimited_queue) = served.open(quick(0));
    for _ in 0..25 {
        admin_traffic.keep_alive().expect("it lives");
        io_queue.flush().expect("it lives");
        std::thread::sleep(Duration::from_millis(100));
    }
    let (expiries, connections) = served.with(|state| {
        let stats = state.target.stats();
        (stats.keep_alive_expiries, stats.connections)
    });
    assert_eq!((expiries, connections), (1, 6));
    unlimited.keep_alive().expect("it lives");
    drop((
        silent,
        silent_queue,
        admin_traffic,
        admin_queue,
        io_traffic,
        io_queue,
        unlimited,
        unlimited_queue,
    ));
    served.finish();
}

#[test]
fn who_does_not_initialize_or_connect_is_closed() {
    let config = TargetConfig { connect_timeout: Duration::from_millis(300), ..TargetConfig::default() };
    let served = Served::with_config(config, 16 << 20);
    let mut mute = RawConnection::connect(served.address, LIMIT).expect("it connects");
    let mut slow = RawConnection::connect(served.address, LIMIT).expect("it connects");
    slow.initialize(Digests::default()).expect("it initializes");
    assert!(mute.read_until_closed().expect("it is closed").is_empty());
    assert!(slow.read_until_closed().expect("it is closed").is_empty());
    served.finish();
}

#[test]
fn a_reset_ends_the_io_queues_and_the_controller_can_be_enabled_again() {
    let served = Served::start();
    let (mut controller, mut queue) = served.open(ConnectOptions::default());
    queue.read(0, &mut [0; BLOCK]).expect("it is read");
    controller.set_property(Property::Configuration, 0).expect("a property");
    served.await_that("the I/O queue stays", |state| state.target.stats().connections == 1);
    assert_eq!(Csts(controller.property(Property::Status).expect("a property") as u32).ready(), 0);
    assert!(queue.read(0, &mut [0; BLOCK]).is_err());
    controller.set_property(Property::Configuration, Cc::enabled().0.into()).expect("a property");
    let mut queue = controller.connect_io_queue(1).expect("it connects again");
    let geometry = controller.namespaces().expect("it lists").remove(0).geometry();
    queue.set_geometry(geometry);
    queue.read(0, &mut [0; BLOCK]).expect("it is read");
    drop((queue, controller));
    served.finish();
}

#[test]
fn a_shutdown_flushes_a_volatile_cache_first() {
    let served = Served::start();
    let flushes = |served: &Served| served.with(|state| state.storage.flushes());
    served.connect(ConnectOptions::default()).shutdown().expect("it shuts down");
    assert_eq!(flushes(&served), 0);
    served.behave(Behavior { volatile_cache: true, ..Behavior::default() });
    served.connect(ConnectOptions::default()).shutdown().expect("it shuts down");
    assert_eq!(flushes(&served), 1);
    // Busy until the flush is done, also when the storage has no room for it at first.
    let mut controller = served.connect(ConnectOptions::default());
    served.behave(Behavior { volatile_cache: true, busy: 1, busy_of: 1, ..Behavior::default() });
    let shutdown = Cc::enabled().with_shutdown(Cc::SHUTDOWN_NORMAL);
    controller.set_property(Property::Configuration, shutdown.0.into()).expect("a property");
    let status = Csts(controller.property(Property::Status).expect("a property") as u32);
    assert_eq!(status.shutdown_status(), Csts::SHUTDOWN_BUSY);
    served.behave(Behavior { volatile_cache: true, ..Behavior::default() });
    let start = std::time::Instant::now();
    while Csts(controller.property(Property::Status).expect("a property") as u32).shutdown_status()
        != Csts::SHUTDOWN_COMPLETE
    {
        assert!(start.elapsed() < LIMIT, "the shutdown stays busy");
    }
    assert_eq!(flushes(&served), 2);
    drop(controller);
    served.finish();
}

#[test]
fn disconnect_ends_one_io_queue() {
    let served = Served::start();
    let (mut controller, mut queue) = served.open(ConnectOptions::default());
    let command = Disconnect::new();
    queue.execute("Disconnect", command.into(), Payload::None, &mut []).expect("it is answered");
    served.await_that("the I/O queue stays", |state| state.target.stats().connections == 1);
    let (status, _) = controller.admin(command.into(), Payload::None, &mut []).expect("the connection lives");
    assert_eq!(status.code_only(), Status::INVALID_QUEUE_TYPE);
    let queue = controller.connect_io_queue(1).expect("the identifier is free again");
    drop((queue, controller));
    served.finish();
}

#[test]
fn a_resize_is_told_once_until_its_log_page_is_read() {
    let served = Served::start();
    let (mut controller, queue) = served.open(ConnectOptions::default());
    let id = served.volume("one");
    for (round, blocks) in [5000_u64, 6000].into_iter().enumerate() {
        served.with(move |state| state.storage.resize(id, blocks * BLOCK as u64));
        let event = controller.next_event(LIMIT).expect("the connection lives");
        assert_eq!(event, Some(AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED), "round {round}");
        // Held back: the page has not been read.
        served.with(move |state| state.storage.resize(id, (blocks + 1) * BLOCK as u64));
        assert_eq!(controller.next_event(Duration::from_millis(100)).expect("the connection lives"), None);
        let page = controller.log_page(LogPageId::ChangedNamespaces.into(), 0, 4096).expect("the page");
        assert_eq!(page[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(page.len(), size_of::<ChangedNamespaces>());
        let again = controller.log_page(LogPageId::ChangedNamespaces.into(), 0, 4096).expect("the page");
        assert!(again.iter().all(|byte| *byte == 0));
        let namespace = controller.namespace(1).expect("it identifies");
        assert_eq!(namespace.size_blocks, blocks + 1);
    }
    drop((controller, queue));
    served.finish();
}

#[test]
fn a_deleted_volume_fails_for_good_and_its_subsystem_goes() {
    let served = Served::start();
    let (mut controller, mut queue) = served.open(ConnectOptions::default());
    let id = served.volume("one");
    served.with(move |state| state.storage.delete(id));
    match queue.read(0, &mut [0; BLOCK]) {
        Err(HostError::Status { status, .. }) => {
            assert_eq!(status.code_only(), Status::INVALID_NAMESPACE);
            assert!(status.is_do_not_retry());
        }
        other => panic!("{other:?}"),
    }
    // A host that lists the namespaces now finds none, before its connections end.
    assert!(controller.namespaces().expect("it lists").is_empty());
    assert!(controller.namespace(1).is_err());
    served.await_that("connections stay", |state| state.target.stats().connections == 0);
    let refused = Controller::connect(served.address, &nqn::of_volume("one"), ConnectOptions::default());
    match refused {
        Err(HostError::Status { status, .. }) => {
            assert_eq!(status.code_only(), Status::CONNECT_INVALID_PARAMETERS);
            assert!(status.is_do_not_retry());
        }
        other => panic!("{other:?}"),
    }
    drop((queue, controller));
    served.finish();
}

#[test]
fn keep_alive_is_answered_while_the_storage_stands_still() {
    let served = Served::start();
    let (mut controller, mut queue) = served.open(quick(1000));
    served.behave(Behavior { busy: 1, busy_of: 1, ..Behavior::default() });
    queue.submit_read(0, 1, 1).expect("room");
    queue.send().expect("the connection lives");
    for _ in 0..15 {
        controller.keep_alive().expect("it is answered");
        std::thread::sleep(Duration::from_millis(100));
    }
    served.behave(Behavior::default());
    let mut status = None;
    while status.is_none() {
        queue
            .poll(Wait::Block(LIMIT), |completion| status = Some(completion.status))
            .expect("the connection lives");
    }
    assert_eq!(status, Some(Status::SUCCESS));
    drop((queue, controller));
    served.finish();
}

#[test]
fn too_many_controllers_are_refused() {
    let config = TargetConfig { controllers_per_subsystem_max: 2, ..TargetConfig::default() };
    let served = Served::with_config(config, 16 << 20);
    let first = served.connect(ConnectOptions::default());
    let second = served.connect(ConnectOptions::default());
    match Controller::connect(served.address, &nqn::of_volume("one"), ConnectOptions::default()) {
        Err(HostError::Status { status, .. }) => assert_eq!(status.code_only(), Status::CONTROLLER_BUSY),
        other => panic!("{other:?}"),
    }
    served.await_that("connections", |state| state.target.stats().connections == 4);
    drop((first, second));
    served.finish();
}

/// Without SQ flow control a read ends with the SUCCESS flag; with it, with a response.
#[test]
fn the_success_flag_replaces_the_response_only_without_flow_control() {
    let served = Served::start();
    for no_flow_control in [false, true] {
        let host = ConnectOptions::default();
        let mut raw = RawConnection::connect(served.address, LIMIT).expect("it connects");
        raw.initialize(Digests::default()).expect("it initializes");
        let mut command = Connect::new(0, 32, 0);
        command.sgl = SglDescriptor::in_capsule(1024);
        if no_flow_control {
            command.attributes = connect_attribute::NO_FLOW_CONTROL;
        }
        let data = connect_data(CONTROLLER_ID_DYNAMIC, &nqn::of_volume("one"), &host);
        raw.send_command(command.into(), data.as_bytes(), Digests::default()).expect("sent");
        let answer = raw.read_pdu().expect("an answer");
        let head = answer.view::<CapsuleResp>().expect("a response").cqe.sq_head.get();
        assert_eq!(head, if no_flow_control { 0xFFFF } else { 1 });
        let enable = PropertySet::new(Property::Configuration, Cc::enabled().0.into());
        raw.send_command(enable.into(), &[], Digests::default()).expect("sent");
        raw.read_pdu().expect("an answer");
        let mut identify = Identify::new(Cns::Controller, 0);
        identify.sgl = SglDescriptor::transport(4096);
        raw.send_command(identify.into(), &[], Digests::default()).expect("sent");
        let data = raw.read_pdu().expect("data");
        let header = data.view::<C2hData>().expect("a data PDU");
        assert_eq!(header.data_bytes.get(), 4096);
        assert_ne!(header.header.flags & flags::LAST, 0);
        assert_eq!(header.header.flags & flags::SUCCESS != 0, no_flow_control);
        if !no_flow_control {
            let answer = raw.read_pdu().expect("an answer");
            assert_eq!(answer.header.pdu_type, PduType::CapsuleResp as u8);
            assert_eq!(answer.view::<CapsuleResp>().expect("a response").cqe.sq_head.get(), 3);
        }
    }
    served.finish();
}
