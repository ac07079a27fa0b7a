//! How much memory an appliance uses, not counting its indexes.

/// DMA memory of a pool's log, cleaner, recovery and archive, in bytes. Allocated on demand, and
/// never used for data of hosts.
pub const DMA_BUDGET_BYTES: usize = 128 << 20;
/// DMA memory for data of hosts unless configured otherwise, in bytes. Allocated on demand.
pub const HOST_MEMORY_BYTES: usize = 256 << 20;
/// The minimum of DMA memory for data of hosts, in bytes; with less, hosts are not served.
pub const HOST_MEMORY_BYTES_MIN: usize = 8 << 20;
/// DMA memory for data that is read ahead for hosts, in bytes. Allocated on demand.
pub const AHEAD_MEMORY_BYTES: usize = 32 << 20;
