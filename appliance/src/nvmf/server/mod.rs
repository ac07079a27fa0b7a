//! The NVMe/TCP target: serves volumes to hosts.
//!
//! | file             | job                                                          |
//! |------------------|--------------------------------------------------------------|
//! | `connection/`    | one socket: PDUs, data transfer, commands under way          |
//! | `fabrics`        | Connect, properties                                          |
//! | `admin`          | dispatch of admin commands                                   |
//! | `identify`, `log_page`, `feature`, `discovery` | what the admin commands answer |
//! | `event`, `error_log` | asynchronous events, the error log                       |
//! | `io`             | I/O commands to requests of a volume                         |
//! | `controller`, `queue`, `subsystem` | the objects of the specification and their states |
//! | `listener`, `line` | listening sockets, connected ones                          |
//! | `admission`      | who is let in, and who gives way                             |
//! | `ends`           | connections that have ended, until they are closed           |
//! | `shares`         | who gets memory for data, and who waits                      |
//! | `storage`, `memory` | what the target needs of the volumes; volumes in memory   |
//! | `leftover`       | what the storage still has of connections that are closed    |
//! | `context`, `config`, `stats` | what is shared; limits; counters                 |
//!
//! A target belongs to one reactor. In each turn, [`Target::poll_receive`] reads and parses the
//! hosts' data and passes requests to the storage. Then the storage is polled. Then
//! [`Target::poll_send`] turns completions into responses and sends them, all responses of a
//! connection together. Add the three as pollers in that order.
//!
//! Bounds: [`TargetConfig`] bounds connections, controllers and queues. The size of a queue bounds
//! its commands. The memory for host data bounds data from and to hosts: each connection has its
//! share of it, and its own limits below that. Each turn starts with another connection, takes and
//! sends a bounded number of bytes per connection, and lasts a bounded time. A connection that gets
//! no turn is the first one of the next turn. In every turn, short responses go out before all long
//! ones. A turn accepts a few connections and closes a few of those that have ended.

mod admin;
mod admin_reply;
mod admission;
mod busy_poll;
mod config;
mod connection;
mod context;
mod controller;
mod discovery;
mod ends;
mod error_log;
mod event;
mod fabrics;
mod feature;
mod feature_values;
mod identify;
mod io;
mod leftover;
mod line;
mod listener;
mod log_page;
pub mod memory;
mod queue;
mod shares;
mod stats;
mod storage;
mod subsystem;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

pub use busy_poll::set_busy_poll;
pub use config::{BLOCK_BYTES, LISTENERS_MAX, NAMESPACE_ID, TRANSFER_BYTES_MAX, TargetConfig};
pub use listener::ListenError;
pub use stats::{ControllerInfo, QueuePairInfo, SubsystemInfo, TargetStats};
pub use storage::Storage;

use crate::dma::DmaPool;
use crate::reactor::Local;
use connection::{Close, Connection};
use context::Context;
use ends::Ends;
use listener::Listener;

/// How often the timeouts of connections are checked while there are any.
const TICK: Duration = Duration::from_millis(100);
/// How often the reactor wakes for the target while no host is connected.
const IDLE_TICK: Duration = Duration::from_secs(1);
/// The most time per turn for receiving, and for sending long output, when there are several
/// connections. The connection that is being served at that time is still finished, so the limit is
/// approximate.
const PART_TIME_MAX: Duration = Duration::from_micros(400);
/// How long the reactor may sleep while a connection waits for memory or for the storage.
const RETRY: Duration = Duration::from_millis(1);

/// A target. Cheap to clone, and never leaves its reactor.
#[derive(Clone)]
pub struct Target {
    inner: Rc<Inner>,
}

struct Inner {
    local: Local,
    context: Context,
    connections: RefCell<Vec<Connection>>,
    /// The connections that have ended and are not closed yet. They are not in `connections`.
    ends: Ends,
    listeners: RefCell<Vec<Listener>>,
    next_tick: Cell<Instant>,
    /// A timer that wakes the reactor for another try is running.
    retry_armed: Cell<bool>,
    shut_down: Cell<bool>,
    /// When the lack of room for more connections was last reported.
    full_said: Cell<Option<Instant>>,
    /// Number of connections that received data recently. If there is only one, its socket is read
    /// in every turn without asking first whether it is ready. That saves one system call per
    /// command of a host that waits for each command.
    eager_connections: Cell<usize>,
    /// The listener with which the next turn begins to accept.
    next_to_accept: Cell<usize>,
    /// The connections with which the next turn begins to receive, and to send long output.
    next_to_receive: Cell<usize>,
    next_to_send: Cell<usize>,
    /// How often every connection has had its turn to receive.
    rounds: Cell<u64>,
}

impl Target {
    /// Makes a target that serves every volume of `storage` and follows its changes. `dma` provides
    /// the memory for data from hosts.
    pub fn new(local: Local, storage: Rc<dyn Storage>, dma: DmaPool, config: TargetConfig) -> Self {
        let inner = Rc::new(Inner {
            local,
            context: Context::new(config.within_bounds(), storage, dma),
            connections: RefCell::default(),
            ends: Ends::default(),
            listeners: RefCell::default(),
            next_tick: Cell::new(Instant::now()),
            retry_armed: Cell::new(false),
            shut_down: Cell::new(false),
            full_said: Cell::new(None),
            eager_connections: Cell::new(0),
            next_to_accept: Cell::new(0),
            next_to_receive: Cell::new(0),
            next_to_send: Cell::new(0),
            rounds: Cell::new(0),
        });
        inner.local.spawn(tick(inner.local.clone(), Rc::downgrade(&inner)));
        Target { inner }
    }

    /// Listens on an address. Port 0 chooses a port. Returns the address with its port.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn listen(&self, address: SocketAddr) -> Result<SocketAddr, ListenError> {
        if self.inner.shut_down.get() {
            return Err(ListenError::ShutDown { address });
        }
        if self.inner.listeners.borrow().len() >= LISTENERS_MAX {
            return Err(ListenError::TooMany { address });
        }
        let listener = Listener::bind(&self.inner.local, address)?;
        let bound = listener.address;
        self.inner.listeners.borrow_mut().push(listener);
        self.inner.publish_listeners();
        tracing::info!(address = %bound, "listening for NVMe/TCP hosts");
        Ok(bound)
    }

    /// Stops listening on an address. Connections that were accepted there stay. Returns whether
    /// the target was listening on it.
    pub fn remove_listener(&self, address: SocketAddr) -> bool {
        let mut listeners = self.inner.listeners.borrow_mut();
        let before = listeners.len();
        listeners.retain(|listener| listener.address != address);
        let removed = listeners.len() < before;
        drop(listeners);
        if removed {
            self.inner.publish_listeners();
        }
        removed
    }

    /// The addresses on which the target listens.
    pub fn listeners(&self) -> Vec<SocketAddr> {
        self.inner.context.listener_addresses()
    }

    /// The first part of a turn: accepts, receives, parses, and passes requests to the storage.
    /// Returns the amount of work.
    pub fn poll_receive(&self) -> usize {
        let inner = &*self.inner;
        if inner.shut_down.get() {
            return 0;
        }
        let context = &inner.context;
        context.begin_turn(Instant::now());
        inner.ends.begin_turn();
        let mut work = context.subsystems.follow(&*context.storage);
        work += inner.accept();
        let directly = inner.eager_connections.get() == 1;
        let mut eager = 0;
        let Visited { work: received, is_whole, is_round } =
            inner.in_turns(&inner.next_to_receive, |connection| {
                connection.check_alive(context)?;
                let work = connection.receive(context, directly)?;
                eager += usize::from(connection.is_eager());
                Ok(work)
            });
        inner.eager_connections.set(eager);
        inner.rounds.set(inner.rounds.get() + u64::from(is_round));
        if eager == 1 && is_whole {
            inner.local.skip_events();
        }
        work + received
    }

    /// The last part of a turn, after the storage was polled: answers and sends. Returns the amount
    /// of work.
    pub fn poll_send(&self) -> usize {
        let inner = &*self.inner;
        if inner.shut_down.get() {
            return 0;
        }
        let context = &inner.context;
        let now = context.now();
        let tick = now >= inner.next_tick.get();
        if tick {
            inner.next_tick.set(now + TICK);
            inner.listeners.borrow().iter().for_each(Listener::resume);
        }
        let (mut stalled, mut is_long) = (false, false);
        let mut work = context.look_after_leftovers();
        work += inner.each(|connection| {
            let work = connection.answer(context)?;
            if tick {
                connection.check_clocks(context)?;
            }
            stalled |= connection.is_stalled();
            is_long |= connection.has_output();
            Ok(work)
        });
        if is_long {
            work += inner.in_turns(&inner.next_to_send, |connection| connection.send_long(context)).work;
        }
        if stalled {
            self.arm_retry();
        }
        // After everybody else was served.
        work + inner.ends.close_some(context)
    }

    /// Makes the reactor wake after [`RETRY`]: what a connection waits for may become free without
    /// an event of this reactor.
    fn arm_retry(&self) {
        if self.inner.retry_armed.replace(true) {
            return;
        }
        let (local, inner) = (self.inner.local.clone(), Rc::downgrade(&self.inner));
        self.inner.local.spawn(async move {
            local.sleep(RETRY).await;
            if let Some(inner) = inner.upgrade() {
                inner.retry_armed.set(false);
            }
        });
    }

    /// Every subsystem, the discovery subsystem first.
    pub fn subsystems(&self) -> Vec<SubsystemInfo> {
        let subsystems = &self.inner.context.subsystems;
        std::iter::once(subsystems.discovery.info())
            .chain(subsystems.all().iter().map(|subsystem| subsystem.info()))
            .collect()
    }

    /// Every controller.
    pub fn controllers(&self) -> Vec<ControllerInfo> {
        let connections = self.inner.connections.borrow();
        connections
            .iter()
            .filter_map(Connection::queue)
            .filter(|queue| queue.is_admin())
            .map(|queue| queue.controller.info())
            .collect()
    }

    /// The names of the hosts that are connected to a subsystem, once for each controller. Excludes
    /// hosts that have closed their connections.
    pub fn hosts(&self, nqn: &str) -> Vec<String> {
        let Some(subsystem) = self.inner.context.subsystems.find(nqn) else { return Vec::new() };
        let controllers = subsystem.controllers.borrow();
        let open =
            controllers.iter().filter(|controller| controller.ended().is_none() && !controller.is_gone());
        open.map(|controller| controller.host_nqn.clone()).collect()
    }

    /// Every queue pair.
    pub fn queue_pairs(&self) -> Vec<QueuePairInfo> {
        self.inner.connections.borrow().iter().filter_map(Connection::info).collect()
    }

    /// Counters.
    pub fn stats(&self) -> TargetStats {
        let context = &self.inner.context;
        let connections = self.inner.open_count() as u64;
        let shares = context.shares.borrow();
        TargetStats {
            host_memory_bytes: shares.held_bytes() as u64,
            host_memory_bytes_max: shares.budget_bytes() as u64,
            rounds: self.inner.rounds.get(),
            waiting_for_memory: shares.waiting() as u64,
            ..context.counters.snapshot(connections, context.staging_bytes() as u64)
        }
    }

    /// Closes every listener and every connection. The target does nothing afterwards.
    pub fn shutdown(&self) {
        self.inner.shut_down.set(true);
        self.inner.listeners.borrow_mut().clear();
        let connections = std::mem::take(&mut *self.inner.connections.borrow_mut());
        for connection in connections {
            connection.close(&self.inner.context, &Close::Shutdown);
        }
        self.inner.ends.close_all(&self.inner.context);
    }
}

/// The result of a part of a turn.
struct Visited {
    /// The amount of work.
    work: usize,
    /// Whether all connections had their turn.
    is_whole: bool,
    /// Whether the last connection had its turn, so that the next part begins a new round.
    is_round: bool,
}

impl Inner {
    fn publish_listeners(&self) {
        let addresses = self.listeners.borrow().iter().map(|listener| listener.address).collect();
        self.context.set_listener_addresses(addresses);
    }

    /// Connections that have a descriptor: those that are served, and those that have ended and are
    /// not closed yet.
    fn open_count(&self) -> usize {
        self.connections.borrow().len() + self.ends.len()
    }

    /// Does one part of the turn for every connection. Those that end in it are served no more.
    fn each(&self, part: impl FnMut(&mut Connection) -> Result<usize, Close>) -> usize {
        self.visit(0, None, part).0
    }

    /// The same, within the time limit of a part. The next turn begins with the first connection
    /// that had no turn. If all had one, it begins with the second connection of this turn, so that
    /// scarce resources do not always go to the same one first.
    fn in_turns(
        &self,
        next: &Cell<usize>,
        part: impl FnMut(&mut Connection) -> Result<usize, Close>,
    ) -> Visited {
        let count = self.connections.borrow().len();
        let first = next.get() % count.max(1);
        let (work, visited) = self.visit(first, Some(PART_TIME_MAX), part);
        let is_whole = visited == count;
        let end = first + if is_whole { 1 } else { visited };
        next.set(end);
        Visited { work, is_whole, is_round: is_whole || end >= count }
    }

    /// Visits the connections, starting at `first`. Returns the amount of work and the number of
    /// connections that had their turn: all of them, unless the time ran out.
    fn visit(
        &self,
        first: usize,
        time_max: Option<Duration>,
        mut part: impl FnMut(&mut Connection) -> Result<usize, Close>,
    ) -> (usize, usize) {
        let mut connections = self.connections.borrow_mut();
        let count = connections.len();
        let (mut work, mut visited, mut began) = (0, 0, None);
        let mut ended: Vec<(usize, Close)> = Vec::new();
        let (front, back) = connections.split_at_mut(first);
        let in_order = back.iter_mut().enumerate().map(|(index, connection)| (first + index, connection));
        for (index, connection) in in_order.chain(front.iter_mut().enumerate()) {
            let done = part(connection).unwrap_or_else(|why| {
                ended.push((index, why));
                1
            });
            work += done;
            visited += 1;
            if let Some(time_max) = time_max
                && done > 0
                && visited < count
            {
                let now = Instant::now();
                if now.duration_since(*began.get_or_insert(now)) >= time_max {
                    break;
                }
            }
        }
        // From the last one on, so that the indices of the others stay valid.
        ended.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, why) in ended {
            let connection = connections.swap_remove(index);
            if matches!(why, Close::HostTerminated { .. }) && self.context.may_warn() {
                tracing::warn!(peer = %connection.peer(), reason = %why, "the host ended the connection");
            }
            self.ends.push(&self.context, connection, why);
        }
        (work, visited)
    }
}

/// Wakes the reactor for the timeouts, for as long as the target exists.
async fn tick(local: Local, inner: Weak<Inner>) {
    loop {
        let Some(strong) = inner.upgrade() else { return };
        if strong.shut_down.get() {
            return;
        }
        let span = if strong.connections.borrow().is_empty() { IDLE_TICK } else { TICK };
        drop(strong);
        local.sleep(span).await;
    }
}
