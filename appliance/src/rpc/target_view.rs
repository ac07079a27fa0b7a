//! What the command plane needs from the NVMe-oF target. The target implements [`TargetView`];
//! nothing here depends on the implementation.
//!
//! All calls run on the target's own reactor and must not block.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The well-known name of the discovery subsystem (`NVMe` over Fabrics 1.1, section 1.5.2).
pub const DISCOVERY_NQN: &str = "nqn.2014-08.org.nvmexpress.discovery";

/// The name of the only target, which is SPDK's default.
pub const TARGET_NAME: &str = "nvmf_tgt";

/// Read access to the target, and its listeners. Listeners belong to the appliance: every subsystem
/// is reached through each of them.
pub trait TargetView {
    /// Every subsystem, the discovery subsystem first.
    fn subsystems(&self) -> Vec<SubsystemView>;

    /// The limits of the TCP transport.
    fn transport(&self) -> TransportView;

    /// Addresses that accept connections, with the ports that were actually bound.
    fn listeners(&self) -> Vec<SocketAddr>;

    /// The controllers of a subsystem; empty if it has none or does not exist.
    fn controllers(&self, nqn: &str) -> Vec<ControllerView>;

    /// The names of the hosts that are connected to a subsystem, once for each controller.
    fn hosts(&self, nqn: &str) -> Vec<String> {
        self.controllers(nqn).into_iter().map(|controller| controller.hostnqn).collect()
    }

    /// The queue pairs of a subsystem; empty if it has none or does not exist.
    fn queue_pairs(&self, nqn: &str) -> Vec<QueuePairView>;

    /// Counters since start.
    fn stats(&self) -> TargetStats;

    /// Starts to listen. For port 0 the system chooses the port; returns the bound address.
    ///
    /// # Errors
    /// [`ListenerError::Exists`], [`ListenerError::Bind`].
    fn add_listener(&self, address: SocketAddr) -> Result<SocketAddr, ListenerError>;

    /// Stops listening. Existing connections remain.
    ///
    /// # Errors
    /// [`ListenerError::NotFound`].
    fn remove_listener(&self, address: SocketAddr) -> Result<(), ListenerError>;
}

/// Why a listener could not be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The target listens there already.
    #[error("there is a listener on {address} already")]
    Exists {
        /// The address.
        address: SocketAddr,
    },
    /// The target does not listen there.
    #[error("there is no listener on {address}; nvmf_subsystem_get_listeners shows those that exist")]
    NotFound {
        /// The address.
        address: SocketAddr,
    },
    /// The system refused to bind.
    #[error(
        "cannot listen on {address}: {source}; choose an address of this machine and a port that is free"
    )]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl ListenerError {
    /// The negative errno on the wire.
    pub fn code(&self) -> i64 {
        match self {
            ListenerError::Exists { .. } => -17,
            ListenerError::NotFound { .. } => -2,
            ListenerError::Bind { source, .. } => {
                source.raw_os_error().map_or(-5, |errno| i64::from(errno).saturating_neg())
            }
        }
    }
}

/// A subsystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubsystemView {
    /// Its qualified name.
    pub nqn: String,
    /// Whether it is the discovery subsystem.
    pub discovery: bool,
    /// Serial number, without padding; empty for discovery.
    pub serial_number: String,
    /// Model number, without padding; empty for discovery.
    pub model_number: String,
    /// The highest namespace id it can have (NN); 0 for discovery.
    pub max_namespaces: u32,
    /// The lowest controller id that it assigns.
    pub min_cntlid: u16,
    /// The highest controller id that it assigns.
    pub max_cntlid: u16,
    /// Its namespaces, by id.
    pub namespaces: Vec<NamespaceView>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceView {
    /// Its id within the subsystem.
    pub nsid: u32,
    /// Its volume.
    pub volume: String,
    /// The volume's UUID.
    pub uuid: uuid::Uuid,
}

/// Limits of the TCP transport, with SPDK's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportView {
    /// Entries of an I/O queue.
    pub max_queue_depth: u32,
    /// I/O queue pairs of a controller, without the admin queue.
    pub max_io_qpairs_per_ctrlr: u32,
    /// Bytes of data that a command capsule may carry.
    pub in_capsule_data_size: u32,
    /// The maximum data length of one command in bytes (MDTS).
    pub max_io_size: u32,
    /// Bytes of one buffer of the target.
    pub io_unit_size: u32,
    /// Entries of an admin queue.
    pub max_aq_depth: u32,
    /// Whether reads end without a response capsule if the host allows it.
    pub c2h_success: bool,
}

/// A controller: one association of a host with a subsystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerView {
    /// Its id.
    pub cntlid: u16,
    /// The host's qualified name.
    pub hostnqn: String,
    /// The host's identifier, as UUID text.
    pub hostid: String,
    /// I/O queue pairs that exist.
    pub num_io_qpairs: u32,
}

/// A queue pair: one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuePairView {
    /// Its controller.
    pub cntlid: u16,
    /// Its id; 0 is the admin queue.
    pub qid: u16,
    /// `active`, `connecting`, `deactivating`.
    pub state: String,
    /// The host's qualified name.
    pub hostnqn: String,
    /// The target's address of the connection.
    pub listen_address: SocketAddr,
    /// The host's address of the connection.
    pub peer_address: Option<SocketAddr>,
}

/// Counters of the target since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStats {
    /// Admin queue pairs ever connected.
    pub admin_qpairs: u64,
    /// I/O queue pairs ever connected.
    pub io_qpairs: u64,
    /// Current admin queue pairs.
    pub current_admin_qpairs: u64,
    /// Current I/O queue pairs.
    pub current_io_qpairs: u64,
    /// Commands that currently wait for the pool.
    pub pending_bdev_io: u64,
    /// Commands completed.
    pub completed_nvme_io: u64,
    /// Memory for hosts' data that is currently in use, in bytes.
    pub host_memory_bytes: u64,
    /// The upper limit of [`host_memory_bytes`](Self::host_memory_bytes).
    pub host_memory_bytes_max: u64,
    /// Connections that currently wait for a share of it.
    pub waiting_for_memory: u64,
    /// How many times a connection began to wait for it.
    pub memory_waits: u64,
    /// Connections closed because their hosts were too slow while others waited for memory.
    pub slow_peers_ended: u64,
}
