//! Who waits for whom, counted in rounds of the target: how often every connection has its turn
//! while one host waits for its answer; and how much one turn does. The tests run the turns
//! themselves, so the machine's speed does not matter.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use zerocopy::FromBytes;

use super::fuzz::{Local, Part, append, stream};
use super::{BLOCK, LIMIT};
use crate::nvmf::server::TargetConfig;
use crate::nvmf::server::memory::Behavior;
use crate::nvmf::wire::pdu::{Digests, R2t};

/// Queues of the greedy host, each filled with commands.
const QUEUES: u16 = 24;
const COMMANDS: u16 = 31;
const READ_BLOCKS: u8 = 64;
/// Bytes that it takes from each per turn.
const TAKEN_BYTES: usize = 128 << 10;
/// Commands of the innocent host, one after another.
const INNOCENT: u16 = 12;
/// Rounds that one of these commands may wait.
const ROUNDS_MAX: u64 = 4;

fn connect(local: &mut Local, bytes: Vec<u8>) -> TcpStream {
    let socket = TcpStream::connect(local.address).expect("it connects");
    socket.set_nonblocking(true).expect("a socket");
    let mut sockets = [socket];
    local.feed(&mut sockets, &[bytes], 1 << 20);
    let [socket] = sockets;
    socket
}

/// Takes the received bytes, at most this many.
fn take(socket: &mut TcpStream, buffer: &mut [u8]) -> usize {
    match socket.read(buffer) {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("the connection ended: {error}"),
    }
}

#[test]
fn a_host_waits_for_a_few_rounds_of_the_others_at_most() {
    let none = Digests::default();
    let mut local = Local::with_config(Behavior::default(), TargetConfig::default(), 64 << 20);
    let mut sockets = vec![connect(&mut local, stream(1, 0, none, &[]))];
    for queue_id in 1..=QUEUES {
        sockets.push(connect(&mut local, stream(1, queue_id, none, &[])));
    }
    let admin = connect(&mut local, stream(2, 0, none, &[]));
    let mut innocent = connect(&mut local, stream(2, 1, none, &[]));
    for socket in &mut sockets[1..] {
        let mut bytes = Vec::new();
        for command_id in 1..=COMMANDS {
            let lba = command_id % 3 * u16::from(READ_BLOCKS);
            append(&mut bytes, 1, command_id, none, &Part::Read { lba, blocks: READ_BLOCKS });
        }
        socket.write_all(&bytes).expect("sent");
    }
    let asked_bytes = usize::from(QUEUES * COMMANDS) * usize::from(READ_BLOCKS) * BLOCK;
    let (mut taken_bytes, mut buffer) = (0, vec![0; TAKEN_BYTES]);
    let mut waited = Vec::new();
    for command_id in 1..=INNOCENT {
        let mut bytes = Vec::new();
        append(&mut bytes, 2, command_id, none, &Part::Read { lba: 200 + command_id, blocks: 1 });
        innocent.write_all(&bytes).expect("sent");
        let asked_in = local.target.stats().rounds;
        let mut come_bytes = 0;
        while come_bytes <= BLOCK {
            local.turn();
            taken_bytes += sockets.iter_mut().map(|socket| take(socket, &mut buffer)).sum::<usize>();
            come_bytes += take(&mut innocent, &mut buffer);
        }
        waited.push(local.target.stats().rounds - asked_in);
    }
    assert!(taken_bytes < asked_bytes / 2, "the others were busy: {taken_bytes} of {asked_bytes}");
    assert!(waited.iter().all(|&rounds| rounds <= ROUNDS_MAX), "{waited:?}");
    drop((admin, innocent, sockets));
}

/// Each range of a discard is a separate unit of work. Before this rule, a host that sent 31
/// discards of 256 ranges at once got all of them in one turn, which then lasted 15 ms.
#[test]
fn a_turn_has_so_many_ranges_of_discards_and_no_more() {
    /// Ranges of one command, less one, as NVMe counts them. At 4 KiB each they exceed the 512 KiB
    /// of a connection's turn. So a connection gets one command per turn, and at most a second one
    /// if it has saved a turn.
    const RANGES_LESS_ONE: u8 = 255;
    const COMMANDS_PER_TURN_MAX: u64 = 2;
    let none = Digests::default();
    let mut local = Local::with_config(Behavior::default(), TargetConfig::default(), 64 << 20);
    let hosts: Vec<(TcpStream, TcpStream)> = (1..=2)
        .map(|id| {
            let admin = connect(&mut local, stream(id, 0, none, &[]));
            (admin, connect(&mut local, stream(id, 1, none, &[])))
        })
        .collect();
    let taken = |local: &Local| local.target.stats().io_commands;
    let before = taken(&local);
    let sent = u64::from(COMMANDS) * hosts.len() as u64;
    for (_, queue) in &hosts {
        let mut bytes = Vec::new();
        for command_id in 1..=COMMANDS {
            append(&mut bytes, 1, command_id, none, &Part::Trim { ranges: RANGES_LESS_ONE });
        }
        (&mut &*queue).write_all(&bytes).expect("sent");
    }
    let (mut now, mut per_turn_max, began) = (before, 0, Instant::now());
    while now < before + sent {
        assert!(began.elapsed() < LIMIT, "{} of {sent} commands are taken", now - before);
        local.turn();
        per_turn_max = per_turn_max.max(taken(&local) - now);
        now = taken(&local);
    }
    let allowed = hosts.len() as u64 * COMMANDS_PER_TURN_MAX;
    assert!(per_turn_max <= allowed, "{per_turn_max} discards of 256 ranges in one turn");
}

/// What the host has sent may wait until the storage has room, and then has room all at once.
#[test]
fn what_waited_for_the_storage_is_started_in_several_turns() {
    const BLOCKS: u8 = 64;
    /// Of one turn of the only active connection, and the command with which the limit is passed.
    const STARTED_BYTES_MAX: u64 = (2 << 20) + BLOCKS as u64 * BLOCK as u64;
    let none = Digests::default();
    let mut local = Local::with_config(Behavior::default(), TargetConfig::default(), 64 << 20);
    let admin = connect(&mut local, stream(1, 0, none, &[]));
    let mut queue = connect(&mut local, stream(1, 1, none, &[]));
    local.storage.set_behavior(Behavior { busy: 1, busy_of: 1, ..Behavior::default() });
    let mut bytes = Vec::new();
    for command_id in 1..=COMMANDS {
        append(&mut bytes, 1, command_id, none, &Part::WriteTransport { lba: 0, blocks: BLOCKS });
    }
    queue.write_all(&bytes).expect("sent");
    let (mut requests, mut buffer, began) = (Vec::new(), vec![0; 4096], Instant::now());
    while requests.len() < usize::from(COMMANDS) * size_of::<R2t>() {
        assert!(began.elapsed() < LIMIT, "the data is not requested");
        local.turn();
        let count = take(&mut queue, &mut buffer);
        requests.extend_from_slice(&buffer[..count]);
    }
    for request in requests.chunks(size_of::<R2t>()) {
        let request = R2t::read_from_bytes(request).expect("nothing but requests");
        // `append` counts tags from the other end.
        let (tag, command_id) = (31 - request.transfer_tag.get() as u8, request.command_id.get() as u8);
        let mut bytes = Vec::new();
        let data = Part::Data { tag, command_id, offset_blocks: 0, blocks: BLOCKS, last: true };
        append(&mut bytes, 1, 0, none, &data);
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            assert!(began.elapsed() < LIMIT, "the data is not received");
            match queue.write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("the connection ended: {error}"),
            }
            local.turn();
        }
    }
    for _ in 0..100 {
        local.turn();
    }
    let staged = |local: &Local| local.target.stats().staging_bytes;
    let mut before = staged(&local);
    assert_eq!(before, u64::from(COMMANDS) * u64::from(BLOCKS) * BLOCK as u64, "all of it waits");
    local.storage.set_behavior(Behavior::default());
    while before > 0 {
        assert!(began.elapsed() < LIMIT, "{before} bytes are not written");
        local.turn();
        let now = staged(&local);
        assert!(before - now <= STARTED_BYTES_MAX, "{} bytes were started in one turn", before - now);
        before = now;
    }
    drop((admin, queue));
}

/// Output that its host does not take is copied, so that it keeps no memory of the log. Before this
/// rule, the output of 96 queues was copied in one turn, which then lasted 14 ms.
#[test]
fn a_turn_copies_so_much_waiting_output_and_no_more() {
    const WAITING: u16 = 8;
    /// What one copy gives back to a storage whose memory is four times as large as its data.
    const RETURNED_BYTES: usize = 4 * READ_BLOCKS as usize * BLOCK;
    let none = Digests::default();
    let mut local = Local::with_config(
        Behavior { roomy: true, ..Behavior::default() },
        TargetConfig::default(),
        128 << 20,
    );
    let admin = connect(&mut local, stream(1, 0, none, &[]));
    let mut queues: Vec<TcpStream> =
        (1..=WAITING).map(|queue_id| connect(&mut local, stream(1, queue_id, none, &[]))).collect();
    for queue in &mut queues {
        let mut bytes = Vec::new();
        for command_id in 1..=COMMANDS {
            append(&mut bytes, 1, command_id, none, &Part::Read { lba: 0, blocks: READ_BLOCKS });
        }
        queue.write_all(&bytes).expect("sent");
    }
    let held = |local: &Local| local.storage.dma_in_use_bytes();
    let sent = |local: &Local| local.target.stats().sent_bytes;
    let (mut most, began) = (0, Instant::now());
    // Nobody takes anything. At the end nothing of the storage's memory is held any more.
    while most == 0 || held(&local) > 0 {
        assert!(began.elapsed() < LIMIT, "{} bytes are held", held(&local));
        let before = (held(&local), sent(&local));
        local.turn();
        // What is sent is given back too.
        if sent(&local) == before.1 {
            most = most.max(before.0.saturating_sub(held(&local)));
        }
    }
    assert!(most <= RETURNED_BYTES, "a turn copied output that held {most} bytes");
    drop((admin, queues));
}
