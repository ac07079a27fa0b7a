//! varve: an NVMe-oF storage appliance whose volumes are self-archiving logs.
//!
//! The layers, each knowing only those above it in this list (`docs/ARCHITECTURE.md`):
//! - [`text`]: sizes, times and tables as people read them;
//! - [`histogram`]: how often which times;
//! - [`descriptors`]: how many files and sockets there may be, and for whom;
//! - [`audit`]: who changed what;
//! - [`private`]: files and directories that only their owner may read;
//! - [`reactor`]: pinned threads, pollers, local tasks, timers, mailboxes between cores, idle policy;
//! - [`dma`]: aligned, pooled, reference-counted buffers;
//! - [`bdev`]: block devices with one trait: memory, files and devices through `io_uring` or threads;
//! - [`log`]: the on-disk format, the writer, readers, recovery;
//! - [`archive`]: the format of archived objects, and the stores that keep them;
//! - [`volume`]: images and their indexes, the read and write paths, points in time;
//! - [`nvmf`]: NVMe over Fabrics: the wire types, the target, and a host for our own tools;
//! - [`manage`]: jobs on the archive: list, verify, scrub, expire;
//! - [`rpc`]: the command plane, JSON-RPC over a Unix socket;
//! - [`options`]: what the commands that do work of their own are asked for;
//! - [`cli`]: the command line;
//! - [`serve`]: starts and stops the appliance;
//! - [`inspect`]: shows what is in the file of a pool's device.

pub mod archive;
pub mod audit;
pub mod bdev;
pub mod cli;
pub mod descriptors;
pub mod dma;
pub mod histogram;
pub mod inspect;
pub mod log;
pub mod manage;
pub mod nvmf;
pub mod options;
pub mod private;
pub mod reactor;
pub mod rpc;
pub mod serve;
pub mod text;
pub mod volume;
