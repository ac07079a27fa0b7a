//! A small `NVMe`/TCP host for `varve volume import` and `export`, our own tests, soaks and load
//! generator.
//!
//! It is at least as strict as the Linux host, so the kernel accepts everything that it accepts.
//! Its calls block, but it can busy-poll. It moves many capsules with one system call, and
//! allocates nothing for an I/O.
//!
//! - [`discover()`] reads the discovery log page.
//! - [`Controller`] is an association: the admin queue, and the I/O queues that can be taken from
//!   it.
//! - [`Queue`] is one connection: submit, poll, or the synchronous `read`, `write`, `flush`.
//! - [`RawConnection`] sends and reads arbitrary bytes, for negative tests.

mod admin;
mod controller;
mod discover;
mod error;
mod geometry;
mod io;
mod options;
mod queue;
mod raw;
mod receive;
mod slots;
mod stage;
mod transport;

pub use controller::{Controller, Namespace};
pub use discover::discover;
pub use error::{HostError, IdentifyRejection, Loss, Negotiation, Violation};
pub use geometry::Geometry;
pub use options::{ConnectOptions, Timeouts};
pub use queue::{Queue, QueueOptions, SYNCHRONOUS_TAG, Wait};
pub use raw::{RawConnection, RawPdu};
pub use slots::{Completion, Payload};

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod peer;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panic")]
mod tests;
