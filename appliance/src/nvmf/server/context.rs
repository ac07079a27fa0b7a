//! What every connection of a target shares: storage, memory, configuration, subsystems, counters, the turn's time.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::config::{TRANSFER_BYTES_MAX, TargetConfig};
use super::controller::Controller;
use super::leftover::Leftover;
use super::shares::Shares;
use super::stats::Counters;
use super::storage::Storage;
use super::subsystem::Subsystems;
use crate::dma::{DmaBufMut, DmaPool};

/// Warnings of one target in [`WARNING_SPAN`], so that a hostile peer cannot fill a log.
const WARNINGS_PER_SPAN: u32 = 10;
const WARNING_SPAN: Duration = Duration::from_secs(1);
/// The most memory for data that one command takes: of a compare, what came and what is read.
const COMMAND_MEMORY_BYTES_MAX: usize = 2 * TRANSFER_BYTES_MAX as usize;
/// Receive buffers of I/O queues together, in bytes, as far as each has room for its capsules.
const RECEIVE_BYTES_MAX: usize = 16 << 20;

/// What all connections may take of a turn, in bytes, and what each may at least.
const TURN_BYTES: usize = 4 << 20;
const TURN_BYTES_MIN: usize = 32 << 10;

/// What the storage reads at once for a host that is alone, and for all of them where there are
/// several: what a slow device reads in a few ms, and a fast one needs to be busy.
const READING_BYTES_ALONE: usize = 8 << 20;
const READING_BYTES_SHARED: usize = 2 << 20;
/// What it may always read for a host.
const READING_BYTES_MIN: usize = 128 << 10;
/// How long it counts as shared after it was.
const SHARED_SPAN: Duration = Duration::from_secs(1);

/// Shared by all connections of a target.
pub(super) struct Context {
    pub(super) config: TargetConfig,
    pub(super) storage: Rc<dyn Storage>,
    pub(super) dma: DmaPool,
    pub(super) subsystems: Subsystems,
    pub(super) counters: Counters,
    /// Who has how much of the memory for data of hosts.
    pub(super) shares: RefCell<Shares>,
    /// When the target was made.
    pub(super) started: Instant,
    now: Cell<Instant>,
    staging_bytes: Cell<usize>,
    /// I/O queues that are connected.
    io_queues: Cell<usize>,
    /// Controllers for which the storage reads.
    reading_controllers: Cell<usize>,
    /// Until then it counts as shared: it read for several not long ago.
    shared_until: Cell<Instant>,
    listeners: RefCell<Vec<SocketAddr>>,
    warnings: Cell<(Instant, u32)>,
    leftovers: RefCell<Vec<Leftover>>,
}

impl Context {
    pub(super) fn new(config: TargetConfig, storage: Rc<dyn Storage>, dma: DmaPool) -> Self {
        let now = Instant::now();
        let subsystems = Subsystems::new(&*storage);
        // Some of the pool is lost to pieces that are too small for what is wanted.
        let pool_bytes = dma.stats().budget_bytes;
        let budget_bytes = config.host_memory_bytes_max.min(pool_bytes - pool_bytes / 16);
        Context {
            config,
            storage,
            dma,
            subsystems,
            counters: Counters::default(),
            shares: RefCell::new(Shares::new(budget_bytes, COMMAND_MEMORY_BYTES_MAX)),
            started: now,
            now: Cell::new(now),
            staging_bytes: Cell::new(0),
            io_queues: Cell::new(0),
            reading_controllers: Cell::new(0),
            shared_until: Cell::new(now),
            listeners: RefCell::default(),
            warnings: Cell::new((now, 0)),
            leftovers: RefCell::default(),
        }
    }

    /// The time of this turn.
    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    pub(super) fn set_now(&self, now: Instant) {
        self.now.set(now);
    }

    /// The addresses that are listened on.
    pub(super) fn listener_addresses(&self) -> Vec<SocketAddr> {
        self.listeners.borrow().clone()
    }

    pub(super) fn set_listener_addresses(&self, addresses: Vec<SocketAddr>) {
        *self.listeners.borrow_mut() = addresses;
        self.subsystems.discovery_changed();
    }

    pub(super) fn staging_bytes(&self) -> usize {
        self.staging_bytes.get()
    }

    /// Memory for write data, of which the caller has its share, unless the pool has none.
    pub(super) fn take_staging(&self, len_bytes: usize) -> Option<DmaBufMut> {
        let buffer = self.dma.allocate(len_bytes).ok()?;
        self.staging_bytes.set(self.staging_bytes.get() + len_bytes);
        Some(buffer)
    }

    /// What one connection may take of a turn, at most `max_bytes`: all of them together take about
    /// [`TURN_BYTES`], or a turn of many would keep everybody waiting.
    pub(super) fn turn_bytes(&self, max_bytes: usize) -> usize {
        self.per_io_queue(TURN_BYTES).clamp(TURN_BYTES_MIN, max_bytes)
    }

    /// The size of the receive buffer of one more I/O queue: the more there are, the smaller.
    pub(super) fn receive_buffer_bytes(&self) -> usize {
        let least_bytes = 2 * (self.config.in_capsule_bytes as usize + 256);
        self.per_io_queue(RECEIVE_BYTES_MAX).clamp(least_bytes, self.config.receive_buffer_bytes)
    }

    fn per_io_queue(&self, all_bytes: usize) -> usize {
        all_bytes / self.io_queues.get().max(1)
    }

    /// What the storage reads for one host at once, at most: a command that begins below it may end
    /// above it. The device takes one read after the other, so those of others stand behind these.
    pub(super) fn reading_bytes_max(&self, controller: &Controller) -> usize {
        let others = self.reading_controllers.get() - usize::from(controller.reading_bytes() > 0);
        if others == 0 && self.now() >= self.shared_until.get() {
            return READING_BYTES_ALONE;
        }
        (READING_BYTES_SHARED / (others + 1).max(2)).max(READING_BYTES_MIN)
    }

    /// The storage reads so much more for a host.
    pub(super) fn begin_reading(&self, controller: &Controller, len_bytes: usize) {
        let before_bytes = controller.reading_bytes();
        controller.set_reading_bytes(before_bytes + len_bytes);
        if before_bytes == 0 && len_bytes > 0 {
            let controllers = self.reading_controllers.get() + 1;
            self.reading_controllers.set(controllers);
            if controllers > 1 {
                self.shared_until.set(self.now() + SHARED_SPAN);
            }
        }
    }

    /// So much of it is read, or nobody waits for it.
    pub(super) fn end_reading(&self, controller: &Controller, len_bytes: usize) {
        let left_bytes = controller.reading_bytes() - len_bytes;
        controller.set_reading_bytes(left_bytes);
        if left_bytes == 0 && len_bytes > 0 {
            self.reading_controllers.set(self.reading_controllers.get() - 1);
        }
    }

    /// An I/O queue has come, or has gone.
    pub(super) fn count_io_queue(&self, has_come: bool) {
        let queues = self.io_queues.get();
        self.io_queues.set(if has_come { queues + 1 } else { queues.saturating_sub(1) });
    }

    /// Counts memory of [`take_staging`](Self::take_staging) as given back; the caller drops the buffer.
    pub(super) fn release_staging(&self, len_bytes: usize) {
        self.staging_bytes.set(self.staging_bytes.get() - len_bytes);
    }

    /// Keeps what the storage has of a connection that is closed.
    pub(super) fn leave(&self, leftover: Leftover) {
        self.leftovers.borrow_mut().push(leftover);
    }

    /// Forgets what the storage is done with. How much that was.
    pub(super) fn look_after_leftovers(&self) -> usize {
        let mut leftovers = self.leftovers.borrow_mut();
        let before = leftovers.len();
        leftovers.retain_mut(|leftover| {
            let is_over = leftover.is_over();
            if is_over {
                self.shares.borrow_mut().leave(leftover.member);
            }
            !is_over
        });
        before - leftovers.len()
    }

    /// Whether a warning may be written now.
    pub(super) fn may_warn(&self) -> bool {
        let (since, count) = self.warnings.get();
        let now = self.now.get();
        if now.saturating_duration_since(since) >= WARNING_SPAN {
            self.warnings.set((now, 1));
            return true;
        }
        self.warnings.set((since, count.saturating_add(1)));
        count < WARNINGS_PER_SPAN
    }
}
