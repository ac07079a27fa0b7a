//! varve: an NVMe-oF storage appliance whose volumes are self-archiving logs.
//!
//! # Documents
//!
//! They are in the repository, next to the code:
//!
//! | document | for whom |
//! |---|---|
//! | `README.md` | everyone who tries it: build, start, connect, go back in time |
//! | `docs/ARCHITECTURE.md` | everyone who reads or changes the code. Read it first: threads, the life of a write, who owns which state, where new code goes |
//! | `docs/QUESTIONS.md` | six questions that a reader of ARCHITECTURE.md must be able to answer, with answers and the places that prove them |
//! | `docs/FORMAT.md` | every byte on the device, in the archive and beside the pool; how to add a field |
//! | `docs/FAILURES.md` | each fault: what hosts see, what the appliance does, what the operator sees, the test |
//! | `docs/OPERATIONS.md` | operators: sizes, every problem with its remedy, the runbook |
//! | `docs/REQUIREMENTS.md` | each requirement (R1 and so on), its state, code and test |
//! | `CONTRIBUTING.md`, `SECURITY.md`, `CHANGELOG.md` | contributors; who can reach what; what changed |
//!
//! # Rooms
//!
//! Each layer uses only the layers below it.
//!
//! | room | what it contains |
//! |---|---|
//! | [`serve`] | starts and stops everything; the only place that knows all layers |
//! | [`inspect`] | reads the device of a pool that is not being served, and reports what is on it |
//! | [`cli`] | the command line: one JSON-RPC call per command |
//! | [`options`] | the options of the commands that do their own work (`serve`, `inspect`, `pool recover`) |
//! | [`rpc`] | the command plane: JSON-RPC over a Unix socket |
//! | [`manage`] | jobs on the archive: list, verify, scrub, expire |
//! | [`nvmf`] | NVMe over Fabrics: wire types, the target, a host for our own tools |
//! | [`volume`] | images and their indexes, read and write path, history, clones, the cleaner, the pool's side of the archive |
//! | [`increment`] | the format of a file with what differs between two points |
//! | [`archive`] | the format of archived objects, stores, threads that upload and read back, retention, owners |
//! | [`log`] | the format on the device, the writer, readers, recovery |
//! | [`bdev`] | block devices: memory, `io_uring`, threads |
//! | [`dma`] | aligned, pooled, reference-counted buffers |
//! | [`reactor`] | pollers, tasks, timers, messages between threads, idle policy |
//! | [`audit`], [`private`] | used by all: the log of who changed what; files that only their owner may read |
//! | [`descriptors`], [`histogram`], [`text`] | used by all: limits on files and sockets; histograms of times; sizes, times and tables for people |

pub mod archive;
pub mod audit;
pub mod bdev;
pub mod cli;
pub mod descriptors;
pub mod dma;
#[cfg(test)]
mod document;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod histogram;
pub mod increment;
pub mod inspect;
pub mod log;
pub mod manage;
#[cfg(any(test, feature = "conformance"))]
#[doc(hidden)]
pub mod missing;
pub mod nvmf;
pub mod options;
pub mod private;
pub mod reactor;
pub mod rpc;
pub mod serve;
pub mod text;
pub mod volume;
