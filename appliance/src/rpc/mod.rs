//! The command plane: JSON-RPC 2.0 over a Unix socket, compatible with SPDK.
//!
//! - [`RpcServer`] serves any [`Dispatch`] from its own threads; [`framing`] and [`protocol`]
//!   implement the wire format.
//! - [`Registry`] is the appliance's [`Dispatch`]: it finds a method by name, decodes its
//!   parameters strictly, and runs it on the reactor.
//! - [`App`] is the state that methods use on the reactor: the pool, and the target as a
//!   [`TargetView`].
//! - [`config`] applies and makes configuration files, which contain the same calls.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod app;
pub mod config;
mod error;
pub mod framing;
mod histogram;
mod idle;
mod lists;
mod method;
mod methods;
mod params;
mod pool_access;
pub mod protocol;
mod reactors;
mod server;
mod socket;
mod target_view;

pub use app::App;
pub use error::{ErrorObject, RpcError};
pub use histogram::{HistogramError, HistogramReport};
pub use idle::IdleReactor;
pub use method::{DEFAULT_CALL_TIMEOUT, Method, Phase, Registry};
pub use params::{NoParams, ParamError, decode};
pub use protocol::{Dispatch, ResultText};
pub use reactors::ReactorReport;
pub use server::{BoundRpcServer, MAX_CONNECTIONS, RpcServer, RpcServerConfig};
pub use socket::{MAX_SOCKET_PATH_BYTES, SocketError, check_socket};
pub use target_view::{
    ControllerView, DISCOVERY_NQN, ListenerError, NamespaceView, QueuePairView, SubsystemView, TARGET_NAME,
    TargetStats, TargetView, TransportView,
};
