//! What the commands take unless they are asked for something else.

/// How often what has expired is deleted from the archive, in seconds, unless configured otherwise.
pub const EXPIRE_SECONDS_DEFAULT: u64 = 600;

/// Where the appliance's data and socket are by default.
pub const DEFAULT_DIR: &str = "varve-data";

/// The socket that clients use by default: that of an appliance with the default directory.
pub const DEFAULT_SOCKET: &str = "varve-data/rpc.sock";

/// The socket that clients use by default where [`DEFAULT_SOCKET`] does not exist: that of an
/// appliance that the system runs (`conf/varve.service`).
pub const SYSTEM_SOCKET: &str = "/run/varve/rpc.sock";
