//! Gradual back-pressure: the more of the slots the unarchived segments fill, the longer hosts wait
//! for each block that they append.
//!
//! ```text
//! fill  = (segments before the current one that are not archived
//!          + the part of the current one that is full) / slots
//! over  = 2 * fill - 1
//! delay = 0 up to half; above it 100 us * (over / (1 - over))^2 for each block, at most 10 ms
//! ```
//!
//! The delay is continuous from zero to its maximum. So whatever the archivist's rate is, there is
//! a fill level at which hosts append no faster than it archives, and the backlog stays there. Only
//! if the archivist is slower than one block in 10 ms, or has stopped, is there no such level: then
//! the slots fill slowly, and writes stop.
//!
//! **How writes wait.** Each client of each volume has a time at which its next command may be
//! accepted; a command advances it by its blocks, times the number of writing clients, at most by
//! 10 s: the target ends a command that waits for 20 s. So clients
//! share the archivist's rate evenly, whatever the size of their commands, and a client that writes
//! little waits for its own blocks and not for another's. The unused part of a client's share
//! lowers the fill level, and with it the delay of all. A command that comes before its client's
//! time is [`Busy`](crate::volume::Submitted::Busy), and its queue tries again in the next turn: no
//! timer and no allocation for each command. While a command waits, the pool's turns count as work,
//! so the reactor does not sleep.
//!
//! **Costs:** below half one comparison for each write; above it one clock reading and one lookup
//! in a small map. Segments are counted when one is sealed or archived, not for each command;
//! clients are counted every 10 ms.

use std::collections::HashMap;

use crate::log::table::Phase;
use crate::log::{Log, SegmentSeq};
use crate::volume::VolumeId;

/// Up to this fill level nobody waits.
const FREE_FILL: f64 = 0.5;
/// The delay for each block if half of the rest is used, in ns.
const DELAY_SCALE_NS: f64 = 100_000.0;
/// The longest delay for each block, in ns.
const DELAY_MAX_NS: f64 = 10_000_000.0;
/// The longest time from a client's command to its next: half the time for which the target keeps a
/// command that makes no progress, so that no throttled command ends with an error, however many
/// clients write.
const WAIT_MAX_NS: u64 = 10_000_000_000;
/// How late commands may come without a penalty, because a turn is sometimes late.
const SLACK_NS: u64 = 1_000_000;
/// How long a client counts as writing after the time of its next command.
const WRITES_FOR_NS: u64 = 100_000_000;
/// How often the clients that write are counted.
const COUNT_EVERY_NS: u64 = 10_000_000;
/// The window for the delay that is reported to the operator, in ns.
const WINDOW_NS: u64 = 1_000_000_000;

/// How long hosts wait for each block at a fill level from 0 to 1, in ns.
pub(super) fn delay_ns_per_block(fill: f64) -> u64 {
    let over = ((fill - FREE_FILL) / (1.0 - FREE_FILL)).clamp(0.0, 1.0);
    let steepness = over / (1.0 - over);
    (DELAY_SCALE_NS * steepness * steepness).min(DELAY_MAX_NS) as u64
}

/// A waiting client of a volume.
pub(in crate::volume) type Client = (VolumeId, u32);

/// The throttle of a pool. See the module's documentation.
#[derive(Default)]
pub(super) struct Throttle {
    /// Whether the slots are so full that writes may have to wait.
    is_on: bool,
    /// Segments before the current one that are not archived, as of the last count.
    unarchived: u64,
    slots: u64,
    /// The current segment at the last count; `None`: count again.
    counted_in: Option<SegmentSeq>,
    /// When the next command of each writing client may be accepted.
    next_ns: HashMap<Client, u64>,
    /// When the clients were last counted.
    clients_counted_ns: u64,
    /// Whether a command was refused since the last turn.
    holds: bool,
    last_turn_ns: u64,
    window_start_ns: u64,
    held_ns: u64,
    /// The value of the last window.
    held_ms_per_s: f64,
}

impl Throttle {
    /// Notes that a segment was archived or given up: count again in the next turn.
    pub(super) fn recount(&mut self) {
        self.counted_in = None;
    }

    /// One turn; returns whether a command waits. `is_wanted`: the policy asks for the throttle.
    pub(super) fn turn(&mut self, is_wanted: bool, log: &Log, now_ns: u64) -> bool {
        let current = log.current_sequence();
        if current.is_none() || self.counted_in != current {
            self.counted_in = current;
            self.slots = log.geometry().slots;
            let waiting = log.table().iter().filter(|(sequence, segment)| {
                Some(*sequence) != current
                    && !segment.archived
                    && segment.phase != Phase::Released
                    && segment.slot.is_some()
            });
            self.unarchived = waiting.count() as u64;
        }
        self.is_on = is_wanted && 2 * (self.unarchived + 1) > self.slots;
        self.count_clients(now_ns);
        self.measure(now_ns)
    }

    /// Forgets clients that no longer write, every [`COUNT_EVERY_NS`].
    fn count_clients(&mut self, now_ns: u64) {
        if now_ns.saturating_sub(self.clients_counted_ns) >= COUNT_EVERY_NS {
            self.clients_counted_ns = now_ns;
            self.next_ns.retain(|_, next_ns| *next_ns + WRITES_FOR_NS > now_ns);
        }
    }

    /// Adds up how long commands waited; returns whether one waits.
    fn measure(&mut self, now_ns: u64) -> bool {
        let holds = std::mem::take(&mut self.holds);
        if holds {
            self.held_ns += now_ns.saturating_sub(self.last_turn_ns);
        }
        self.last_turn_ns = now_ns;
        let window_ns = now_ns.saturating_sub(self.window_start_ns);
        if window_ns >= WINDOW_NS {
            self.held_ms_per_s = (self.held_ns as f64 / window_ns as f64).min(1.0) * 1000.0;
            (self.window_start_ns, self.held_ns) = (now_ns, 0);
        }
        holds
    }

    /// Whether a command of a client must wait for a later turn.
    pub(super) fn holds(&mut self, log: &Log, client: Client) -> bool {
        self.is_on && self.holds_at(client, log.environment().clock.monotonic_ns())
    }

    fn holds_at(&mut self, client: Client, now_ns: u64) -> bool {
        let holds = self.next_ns.get(&client).is_some_and(|&next_ns| now_ns < next_ns);
        self.holds |= holds;
        holds
    }

    /// Notes that a command of a client has appended `blocks` blocks.
    pub(super) fn charge(&mut self, log: &Log, client: Client, blocks: u64) {
        if self.is_on {
            let delay_ns = delay_ns_per_block(self.fill(log)).saturating_mul(blocks);
            self.charge_at(client, delay_ns, log.environment().clock.monotonic_ns());
        }
    }

    fn charge_at(&mut self, client: Client, delay_ns: u64, now_ns: u64) {
        let next_ns = self.next_ns.entry(client).or_default();
        let from_ns = (*next_ns).max(now_ns.saturating_sub(SLACK_NS));
        let clients = self.next_ns.len() as u64;
        let wait_ns = delay_ns.saturating_mul(clients).min(WAIT_MAX_NS);
        self.next_ns.insert(client, from_ns.saturating_add(wait_ns));
    }

    fn fill(&self, log: &Log) -> f64 {
        let (used, room) = log.current_fill();
        let part = if room == 0 { 0.0 } else { used as f64 / room as f64 };
        (self.unarchived as f64 + part) / self.slots.max(1) as f64
    }

    /// Milliseconds per second in which a host waited, over about the last second.
    pub(super) fn held_ms_per_s(&self) -> f64 {
        self.held_ms_per_s
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::request::MAX_IO_BLOCKS;

    #[test]
    fn the_delay_is_nothing_up_to_half_and_grows_without_a_step_up_to_its_bound() {
        assert!((0..=50).all(|percent| delay_ns_per_block(f64::from(percent) / 100.0) == 0));
        assert_eq!(delay_ns_per_block(0.75), 100_000);
        assert_eq!([delay_ns_per_block(1.0), delay_ns_per_block(7.0)], [10_000_000; 2]);
        assert_eq!(delay_ns_per_block(-1.0), 0);
        let delays: Vec<u64> =
            (500..=1000).map(|permille| delay_ns_per_block(f64::from(permille) / 1000.0)).collect();
        assert!(delays.is_sorted());
        // A thousandth of the slots changes the delay little at first, and never by more than a
        // twentieth of the maximum.
        assert!(delays[..100].windows(2).all(|pair| pair[1] - pair[0] < 500), "{delays:?}");
        assert!(delays.windows(2).all(|pair| pair[1] - pair[0] <= 500_000), "{delays:?}");
        // Every rate from 2.5 million blocks a second down to 100 has a fill level that matches it.
        for wanted_ns in [400, 10_000, 100_000, 1_000_000, 9_900_000] {
            assert!(delays.iter().any(|&delay| delay >= wanted_ns) && delays[1] < wanted_ns);
        }
    }

    /// One client writes 256 blocks at once without a pause, another writes one block every 10 ms,
    /// and a block is archived every 100 us. The small client waits only for its own blocks, and
    /// together they use the archivist's rate.
    #[test]
    fn a_small_client_does_not_wait_for_the_blocks_of_a_large_one() {
        const DELAY_NS: u64 = 100_000;
        let (large, small): (Client, Client) = ((VolumeId(0), 1), (VolumeId(1), 1));
        let mut throttle = Throttle::default();
        let (mut appended, mut waits_ns, mut due_ns) = (0, Vec::new(), 0);
        let end_ns = 20_000_000_000;
        for now_ns in (0..end_ns).step_by(50_000) {
            throttle.count_clients(now_ns);
            if !throttle.holds_at(large, now_ns) {
                throttle.charge_at(large, 256 * DELAY_NS, now_ns);
                appended += 256;
            }
            if now_ns >= due_ns && !throttle.holds_at(small, now_ns) {
                throttle.charge_at(small, DELAY_NS, now_ns);
                waits_ns.push(now_ns - due_ns);
                due_ns = now_ns + 10_000_000;
                appended += 1;
            }
        }
        let longest_ns = waits_ns.iter().max().copied().unwrap_or(u64::MAX);
        assert!(longest_ns <= 2 * DELAY_NS && waits_ns.len() > 1900, "{longest_ns}, {}", waits_ns.len());
        // The small client leaves most of its half unused, and that is not given to the other.
        let rate = end_ns / DELAY_NS;
        assert!((rate * 45 / 100..=rate).contains(&appended), "{appended} of {rate}");
    }

    /// 64 clients write the largest commands at the longest delay: none waits longer than the
    /// target keeps a command.
    #[test]
    fn no_client_waits_longer_than_a_command_may_live() {
        let mut throttle = Throttle::default();
        let largest_ns = u64::from(MAX_IO_BLOCKS) * DELAY_MAX_NS as u64;
        let clients: Vec<Client> = (0..64).map(|number| (VolumeId(0), number)).collect();
        for &client in &clients {
            throttle.charge_at(client, largest_ns, 0);
        }
        assert!(throttle.holds_at(clients[63], WAIT_MAX_NS - SLACK_NS - 1));
        assert!(clients.iter().all(|&client| !throttle.holds_at(client, WAIT_MAX_NS)));
        throttle.charge_at(clients[63], largest_ns, WAIT_MAX_NS);
        assert!(!throttle.holds_at(clients[63], 2 * WAIT_MAX_NS));
    }

    #[test]
    fn what_is_told_is_the_share_of_time_in_which_somebody_waited() {
        let mut throttle = Throttle::default();
        throttle.measure(10 * WINDOW_NS);
        for tenth in 1..=10 {
            throttle.holds = tenth <= 3;
            assert_eq!(throttle.measure(10 * WINDOW_NS + tenth * WINDOW_NS / 10), tenth <= 3);
        }
        assert!((throttle.held_ms_per_s() - 300.0).abs() < 1.0, "{}", throttle.held_ms_per_s());
        throttle.measure(12 * WINDOW_NS);
        assert!(throttle.held_ms_per_s() < 1.0);
    }
}
