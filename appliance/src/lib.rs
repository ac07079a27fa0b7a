//! varve: an NVMe-oF storage appliance whose volumes are self-archiving logs.
//!
//! The layers, each knowing only those above it in this list (`docs/ARCHITECTURE.md`):
//! - [`histogram`]: how often which times;
//! - [`descriptors`]: how many files and sockets there may be, and for whom;
//! - [`private`]: files and directories that only their owner may look into;
//! - [`reactor`]: pinned threads, pollers, local tasks, timers, mailboxes between cores, idle policy;
//! - [`dma`]: aligned, pooled, reference-counted buffers;
//! - [`bdev`]: block devices behind one trait: memory, files and devices through `io_uring` or threads;
//! - [`log`]: the on-disk format, the writer, readers, recovery;
//! - [`archive`]: the format of archived objects, and the stores that keep them;
//! - [`volume`]: images and their indexes, the read and write paths, points in time;
//! - [`nvmf`]: NVMe over Fabrics: the wire types, the target, and a host for our own tools.

pub mod archive;
pub mod bdev;
pub mod cli;
pub mod descriptors;
pub mod dma;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod histogram;
pub mod inspect;
pub mod log;
pub mod nvmf;
pub mod private;
pub mod reactor;
pub mod rpc;
pub mod serve;
pub mod volume;
