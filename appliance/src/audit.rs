//! Logs who changed what: one journal line for each call that changes something, with the caller
//! and the outcome.
//!
//! The lines have the target `audit` and the level info, which the program shows unless `VARVE_LOG`
//! says otherwise. A line is written after the call ends and before the answer is sent. Parameters
//! are shown as JSON, so nothing in them can start a new line.

use std::fmt;
use std::os::unix::net::UnixStream;

/// The target of the lines.
pub const AUDIT_TARGET: &str = "audit";
/// The most bytes of the parameters that are shown: a synch's details may be long.
const PARAMS_BYTES_MAX: usize = 512;

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// A process connected to the command socket, as the kernel knew it when it connected.
    Process {
        /// Its process ID.
        pid: i32,
        /// Its user ID.
        uid: u32,
        /// Its group ID.
        gid: u32,
    },
    /// A process that the kernel does not identify.
    Unknown,
    /// The appliance itself: its configuration file, its retention rules.
    Appliance,
}

impl Caller {
    /// The process at the other end of a connection.
    pub(crate) fn of(stream: &UnixStream) -> Self {
        match rustix::net::sockopt::socket_peercred(stream) {
            Ok(peer) => Caller::Process {
                pid: peer.pid.as_raw_nonzero().get(),
                uid: peer.uid.as_raw(),
                gid: peer.gid.as_raw(),
            },
            Err(error) => {
                tracing::warn!(%error, "the kernel does not say who is at the command socket");
                Caller::Unknown
            }
        }
    }

    /// This process: for commands that need no appliance.
    pub fn myself() -> Self {
        Caller::Process {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
        }
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Caller::Process { pid, uid, gid } => write!(f, "pid {pid}, uid {uid}, gid {gid}"),
            Caller::Unknown => f.write_str("unknown"),
            Caller::Appliance => f.write_str("the appliance"),
        }
    }
}

/// Logs a change, or an attempt at one. `params` is JSON.
pub fn note<T, E: fmt::Display>(caller: &Caller, method: &str, params: &str, result: Result<T, E>) {
    let params = shortened(params);
    match result {
        Ok(_) => tracing::info!(target: AUDIT_TARGET, %caller, method, %params, "done"),
        Err(error) => {
            // The error may quote what the caller sent.
            let error = error.to_string();
            tracing::info!(target: AUDIT_TARGET, %caller, method, %params, ?error, "refused or failed");
        }
    }
}

/// The beginning of a text.
fn shortened(text: &str) -> String {
    match text.char_indices().find(|(at, _)| *at >= PARAMS_BYTES_MAX) {
        Some((at, _)) => format!("{}... ({} bytes)", &text[..at], text.len()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_of_a_socket_is_known() {
        let (one, _other) = UnixStream::pair().expect("a pair");
        assert_eq!(Caller::of(&one), Caller::myself());
        assert!(Caller::myself().to_string().starts_with(&format!("pid {}, uid", std::process::id())));
    }

    #[test]
    fn long_parameters_are_cut_between_characters() {
        assert_eq!(shortened("{}"), "{}");
        let text = "ä".repeat(400);
        let cut = shortened(&text);
        assert!(cut.ends_with("... (800 bytes)") && cut.len() < 540, "{cut}");
    }
}
