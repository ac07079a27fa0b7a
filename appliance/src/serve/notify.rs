//! Notifies the service manager (`sd_notify(3)`): sends each message as one datagram to the socket
//! that the service manager names. Does nothing without one.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The connection to the service manager.
pub(super) struct Notifier {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// The service manager expects a sign of life at least this often.
    pub(super) watchdog: Option<Duration>,
}

impl Notifier {
    /// From the variables that the service manager sets.
    pub(super) fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        Self::new(
            variable("NOTIFY_SOCKET").as_deref(),
            variable("WATCHDOG_USEC").as_deref(),
            variable("WATCHDOG_PID").as_deref(),
        )
    }

    fn new(path: Option<&str>, watchdog_us: Option<&str>, watchdog_pid: Option<&str>) -> Self {
        let address = path.and_then(|path| match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name).ok(),
            None => SocketAddr::from_pathname(path).ok(),
        });
        let socket = address.and_then(|address| Some((UnixDatagram::unbound().ok()?, address)));
        let is_meant = watchdog_pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
        let watchdog = watchdog_us.filter(|_| is_meant).and_then(|text| text.parse().ok());
        let watchdog = watchdog.filter(|&us: &u64| us > 0).map(Duration::from_micros);
        Notifier { watchdog: watchdog.filter(|_| socket.is_some()), socket }
    }

    /// Reports that hosts can connect.
    pub(super) fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={status}\n"));
    }

    /// Reports in words what the appliance does now.
    pub(super) fn status(&self, status: &str) {
        self.send(&format!("STATUS={status}\n"));
    }

    /// Reports that the appliance is stopping.
    pub(super) fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping\n");
    }

    /// Reports a sign of life.
    pub(super) fn alive(&self) {
        self.send("WATCHDOG=1\n");
    }

    fn send(&self, text: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(text.as_bytes(), address)
        {
            tracing::warn!(%error, "the service manager cannot be told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_service_manager_hears_what_there_is_to_say() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let manager = UnixDatagram::bind(&path).expect("a socket");
        let pid = std::process::id().to_string();
        let notifier = Notifier::new(path.to_str(), Some("30000000"), Some(&pid));
        assert_eq!(notifier.watchdog, Some(Duration::from_secs(30)));
        notifier.ready("1 volume");
        notifier.status("waits");
        notifier.alive();
        notifier.stopping();
        let mut heard = Vec::new();
        for _ in 0..4 {
            let mut text = [0; 100];
            let len = manager.recv(&mut text).expect("a datagram");
            heard.push(String::from_utf8_lossy(&text[..len]).into_owned());
        }
        assert_eq!(
            heard,
            ["READY=1\nSTATUS=1 volume\n", "STATUS=waits\n", "WATCHDOG=1\n", "STOPPING=1\nSTATUS=stopping\n"]
        );
        // A socket that is gone is not an error; neither is no socket, or a watchdog meant for
        // another process.
        drop(manager);
        notifier.alive();
        assert_eq!(Notifier::new(None, Some("1"), None).watchdog, None);
        assert_eq!(Notifier::new(path.to_str(), Some("5"), Some("1")).watchdog, None);
        Notifier::new(None, None, None).ready("");
        let abstract_name = format!("@varve-test-{pid}");
        let manager =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&abstract_name[1..]).expect("a name"));
        let manager = manager.expect("a socket");
        Notifier::new(Some(&abstract_name), None, None).alive();
        let mut text = [0; 100];
        assert_eq!(manager.recv(&mut text).expect("a datagram"), 11);
    }
}
