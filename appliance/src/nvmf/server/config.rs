//! The target's configuration and its fixed limits.

use std::time::Duration;

use crate::volume::MAX_IO_BLOCKS;

/// Bytes of a logical block. This is the only format (LBADS 12).
pub const BLOCK_BYTES: u32 = 4096;
/// Logarithm of [`BLOCK_BYTES`].
pub(super) const BLOCK_SHIFT: u8 = 12;
/// MDTS: one command moves at most 2^7 pages of 4 KiB.
pub(super) const TRANSFER_SHIFT: u8 = 7;
/// The most data of one command, in bytes.
pub const TRANSFER_BYTES_MAX: u32 = 512 * 1024;
/// The one namespace of a subsystem.
pub const NAMESPACE_ID: u32 = 1;
/// Asynchronous event requests that a controller holds at the same time (AERL + 1).
pub(super) const ASYNC_EVENT_REQUESTS_MAX: usize = 4;
/// Entries of the error log (ELPE + 1).
pub(super) const ERROR_LOG_ENTRIES: usize = 64;
/// KAS: granularity of the keep alive timer, in units of 100 ms.
pub(super) const KEEP_ALIVE_GRANULARITY_100MS: u16 = 10;
/// The most queue entries a host may ask for, admin or I/O; at most 65,536.
pub(super) const QUEUE_ENTRIES_LIMIT: u16 = 1024;
/// A discovery controller without keep alive is dropped after this time without traffic (Base
/// section 3.1.2.3).
pub(super) const DISCOVERY_IDLE: Duration = Duration::from_mins(2);
/// The most listeners.
pub const LISTENERS_MAX: usize = 64;

const _: () = assert!(MAX_IO_BLOCKS * BLOCK_BYTES == TRANSFER_BYTES_MAX);
const _: () = assert!(4096 << TRANSFER_SHIFT == TRANSFER_BYTES_MAX);
const _: () = assert!(1 << BLOCK_SHIFT == BLOCK_BYTES);

/// The target's settings. [`Target::new`](super::Target::new) clamps values that are out of range.
#[derive(Debug, Clone)]
pub struct TargetConfig {
    /// The most connections. Further ones replace connections that have connected no queue, or
    /// wait. 1 to 65,535.
    pub connections_max: usize,
    /// The most controllers of one subsystem. 1 to 2,047.
    pub controllers_per_subsystem_max: usize,
    /// The most I/O queues of one controller. 1 to 128.
    pub io_queues_max: u16,
    /// The most entries of a queue. 32 to 1,024.
    pub queue_entries_max: u16,
    /// The most data inside an I/O command capsule, in bytes: a multiple of 4096, 4,096 to 65,536.
    pub in_capsule_bytes: u32,
    /// Size of an I/O connection's receive buffer in bytes. At least two of the largest capsules.
    pub receive_buffer_bytes: usize,
    /// The most memory for host data over all connections, in bytes: data requested from hosts,
    /// data read for them, and data they have not taken yet. At most 15/16 of the target's DMA
    /// pool. While any connection waits for memory, each is limited to its share.
    pub host_memory_bytes_max: usize,
    /// The most staging memory for the write data of one connection, in bytes. At least one
    /// transfer of 512 KiB. When it is used up, the connection's transfers wait.
    pub staging_bytes_per_connection_max: usize,
    /// A connection takes no further commands while it has more than this many bytes to send, or to
    /// be read for it.
    pub output_bytes_max: usize,
    /// Makes the kernel poll the network device of each connection for this time in a receive that
    /// finds nothing. `None` keeps the system's default.
    pub busy_poll_us: Option<u16>,
    /// A connection is closed if it has not sent its initialization, or its Connect, after this
    /// time.
    pub connect_timeout: Duration,
    /// When all of a volume's controllers are in use, one without traffic for this time may be
    /// removed for a new one.
    pub silent_after: Duration,
    /// A connection is closed if its host does not send requested data, or does not take data sent
    /// to it, for this time.
    pub transfer_timeout: Duration,
    /// While others wait for memory, a host that keeps them from their share must take the data
    /// sent to it, and send requested data, at this rate or faster (bytes per second). Otherwise
    /// its connection is closed. 0: any rate.
    pub peer_rate_bytes_per_second_min: u64,
    /// The time over which that rate is averaged.
    pub peer_rate_span: Duration,
    /// If the storage has accepted no command of a connection for this time, the connection's
    /// commands end with a status that asks for a retry. It is below the 30 s after which Linux
    /// resets the controller, and above the 15 s after which the storage itself refuses what it has
    /// no space for, and reports the reason.
    pub busy_timeout: Duration,
    /// How long the controllers of a deleted volume stay, without a namespace: long enough for a
    /// host to answer the event by listing the namespaces again, so that it removes the device
    /// instead of trying to reconnect it while it holds back the I/O.
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
