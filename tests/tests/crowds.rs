//! More hosts than the appliance has resources for, with the real program: existing hosts continue,
//! and so do the store and the command plane; later hosts get in.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};
use serde_json::{Value, json};
use varve::nvmf::host::{ConnectOptions, RawConnection};
use varve::nvmf::nqn;
use varve::nvmf::wire::fabrics::{CONTROLLER_ID_DYNAMIC, Connect, ConnectData};
use varve::nvmf::wire::pdu::{Digests, IcReq};
use varve::nvmf::wire::sgl::SglDescriptor;
use varve_tests::appliance::rounds::{Host, wait_for};
use varve_tests::appliance::{Appliance, ApplianceConfig};
use zerocopy::IntoBytes;

const SERVE: [&str; 6] = ["--pool-size", "64MiB", "--volume-size", "4MiB", "--seal-seconds", "0"];

fn start() -> Appliance {
    Appliance::start(&ApplianceConfig::with_arguments(&SERVE)).expect("it starts")
}

fn address(appliance: &Appliance) -> SocketAddr {
    ([127, 0, 0, 1], appliance.port()).into()
}

fn allow_descriptors(limit: u64) {
    let limits = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(limit), ..limits }).expect("within the hard limit");
}

/// A host that connects its admin queue, without a keep alive timeout, and then sends nothing more.
fn vanish(appliance: &Appliance) -> RawConnection {
    let host = ConnectOptions::default();
    let mut raw = RawConnection::connect(address(appliance), Duration::from_secs(5)).expect("it connects");
    raw.send_bytes(IcReq::new(Digests::default()).as_bytes()).expect("sent");
    let mut command = Connect::new(0, 32, 0);
    command.sgl = SglDescriptor::in_capsule(1024);
    let data = ConnectData::new(host.host_id, CONTROLLER_ID_DYNAMIC, &nqn::of_volume("vol0"), &host.host_nqn);
    let data = data.expect("short names");
    raw.send_command(command.into(), data.as_bytes(), Digests::default()).expect("sent");
    raw
}

fn controllers(appliance: &Appliance) -> usize {
    let listed = appliance
        .rpc("nvmf_subsystem_get_controllers", json!({"nqn": nqn::of_volume("vol0")}))
        .expect("it answers");
    listed.as_array().map_or(0, Vec::len)
}

/// The soft and the hard limit of open files of the running program.
fn limits(appliance: &Appliance) -> (String, String) {
    let pid = appliance.process_id().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it is there");
    let line = text.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let mut fields = line["Max open files".len()..].split_whitespace().map(str::to_owned);
    (fields.next().expect("soft"), fields.next().expect("hard"))
}

#[test]
fn the_store_and_the_command_plane_go_on_when_hosts_have_all_descriptors() {
    allow_descriptors(512);
    let appliance = start();
    let (soft, hard) = limits(&appliance);
    assert_eq!(soft, hard, "the limit was raised as far as it goes");
    let mut host = Host::connect(&appliance, "vol0");
    host.write_round(1);
    let pid = i32::try_from(appliance.process_id().expect("it runs")).expect("a number");
    let few = Rlimit { current: Some(64), maximum: Some(64) };
    prlimit(Pid::from_raw(pid), Resource::Nofile, few).expect("it is ours");
    let crowd: Vec<RawConnection> = (0..60).map(|_| vanish(&appliance)).collect();
    std::thread::sleep(Duration::from_secs(1));
    let inside = controllers(&appliance);
    assert!((2..50).contains(&inside), "{inside} have got in");

    // Existing hosts continue, and so do management and the archive.
    for round in 2..5 {
        let began = Instant::now();
        host.write_round(round);
        appliance.rpc("synch_create", json!({"label": format!("s{round}")})).expect("a synch");
        appliance.command(&["archive", "seal"]).expect("it seals");
        let status = appliance.rpc("archive_get_status", Value::Null).expect("it answers");
        assert_eq!(status["problem"], Value::Null, "{status}");
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
    let complaints = appliance.complaints();
    assert_eq!(complaints.matches("new connections").count(), 1, "once: {complaints}");

    // A later host waits, and gets in when there is a free descriptor.
    std::thread::scope(|scope| {
        let late = scope.spawn(|| Host::connect(&appliance, "vol0").check_round(4));
        std::thread::sleep(Duration::from_millis(700));
        assert!(!late.is_finished(), "there is no room yet");
        drop(crowd);
        late.join().expect("it got in");
    });
}

#[test]
fn a_thousand_connections_that_connect_no_queue_shut_nobody_out() {
    allow_descriptors(4096);
    let appliance = start();
    let flood: Vec<TcpStream> =
        (0..1100).map(|_| TcpStream::connect(address(&appliance)).expect("it connects")).collect();
    let began = Instant::now();
    Host::connect(&appliance, "vol0").write_round(1);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    drop(flood);
}

#[test]
fn hosts_that_vanished_without_a_keep_alive_timeout_give_way() {
    let appliance = start();
    let vanished: Vec<RawConnection> = (0..64).map(|_| vanish(&appliance)).collect();
    wait_for("all controllers are in use", || controllers(&appliance) == 64);
    // They give way after 10 s of silence.
    std::thread::sleep(Duration::from_secs(11));
    Host::connect(&appliance, "vol0").write_round(1);
    drop(vanished);
}
