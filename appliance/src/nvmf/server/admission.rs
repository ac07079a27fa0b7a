//! Decides who is let in, and who gives way when there is no more room.
//!
//! | what is used up | who gives way | else |
//! |---|---|---|
//! | connections, or descriptors | after [`GRACE`] the one without a queue | new ones wait |
//! | a volume's controllers | see [`make_room_for_controller`] | Connect is refused as busy |
//!
//! So hosts that connect and stay silent, or that vanish, do not shut others out.

use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use super::connection::{Close, Connection};
use super::context::Context;
use super::controller::{Controller, End};
use super::listener::Listener;
use super::subsystem::Subsystem;
use super::{Inner, set_busy_poll};
use crate::descriptors;

/// The shortest time between two reports that there is no room for more connections.
const SAY_AGAIN: Duration = Duration::from_mins(1);
/// A new connection may be without a queue for this time, however crowded the target is: hosts that
/// connect at the same time must have the time to connect a queue.
const GRACE: Duration = Duration::from_millis(500);
/// Connections accepted per turn, from all listeners together. The rest waits for the next turn.
pub(super) const ACCEPTS_PER_TURN: usize = 16;

/// Whether there is room for one more connection.
enum Room {
    /// There is.
    Made,
    /// There will be in one of the next turns.
    Soon,
    /// Nobody gives way.
    None,
}

impl Inner {
    /// Accepts waiting connections. Returns how many. Each turn begins with another listener.
    pub(super) fn accept(&self) -> usize {
        let listeners = self.listeners.borrow();
        let first = self.next_to_accept.get() % listeners.len().max(1);
        self.next_to_accept.set(first + 1);
        let (front, back) = listeners.split_at(first);
        let mut count = 0;
        for listener in back.iter().chain(front) {
            if count == ACCEPTS_PER_TURN {
                break;
            }
            count += self.accept_from(listener, ACCEPTS_PER_TURN - count);
        }
        count
    }

    fn accept_from(&self, listener: &Listener, count_max: usize) -> usize {
        if !listener.take_readable() {
            return 0;
        }
        for count in 0..count_max {
            if !self.has_room(listener) {
                if !listener.is_pending() {
                    return count;
                }
                match self.make_room() {
                    Room::Made => {}
                    Room::Soon => return count,
                    Room::None => {
                        listener.pause();
                        return count;
                    }
                }
            }
            match listener.accept() {
                Ok(Some((socket, peer))) => self.add(socket, peer),
                Ok(None) => return count,
                Err(error) => {
                    // An immediate retry would only keep the reactor busy.
                    listener.pause();
                    self.say_full(&error.to_string());
                    return count;
                }
            }
        }
        count_max
    }

    fn has_room(&self, listener: &Listener) -> bool {
        self.open_count() < self.context.config.connections_max
            && descriptors::has_room_for_host(listener.socket())
    }

    /// Closes a connection that has ended, or else the one that has been without a queue longest.
    fn make_room(&self) -> Room {
        if self.ends.len() == 0 && !self.evict() {
            return Room::None;
        }
        if self.ends.close_one(&self.context) { Room::Made } else { Room::Soon }
    }

    /// Ends the connection that has been without a queue longest. `false` when all have a queue, or
    /// are newer than [`GRACE`].
    fn evict(&self) -> bool {
        self.say_full("there is no room for more connections");
        let mut connections = self.connections.borrow_mut();
        let now = self.context.now();
        let gives_way = |connection: &Connection| {
            connection.is_half_open() && now.saturating_duration_since(connection.opened()) >= GRACE
        };
        let half_open = connections.iter().enumerate().filter(|(_, connection)| gives_way(connection));
        let oldest = half_open.min_by_key(|(_, connection)| connection.opened()).map(|(index, _)| index);
        let Some(oldest) = oldest else { return false };
        self.context.counters.connections_evicted.add(1);
        self.ends.push(&self.context, connections.swap_remove(oldest), Close::GaveWay);
        true
    }

    /// Logs the reason once, and again at most every [`SAY_AGAIN`].
    fn say_full(&self, reason: &str) {
        let now = self.context.now();
        let before = self.full_said.get();
        if before.is_some_and(|before| now.saturating_duration_since(before) < SAY_AGAIN) {
            return;
        }
        self.full_said.set(Some(now));
        let (connections, limit) = (self.open_count(), self.context.config.connections_max);
        tracing::warn!(
            reason,
            connections,
            limit,
            "new connections take the places of those that connect no queue, and wait when there are none"
        );
    }

    fn add(&self, socket: TcpStream, peer: SocketAddr) {
        let context = &self.context;
        if let Some(span_us) = context.config.busy_poll_us
            && let Err(error) = set_busy_poll(&socket, span_us)
            && context.may_warn()
        {
            tracing::warn!(%peer, span_us, %error, "the kernel does not poll the network device for a connection, which works without it");
        }
        match Connection::new(&self.local, socket, peer, context.now()) {
            Ok(connection) => {
                tracing::debug!(%peer, "connection accepted");
                context.counters.connections_accepted.add(1);
                self.connections.borrow_mut().push(connection);
            }
            Err(error) => {
                if context.may_warn() {
                    tracing::warn!(%peer, %error, "a connection could not be set up");
                }
            }
        }
    }
}

/// Makes room for one more controller of a host. Returns whether there is room. When all are in
/// use, the first of these that exists gives way:
/// - all whose hosts have closed their connections;
/// - the host's own controller that has been silent longest: the host has forgotten it;
/// - one that was never enabled and is silent;
/// - a silent one of the host that has the most, if the new one's host would still have fewer.
pub(super) fn make_room_for_controller(
    context: &Context,
    subsystem: &Subsystem,
    host_nqn: &str,
    host_id: &[u8; 16],
) -> bool {
    let limit = context.config.controllers_per_subsystem_max;
    let controllers = subsystem.controllers.borrow();
    if controllers.len() < limit {
        return true;
    }
    let mut open: Vec<&Rc<Controller>> =
        controllers.iter().filter(|controller| controller.ended().is_none()).collect();
    open.retain(|controller| {
        let is_gone = controller.is_gone();
        if is_gone {
            controller.end(End::GaveWay);
        }
        !is_gone
    });
    if open.len() < limit {
        return true;
    }
    let Some(silent) = silent_one(context, &open, host_nqn, host_id) else { return false };
    silent.end(End::GaveWay);
    if context.may_warn() {
        tracing::warn!(
            nqn = %subsystem.nqn,
            controller_id = silent.id,
            host_nqn = ?silent.host_nqn,
            "all controllers are in use: a silent one gives way"
        );
    }
    true
}

/// Chooses the controller that gives way to a new one of a host.
fn silent_one<'a>(
    context: &Context,
    open: &[&'a Rc<Controller>],
    host_nqn: &str,
    host_id: &[u8; 16],
) -> Option<&'a Rc<Controller>> {
    let is_silent = |controller: &Controller| {
        let silence = context.now().saturating_duration_since(controller.last_traffic());
        silence >= context.config.silent_after
    };
    let is_of = |controller: &Controller, nqn: &str, id: &[u8; 16]| {
        controller.host_nqn == nqn && controller.host_id == *id
    };
    let count = |nqn: &str, id: &[u8; 16]| open.iter().filter(|one| is_of(one, nqn, id)).count();
    let own = count(host_nqn, host_id);
    let silent = open.iter().copied().filter(|controller| is_silent(controller));
    silent
        .filter_map(|controller| {
            let theirs = count(&controller.host_nqn, &controller.host_id);
            let rank = if is_of(controller, host_nqn, host_id) {
                (0, 0)
            } else if !controller.is_enabled() {
                (1, 0)
            } else if theirs > own + 1 {
                (2, usize::MAX - theirs)
            } else {
                return None;
            };
            Some((rank, controller))
        })
        .min_by_key(|(rank, controller)| (*rank, controller.last_traffic()))
        .map(|(_, controller)| controller)
}
