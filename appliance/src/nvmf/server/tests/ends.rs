//! Many connections that come or end at once: a turn accepts a few, closes a few, and serves the
//! others. The tests run the turns themselves and count, so the machine's speed does not matter.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::fuzz::{Local, Part, append, stream};
use super::{BLOCK, LIMIT};
use crate::nvmf::server::TargetConfig;
use crate::nvmf::server::admission::ACCEPTS_PER_TURN;
use crate::nvmf::server::connection::Connection;
use crate::nvmf::server::ends::ENDS_PER_TURN;
use crate::nvmf::server::memory::Behavior;
use crate::nvmf::wire::pdu::Digests;

/// Connections that end at once.
const MANY: usize = 300;
/// Fewer than the kernel lets wait for a listener.
const AT_ONCE: usize = 50;

fn local(config: TargetConfig) -> Local {
    Local::with_config(Behavior::default(), config, 64 << 20)
}

/// Opens connections, and lets the target accept them.
fn open(local: &mut Local, count: usize) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    while sockets.len() < count {
        let more = AT_ONCE.min(count - sockets.len());
        let accepted = local.target.stats().connections_accepted + more as u64;
        sockets.extend((0..more).map(|_| TcpStream::connect(local.address).expect("it connects")));
        most_per_turn(local, accepted, |local| local.target.stats().connections_accepted);
    }
    sockets
}

/// Takes turns until a count has a value, and returns the most by which a turn changed it.
fn most_per_turn(local: &mut Local, until: u64, count: impl Fn(&Local) -> u64) -> usize {
    let (mut before, mut most, start) = (count(local), 0, Instant::now());
    while before != until {
        assert!(start.elapsed() < LIMIT, "{before} does not become {until}");
        local.turn();
        let now = count(local);
        most = most.max(now.abs_diff(before));
        before = now;
    }
    most as usize
}

fn connections(local: &Local) -> u64 {
    local.target.stats().connections
}

#[test]
fn a_turn_closes_a_few_of_the_connections_that_their_hosts_close_at_once() {
    let mut local = local(TargetConfig::default());
    let sockets = open(&mut local, MANY);
    assert_eq!(connections(&local), MANY as u64);
    drop(sockets);
    let most = most_per_turn(&mut local, 0, connections);
    assert!((1..=ENDS_PER_TURN).contains(&most), "{most} connections were closed in one turn");
}

#[test]
fn a_turn_closes_a_few_of_the_connections_whose_time_is_over_at_once() {
    let timeout = Duration::from_millis(300);
    let mut local = local(TargetConfig { connect_timeout: timeout, ..TargetConfig::default() });
    let sockets = open(&mut local, AT_ONCE);
    std::thread::sleep(timeout * 2);
    let most = most_per_turn(&mut local, 0, connections);
    assert!((1..=ENDS_PER_TURN).contains(&most), "{most} connections were closed in one turn");
    drop(sockets);
}

#[test]
fn a_host_is_answered_while_many_connections_wait_for_their_end() {
    const COMMANDS: u16 = 3;
    let none = Digests::default();
    let mut local = local(TargetConfig::default());
    let mut sockets = open(&mut local, 2);
    for (queue_id, socket) in (0..).zip(&mut sockets) {
        socket.set_nonblocking(true).expect("a socket");
        local.feed(std::slice::from_mut(socket), &[stream(1, queue_id, none, &[])], 1 << 20);
    }
    let mut others = open(&mut local, MANY);
    for command_id in 1..=COMMANDS {
        let mut bytes = Vec::new();
        append(&mut bytes, 1, command_id, none, &Part::Read { lba: command_id, blocks: 1 });
        others.truncate(MANY - MANY / usize::from(COMMANDS) * usize::from(command_id));
        // They are known to have ended, and none of them has another turn.
        while local.target.inner.connections.borrow().len() > 2 + others.len() {
            local.turn();
        }
        let (before, mut answer, mut turns) = (local.target.inner.ends.len(), Vec::new(), 0);
        sockets[1].write_all(&bytes).expect("sent");
        while answer.len() < BLOCK {
            local.turn();
            turns += 1;
            assert!(turns < 100, "it is not answered");
            let mut buffer = [0; 2 * BLOCK];
            if let Ok(count) = sockets[1].read(&mut buffer) {
                answer.extend_from_slice(&buffer[..count]);
            }
        }
        let closed = before - local.target.inner.ends.len();
        assert!(closed <= turns * ENDS_PER_TURN, "{closed} were closed in {turns} turns");
        assert!(turns <= 3, "the answer took {turns} turns, while {before} waited for their end");
    }
    drop((sockets, others));
    most_per_turn(&mut local, 0, connections);
}

#[test]
fn who_waits_for_its_end_waits_for_no_memory_and_gives_back_what_it_has() {
    const QUEUES: u16 = 24;
    let none = Digests::default();
    let config = TargetConfig { host_memory_bytes_max: 3 << 20, ..TargetConfig::default() };
    let mut local = Local::with_config(Behavior::default(), config, 4 << 20);
    let mut sockets = open(&mut local, usize::from(QUEUES) + 1);
    for (queue_id, socket) in (0..).zip(&mut sockets) {
        socket.set_nonblocking(true).expect("a socket");
        local.feed(std::slice::from_mut(socket), &[stream(1, queue_id, none, &[])], 1 << 20);
    }
    for socket in &mut sockets[1..] {
        let mut bytes = Vec::new();
        for command_id in 1..=31 {
            append(&mut bytes, 1, command_id, none, &Part::WriteTransport { lba: 0, blocks: 64 });
        }
        socket.write_all(&bytes).expect("sent");
    }
    let start = Instant::now();
    while local.target.stats().waiting_for_memory <= ENDS_PER_TURN as u64 / 2 {
        assert!(start.elapsed() < LIMIT, "{:?}", local.target.stats());
        local.turn();
    }
    drop(sockets);
    while !local.target.inner.connections.borrow().is_empty() {
        local.turn();
    }
    let stats = local.target.stats();
    assert_eq!(stats.connections, local.target.inner.ends.len() as u64);
    assert_eq!(stats.waiting_for_memory, 0, "{stats:?}");
    most_per_turn(&mut local, 0, connections);
    let stats = local.target.stats();
    assert_eq!((stats.host_memory_bytes, stats.staging_bytes), (0, 0), "{stats:?}");
}

#[test]
fn a_turn_accepts_a_few_and_every_listener_has_its_turn() {
    let mut local = local(TargetConfig::default());
    let mut addresses = vec![local.address];
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    addresses.extend((0..2).map(|_| local.target.listen(any).expect("a free port")));
    let sockets: Vec<Vec<TcpStream>> = addresses
        .iter()
        .map(|address| (0..AT_ONCE).map(|_| TcpStream::connect(address).expect("it connects")).collect())
        .collect();
    for _ in 0..addresses.len() {
        local.turn();
    }
    let accepted: BTreeSet<SocketAddr> =
        local.target.inner.connections.borrow().iter().map(Connection::peer).collect();
    let is_accepted = |socket: &TcpStream| accepted.contains(&socket.local_addr().expect("its address"));
    for (address, sockets) in addresses.iter().zip(&sockets) {
        assert!(sockets.iter().any(is_accepted), "none was accepted at {address}");
    }
    assert!(accepted.len() <= addresses.len() * ACCEPTS_PER_TURN);
    let all = (addresses.len() * AT_ONCE) as u64;
    let most = most_per_turn(&mut local, all, |local| local.target.stats().connections_accepted);
    assert!(most <= ACCEPTS_PER_TURN, "{most} connections were accepted in one turn");
    drop(sockets);
    most_per_turn(&mut local, 0, connections);
}

/// Longer than a connection may be without a queue in a crowd.
const GRACE: Duration = Duration::from_millis(600);

#[test]
fn a_turn_makes_room_for_a_few_and_who_is_not_closed_yet_takes_a_place() {
    let max = AT_ONCE as u64;
    let mut local = local(TargetConfig { connections_max: AT_ONCE, ..TargetConfig::default() });
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let others = [(); 2].map(|()| local.target.listen(any).expect("a free port"));
    let first = open(&mut local, AT_ONCE);
    std::thread::sleep(GRACE);
    let second: Vec<TcpStream> = others
        .iter()
        .flat_map(|address| (0..AT_ONCE / 2).map(move |_| TcpStream::connect(address).expect("it connects")))
        .collect();
    let most = most_per_turn(&mut local, max, |local| {
        let stats = local.target.stats();
        assert!(stats.connections <= max, "{stats:?}");
        stats.connections_evicted
    });
    assert!((1..=ENDS_PER_TURN).contains(&most), "{most} connections gave way in one turn");
    assert_eq!(local.target.stats().connections_accepted, 2 * max);
    drop((first, second));
    most_per_turn(&mut local, 0, connections);
}
