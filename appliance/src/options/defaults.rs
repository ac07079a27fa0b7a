//! Defaults of the commands' options.

/// How often expired objects are deleted from the archive, in seconds, unless configured otherwise.
pub const EXPIRE_SECONDS_DEFAULT: u64 = 600;

/// The default directory of the appliance's data and socket.
pub const DEFAULT_DIR: &str = "varve-data";

/// The socket that clients use by default: that of an appliance with the default directory.
pub const DEFAULT_SOCKET: &str = "varve-data/rpc.sock";

/// The socket that clients use by default if [`DEFAULT_SOCKET`] does not exist: that of an
/// appliance that the system runs (`conf/varve.service`).
pub const SYSTEM_SOCKET: &str = "/run/varve/rpc.sock";
