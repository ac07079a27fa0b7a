//! An association with one controller: bring-up, namespaces, shutdown.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use zerocopy::{FromZeros, IntoBytes};

use super::error::{HostError, IdentifyRejection, tolerate};
use super::geometry::Geometry;
use super::options::ConnectOptions;
use super::queue::{Queue, QueueOptions};
use super::slots::Payload;
use crate::nvmf::wire::command::{Cns, Identify};
use crate::nvmf::wire::fabrics::{CONTROLLER_ID_DYNAMIC, Connect, ConnectData, ConnectResult, DISCOVERY_NQN};
use crate::nvmf::wire::feature::{AsyncEvent, FeatureId, QueueCounts, Timestamp};
use crate::nvmf::wire::identify::{
    CommandSetController, CommandSetNamespace, IdentifyController, IdentifyNamespace, IndependentNamespace,
    NamespaceDescriptors, NamespaceIds, NamespaceList, controller_bits as bits,
};
use crate::nvmf::wire::log_page::LogPageId;
use crate::nvmf::wire::pdu::{ADMIN_IN_CAPSULE_BYTES, Digests};
use crate::nvmf::wire::property::{Cap, Cc, Csts, Property};

/// Entries of the admin queue, the same number as in the Linux host.
const ADMIN_QUEUE_ENTRIES: u16 = 32;
/// Largest transfer of an admin command in bytes.
const ADMIN_TRANSFER_BYTES_MAX: u32 = 64 * 1024;
/// Pause between two reads of CSTS while waiting for a state.
const STATE_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A namespace, as described by its Identify structures.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// NSID.
    pub nsid: u32,
    /// Bytes of a block.
    pub block_bytes: u32,
    /// NSZE.
    pub size_blocks: u64,
    /// The identifiers in the identification descriptors.
    pub ids: NamespaceIds,
    /// The whole Identify Namespace structure.
    pub identify: Box<IdentifyNamespace>,
}

impl Namespace {
    /// The part that a queue needs.
    pub fn geometry(&self) -> Geometry {
        Geometry { nsid: self.nsid, block_bytes: self.block_bytes, size_blocks: self.size_blocks }
    }
}

/// An association: the admin queue and the I/O queues.
#[derive(Debug)]
pub struct Controller {
    address: SocketAddr,
    subsystem_nqn: String,
    pub(super) options: ConnectOptions,
    pub(super) admin: Queue,
    queues: Vec<Queue>,
    id: u16,
    capabilities: Cap,
    version: u32,
    pub(super) identify: Box<IdentifyController>,
    queues_granted: u16,
    pub(super) events: VecDeque<AsyncEvent>,
    /// Requests that the controller answered and that must be sent again.
    pub(super) events_to_arm: u8,
    pub(super) last_keep_alive: Instant,
}

impl Controller {
    /// Connects to a subsystem: the admin queue, the controller's bring-up in the order of the
    /// Linux host, the I/O queues, and the asynchronous events.
    ///
    /// # Errors
    /// At the first step that fails. Steps whose failure the Linux host tolerates may fail.
    pub fn connect(
        address: SocketAddr,
        subsystem_nqn: &str,
        options: ConnectOptions,
    ) -> Result<Self, HostError> {
        let mut controller = Self::connect_admin(address, subsystem_nqn, options)?;
        let identify = controller.identify.clone();
        if identify.log_page_attributes & bits::LPA_COMMAND_EFFECTS != 0 {
            tolerate(controller.log_page(LogPageId::CommandEffects.into(), 0, 4096))?;
        }
        tolerate(
            controller
                .identify_structure::<CommandSetController>(Identify::new(Cns::CommandSetController, 0)),
        )?;
        if identify.nvm_commands.get() & bits::ONCS_TIMESTAMP != 0 {
            let now = std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
            let timestamp = Timestamp::new(now);
            let feature = FeatureId::Timestamp.into();
            tolerate(controller.set_feature(feature, 0, 0, timestamp.as_bytes()))?;
        }
        tolerate(controller.log_page(LogPageId::Smart.into(), u32::MAX, 512))?;
        if identify.multi_path & bits::CMIC_ANA != 0 {
            tolerate(controller.log_page(LogPageId::Ana.into(), 0, 4096))?;
        }
        if controller.options.io_queues > 0 {
            let asked = QueueCounts::new(controller.options.io_queues);
            let feature = FeatureId::NumberOfQueues.into();
            let granted = controller.set_feature(feature, 0, asked.to_dword(), &[])?;
            let granted = QueueCounts::from_dword(granted).queues();
            controller.queues_granted = granted.min(u32::from(controller.options.io_queues)) as u16;
            for queue_id in 1..=controller.queues_granted {
                let queue = controller.connect_io_queue(queue_id)?;
                controller.queues.push(queue);
            }
        }
        controller.arm_events()?;
        Ok(controller)
    }

    /// Connects to the discovery subsystem at `address` or to the admin queue of an I/O controller:
    /// up to Identify Controller, without I/O queues or events.
    ///
    /// # Errors
    /// At the first step that fails.
    pub fn connect_admin(
        address: SocketAddr,
        subsystem_nqn: &str,
        options: ConnectOptions,
    ) -> Result<Self, HostError> {
        let admin_options = QueueOptions {
            queue_id: 0,
            depth: ADMIN_QUEUE_ENTRIES - 1,
            transfer_bytes_max: ADMIN_TRANSFER_BYTES_MAX,
            in_capsule_bytes_max: ADMIN_IN_CAPSULE_BYTES,
            digests: Digests { header: options.header_digest, data: options.data_digest },
            timeout: options.timeouts.admin,
        };
        let admin = Queue::open(address, admin_options)?;
        let mut controller = Self {
            address,
            subsystem_nqn: subsystem_nqn.to_owned(),
            options,
            admin,
            queues: Vec::new(),
            id: CONTROLLER_ID_DYNAMIC,
            capabilities: Cap::default(),
            version: 0,
            identify: Box::new(IdentifyController::new_zeroed()),
            queues_granted: 0,
            events: VecDeque::new(),
            events_to_arm: 0,
            last_keep_alive: Instant::now(),
        };
        let keep_alive_timeout_ms = controller.options.keep_alive_timeout_ms;
        let command = Connect::new(0, u32::from(ADMIN_QUEUE_ENTRIES), keep_alive_timeout_ms);
        let data = controller.connect_data(CONTROLLER_ID_DYNAMIC)?;
        let payload = Payload::Write(data.as_bytes());
        let result = controller.execute("Connect", command.into(), payload, &mut [])?;
        controller.id = ConnectResult::from_result(result).controller_id.get();
        controller.capabilities = Cap(controller.property(Property::Capabilities)?);
        controller.set_property(Property::Configuration, Cc::enabled().0.into())?;
        // CAP.TO bounds how long the controller may take. The host's own timeout is added to it.
        let ready_timeout = controller.options.timeouts.admin
            + Duration::from_millis(500) * controller.capabilities.timeout_500ms();
        controller.await_status("ready", ready_timeout, |csts| csts.ready() == 1)?;
        controller.version = controller.property(Property::Version)? as u32;
        *controller.identify = controller.identify_structure(Identify::new(Cns::Controller, 0))?;
        controller.check_identify()?;
        Ok(controller)
    }

    /// CNTLID.
    pub fn controller_id(&self) -> u16 {
        self.id
    }

    /// CAP as read at bring-up.
    pub fn capabilities(&self) -> Cap {
        self.capabilities
    }

    /// VS as read at bring-up.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Identify Controller as read at bring-up.
    pub fn identify(&self) -> &IdentifyController {
        &self.identify
    }

    /// The I/O queues that have not been taken.
    pub fn queues(&mut self) -> &mut [Queue] {
        &mut self.queues
    }

    /// Takes the I/O queues for use by other threads. The controller must outlive them: dropping it
    /// closes the admin queue, which ends the association.
    pub fn take_queues(&mut self) -> Vec<Queue> {
        std::mem::take(&mut self.queues)
    }

    /// Connects an I/O queue (1 to the granted number), like the bring-up does. Also replaces one
    /// that was lost.
    ///
    /// # Errors
    /// When the connection or Connect fails.
    pub fn connect_io_queue(&mut self, queue_id: u16) -> Result<Queue, HostError> {
        // A queue of n entries holds n - 1 commands. MQES is the most entries, 0's based.
        let entries_max = self.capabilities.queue_entries_less_one().saturating_add(1);
        let entries = (u32::from(self.options.queue_depth) + 1).clamp(2, entries_max.max(2));
        let page_bytes = 4096_u64 << self.capabilities.page_size_least();
        let mdts = u32::from(self.identify.transfer_size_max);
        let transfer_bytes_max = if mdts == 0 || mdts > 20 {
            self.options.transfer_bytes_max
        } else {
            let limit = u32::try_from(page_bytes << mdts).unwrap_or(u32::MAX);
            self.options.transfer_bytes_max.min(limit)
        };
        let mut queue = Queue::open(
            self.address,
            QueueOptions {
                queue_id,
                depth: (entries - 1) as u16,
                transfer_bytes_max,
                in_capsule_bytes_max: self.identify.io_in_capsule_bytes(),
                digests: Digests { header: self.options.header_digest, data: self.options.data_digest },
                timeout: self.options.timeouts.io,
            },
        )?;
        let data = self.connect_data(self.id)?;
        let command = Connect::new(queue_id, entries, 0);
        let payload = Payload::Write(data.as_bytes());
        queue.execute("Connect (I/O queue)", command.into(), payload, &mut [])?;
        Ok(queue)
    }

    /// I/O queues that the controller granted.
    pub fn queues_granted(&self) -> u16 {
        self.queues_granted
    }

    /// Every active namespace, in the order of NSIDs: list, descriptors and Identify Namespace.
    ///
    /// # Errors
    /// When a command fails or a namespace's format is not valid.
    pub fn namespaces(&mut self) -> Result<Vec<Namespace>, HostError> {
        let mut found = Vec::new();
        let mut after = 0;
        loop {
            let list: NamespaceList = self.identify_structure(Identify::new(Cns::ActiveNamespaces, after))?;
            let mut last = after;
            for nsid in list.iter() {
                found.push(self.namespace(nsid)?);
                last = nsid;
            }
            // A full list may have a continuation. Any other list, or one that does not ascend, is
            // the last.
            if list.iter().count() < list.nsids.len() || last <= after {
                return Ok(found);
            }
            after = last;
        }
    }

    /// One namespace.
    ///
    /// # Errors
    /// When a command fails or the namespace's format is not valid.
    pub fn namespace(&mut self, nsid: u32) -> Result<Namespace, HostError> {
        let descriptors: Option<NamespaceDescriptors> =
            tolerate(self.identify_structure(Identify::new(Cns::NamespaceDescriptors, nsid)))?;
        let ids = descriptors.and_then(|list| list.ids().ok()).unwrap_or_default();
        if ids.command_set.is_some() {
            // The Linux host requests these when a command set is named. Older controllers have
            // neither.
            let independent = Identify::new(Cns::IndependentNamespace, nsid);
            tolerate(self.identify_structure::<IndependentNamespace>(independent))?;
            let command_set = Identify::new(Cns::CommandSetNamespace, nsid);
            tolerate(self.identify_structure::<CommandSetNamespace>(command_set))?;
        }
        let identify: IdentifyNamespace = self.identify_structure(Identify::new(Cns::Namespace, nsid))?;
        let block_bytes = identify.block_bytes().ok_or(HostError::NamespaceFormat { nsid })?;
        let size_blocks = identify.size_blocks.get();
        Ok(Namespace { nsid, block_bytes, size_blocks, ids, identify: Box::new(identify) })
    }

    /// Shuts down in order: closes the I/O queues, then sets CC.SHN to normal, and waits until CSTS
    /// reports that the shutdown is complete.
    ///
    /// # Errors
    /// When a command fails or the controller does not finish in time.
    pub fn shutdown(mut self) -> Result<(), HostError> {
        self.queues.clear();
        let cc = Cc::enabled().with_shutdown(Cc::SHUTDOWN_NORMAL);
        self.set_property(Property::Configuration, cc.0.into())?;
        let timeout = self.options.timeouts.admin;
        self.await_status("shut down", timeout, |csts| csts.shutdown_status() == Csts::SHUTDOWN_COMPLETE)
    }

    fn connect_data(&self, controller_id: u16) -> Result<ConnectData, HostError> {
        let options = &self.options;
        let nqn = &self.subsystem_nqn;
        Ok(ConnectData::new(options.host_id, controller_id, nqn, &options.host_nqn)?)
    }

    fn await_status(
        &mut self,
        wanted: &'static str,
        timeout: Duration,
        reached: impl Fn(Csts) -> bool,
    ) -> Result<(), HostError> {
        let deadline = Instant::now() + timeout;
        loop {
            let csts = Csts(self.property(Property::Status)? as u32);
            if reached(csts) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(HostError::ControllerState { wanted, csts: csts.0 });
            }
            std::thread::sleep(STATE_POLL_INTERVAL);
        }
    }

    /// The checks of the Linux host.
    fn check_identify(&self) -> Result<(), IdentifyRejection> {
        let identify = &self.identify;
        let is_discovery =
            self.subsystem_nqn == DISCOVERY_NQN || identify.controller_type == bits::TYPE_DISCOVERY;
        let found = identify.controller_id.get();
        if found != self.id {
            return Err(IdentifyRejection::ControllerId { found, expected: self.id });
        }
        let found = identify.controller_type;
        if self.subsystem_nqn == DISCOVERY_NQN && found != bits::TYPE_DISCOVERY {
            return Err(IdentifyRejection::ControllerType { found });
        }
        let found = identify.sgl_support.get();
        if found & bits::SGLS_MASK == 0 {
            return Err(IdentifyRejection::Sgl { found });
        }
        if identify.outstanding_commands_max.get() == 0 {
            return Err(IdentifyRejection::OutstandingCommands);
        }
        let found = identify.in_capsule_offset_16b.get();
        if found != 0 {
            return Err(IdentifyRejection::InCapsuleOffset { found });
        }
        if is_discovery {
            return Ok(());
        }
        if identify.keep_alive_granularity_100ms.get() == 0 {
            return Err(IdentifyRejection::NoKeepAlive);
        }
        let found = identify.io_command_capsule_16b.get();
        if found < 4 {
            return Err(IdentifyRejection::CommandCapsule { found });
        }
        if identify.io_response_capsule_16b.get() < 1 {
            return Err(IdentifyRejection::ResponseCapsule);
        }
        Ok(())
    }
}
