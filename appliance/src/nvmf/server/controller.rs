//! A controller: its registers and their state machine, its association with a host, its queues and its clock.
//!
//! ```text
//!           CC.EN=1 (valid)                CC.SHN
//! disabled ----------------> ready (RDY=1) ------> shutdown (SHST=1, after a flush 2; RDY as before)
//!    ^                          |                      |
//!    +------- CC.EN=0 ----------+----------------------+
//! ```
//! Setting EN takes no time, so that RDY follows at once. Clearing it ends the connections of the
//! I/O queues; RDY falls when they are closed and the storage has nothing of them any more, so that
//! no write of the time before takes effect after that. The admin queue stays.
//! A controller *ends* ([`Controller::end`]) when its admin connection closes, its keep alive timer expires or its volume is
//! deleted; each of its connections sees that and closes (after a deletion, a little later).

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

/// The time to become ready that hosts are told (CAP.TO and CRTO.CRWMT, which may not be less), in units of 500 ms. It takes none.
const READY_TIMEOUT_500MS: u32 = 15;

/// Why a controller ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its admin connection is closed.
    AdminClosed,
    /// Its host was silent for longer than the keep alive timeout.
    KeepAliveExpired,
    /// Its volume was deleted.
    SubsystemGone,
    /// All of the volume's controllers were in use, and this one was silent or gone.
    GaveWay,
}

/// The number of an I/O queue, and its connection.
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
    /// Counted up by every reset; I/O queues of an earlier count close.
    resets: Cell<u32>,
    /// The connection of the admin queue.
    line: Weak<Line>,
    /// Connected I/O queues and their connections.
    queues: RefCell<SmallVec<[ConnectedQueue; 8]>>,
    /// EN was cleared, and I/O queues of the time before are still there, or commands of them.
    resetting: Cell<bool>,
    /// Bytes that the storage reads for its queues.
    reading_bytes: Cell<usize>,
    /// Closed connections of which the storage still has commands.
    leftovers: Cell<usize>,
    /// I/O queues that may be connected, from Number of Queues.
    pub(super) queues_granted: Cell<u16>,
    pub(super) events: RefCell<Events>,
    pub(super) features: RefCell<FeatureValues>,
    pub(super) errors: RefCell<ErrorLog>,
    /// Its connections' part in the memory for data, from the first of them on.
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

    /// CSTS.RDY, and no reset is under way.
    pub(super) fn is_ready(&self) -> bool {
        self.csts.get().ready() == 1 && !self.resetting.get()
    }

    /// CC.EN: whether its host uses it.
    pub(super) fn is_enabled(&self) -> bool {
        self.cc.get().enable() == 1
    }

    /// Whether the host has closed the admin connection, which may not have been seen yet.
    pub(super) fn is_gone(&self) -> bool {
        self.line.upgrade().is_none_or(|line| line.is_gone())
    }

    /// When the host has spoken last.
    pub(super) fn last_traffic(&self) -> Instant {
        self.last_traffic.get()
    }

    pub(super) fn ended(&self) -> Option<End> {
        self.ended.get()
    }

    /// Ends the controller; the first reason stays.
    pub(super) fn end(&self, why: End) {
        if self.ended.get().is_none() {
            self.ended.set(Some(why));
        }
    }

    pub(super) fn resets(&self) -> u32 {
        self.resets.get()
    }

    /// The host has spoken.
    pub(super) fn note_traffic(&self, now: Instant) {
        self.last_traffic.set(now);
    }

    /// KATO as it is in force, in milliseconds: rounded up to the granularity; 0 is off.
    pub(super) fn keep_alive_ms(&self) -> u32 {
        self.keep_alive_ms.get()
    }

    pub(super) fn set_keep_alive_ms(&self, wanted_ms: u32) {
        let granularity_ms = u32::from(KEEP_ALIVE_GRANULARITY_100MS) * 100;
        self.keep_alive_ms.set(wanted_ms.div_ceil(granularity_ms).saturating_mul(granularity_ms));
    }

    /// Whether the host was silent for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        let limit = match self.keep_alive_ms.get() {
            0 if self.is_discovery() => DISCOVERY_IDLE,
            0 => return false,
            timeout_ms => Duration::from_millis(u64::from(timeout_ms)),
        };
        now.saturating_duration_since(self.last_traffic.get()) > limit
    }

    /// Takes a QID for a connection; `false` when it is in use. One whose host has closed its
    /// connection is not, although that connection may not have ended yet.
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

    /// Gives a connection's QID back, unless another one has it by now.
    pub(super) fn release_queue(&self, line: &Rc<Line>) {
        self.queues.borrow_mut().retain(|(_, of)| !std::ptr::eq(of.as_ptr(), Rc::as_ptr(line)));
        self.settle_reset();
    }

    /// Says how much the storage reads for its queues; only for the counters of the context.
    pub(super) fn set_reading_bytes(&self, len_bytes: usize) {
        self.reading_bytes.set(len_bytes);
    }

    /// Bytes that the storage reads for its queues.
    pub(super) fn reading_bytes(&self) -> usize {
        self.reading_bytes.get()
    }

    /// A connection was closed of which the storage still has commands.
    pub(super) fn begin_leftover(&self) {
        self.leftovers.set(self.leftovers.get() + 1);
    }

    /// The storage is done with them.
    pub(super) fn end_leftover(&self) {
        self.leftovers.set(self.leftovers.get() - 1);
        self.settle_reset();
    }

    pub(super) fn queue_count(&self) -> usize {
        self.queues.borrow().len()
    }

    /// The value of a property, unless this controller does not have it.
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

    /// The host writes CC. With `flush` a shutdown is busy until [`shutdown_complete`](Self::shutdown_complete).
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

    /// The flush of a shutdown is over.
    pub(super) fn shutdown_complete(&self) {
        if self.is_shutting_down() {
            self.csts.set(self.csts.get().with_shutdown_status(Csts::SHUTDOWN_COMPLETE));
        }
    }

    fn enable(&self, cc: Cc) {
        // A host that does not wait for RDY to fall gets what it asks for.
        self.resetting.set(false);
        // A discovery controller has no I/O queues, so that their entry sizes mean nothing to it.
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

    /// Lets RDY fall when nothing of the time before the reset is under way any more.
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
