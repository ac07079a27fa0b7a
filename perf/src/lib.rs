//! Load and latency measurements of varve, as a library: what the binary `varve-perf` prints.
//!
//! - [`load`] loads a volume over `NVMe`/TCP with our own host and times every command;
//! - [`floor`] times the same bytes without the appliance: over loopback TCP, and on the file system;
//! - [`mod@bench`] runs both beside each other against an appliance in this process;
//! - [`idle`] reads what an idle appliance costs;
//! - [`mod@write_amplification`] measures copy-forward on a pool without network ([`bed`]);
//! - [`mod@cleaning`] measures what copy-forward costs hosts;
//! - [`mod@archive`] measures the archivist beside `zstd`;
//! - [`mod@rebuild`] measures how fast an index is built;
//! - [`mod@open_archived`] measures how soon a point that is only in the archive is there.
//!
//! Figures are for the machine and the moment they were taken on; only the ratios travel.

pub mod archive;
pub mod bed;
pub mod bench;
pub mod cleaning;
pub mod error;
pub mod floor;
pub mod formula;
pub mod idle;
pub mod latency;
pub mod load;
pub mod machine;
pub mod open_archived;
pub mod overwrite;
pub mod plot;
pub mod rebuild;
mod rng;
pub mod table;
pub mod write_amplification;
