//! What the target reports to the management plane: plain data, serialised as it appears in JSON.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

/// Counters of the whole target since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStats {
    /// Current connections.
    pub connections: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections without a queue that were closed because other connections needed their places.
    pub connections_evicted: u64,
    /// Connections that the target ended for a protocol error.
    pub protocol_errors: u64,
    /// Controllers ended because they were silent.
    pub keep_alive_expiries: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Commands received, of all kinds.
    pub commands: u64,
    /// Commands received on I/O queues.
    pub io_commands: u64,
    /// Admin queues ever connected.
    pub admin_queues_connected: u64,
    /// I/O queues ever connected.
    pub io_queues_connected: u64,
    /// Commands completed with an error.
    pub command_errors: u64,
    /// Data digests that did not match.
    pub data_digest_errors: u64,
    /// How often a command had to wait for space in the pool.
    pub storage_busy: u64,
    /// Commands that ended with a request for a retry because the storage was busy for too long.
    #[serde(default)]
    pub commands_ended_busy: u64,
    /// How often a transfer had to wait for staging memory.
    pub staging_waits: u64,
    /// How often a connection began to wait for its share of the memory for host data.
    #[serde(default)]
    pub memory_waits: u64,
    /// Connections closed because their hosts took or sent data too slowly while others waited for
    /// memory.
    #[serde(default)]
    pub slow_peers_ended: u64,
    /// Memory for host data that is in use now, in bytes.
    #[serde(default)]
    pub host_memory_bytes: u64,
    /// The limit on that memory, in bytes.
    #[serde(default)]
    pub host_memory_bytes_max: u64,
    /// How often every connection had its turn to be read.
    #[serde(default)]
    pub rounds: u64,
    /// Connections that wait now for their share of the memory for host data.
    #[serde(default)]
    pub waiting_for_memory: u64,
    /// Staging memory in use now, in bytes.
    pub staging_bytes: u64,
}

/// A subsystem as `nvmf_get_subsystems` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubsystemInfo {
    /// Its NQN.
    pub nqn: String,
    /// The volume of its namespace. Empty for the discovery subsystem.
    pub volume: String,
    /// The namespace's UUID. Empty for the discovery subsystem.
    pub uuid: String,
    /// Its serial number.
    pub serial_number: String,
    /// Its model number.
    pub model_number: String,
    /// Size of the namespace in blocks of 4096 bytes.
    pub size_blocks: u64,
    /// Whether writes are refused.
    pub read_only: bool,
    /// Current controllers.
    pub controllers: u64,
}

/// A controller as `nvmf_subsystem_get_controllers` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControllerInfo {
    /// Its subsystem.
    pub subsystem_nqn: String,
    /// CNTLID.
    pub controller_id: u16,
    /// Its host.
    pub host_nqn: String,
    /// The host's identifier.
    pub host_id: String,
    /// I/O queues that are connected.
    pub io_queues: u64,
    /// Keep alive timeout in milliseconds. 0 is off.
    pub keep_alive_timeout_ms: u32,
    /// Whether it is ready (CSTS.RDY).
    pub ready: bool,
}

/// A queue pair as `nvmf_subsystem_get_qpairs` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueuePairInfo {
    /// Its subsystem.
    pub subsystem_nqn: String,
    /// Its controller.
    pub controller_id: u16,
    /// Its ID. 0 is the admin queue.
    pub queue_id: u16,
    /// The number of its entries.
    pub entries: u32,
    /// Commands under way.
    pub outstanding: u64,
    /// The host's address.
    pub peer_address: String,
    /// The address it connected to.
    pub local_address: String,
    /// Whether headers have digests.
    pub header_digest: bool,
    /// Whether data has digests.
    pub data_digest: bool,
    /// Commands since the queue was connected.
    pub commands: u64,
    /// Read commands.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Write commands.
    pub writes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Commands completed with an error.
    pub errors: u64,
}

/// A counter that one reactor increments.
#[derive(Debug, Default)]
pub(super) struct Counter(Cell<u64>);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.set(self.0.get().wrapping_add(count));
    }

    pub(super) fn get(&self) -> u64 {
        self.0.get()
    }
}

/// The target's own counters, see [`TargetStats`].
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) connections_accepted: Counter,
    pub(super) connections_evicted: Counter,
    pub(super) protocol_errors: Counter,
    pub(super) keep_alive_expiries: Counter,
    pub(super) received_bytes: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) commands: Counter,
    pub(super) io_commands: Counter,
    pub(super) admin_queues_connected: Counter,
    pub(super) io_queues_connected: Counter,
    pub(super) command_errors: Counter,
    pub(super) data_digest_errors: Counter,
    pub(super) storage_busy: Counter,
    pub(super) commands_ended_busy: Counter,
    pub(super) staging_waits: Counter,
    pub(super) memory_waits: Counter,
    pub(super) slow_peers_ended: Counter,
}

impl Counters {
    pub(super) fn snapshot(&self, connections: u64, staging_bytes: u64) -> TargetStats {
        TargetStats {
            connections,
            connections_accepted: self.connections_accepted.get(),
            connections_evicted: self.connections_evicted.get(),
            protocol_errors: self.protocol_errors.get(),
            keep_alive_expiries: self.keep_alive_expiries.get(),
            received_bytes: self.received_bytes.get(),
            sent_bytes: self.sent_bytes.get(),
            commands: self.commands.get(),
            io_commands: self.io_commands.get(),
            admin_queues_connected: self.admin_queues_connected.get(),
            io_queues_connected: self.io_queues_connected.get(),
            command_errors: self.command_errors.get(),
            data_digest_errors: self.data_digest_errors.get(),
            storage_busy: self.storage_busy.get(),
            commands_ended_busy: self.commands_ended_busy.get(),
            staging_waits: self.staging_waits.get(),
            memory_waits: self.memory_waits.get(),
            slow_peers_ended: self.slow_peers_ended.get(),
            staging_bytes,
            ..TargetStats::default()
        }
    }
}
