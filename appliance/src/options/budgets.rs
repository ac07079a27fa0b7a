//! How much memory an appliance takes beside its indexes.

/// DMA memory of a pool's log, cleaner, recovery and archive, in bytes. Taken as it is needed, and
/// never for data of hosts.
pub const DMA_BUDGET_BYTES: usize = 128 << 20;
/// DMA memory for data of hosts unless configured otherwise, in bytes. Taken as it is needed.
pub const HOST_MEMORY_BYTES: usize = 256 << 20;
/// The least of it with which hosts are served, in bytes.
pub const HOST_MEMORY_BYTES_MIN: usize = 8 << 20;
/// DMA memory for what is read ahead of hosts, in bytes. Taken as it is needed.
pub const AHEAD_MEMORY_BYTES: usize = 32 << 20;
