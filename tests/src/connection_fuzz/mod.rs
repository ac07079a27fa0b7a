//! Connections in every state: random conversations of several hosts with a target. Their commands
//! and PDUs are mostly right, often come in the wrong state and are sometimes wrong themselves.
//!
//! In every case the target answers each command once or ends the connection; it frees all memory
//! when the connections have ended; and it answers an innocent host next to them in time and with
//! the right bytes. A seed replays its conversation exactly, except for the number of bytes that a
//! socket accepts at once.

mod innocent;
mod local;
mod peer;
mod step;

use varve::nvmf::server::memory::Behavior;
use varve::nvmf::wire::fabrics::ConnectResult;
use varve::nvmf::wire::pdu::Digests;

use crate::sim::rng::Rng;
use innocent::Innocent;
use local::Local;
use peer::Peer;

/// The maximum number of connections at once.
const PEERS_MAX: usize = 4;
/// Steps of a conversation.
const STEPS: u64 = 120;
/// Connections of the innocent host.
const INNOCENT_CONNECTIONS: u64 = 2;

/// The counts of conversations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Conversations.
    pub seeds: u64,
    /// Connections.
    pub connections: u64,
    /// How many of these the target ended.
    pub ended: u64,
    /// Commands that were answered.
    pub answers: u64,
    /// How many of these succeeded.
    pub successes: u64,
    /// Commands of the innocent host.
    pub innocent: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.seeds += other.seeds;
        self.connections += other.connections;
        self.ended += other.ended;
        self.answers += other.answers;
        self.successes += other.successes;
        self.innocent += other.innocent;
    }
}

impl Counts {
    /// Counts the answers of a connection, and collects the IDs of controllers.
    fn note(&mut self, peer: &mut Peer, controllers: &mut Vec<u16>) {
        for answer in peer.answers.drain(..) {
            self.answers += 1;
            self.successes += u64::from(answer.status.is_success());
            // Only a Connect returns a controller ID; the results of other commands are as good as
            // any guess.
            let controller = ConnectResult::from_result(answer.result).controller_id.get();
            if answer.status.is_success() && controller != 0 {
                controllers.push(controller);
            }
        }
    }
}

/// Runs one conversation.
///
/// # Panics
/// When the target violates a guarantee.
pub fn converse(seed: u64) -> Counts {
    let mut rng = Rng::new(seed);
    let mut counts = Counts { seeds: 1, ..Counts::default() };
    let behavior = Behavior {
        delay_polls: rng.below(4) as u32,
        reverse: rng.one_in(2),
        busy: rng.below(3) as u32,
        busy_of: 4,
        ..Behavior::default()
    };
    let mut local = Local::new(behavior);
    let mut innocent = Innocent::connect(&mut local);
    let mut peers: Vec<Peer> = Vec::new();
    let mut controllers = Vec::new();
    for _ in 0..STEPS {
        if peers.is_empty() || (peers.len() < PEERS_MAX && rng.one_in(12)) {
            peers.push(open(&local, &mut rng, &controllers));
            counts.connections += 1;
        }
        let index = rng.below(peers.len() as u64) as usize;
        if rng.one_in(60) {
            // It may end at any byte: of what is still to be sent, or of one step more.
            let mut peer = peers.swap_remove(index);
            step::step(&mut peer, &mut rng, &controllers);
            peer.hang_up_after(rng.below(6000) as usize);
        } else {
            step::step(&mut peers[index], &mut rng, &controllers);
        }
        for _ in 0..rng.below(8) {
            local.turn();
            peers.iter_mut().for_each(Peer::step);
        }
        if rng.one_in(8) {
            innocent.command(&mut local, &mut rng, &mut peers);
        }
        peers.retain_mut(|peer| {
            counts.note(peer, &mut controllers);
            counts.ended += u64::from(peer.is_closed);
            !peer.is_closed
        });
    }
    // A connection that has broken the rules is owed nothing, and blocks nothing any more.
    peers.retain(|peer| !peer.is_confused);
    local.turn_until("all is answered", |_| {
        peers.retain_mut(|peer| {
            peer.step();
            peer.fulfil();
            counts.note(peer, &mut controllers);
            // A host whose connection was ended hangs up, and holds no memory any more.
            !peer.is_closed
        });
        peers.iter().find_map(Peer::owed).map_or(Ok(()), Err)
    });
    innocent.command(&mut local, &mut rng, &mut peers);
    drop(peers);
    local.turn_until("all is given back", |local| local.is_at_rest(INNOCENT_CONNECTIONS));
    innocent.command(&mut local, &mut rng, &mut []);
    counts.innocent = innocent.commands;
    drop(innocent);
    local.turn_until("nothing is left", |local| local.is_at_rest(0));
    counts
}

/// A connection that nearly always begins correctly.
fn open(local: &Local, rng: &mut Rng, controllers: &[u16]) -> Peer {
    let digests = Digests { header: rng.one_in(3), data: rng.one_in(3) };
    let mut peer = Peer::open(local.address, digests);
    if rng.one_in(15) {
        // Without it nothing that follows is valid.
        peer.is_confused = true;
        return peer;
    }
    step::initialize(&mut peer, rng);
    if !rng.one_in(8) {
        step::connect(&mut peer, rng, controllers);
        if rng.one_in(2) {
            step::configure(&mut peer, rng);
        }
    }
    peer
}
