//! What every connection of a target shares: storage, memory, configuration, subsystems, counters
//! and the turn's time.

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

/// The most warnings of one target per [`WARNING_SPAN`], so that a hostile peer cannot fill a log.
const WARNINGS_PER_SPAN: u32 = 10;
const WARNING_SPAN: Duration = Duration::from_secs(1);
/// The most data memory that one command uses. A compare needs both the host's data and the data
/// that is read.
const COMMAND_MEMORY_BYTES_MAX: usize = 2 * TRANSFER_BYTES_MAX as usize;
/// Receive buffers of all I/O queues together, in bytes, as far as each has space for its capsules.
const RECEIVE_BYTES_MAX: usize = 16 << 20;

/// The most bytes that all connections together may take per turn, and the least that each one may.
const TURN_BYTES: usize = 4 << 20;
const TURN_BYTES_MIN: usize = 32 << 10;

/// The most bytes that the storage reads at the same time for a host that is alone, and for all
/// hosts together when there are several: what a slow device reads in a few ms, and a fast one
/// needs to be busy.
const READING_BYTES_ALONE: usize = 8 << 20;
const READING_BYTES_SHARED: usize = 2 << 20;
/// The most bytes per turn that waiting output is copied into separate memory.
const COPIED_BYTES_PER_TURN: usize = 256 << 10;
/// The bytes that it may always read for a host.
const READING_BYTES_MIN: usize = 128 << 10;
/// How long the storage still counts as shared after it was.
const SHARED_SPAN: Duration = Duration::from_secs(1);

/// Shared by all connections of a target.
pub(super) struct Context {
    pub(super) config: TargetConfig,
    pub(super) storage: Rc<dyn Storage>,
    pub(super) dma: DmaPool,
    pub(super) subsystems: Subsystems,
    pub(super) counters: Counters,
    /// Who holds how much of the memory for host data.
    pub(super) shares: RefCell<Shares>,
    /// When the target was created.
    pub(super) started: Instant,
    now: Cell<Instant>,
    /// Bytes of waiting output that were copied in this turn.
    copied_bytes: Cell<usize>,
    staging_bytes: Cell<usize>,
    /// Connected I/O queues.
    io_queues: Cell<usize>,
    /// Controllers for which the storage is reading.
    reading_controllers: Cell<usize>,
    /// The storage counts as shared until then: it read for several hosts less than [`SHARED_SPAN`]
    /// ago.
    shared_until: Cell<Instant>,
    listeners: RefCell<Vec<SocketAddr>>,
    warnings: Cell<(Instant, u32)>,
    leftovers: RefCell<Vec<Leftover>>,
}

impl Context {
    pub(super) fn new(config: TargetConfig, storage: Rc<dyn Storage>, dma: DmaPool) -> Self {
        let now = Instant::now();
        let subsystems = Subsystems::new(&*storage);
        // Some of the pool is lost to pieces that are too small for a request.
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
            copied_bytes: Cell::new(0),
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

    /// A turn begins.
    pub(super) fn begin_turn(&self, now: Instant) {
        self.now.set(now);
        self.copied_bytes.set(0);
    }

    /// Whether this many bytes of waiting output may still be copied in this turn. The first ones
    /// always may.
    pub(super) fn may_copy(&self, len_bytes: usize) -> bool {
        let before_bytes = self.copied_bytes.get();
        let may = before_bytes == 0 || before_bytes + len_bytes <= COPIED_BYTES_PER_TURN;
        if may {
            self.copied_bytes.set(before_bytes + len_bytes);
        }
        may
    }

    /// The addresses on which the target listens.
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

    /// Memory for write data, which the caller has charged to its share. `None` when the pool has
    /// none.
    pub(super) fn take_staging(&self, len_bytes: usize) -> Option<DmaBufMut> {
        let buffer = self.dma.allocate(len_bytes).ok()?;
        self.staging_bytes.set(self.staging_bytes.get() + len_bytes);
        Some(buffer)
    }

    /// Bytes that one connection may take per turn, at most `max_bytes`. All connections together
    /// take about [`TURN_BYTES`]. Otherwise a turn of many connections would delay everybody.
    pub(super) fn turn_bytes(&self, max_bytes: usize) -> usize {
        self.per_io_queue(TURN_BYTES).clamp(TURN_BYTES_MIN, max_bytes)
    }

    /// The size of the receive buffer for one more I/O queue: the more queues, the smaller.
    pub(super) fn receive_buffer_bytes(&self) -> usize {
        let least_bytes = 2 * (self.config.in_capsule_bytes as usize + 256);
        self.per_io_queue(RECEIVE_BYTES_MAX).clamp(least_bytes, self.config.receive_buffer_bytes)
    }

    fn per_io_queue(&self, all_bytes: usize) -> usize {
        all_bytes / self.io_queues.get().max(1)
    }

    /// The most bytes that the storage reads for one host at the same time. A command that begins
    /// below the limit may end above it. The device serves one read after another, so reads of
    /// other hosts wait until these are done.
    pub(super) fn reading_bytes_max(&self, controller: &Controller) -> usize {
        let others = self.reading_controllers.get() - usize::from(controller.reading_bytes() > 0);
        if others == 0 && self.now() >= self.shared_until.get() {
            return READING_BYTES_ALONE;
        }
        (READING_BYTES_SHARED / (others + 1).max(2)).max(READING_BYTES_MIN)
    }

    /// The storage reads this many more bytes for a host.
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

    /// This many of the bytes are read, or no connection waits for them any more.
    pub(super) fn end_reading(&self, controller: &Controller, len_bytes: usize) {
        let left_bytes = controller.reading_bytes() - len_bytes;
        controller.set_reading_bytes(left_bytes);
        if left_bytes == 0 && len_bytes > 0 {
            self.reading_controllers.set(self.reading_controllers.get() - 1);
        }
    }

    /// An I/O queue was connected or closed.
    pub(super) fn count_io_queue(&self, has_come: bool) {
        let queues = self.io_queues.get();
        self.io_queues.set(if has_come { queues + 1 } else { queues.saturating_sub(1) });
    }

    /// Counts memory of [`take_staging`](Self::take_staging) as released. The caller drops the
    /// buffer.
    pub(super) fn release_staging(&self, len_bytes: usize) {
        self.staging_bytes.set(self.staging_bytes.get() - len_bytes);
    }

    /// Keeps the commands that the storage still has of a closed connection.
    pub(super) fn leave(&self, leftover: Leftover) {
        self.leftovers.borrow_mut().push(leftover);
    }

    /// Drops the leftovers that the storage has finished. Returns how many.
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
