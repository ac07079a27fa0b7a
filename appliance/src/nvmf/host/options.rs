//! The options of a host's connection.

use std::time::Duration;

/// How long the host waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For the TCP connection, `ICResp`, and each admin command.
    pub admin: Duration,
    /// For a synchronous I/O command.
    pub io: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { admin: Duration::from_secs(10), io: Duration::from_secs(30) }
    }
}

/// Options of an association.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// HOSTNQN.
    pub host_nqn: String,
    /// HOSTID.
    pub host_id: [u8; 16],
    /// KATO in milliseconds. 0 is off.
    pub keep_alive_timeout_ms: u32,
    /// Request header digests.
    pub header_digest: bool,
    /// Request data digests.
    pub data_digest: bool,
    /// I/O queues to request. The controller may grant fewer.
    pub io_queues: u16,
    /// Outstanding commands per I/O queue, 1 to 65535 (CAP.MQES may lower it).
    pub queue_depth: u16,
    /// The largest transfer of one command in bytes (MDTS may lower it). Each slot has a buffer of
    /// this size.
    pub transfer_bytes_max: u32,
    /// Asynchronous Event Requests to keep outstanding (AERL may lower it), at most 16. Linux uses
    /// 1.
    pub async_event_requests: u8,
    /// Timeouts.
    pub timeouts: Timeouts,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        let id = uuid::Uuid::new_v4();
        Self {
            host_nqn: format!("nqn.2014-08.org.nvmexpress:uuid:{id}"),
            host_id: id.into_bytes(),
            keep_alive_timeout_ms: 15_000,
            header_digest: false,
            data_digest: false,
            io_queues: 1,
            queue_depth: 32,
            transfer_bytes_max: 131_072,
            async_event_requests: 1,
            timeouts: Timeouts::default(),
        }
    }
}
