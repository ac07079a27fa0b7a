//! The lock on an opened file or device, and who holds it if it is refused.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, Stat};
use rustix::io::Errno;

use super::options::OpenError;

/// Locks the file until its descriptor is closed: exclusively, or shared with other readers.
pub(super) fn lock(fd: &OwnedFd, stat: &Stat, path: &Path, read_only: bool) -> Result<(), OpenError> {
    let operation = if read_only {
        FlockOperation::NonBlockingLockShared
    } else {
        FlockOperation::NonBlockingLockExclusive
    };
    let mut pauses = Pauses::default();
    loop {
        match rustix::fs::flock(fd.as_fd(), operation) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) => pauses.wait_for(path, stat)?,
            Err(errno) => {
                return Err(OpenError::Io { path: path.to_owned(), action: "lock", source: errno.into() });
            }
        }
    }
}

/// How often a lock that no running process holds is retried. The kernel frees a killed process's
/// rings in the background, and their files stay locked meanwhile. With [`PAUSE`] this is 1 second.
const MAX_PAUSES: u32 = 50;

/// The time between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Counts the retries while a holder is not a running process.
#[derive(Default)]
pub(super) struct Pauses {
    taken: u32,
}

impl Pauses {
    /// Sleeps for [`PAUSE`] before another try, or gives up.
    pub(super) fn wait_for(&mut self, path: &Path, stat: &Stat) -> Result<(), OpenError> {
        let holder = holder(stat);
        if matches!(holder, Holder::Running(_)) || self.taken >= MAX_PAUSES {
            return Err(OpenError::Locked { path: path.to_owned(), holder: holder.to_string() });
        }
        self.taken += 1;
        std::thread::sleep(PAUSE);
        Ok(())
    }
}

/// The holder of a lock, as far as `/proc` reports it.
enum Holder {
    Unknown,
    Gone(u32),
    Running(String),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Holder::Unknown => write!(f, "a mounted file system, a volume manager or another process"),
            Holder::Gone(pid) => write!(f, "process {pid}, which ended and whose files are still open"),
            Holder::Running(description) => write!(f, "{description}"),
        }
    }
}

fn holder(stat: &Stat) -> Holder {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let Some(pid) = holder_pid(&locks, stat) else { return Holder::Unknown };
    if pid == std::process::id() {
        return Holder::Running(format!("this process ({pid})"));
    }
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => Holder::Running(format!("process {pid} ({})", name.trim_end())),
        Err(_) => Holder::Gone(pid),
    }
}

/// Finds the first holder in lines such as `1: FLOCK  ADVISORY  WRITE 812 fd:01:131 0 EOF`. Lines
/// of waiters contain `->`.
fn holder_pid(locks: &str, stat: &Stat) -> Option<u32> {
    let wanted = format!(
        "{:02x}:{:02x}:{}",
        rustix::fs::major(stat.st_dev),
        rustix::fs::minor(stat.st_dev),
        stat.st_ino
    );
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        if fields.next()? != "FLOCK" {
            return None;
        }
        let (pid, inode) = (fields.nth(2)?, fields.next()?);
        if inode == wanted { pid.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_is_found_in_the_table_of_locks() {
        let stat = rustix::fs::stat("/").expect("there is a root");
        let inode = format!(
            "{:02x}:{:02x}:{}",
            rustix::fs::major(stat.st_dev),
            rustix::fs::minor(stat.st_dev),
            stat.st_ino
        );
        let locks = format!(
            "1: POSIX  ADVISORY  WRITE 11 {inode} 0 EOF\n2: FLOCK  ADVISORY  WRITE 22 00:00:1 0 EOF\n\
             3: FLOCK  ADVISORY  WRITE 33 {inode} 0 EOF\n3: -> FLOCK  ADVISORY  WRITE 44 {inode} 0 EOF\n"
        );
        assert_eq!(holder_pid(&locks, &stat), Some(33));
        assert_eq!(holder_pid("nonsense\n\n5: FLOCK", &stat), None);
    }
}
