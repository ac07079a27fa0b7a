//! The kernel's interface to answer another process's system calls: receives notifications and
//! answers them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Answers wake the program on the supervisor's core: with one call at a time, this is twice as
/// fast.
const SYNCHRONOUS_WAKE: u64 = 1;

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Notification {
    /// The ID of the notification.
    pub(super) id: u64,
    /// The thread that makes it.
    pub(super) thread: u32,
    /// The number of the system call.
    pub(super) number: i64,
    /// Its arguments.
    pub(super) arguments: [u64; 6],
}

/// The answer to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// The kernel executes it and returns its result.
    Proceed,
    /// It has moved this many bytes.
    Moved(u64),
    /// It fails with this error number.
    Fail(i32),
}

/// The source of notifications.
#[derive(Debug)]
pub(super) struct Listener(OwnedFd);

/// Space for a notification, and for fields that a newer kernel may add to it.
#[repr(C)]
struct Room {
    notification: libc::seccomp_notif,
    more: [u64; 64],
}

impl Listener {
    /// The listener of a filter that was just installed.
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        // SAFETY: only a number is passed. Kernels before 6.6 do not know the request; that is
        // harmless.
        let _ = unsafe {
            libc::ioctl(descriptor.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNCHRONOUS_WAKE)
        };
        Listener(descriptor)
    }

    /// Receives the next notification. `None` when its thread was killed in the meantime.
    ///
    /// # Errors
    /// The kernel's error.
    pub(super) fn receive(&self) -> io::Result<Option<Notification>> {
        // SAFETY: the structure has only plain numbers, for which zero is valid; the kernel
        // requires zeroes.
        let mut room: Room = unsafe { std::mem::zeroed() };
        let at = (&raw mut room).cast::<libc::seccomp_notif>();
        // SAFETY: the kernel writes its form of the structure, and `room` is larger than that.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, at) };
        if result != 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ENOENT | libc::EINTR) => Ok(None),
                _ => Err(error),
            };
        }
        let taken = &room.notification;
        Ok(Some(Notification {
            id: taken.id,
            thread: taken.pid,
            number: taken.data.nr.into(),
            arguments: taken.data.args,
        }))
    }

    /// Whether the system call still waits, so that its thread's ID does not belong to another
    /// thread yet.
    pub(super) fn still_waits(&self, id: u64) -> bool {
        // SAFETY: the kernel reads one number that outlives the call.
        unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) == 0 }
    }

    /// Sends an answer. A program that has ended in the meantime needs none.
    pub(super) fn answer(&self, id: u64, answer: Answer) {
        let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
        match answer {
            Answer::Proceed => response.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
            Answer::Moved(bytes) => response.val = bytes as i64,
            Answer::Fail(errno) => response.error = -errno,
        }
        // SAFETY: the kernel reads the structure, which outlives the call.
        let _ = unsafe { libc::ioctl(self.0.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
