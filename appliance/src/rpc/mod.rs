//! The command plane: JSON-RPC 2.0 over a Unix socket, as SPDK speaks it.
//!
//! - [`RpcServer`] serves any [`Dispatch`] from threads of its own; [`framing`] and [`protocol`] are the two halves of the wire.
//! - [`Registry`] is the appliance's [`Dispatch`]: every method by name, its parameters decoded strictly, run on the reactor.
//! - [`App`] is what methods find on the reactor: the pool, and the target behind [`TargetView`].
//! - [`config`] applies and makes configuration files, which are the same calls.

#![cfg_attr(not(test), deny(clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects))]

mod app;
#[allow(clippy::arithmetic_side_effects, reason = "what is asked of an archive decodes nothing")]
mod archive;
pub mod audit;
pub mod config;
mod error;
pub mod framing;
mod histogram;
mod method;
mod methods;
mod params;
pub mod protocol;
mod reactors;
mod server;
mod socket;
mod target_view;
pub mod units;

pub use app::App;
pub(crate) use archive::SCRUB_RATE_BYTES_PER_S;
pub use archive::{
    ArchivePlane, ArchiveReport, ArchivedObject, Expirer, ExpiryPool, ExpiryReport, Explained, KeepFileError,
    LIST_LIMIT_DEFAULT, ScrubStatus, Scrubber, Sealed, VERIFICATIONS_MAX, Verification, VerificationState,
};
pub use audit::Caller;
pub use error::{ErrorObject, RpcError};
pub use histogram::{HistogramError, HistogramReport};
pub use method::{DEFAULT_CALL_TIMEOUT, Method, Phase, Registry};
pub use params::{NoParams, ParamError, decode};
pub use protocol::Dispatch;
pub use reactors::{IdleReactor, ReactorReport};
pub use server::{MAX_CONNECTIONS, RpcServer, RpcServerConfig};
pub use socket::{MAX_SOCKET_PATH_BYTES, SocketError};
pub use target_view::{
    ControllerView, DISCOVERY_NQN, ListenerError, NamespaceView, QueuePairView, SubsystemView, TARGET_NAME,
    TargetStats, TargetView, TransportView,
};
