//! Limits on file descriptors: how many the process may have, and how many hosts leave to others.
//!
//! Hosts could use up every descriptor of the process. Then the archive's store could not open
//! anything, and nobody could ask the appliance what is wrong. So hosts and callers of the command
//! plane have bounds below the limit. The limit is read again each time, because it can be changed
//! from outside while the process runs.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that hosts leave to the store and the command plane, unless the limit is small.
const RESERVE: u64 = 192;
/// The descriptors for which the process makes room at its start.
const PREPARED: u64 = 4096;
/// Callers of the command plane get at most one part in this many of a small limit.
const CALLERS_PART: u64 = 8;

/// Raises the soft limit to the hard limit. Returns the limit that is now in force.
///
/// # Errors
/// The kernel's refusal; the limit is unchanged then.
pub fn raise_limit() -> io::Result<u64> {
    let limits = getrlimit(Resource::Nofile);
    if limits.current != limits.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, maximum: limits.maximum })?;
    }
    Ok(limit())
}

/// Makes the kernel's table of this process's descriptors large enough for `PREPARED` of them, or
/// for as many as it may have. A table that has to grow later does so in the call that needs the
/// next descriptor: in a process with threads the kernel then waits 10 ms and more, until no core
/// uses the old table.
///
/// # Errors
/// The kernel's refusal; the table grows when it has to.
pub fn prepare(any: impl AsFd) -> io::Result<()> {
    let highest = PREPARED.min(limit()).saturating_sub(1);
    // The table does not shrink when the descriptor is closed.
    drop(rustix::io::fcntl_dupfd_cloexec(any, highest as i32)?);
    Ok(())
}

/// How many descriptors the process may have.
fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Whether a host may have another descriptor. `any` is any open descriptor.
pub fn has_room_for_host(any: impl AsFd) -> bool {
    // A new descriptor has the lowest free number: all below it are in use.
    match rustix::io::fcntl_dupfd_cloexec(any, 0) {
        Ok(next) => (next.as_raw_fd() as u64) < of_hosts(limit()),
        Err(_) => false,
    }
}

/// How many descriptors are open when hosts get no more.
fn of_hosts(limit: u64) -> u64 {
    limit - RESERVE.min(limit / 2)
}

/// Which of the wanted events a descriptor has now, and errors, which are always reported; none if
/// that cannot be found out.
pub fn events_now(descriptor: impl AsFd, wanted: PollFlags) -> PollFlags {
    let mut fds = [PollFd::new(&descriptor, wanted)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&at_once)) {
        Ok(_) => fds[0].revents(),
        Err(_) => PollFlags::empty(),
    }
}

/// How many callers the command plane may have, at most `most`.
pub fn callers(most: usize) -> usize {
    callers_within(limit(), most)
}

fn callers_within(limit: u64, most: usize) -> usize {
    (limit / CALLERS_PART).clamp(2, most as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_callers_leave_some_to_the_store() {
        for limit in [32_u64, 64, 256, 1024, 65_536, u64::MAX] {
            let rest = limit - of_hosts(limit);
            assert!(rest >= 16 && rest as usize > 2 * callers_within(limit, 64), "{limit}: {rest}");
        }
        assert_eq!(callers_within(64, 64), 8);
        assert_eq!(callers_within(1024, 64), 64);
        assert_eq!(of_hosts(1024), 832);
    }

    #[test]
    fn the_table_of_descriptors_is_large_before_it_is_needed() {
        prepare(std::io::stderr()).expect("below the limit");
        let status = std::fs::read_to_string("/proc/self/status").expect("a process");
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("a line");
        let size: u64 = size.trim().parse().expect("a number");
        assert!(size >= PREPARED.min(limit()), "{size}");
    }

    #[test]
    fn there_is_room_below_the_limit() {
        assert!(has_room_for_host(std::io::stderr()));
    }
}
