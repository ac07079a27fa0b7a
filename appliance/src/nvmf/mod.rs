//! `NVMe` over Fabrics: wire types, the target, and the host that our own tools and tests use.

pub mod host;
pub mod nqn;
mod output;
pub mod server;
pub mod wire;
