//! Load and latency measurements of varve, as a library: what the binary `varve-perf` prints.
//!
//! - [`load`] loads a volume over `NVMe`/TCP with our own host and times every command;
//! - [`floor`] times the same bytes without the appliance: over loopback TCP, and on the file system;
//! - [`mod@bench`] runs both beside each other against an appliance in this process;
//! - [`idle`] reads what an idle appliance costs.
//!
//! Figures are for the machine and the moment they were taken on; only the ratios travel.

pub mod bench;
pub mod error;
pub mod floor;
pub mod idle;
pub mod latency;
pub mod load;
pub mod machine;
mod rng;
pub mod table;
