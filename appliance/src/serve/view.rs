//! The target as the command plane sees it.

use std::net::SocketAddr;

use crate::nvmf::server::{
    LISTENERS_MAX, ListenError, NAMESPACE_ID, TRANSFER_BYTES_MAX, Target, TargetConfig,
};
use crate::rpc::{
    ControllerView, DISCOVERY_NQN, ListenerError, NamespaceView, QueuePairView, SubsystemView, TargetStats,
    TargetView, TransportView,
};

/// The greatest controller id (NVMe Base 2.0, section 3.1.2: `FFF0h` and above are reserved).
const CONTROLLER_ID_MAX: u16 = 0xffef;

/// A target, and how it was configured.
pub(super) struct View {
    target: Target,
    config: TargetConfig,
}

impl View {
    pub(super) fn new(target: Target, config: TargetConfig) -> Self {
        View { target, config }
    }
}

impl TargetView for View {
    fn subsystems(&self) -> Vec<SubsystemView> {
        let subsystems = self.target.subsystems().into_iter().map(|info| {
            let discovery = info.nqn == DISCOVERY_NQN;
            let namespaces = uuid::Uuid::parse_str(&info.uuid)
                .map(|uuid| vec![NamespaceView { nsid: NAMESPACE_ID, volume: info.volume, uuid }])
                .unwrap_or_default();
            SubsystemView {
                nqn: info.nqn,
                discovery,
                serial_number: info.serial_number,
                model_number: info.model_number,
                max_namespaces: u32::from(!discovery),
                min_cntlid: 1,
                max_cntlid: CONTROLLER_ID_MAX,
                namespaces,
            }
        });
        subsystems.collect()
    }

    fn transport(&self) -> TransportView {
        TransportView {
            max_queue_depth: u32::from(self.config.queue_entries_max),
            max_io_qpairs_per_ctrlr: u32::from(self.config.io_queues_max),
            in_capsule_data_size: self.config.in_capsule_bytes,
            max_io_size: TRANSFER_BYTES_MAX,
            io_unit_size: TRANSFER_BYTES_MAX,
            max_aq_depth: u32::from(self.config.queue_entries_max),
            c2h_success: true,
        }
    }

    fn listeners(&self) -> Vec<SocketAddr> {
        self.target.listeners()
    }

    fn controllers(&self, nqn: &str) -> Vec<ControllerView> {
        let controllers = self.target.controllers().into_iter().filter(|info| info.subsystem_nqn == nqn);
        controllers
            .map(|info| ControllerView {
                cntlid: info.controller_id,
                hostnqn: info.host_nqn,
                hostid: info.host_id,
                num_io_qpairs: info.io_queues as u32,
            })
            .collect()
    }

    fn hosts(&self, nqn: &str) -> Vec<String> {
        self.target.hosts(nqn)
    }

    fn queue_pairs(&self, nqn: &str) -> Vec<QueuePairView> {
        let controllers = self.target.controllers();
        let host_of = |controller_id: u16| {
            let found = controllers
                .iter()
                .find(|info| info.controller_id == controller_id && info.subsystem_nqn == nqn);
            found.map(|info| info.host_nqn.clone()).unwrap_or_default()
        };
        let pairs = self.target.queue_pairs().into_iter().filter(|info| info.subsystem_nqn == nqn);
        pairs
            .filter_map(|info| {
                Some(QueuePairView {
                    cntlid: info.controller_id,
                    qid: info.queue_id,
                    state: "active".to_owned(),
                    hostnqn: host_of(info.controller_id),
                    listen_address: info.local_address.parse().ok()?,
                    peer_address: info.peer_address.parse().ok(),
                })
            })
            .collect()
    }

    fn stats(&self) -> TargetStats {
        let pairs = self.target.queue_pairs();
        let admin = pairs.iter().filter(|pair| pair.queue_id == 0).count() as u64;
        let stats = self.target.stats();
        TargetStats {
            admin_qpairs: stats.admin_queues_connected,
            io_qpairs: stats.io_queues_connected,
            current_admin_qpairs: admin,
            current_io_qpairs: pairs.len() as u64 - admin,
            pending_bdev_io: pairs.iter().filter(|pair| pair.queue_id > 0).map(|pair| pair.outstanding).sum(),
            completed_nvme_io: stats.io_commands,
            host_memory_bytes: stats.host_memory_bytes,
            host_memory_bytes_max: stats.host_memory_bytes_max,
            waiting_for_memory: stats.waiting_for_memory,
            memory_waits: stats.memory_waits,
            slow_peers_ended: stats.slow_peers_ended,
        }
    }

    fn add_listener(&self, address: SocketAddr) -> Result<SocketAddr, ListenerError> {
        self.target.listen(address).map_err(|error| match error {
            ListenError::AddressInUse { .. } if self.target.listeners().contains(&address) => {
                ListenerError::Exists { address }
            }
            ListenError::AddressInUse { .. } => bind_error(address, std::io::ErrorKind::AddrInUse.into()),
            ListenError::System { source, .. } => bind_error(address, source),
            ListenError::TooMany { .. } => bind_error(
                address,
                std::io::Error::other(format!("there are {LISTENERS_MAX} listeners already")),
            ),
            ListenError::ShutDown { .. } => {
                bind_error(address, std::io::Error::other("the target has been shut down"))
            }
        })
    }

    fn remove_listener(&self, address: SocketAddr) -> Result<(), ListenerError> {
        if self.target.remove_listener(address) { Ok(()) } else { Err(ListenerError::NotFound { address }) }
    }
}

fn bind_error(address: SocketAddr, source: std::io::Error) -> ListenerError {
    ListenerError::Bind { address, source }
}
