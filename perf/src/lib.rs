//! Load and latency measurements of varve, as a library: what the binary `varve-perf` prints.
//!
//! - [`load`] loads volumes over `NVMe`/TCP with our own host, devices, or a log alone, and times every command;
//! - [`floor`] times the same bytes without the appliance: over loopback TCP, in memory, and on the file system;
//! - [`mod@bench`] runs both beside each other against an appliance in this process;
//! - [`sockets`] sets ways to drive a socket beside each other;
//! - [`idle`] reads what an idle appliance costs;
//! - [`mod@write_amplification`] measures copy-forward on a pool without network ([`bed`]);
//! - [`mod@cleaning`] measures what copy-forward costs hosts;
//! - [`mod@archive`] measures the archivist beside `zstd`;
//! - [`mod@rebuild`] measures how fast an index is built, [`mod@lookup`] how fast it is asked;
//! - [`mod@open_archived`] measures how soon a point that is only in the archive is there;
//! - [`instructions`] does commands whose instructions are counted;
//! - [`mod@append`] measures the log alone;
//! - [`mod@compare`] sets two results beside each other; [`mod@report`] every budget beside its floor.
//!
//! Figures are for the machine and the moment they were taken on; only the ratios travel.

pub mod append;
pub mod archive;
pub mod bar;
pub mod bed;
pub mod bench;
pub mod chart;
pub mod cleaning;
pub mod compare;
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

/// Reads a number of seconds, 0.001 to 86400, from an argument.
///
/// # Errors
/// What is needed, in words.
pub fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && (0.001..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err("a number of seconds from 0.001 to 86400 is needed".to_owned()),
    }
}
