//! Hosts that take all memory they can get, with the real program: other hosts that need little
//! still get their answers, whoever came first.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use varve::nvmf::host::{ConnectOptions, Queue, RawConnection};
use varve::nvmf::nqn;
use varve::nvmf::wire::command::{GetLogPage, Rw};
use varve::nvmf::wire::fabrics::{CONTROLLER_ID_DYNAMIC, Connect, ConnectData, ConnectResult, PropertySet};
use varve::nvmf::wire::log_page::LogPageId;
use varve::nvmf::wire::opcode::IoOpcode;
use varve::nvmf::wire::pdu::{CapsuleResp, Digests};
use varve::nvmf::wire::property::{Cc, Property};
use varve::nvmf::wire::sgl::SglDescriptor;
use varve::nvmf::wire::status::Status;
use varve_tests::appliance::rounds::{Host, connect};
use varve_tests::appliance::{Appliance, ApplianceConfig};
use zerocopy::IntoBytes;

const LIMIT: Duration = Duration::from_secs(20);
/// The time limit for a command of an innocent host.
const PATIENCE: Duration = Duration::from_secs(2);
/// Blocks of the volume.
const BLOCKS: u64 = 1024;
const BLOCK: usize = 4096;
/// The largest transfer, in blocks and bytes.
const TRANSFER_BLOCKS: u32 = 128;
const TRANSFER: u32 = TRANSFER_BLOCKS * BLOCK as u32;
/// The number of commands that a queue of 32 entries holds.
const DEPTH: u16 = 31;

/// An appliance with little memory for hosts, whose volume is written.
fn start() -> Appliance {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits }).expect("within the hard limit");
    let serve = ["--pool-size", "64MiB", "--volume-size", "4MiB", "--seal-seconds", "0"];
    let serve: Vec<&str> = serve.into_iter().chain(["--host-memory", "32MiB"]).collect();
    let appliance = Appliance::start(&ApplianceConfig::with_arguments(&serve)).expect("it starts");
    Host::connect(&appliance, "vol0").write_round(1);
    appliance
}

/// A controller by raw PDUs: its admin connection, and I/O queues, with their sockets.
struct Greedy {
    admin: RawConnection,
    io: Vec<RawConnection>,
    sockets: Vec<TcpStream>,
}

fn open_socket(appliance: &Appliance) -> (RawConnection, TcpStream) {
    let address: SocketAddr = ([127, 0, 0, 1], appliance.port()).into();
    let socket = TcpStream::connect(address).expect("it connects");
    socket.set_read_timeout(Some(LIMIT)).expect("a socket");
    let clone = socket.try_clone().expect("a descriptor");
    let mut raw = RawConnection::from_stream(socket);
    raw.initialize(Digests::default()).expect("it initializes");
    (raw, clone)
}

fn status(raw: &mut RawConnection) -> (Status, u64) {
    let answer = raw.read_pdu().expect("an answer");
    let cqe = answer.view::<CapsuleResp>().expect("a response").cqe;
    (cqe.status(), cqe.result.get())
}

impl Greedy {
    fn connect(appliance: &Appliance, queues: u16) -> Self {
        let host = ConnectOptions::default();
        let connect = |queue_id: u16, controller_id: u16| {
            let (mut raw, socket) = open_socket(appliance);
            let mut command = Connect::new(queue_id, 32, 0);
            command.sgl = SglDescriptor::in_capsule(1024);
            let data = ConnectData::new(host.host_id, controller_id, &nqn::of_volume("vol0"), &host.host_nqn);
            let data = data.expect("short names");
            raw.send_command(command.into(), data.as_bytes(), Digests::default()).expect("sent");
            let (status, result) = status(&mut raw);
            assert_eq!(status, Status::SUCCESS);
            (raw, socket, ConnectResult::from_result(result).controller_id.get())
        };
        let (mut admin, _, id) = connect(0, CONTROLLER_ID_DYNAMIC);
        let enable = PropertySet::new(Property::Configuration, Cc::enabled().0.into());
        admin.send_command(enable.into(), &[], Digests::default()).expect("sent");
        assert_eq!(status(&mut admin).0, Status::SUCCESS);
        let (io, sockets) =
            (1..=queues).map(|queue_id| connect(queue_id, id)).map(|one| (one.0, one.1)).unzip();
        Greedy { admin, io, sockets }
    }

    /// Makes every queue request the maximum.
    fn ask_for_all(&mut self, opcode: IoOpcode) {
        for raw in &mut self.io {
            for command_id in 1..=DEPTH {
                let block = u64::from(command_id) * 128 % BLOCKS;
                let mut command = Rw::new(opcode, 1, block, TRANSFER_BLOCKS);
                command.command_id.set(command_id);
                command.sgl = SglDescriptor::transport(TRANSFER);
                raw.send_command(command.into(), &[], Digests::default()).expect("sent");
            }
        }
    }
}

/// Reads and writes of 1 and of 16 blocks, one after another; each must end in time.
fn is_served(queue: &mut Queue, rounds: u64) {
    for round in 0..rounds {
        for blocks in [1, 16] {
            let data = vec![round as u8 + 1; blocks * BLOCK];
            let mut read = vec![0; data.len()];
            for is_write in [true, false] {
                let start = Instant::now();
                if is_write {
                    queue.write(64, &data).expect("it is written");
                } else {
                    queue.read(64, &mut read).expect("it is read");
                }
                assert!(start.elapsed() < PATIENCE, "round {round}: {:?}", start.elapsed());
            }
            assert!(read == data);
        }
    }
}

/// The program's resident memory in KiB.
fn resident_kib(appliance: &Appliance) -> u64 {
    let pid = appliance.process_id().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
    line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a number")
}

#[test]
fn slow_readers_with_many_queues_leave_a_newcomer_its_answers() {
    let appliance = start();
    let mut greedy = [Greedy::connect(&appliance, 48), Greedy::connect(&appliance, 48)];
    for host in &mut greedy {
        host.ask_for_all(IoOpcode::Read);
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // About 160 KiB/s from each queue: slow, but above the minimum rate.
            let mut buffer = [0; 16 * 1024];
            while !stop.load(Ordering::Relaxed) {
                for mut socket in greedy.iter().flat_map(|host| &host.sockets) {
                    let _ = socket.read(&mut buffer);
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        let (_controller, mut queue, _) = connect(&appliance, "vol0");
        is_served(&mut queue, 20);
        stop.store(true, Ordering::Relaxed);
    });
    drop(greedy);
    Host::connect(&appliance, "vol0").write_round(2);
}

#[test]
fn readers_that_never_read_keep_nobody_waiting() {
    let appliance = start();
    let (_early, mut before, _) = connect(&appliance, "vol0");
    let mut greedy = Greedy::connect(&appliance, 24);
    greedy.ask_for_all(IoOpcode::Read);
    is_served(&mut before, 20);
    let (_late, mut after, _) = connect(&appliance, "vol0");
    is_served(&mut after, 20);
    drop(greedy);
}

#[test]
fn queues_that_send_no_data_keep_nobody_from_writing() {
    let appliance = start();
    let mut greedy = Greedy::connect(&appliance, 5);
    greedy.ask_for_all(IoOpcode::Write);
    let (_controller, mut queue, _) = connect(&appliance, "vol0");
    is_served(&mut queue, 20);
    drop(greedy);
}

#[test]
fn sockets_that_ask_before_they_connect_get_a_status_and_no_memory() {
    let appliance = start();
    let mut crowd: Vec<RawConnection> = (0..140).map(|_| open_socket(&appliance).0).collect();
    for raw in &mut crowd {
        let mut command = Rw::new(IoOpcode::Write, 1, 0, TRANSFER_BLOCKS);
        command.sgl = SglDescriptor::transport(TRANSFER);
        raw.send_command(command.into(), &[], Digests::default()).expect("sent");
        assert_eq!(status(raw).0.code_only(), Status::COMMAND_SEQUENCE_ERROR);
        let mut command = Connect::new(0, 32, 0);
        command.sgl = SglDescriptor::transport(TRANSFER);
        raw.send_command(command.into(), &[], Digests::default()).expect("sent");
        assert_eq!(status(raw).0.code_only(), Status::INVALID_SGL_TYPE);
    }
    let (_controller, mut queue, _) = connect(&appliance, "vol0");
    is_served(&mut queue, 5);
    drop(crowd);
}

#[test]
fn log_pages_that_nobody_takes_stay_within_the_memory_for_hosts() {
    let appliance = start();
    let before_kib = resident_kib(&appliance);
    let mut greedy: Vec<Greedy> = (0..48).map(|_| Greedy::connect(&appliance, 0)).collect();
    for host in &mut greedy {
        for command_id in 1..=DEPTH {
            let mut command = GetLogPage::new(LogPageId::CommandEffects.into(), 0, 0, TRANSFER);
            command.command_id.set(command_id);
            command.sgl = SglDescriptor::transport(TRANSFER);
            host.admin.send_command(command.into(), &[], Digests::default()).expect("sent");
        }
    }
    let (_controller, mut queue, _) = connect(&appliance, "vol0");
    is_served(&mut queue, 20);
    let grown_kib = resident_kib(&appliance).saturating_sub(before_kib);
    assert!(grown_kib < 48 << 10, "{grown_kib} KiB");
    drop(greedy);
}

#[test]
fn who_is_too_slow_while_others_wait_is_told_and_ended() {
    let appliance = start();
    let mut greedy = Greedy::connect(&appliance, 24);
    greedy.ask_for_all(IoOpcode::Write);
    // It requests much at once, and waits for memory that the silent ones hold.
    let mut host = Greedy::connect(&appliance, 4);
    host.ask_for_all(IoOpcode::Read);
    let start = Instant::now();
    for raw in &mut host.io {
        raw.read_pdu().expect("an answer");
    }
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
    let told = "a host is too slow for those who wait for memory";
    while !appliance.complaints().contains(told) {
        assert!(start.elapsed() < LIMIT, "{}", appliance.complaints());
        std::thread::sleep(Duration::from_millis(100));
    }
    let (_controller, mut queue, _) = connect(&appliance, "vol0");
    is_served(&mut queue, 2);
    drop((greedy, host));
}
