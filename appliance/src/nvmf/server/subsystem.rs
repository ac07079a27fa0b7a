//! Subsystems: one for each volume, and the discovery subsystem, with their controllers and health
//! counters.
//!
//! A subsystem lists its controllers, and each controller keeps its subsystem, as the specification
//! defines it. So this file and `controller` use each other.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;

use uuid::Uuid;

use super::config::BLOCK_BYTES;
use super::controller::{Controller, End};
use super::event::Notice;
use super::stats::{Counter, SubsystemInfo};
use super::storage::Storage;
use crate::nvmf::nqn;
use crate::nvmf::wire::fabrics::{CONTROLLER_ID_MAX, DISCOVERY_NQN};
use crate::volume::{VolumeEvent, VolumeId, VolumeInfo};

/// MN of every controller.
pub(super) const MODEL_NUMBER: &str = "varve";

/// What hosts did to a namespace since the start, for the SMART log page.
#[derive(Debug, Default)]
pub(super) struct Health {
    pub(super) reads: Counter,
    pub(super) read_bytes: Counter,
    pub(super) writes: Counter,
    pub(super) written_bytes: Counter,
    pub(super) media_errors: Counter,
    pub(super) errors: Counter,
}

/// A subsystem.
pub(super) struct Subsystem {
    pub(super) nqn: String,
    /// The volume of namespace 1. `None` for the discovery subsystem.
    pub(super) volume: Option<VolumeId>,
    pub(super) name: String,
    pub(super) uuid: Uuid,
    /// SN: the first 20 hexadecimal digits of the volume's UUID.
    pub(super) serial_number: String,
    pub(super) size_blocks: Cell<u64>,
    pub(super) read_only: Cell<bool>,
    /// The volume was deleted: the namespace is gone, and soon the controllers are too.
    pub(super) deleted: Cell<bool>,
    pub(super) controllers: RefCell<Vec<Rc<Controller>>>,
    pub(super) health: Health,
    next_controller_id: Cell<u16>,
}

impl Subsystem {
    fn discovery() -> Rc<Self> {
        Rc::new(Subsystem {
            nqn: DISCOVERY_NQN.to_owned(),
            volume: None,
            name: String::new(),
            uuid: Uuid::nil(),
            serial_number: "discovery".to_owned(),
            size_blocks: Cell::new(0),
            read_only: Cell::new(true),
            deleted: Cell::new(false),
            controllers: RefCell::default(),
            health: Health::default(),
            next_controller_id: Cell::new(1),
        })
    }

    fn of_volume(info: &VolumeInfo) -> Rc<Self> {
        let mut serial_number = info.uuid.simple().to_string();
        serial_number.truncate(20);
        Rc::new(Subsystem {
            nqn: nqn::of_volume(&info.name),
            volume: Some(info.id),
            name: info.name.clone(),
            uuid: info.uuid,
            serial_number,
            size_blocks: Cell::new(info.size_bytes / u64::from(BLOCK_BYTES)),
            read_only: Cell::new(info.read_only),
            deleted: Cell::new(false),
            controllers: RefCell::default(),
            health: Health::default(),
            next_controller_id: Cell::new(1),
        })
    }

    pub(super) fn is_discovery(&self) -> bool {
        self.volume.is_none()
    }

    /// An identifier that no controller of the subsystem has, and that was not used recently. There
    /// are always more identifiers than controllers, so the search ends.
    pub(super) fn next_controller_id(&self) -> u16 {
        loop {
            let id = self.next_controller_id.get();
            self.next_controller_id.set(if id >= CONTROLLER_ID_MAX { 1 } else { id + 1 });
            if self.controller(id).is_none() {
                return id;
            }
        }
    }

    pub(super) fn controller(&self, id: u16) -> Option<Rc<Controller>> {
        self.controllers.borrow().iter().find(|controller| controller.id == id).cloned()
    }

    pub(super) fn remove_controller(&self, id: u16) {
        self.controllers.borrow_mut().retain(|controller| controller.id != id);
    }

    fn notify(&self, notice: Notice) {
        for controller in self.controllers.borrow().iter() {
            controller.events.borrow_mut().raise(notice);
        }
    }

    pub(super) fn info(&self) -> SubsystemInfo {
        SubsystemInfo {
            nqn: self.nqn.clone(),
            volume: self.name.clone(),
            uuid: if self.is_discovery() { String::new() } else { self.uuid.to_string() },
            serial_number: self.serial_number.clone(),
            model_number: MODEL_NUMBER.to_owned(),
            size_blocks: self.size_blocks.get(),
            read_only: self.read_only.get(),
            controllers: self.controllers.borrow().len() as u64,
        }
    }
}

/// Every subsystem of the target. They follow the storage's volumes.
///
/// **Invariant:** `by_nqn` and `by_volume` have the same subsystems.
pub(super) struct Subsystems {
    by_nqn: RefCell<BTreeMap<String, Rc<Subsystem>>>,
    by_volume: RefCell<HashMap<VolumeId, Rc<Subsystem>>>,
    pub(super) discovery: Rc<Subsystem>,
    /// GENCTR of the discovery log page.
    generation: Cell<u64>,
    events: RefCell<VecDeque<VolumeEvent>>,
    /// Whether hosts were notified that the storage has failed.
    failure_told: Cell<bool>,
}

impl Subsystems {
    /// The subsystems of all existing volumes. Earlier events of the storage are taken and dropped.
    pub(super) fn new(storage: &dyn Storage) -> Self {
        let mut stale = VecDeque::new();
        storage.take_events(&mut stale);
        let all: Vec<Rc<Subsystem>> = storage.volumes().iter().map(Subsystem::of_volume).collect();
        let by_nqn = all.iter().map(|subsystem| (subsystem.nqn.clone(), Rc::clone(subsystem)));
        let by_volume = all.iter().filter_map(|subsystem| Some((subsystem.volume?, Rc::clone(subsystem))));
        Subsystems {
            by_nqn: RefCell::new(by_nqn.collect()),
            by_volume: RefCell::new(by_volume.collect()),
            discovery: Subsystem::discovery(),
            generation: Cell::new(1),
            events: RefCell::default(),
            failure_told: Cell::new(false),
        }
    }

    /// The subsystem with this NQN, which may be the discovery subsystem.
    pub(super) fn find(&self, nqn: &str) -> Option<Rc<Subsystem>> {
        if nqn == DISCOVERY_NQN {
            return Some(Rc::clone(&self.discovery));
        }
        self.by_nqn.borrow().get(nqn).cloned()
    }

    /// Every subsystem that has a volume, in the order of the NQNs.
    pub(super) fn all(&self) -> Vec<Rc<Subsystem>> {
        self.by_nqn.borrow().values().cloned().collect()
    }

    fn by_volume(&self, id: VolumeId) -> Option<Rc<Subsystem>> {
        self.by_volume.borrow().get(&id).cloned()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The discovery log page has changed: increment its generation and notify the discovery
    /// controllers.
    pub(super) fn discovery_changed(&self) {
        self.generation.set(self.generation.get() + 1);
        self.discovery.notify(Notice::DiscoveryChanged);
    }

    /// Follows the storage's changes since the last call. Ends the controllers of deleted volumes.
    pub(super) fn follow(&self, storage: &dyn Storage) -> usize {
        let mut events = self.events.borrow_mut();
        storage.take_events(&mut events);
        let mut count = events.len();
        if !self.failure_told.get() && storage.has_failed() {
            self.failure_told.set(true);
            for subsystem in self.by_nqn.borrow().values() {
                subsystem.notify(Notice::HealthCritical);
            }
            count += 1;
        }
        while let Some(event) = events.pop_front() {
            match event {
                VolumeEvent::Created(id) => self.created(storage, id),
                VolumeEvent::Deleted(id) => self.deleted(id),
                VolumeEvent::Resized(id) => self.resized(storage, id),
            }
        }
        count
    }

    fn created(&self, storage: &dyn Storage, id: VolumeId) {
        // Deleted again since then: its own event follows.
        let Some(info) = storage.volume(id) else { return };
        let subsystem = Subsystem::of_volume(&info);
        tracing::info!(nqn = %subsystem.nqn, "subsystem added");
        let replaced = self.by_nqn.borrow_mut().insert(subsystem.nqn.clone(), Rc::clone(&subsystem));
        if let Some(replaced) = replaced {
            if let Some(volume) = replaced.volume {
                self.by_volume.borrow_mut().remove(&volume);
            }
            end_all(&replaced);
        }
        self.by_volume.borrow_mut().insert(id, subsystem);
        self.discovery_changed();
    }

    fn deleted(&self, id: VolumeId) {
        let Some(subsystem) = self.by_volume(id) else { return };
        tracing::info!(nqn = %subsystem.nqn, "subsystem removed: its volume was deleted");
        self.by_nqn.borrow_mut().remove(&subsystem.nqn);
        self.by_volume.borrow_mut().remove(&id);
        end_all(&subsystem);
        self.discovery_changed();
    }

    fn resized(&self, storage: &dyn Storage, id: VolumeId) {
        let (Some(subsystem), Some(info)) = (self.by_volume(id), storage.volume(id)) else { return };
        subsystem.size_blocks.set(info.size_bytes / u64::from(BLOCK_BYTES));
        subsystem.read_only.set(info.read_only);
        subsystem.notify(Notice::NamespaceChanged);
    }
}

/// Removes the namespace, notifies the hosts, and ends the controllers after a short time
/// ([`TargetConfig::linger`](super::config::TargetConfig::linger)).
fn end_all(subsystem: &Subsystem) {
    subsystem.deleted.set(true);
    subsystem.notify(Notice::NamespaceChanged);
    for controller in subsystem.controllers.borrow().iter() {
        controller.end(End::SubsystemGone);
    }
}
