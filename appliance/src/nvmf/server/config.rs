//! The target's configuration and its fixed limits.

use std::time::Duration;

use crate::volume::MAX_IO_BLOCKS;

/// Bytes of a logical block, the only format (LBADS 12).
pub const BLOCK_BYTES: u32 = 4096;
/// Logarithm of [`BLOCK_BYTES`].
pub(super) const BLOCK_SHIFT: u8 = 12;
/// MDTS: the most data of one command is 2^7 pages of 4 KiB.
pub(super) const TRANSFER_SHIFT: u8 = 7;
/// The most data of one command, in bytes.
pub const TRANSFER_BYTES_MAX: u32 = 512 * 1024;
/// The one namespace of a subsystem.
pub const NAMESPACE_ID: u32 = 1;
/// Asynchronous event requests that a controller holds at once (AERL, 1's based).
pub(super) const ASYNC_EVENT_REQUESTS_MAX: usize = 4;
/// Entries of the error log (ELPE, 1's based).
pub(super) const ERROR_LOG_ENTRIES: usize = 64;
/// KAS: granularity of the keep alive timer, in units of 100 ms.
pub(super) const KEEP_ALIVE_GRANULARITY_100MS: u16 = 10;
/// The most queue entries a host may ask for, admin or I/O; at most 65,536.
pub(super) const QUEUE_ENTRIES_LIMIT: u16 = 1024;
/// A discovery controller without keep alive that is silent for so long is dropped (Base section 3.1.2.3).
pub(super) const DISCOVERY_IDLE: Duration = Duration::from_mins(2);
/// The most listeners.
pub const LISTENERS_MAX: usize = 64;

const _: () = assert!(MAX_IO_BLOCKS * BLOCK_BYTES == TRANSFER_BYTES_MAX);
const _: () = assert!(4096 << TRANSFER_SHIFT == TRANSFER_BYTES_MAX);
const _: () = assert!(1 << BLOCK_SHIFT == BLOCK_BYTES);

/// How a target behaves. Values out of their range are brought into it by [`Target::new`](super::Target::new).
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// The most connections; more take the places of those that have connected no queue, or wait.
    /// 1 to 65,535.
    pub connections_max: usize,
    /// The most controllers of one subsystem. 1 to 2,047.
    pub controllers_per_subsystem_max: usize,
    /// The most I/O queues of one controller. 1 to 128.
    pub io_queues_max: u16,
    /// The most entries of a queue. 32 to 1,024.
    pub queue_entries_max: u16,
    /// The most data inside an I/O command capsule, in bytes: a multiple of 4096, 4,096 to 65,536.
    pub in_capsule_bytes: u32,
    /// Size of an I/O connection's receive buffer in bytes; at least two of the largest capsules.
    pub receive_buffer_bytes: usize,
    /// The most memory for data of hosts over all connections, in bytes: what they were asked for,
    /// what is read for them, and what they have not taken yet. Never more than the target's DMA
    /// pool has. Connections have shares of it while any of them waits.
    pub host_memory_bytes_max: usize,
    /// The most memory that write data of one connection waits in, in bytes. At least one transfer
    /// of 512 KiB. When it is used up, its transfers wait.
    pub staging_bytes_per_connection_max: usize,
    /// A connection with so many bytes to send, or to be read for it, takes no further commands until there are fewer.
    pub output_bytes_max: usize,
    /// Has the kernel poll the network device of each connection for so long in a receive that finds nothing; `None` leaves the system's default.
    pub busy_poll_us: Option<u16>,
    /// A connection that has not sent its initialization after so long, or its Connect, is closed.
    pub connect_timeout: Duration,
    /// When a volume's controllers are used up, one from which nothing came for so long may have to
    /// give way.
    pub silent_after: Duration,
    /// A connection whose host does not send data it was asked for, or does not take what was sent to it, is closed after so long.
    pub transfer_timeout: Duration,
    /// While others wait for memory, a host that keeps them from their share takes what was sent to
    /// it, and sends what it was asked for, at so many bytes a second at least; 0: at any rate.
    /// Otherwise its connection is closed.
    pub peer_rate_bytes_per_second_min: u64,
    /// The time over which that rate is averaged.
    pub peer_rate_span: Duration,
    /// Commands of a connection of which the storage has taken nothing for so long end with a
    /// status that asks for another try. Below the 30 s after which Linux resets the controller,
    /// and above the 15 s after which the storage itself refuses what it has no room for, and says
    /// why.
    pub busy_timeout: Duration,
    /// How long the controllers of a deleted volume live on, without a namespace: long enough for a host to answer the event by
    /// listing the namespaces anew, so that it gives the device up instead of trying to reconnect it with the I/O held back.
    pub linger: Duration,
}

impl Default for TargetConfig {
    fn default() -> Self {
        TargetConfig {
            connections_max: 1024,
            controllers_per_subsystem_max: 64,
            io_queues_max: 64,
            queue_entries_max: 128,
            in_capsule_bytes: 16 * 1024,
            receive_buffer_bytes: 256 * 1024,
            host_memory_bytes_max: 512 << 20,
            staging_bytes_per_connection_max: 16 << 20,
            output_bytes_max: 4 << 20,
            busy_poll_us: None,
            connect_timeout: Duration::from_secs(10),
            silent_after: Duration::from_secs(10),
            transfer_timeout: Duration::from_secs(30),
            peer_rate_bytes_per_second_min: 64 << 10,
            peer_rate_span: Duration::from_secs(4),
            busy_timeout: Duration::from_secs(20),
            linger: Duration::from_secs(5),
        }
    }
}

impl TargetConfig {
    pub(super) fn within_bounds(mut self) -> Self {
        self.connections_max = self.connections_max.clamp(1, 65_535);
        self.controllers_per_subsystem_max = self.controllers_per_subsystem_max.clamp(1, 2047);
        self.io_queues_max = self.io_queues_max.clamp(1, 128);
        self.queue_entries_max = self.queue_entries_max.clamp(32, QUEUE_ENTRIES_LIMIT);
        self.in_capsule_bytes = (self.in_capsule_bytes & !(BLOCK_BYTES - 1)).clamp(4096, 65_536);
        let capsule = self.in_capsule_bytes as usize + 256;
        self.receive_buffer_bytes = self.receive_buffer_bytes.clamp(2 * capsule, 16 << 20);
        self.staging_bytes_per_connection_max =
            self.staging_bytes_per_connection_max.max(TRANSFER_BYTES_MAX as usize);
        self.output_bytes_max = self.output_bytes_max.max(TRANSFER_BYTES_MAX as usize);
        self
    }
}
