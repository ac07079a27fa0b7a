//! Load and latency measurements of varve, as a library; the binary `varve-perf` prints the
//! results.
//!
//! - [`load`] loads volumes over `NVMe`/TCP with our own host, devices, or a log alone, and times
//!   every command;
//! - [`floor`] times the same bytes without the appliance: over loopback TCP, in memory, and on the
//!   file system;
//! - [`mod@bench`] runs both against an appliance in this process;
//! - [`sockets`] compares ways to drive a socket;
//! - [`idle`] measures what an idle appliance costs;
//! - [`mod@write_amplification`] measures copy-forward on a pool without network ([`bed`]);
//! - [`mod@cleaning`] measures what copy-forward costs hosts;
//! - [`mod@archive`] measures the archivist beside `zstd`;
//! - [`mod@rebuild`] measures how fast an index is built, [`mod@lookup`] how fast it is queried;
//! - [`mod@open_archived`] measures how soon a point that is only in the archive can be used;
//! - [`instructions`] runs commands whose instructions are counted;
//! - [`mod@append`] measures the log alone;
//! - [`mod@compare`] compares two results; [`mod@report`] shows every budget beside its floor.
//!
//! Figures are valid for the machine and the time of the measurement; only ratios can be compared
//! across machines.

pub mod append;
pub mod archive;
pub mod bar;
pub mod bed;
pub mod bench;
pub mod beside_clone;
pub mod chart;
pub mod cleaning;
pub mod compare;
pub mod compare_target;
pub mod error;
pub mod floor;
pub mod formula;
pub mod idle;
pub mod instructions;
pub mod latency;
pub mod load;
pub mod lookup;
pub mod machine;
pub mod many;
pub mod open_archived;
pub mod overwrite;
pub mod plot;
pub mod rebuild;
pub mod report;
mod rng;
pub mod sockets;
mod spin;
pub mod table;
pub mod write_amplification;

/// Parses a number of seconds, 0.001 to 86400, from an argument.
///
/// # Errors
/// A description of what is required.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && (0.001..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.001 to 86400 is needed".to_owned()),
    }
}
