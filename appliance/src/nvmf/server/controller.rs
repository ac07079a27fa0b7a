//! A controller: its registers and their state machine, its association with a host, its queues and
//! its timers.
//!
//! ```text
//!           CC.EN=1 (valid)                CC.SHN
//! disabled ----------------> ready (RDY=1) ----> shutdown (SHST=1, after a flush 2; RDY as before)
//!    ^                          |                      |
//!    +------- CC.EN=0 ----------+----------------------+
//! ```
//! Setting EN takes no time, so RDY follows immediately. Clearing EN ends the connections of the
//! I/O queues. RDY falls when these are closed and the storage has none of their commands left, so
//! no write from before the reset takes effect after it. The admin queue stays.
//!
//! A controller *ends* ([`Controller::end`]) when its admin connection closes, its keep alive timer
//! expires, its volume is deleted, or it must make room for another controller. Each of its
//! connections sees that and closes. After a deletion they close [`TargetConfig::linger`] later.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::config::{DISCOVERY_IDLE, KEEP_ALIVE_GRANULARITY_100MS, TargetConfig};
use super::error_log::ErrorLog;
use super::event::Events;
use super::feature_values::FeatureValues;
use super::line::Line;
use super::shares::GroupId;
use super::stats::ControllerInfo;
use super::subsystem::Subsystem;
use crate::nvmf::wire::property::{Cap, Cc, Crto, Csts, Property, VERSION_2_0};

/// The time to become ready that the target reports to hosts (CAP.TO and CRTO.CRWMT, which may not
/// be less), in units of 500 ms. The controller needs no time.
const READY_TIMEOUT_500MS: u32 = 15;

/// Why a controller ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its admin connection is closed.
    AdminClosed,
    /// Its host sent nothing for longer than the keep alive timeout.
    KeepAliveExpired,
    /// Its volume was deleted.
    SubsystemGone,
    /// All of the volume's controllers were in use, and this one was silent or its host was gone.
    GaveWay,
}

/// The ID of an I/O queue, and its connection.
type ConnectedQueue = (u16, Weak<Line>);

/// A controller.
pub(super) struct Controller {
    pub(super) id: u16,
    pub(super) subsystem: Rc<Subsystem>,
    pub(super) host_nqn: String,
    pub(super) host_id: [u8; 16],
    cc: Cell<Cc>,
    csts: Cell<Csts>,
    keep_alive_ms: Cell<u32>,
    last_traffic: Cell<Instant>,
    ended: Cell<Option<End>>,
    /// Incremented by every reset. I/O queues of an earlier count close.
    resets: Cell<u32>,
    /// The connection of the admin queue.
    line: Weak<Line>,
    /// Connected I/O queues and their connections.
    queues: RefCell<SmallVec<[ConnectedQueue; 8]>>,
    /// EN was cleared, and I/O queues from before the reset, or their commands, still exist.
    resetting: Cell<bool>,
    /// Bytes that the storage is reading for its queues.
    reading_bytes: Cell<usize>,
    /// Closed connections of which the storage still has commands.
    leftovers: Cell<usize>,
    /// The number of I/O queues that may be connected, from Number of Queues.
    pub(super) queues_granted: Cell<u16>,
    pub(super) events: RefCell<Events>,
    pub(super) features: RefCell<FeatureValues>,
    pub(super) errors: RefCell<ErrorLog>,
    /// The group of its connections in the shares of data memory, set by the first of them.
    pub(super) group: Cell<Option<GroupId>>,
}

impl Controller {
    pub(super) fn new(
        id: u16,
        subsystem: Rc<Subsystem>,
        host_nqn: String,
        host_id: [u8; 16],
        queues_granted: u16,
        line: &Rc<Line>,
        now: Instant,
    ) -> Rc<Self> {
        Rc::new(Controller {
            id,
            subsystem,
            host_nqn,
            host_id,
            cc: Cell::default(),
            csts: Cell::default(),
            keep_alive_ms: Cell::new(0),
            last_traffic: Cell::new(now),
            ended: Cell::new(None),
            resets: Cell::new(0),
            line: Rc::downgrade(line),
            queues: RefCell::default(),
            resetting: Cell::new(false),
            reading_bytes: Cell::new(0),
            leftovers: Cell::new(0),
            queues_granted: Cell::new(queues_granted),
            events: RefCell::default(),
            features: RefCell::default(),
            errors: RefCell::default(),
            group: Cell::new(None),
        })
    }

    pub(super) fn is_discovery(&self) -> bool {
        self.subsystem.is_discovery()
    }

    /// CSTS.RDY is set, and no reset is under way.
    pub(super) fn is_ready(&self) -> bool {
        self.csts.get().ready() == 1 && !self.resetting.get()
    }

    /// CC.EN: whether its host uses the controller.
    pub(super) fn is_enabled(&self) -> bool {
        self.cc.get().enable() == 1
    }

    /// Whether the host has closed the admin connection. The connection itself may not have noticed
    /// yet.
    pub(super) fn is_gone(&self) -> bool {
        self.line.upgrade().is_none_or(|line| line.is_gone())
    }

    /// When the host last sent something.
    pub(super) fn last_traffic(&self) -> Instant {
        self.last_traffic.get()
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.ended.get()
    }

    /// Ends the controller. The first reason is kept.
    pub(super) fn end(&self, why: End) {
        if self.ended.get().is_none() {
            self.ended.set(Some(why));
        }
    }

    pub(super) fn resets(&self) -> u32 {
        self.resets.get()
    }

    /// Records that the host sent something.
    pub(super) fn note_traffic(&self, now: Instant) {
        self.last_traffic.set(now);
    }

    /// The effective KATO in milliseconds: rounded up to the granularity. 0 is off.
    pub(super) fn keep_alive_ms(&self) -> u32 {
        self.keep_alive_ms.get()
    }

    pub(super) fn set_keep_alive_ms(&self, wanted_ms: u32) {
        let granularity_ms = u32::from(KEEP_ALIVE_GRANULARITY_100MS) * 100;
        self.keep_alive_ms.set(wanted_ms.div_ceil(granularity_ms).saturating_mul(granularity_ms));
    }

    /// Whether the host has been silent for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let limit = match self.keep_alive_ms.get() {
            0 if self.is_discovery() => DISCOVERY_IDLE,
            0 => return false,
            timeout_ms => Duration::from_millis(u64::from(timeout_ms)),
        };
        now.saturating_duration_since(self.last_traffic.get()) > limit
    }

    /// Takes a QID for a connection. `false` when it is in use. A QID whose host has closed its
    /// connection counts as free, even if that connection has not ended yet.
    pub(super) fn take_queue(&self, queue_id: u16, line: &Rc<Line>) -> bool {
        let mut queues = self.queues.borrow_mut();
        if let Some(at) = queues.iter().position(|(id, _)| *id == queue_id) {
            let before = queues[at].1.upgrade();
            if before.as_ref().is_some_and(|before| !before.is_gone()) {
                return false;
            }
            queues.remove(at);
            if let Some(before) = before {
                before.cut();
            }
        }
        queues.push((queue_id, Rc::downgrade(line)));
        true
    }

    /// Releases a connection's QID, unless another connection has taken it.
    pub(super) fn release_queue(&self, line: &Rc<Line>) {
        self.queues.borrow_mut().retain(|(_, of)| !std::ptr::eq(of.as_ptr(), Rc::as_ptr(line)));
        self.settle_reset();
    }

    /// Sets the bytes that the storage is reading for its queues. Only the context's counters use
    /// this.
    pub(super) fn set_reading_bytes(&self, len_bytes: usize) {
        self.reading_bytes.set(len_bytes);
    }

    /// Bytes that the storage is reading for its queues.
    pub(super) fn reading_bytes(&self) -> usize {
        self.reading_bytes.get()
    }

    /// A connection was closed of which the storage still has commands.
    pub(super) fn begin_leftover(&self) {
        self.leftovers.set(self.leftovers.get() + 1);
    }

    /// The storage has finished them.
    pub(super) fn end_leftover(&self) {
        self.leftovers.set(self.leftovers.get() - 1);
        self.settle_reset();
    }

    pub(super) fn queue_count(&self) -> usize {
        self.queues.borrow().len()
    }

    /// The value of a property. `None` when this controller does not have it.
    pub(super) fn property(&self, property: Property, config: &TargetConfig) -> Option<u64> {
        match property {
            Property::Capabilities => Some(capabilities(config).0),
            Property::Version => Some(u64::from(VERSION_2_0)),
            Property::Configuration => Some(u64::from(self.cc.get().0)),
            Property::Status => Some(u64::from(self.csts.get().0)),
            Property::ReadyTimeouts => {
                Some(u64::from(Crto::default().with_media_500ms(READY_TIMEOUT_500MS).0))
            }
            // CAP.NSSRS is 0.
            Property::SubsystemReset => None,
        }
    }

    /// The host writes CC. With `flush`, a shutdown stays busy until
    /// [`shutdown_complete`](Self::shutdown_complete).
    pub(super) fn configure(&self, new: Cc, flush: bool) {
        let old = self.cc.replace(new);
        if new.enable() == 1 && old.enable() == 0 {
            self.enable(new);
        } else if new.enable() == 0 && old.enable() == 1 {
            self.reset();
        }
        if new.shutdown() != 0 && old.shutdown() == 0 {
            let status = if flush { Csts::SHUTDOWN_BUSY } else { Csts::SHUTDOWN_COMPLETE };
            self.csts.set(self.csts.get().with_shutdown_status(status));
        } else if new.shutdown() == 0 && old.shutdown() != 0 {
            self.csts.set(self.csts.get().with_shutdown_status(0));
        }
    }

    /// Whether a shutdown waits for a flush.
    pub(super) fn is_shutting_down(&self) -> bool {
        self.csts.get().shutdown_status() == Csts::SHUTDOWN_BUSY
    }

    /// The flush of a shutdown has ended.
    pub(super) fn shutdown_complete(&self) {
        if self.is_shutting_down() {
            self.csts.set(self.csts.get().with_shutdown_status(Csts::SHUTDOWN_COMPLETE));
        }
    }

    fn enable(&self, cc: Cc) {
        // A host that does not wait for RDY to fall gets what it requests.
        self.resetting.set(false);
        // A discovery controller has no I/O queues, so their entry sizes do not apply to it.
        let sizes_valid =
            self.is_discovery() || (cc.submission_entry_size() == 6 && cc.completion_entry_size() == 4);
        let valid =
            sizes_valid && cc.page_size() == 0 && cc.arbitration() == 0 && matches!(cc.command_set(), 0 | 6);
        let fresh = Csts::default();
        self.csts.set(if valid { fresh.with_ready(1) } else { fresh.with_fatal(1) });
    }

    fn reset(&self) {
        self.resets.set(self.resets.get().wrapping_add(1));
        self.events.borrow_mut().reset();
        self.features.borrow_mut().reset();
        self.resetting.set(true);
        self.settle_reset();
    }

    /// Clears RDY when nothing from before the reset is under way any more.
    fn settle_reset(&self) {
        if self.resetting.get() && self.queue_count() == 0 && self.leftovers.get() == 0 {
            self.resetting.set(false);
            self.csts.set(Csts::default());
        }
    }

    pub(super) fn info(&self) -> ControllerInfo {
        ControllerInfo {
            subsystem_nqn: self.subsystem.nqn.clone(),
            controller_id: self.id,
            host_nqn: self.host_nqn.clone(),
            host_id: uuid::Uuid::from_bytes(self.host_id).to_string(),
            io_queues: self.queue_count() as u64,
            keep_alive_timeout_ms: self.keep_alive_ms(),
            ready: self.is_ready(),
        }
    }
}

/// CAP.
fn capabilities(config: &TargetConfig) -> Cap {
    Cap::default()
        .with_queue_entries_less_one(u32::from(config.queue_entries_max) - 1)
        .with_contiguous_queues(1)
        .with_timeout_500ms(READY_TIMEOUT_500MS)
        .with_nvm_command_set(1)
        .with_io_command_sets(1)
        .with_ready_with_media(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nvmf::server::line::tests::pair;
    use crate::nvmf::server::memory::MemoryStorage;
    use crate::nvmf::server::subsystem::Subsystems;

    fn controller() -> Rc<Controller> {
        let storage = MemoryStorage::new();
        storage.create("one", 1 << 20, false);
        let subsystem = Subsystems::new(&*storage).all().remove(0);
        let line = Rc::new(pair().0);
        Controller::new(1, subsystem, "nqn.host".to_owned(), [1; 16], 4, &line, Instant::now())
    }

    #[test]
    fn ready_falls_when_the_last_queue_is_gone() {
        let controller = controller();
        controller.configure(Cc::enabled(), false);
        let lines = [pair(), pair()].map(|(line, host)| (Rc::new(line), host));
        for (id, (line, _)) in (1..).zip(&lines) {
            assert!(controller.take_queue(id, line));
        }
        controller.configure(Cc(0), false);
        assert!(!controller.is_ready(), "no queue is connected any more");
        for (line, _) in &lines {
            assert_eq!(controller.csts.get().ready(), 1, "a queue may still write");
            controller.release_queue(line);
        }
        assert_eq!(controller.csts.get().ready(), 0);
        controller.configure(Cc::enabled(), false);
        assert!(controller.is_ready());
    }

    #[test]
    fn a_queue_whose_host_has_closed_it_is_free() {
        let controller = controller();
        let (first, host) = pair();
        let (second, _host) = pair();
        let (first, second) = (Rc::new(first), Rc::new(second));
        assert!(controller.take_queue(1, &first));
        assert!(!controller.take_queue(1, &second), "its host is there");
        drop(host);
        while !first.is_gone() {
            std::thread::yield_now();
        }
        assert!(controller.take_queue(1, &second));
        assert!(first.is_cut() && !second.is_cut());
        controller.release_queue(&first);
        assert_eq!(controller.queue_count(), 1, "the end of the first takes nothing from the second");
    }

    #[test]
    fn ready_follows_enable_and_a_reset_counts() {
        let controller = controller();
        controller.configure(Cc::enabled(), false);
        assert!(controller.is_ready());
        controller.events.borrow_mut().enabled = 1;
        controller.configure(Cc::enabled().with_enable(0), false);
        assert!(!controller.is_ready());
        assert_eq!(controller.resets(), 1);
        assert_eq!(controller.events.borrow().enabled, 0);
        controller.configure(Cc::enabled(), false);
        assert!(controller.is_ready());
    }

    #[test]
    fn a_wrong_configuration_is_fatal_until_the_next_reset() {
        let controller = controller();
        controller.configure(Cc::enabled().with_submission_entry_size(5), false);
        assert!(!controller.is_ready());
        assert_eq!(controller.csts.get().fatal(), 1);
        controller.configure(Cc(0), false);
        controller.configure(Cc::enabled(), false);
        assert!(controller.is_ready());
    }

    #[test]
    fn shutdown_completes_and_a_reset_clears_it() {
        let controller = controller();
        controller.configure(Cc::enabled(), false);
        controller.configure(Cc::enabled().with_shutdown(Cc::SHUTDOWN_NORMAL), false);
        assert_eq!(controller.csts.get().shutdown_status(), Csts::SHUTDOWN_COMPLETE);
        controller.configure(Cc(0), false);
        assert_eq!(controller.csts.get().0, 0);
        controller.shutdown_complete();
        assert_eq!(controller.csts.get().0, 0);
        controller.configure(Cc::enabled().with_shutdown(Cc::SHUTDOWN_NORMAL), true);
        assert!(controller.is_shutting_down());
        controller.shutdown_complete();
        assert_eq!(controller.csts.get().shutdown_status(), Csts::SHUTDOWN_COMPLETE);
    }

    #[test]
    fn keep_alive_is_rounded_up_and_expires() {
        let controller = controller();
        let start = Instant::now();
        controller.note_traffic(start);
        assert!(!controller.is_silent(start + Duration::from_secs(1_000_000)));
        controller.set_keep_alive_ms(1);
        assert_eq!(controller.keep_alive_ms(), 1000);
        assert!(!controller.is_silent(start + Duration::from_secs(1)));
        assert!(controller.is_silent(start + Duration::from_millis(1001)));
        controller.set_keep_alive_ms(u32::MAX);
        assert!(!controller.is_silent(start + Duration::from_secs(1_000_000)));
    }
}
