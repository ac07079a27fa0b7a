//! The program's side: a seccomp filter that passes the watched system calls to the supervisor and
//! lets all others run at full speed. It answers `io_uring_setup` with ENOSYS, because operations
//! on a ring cannot be watched.

use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, offset_of};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::call::WATCHED;

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const JUMP_IF_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// The filter, in the kernel's form.
pub(super) fn program() -> Vec<libc::sock_filter> {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    // Jumps count from the next instruction; a jump of 1 skips a return.
    let unless_equal = |k| libc::sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k };
    let if_equal = |k| libc::sock_filter { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k };
    let mut program = vec![
        statement(LOAD, offset_of!(libc::seccomp_data, arch) as u32),
        if_equal(ARCHITECTURE),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
        statement(LOAD, offset_of!(libc::seccomp_data, nr) as u32),
        unless_equal(libc::SYS_io_uring_setup as u32),
        statement(RETURN, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ];
    for call in WATCHED {
        program.push(unless_equal(call.number() as u32));
        program.push(statement(RETURN, libc::SECCOMP_RET_USER_NOTIF));
    }
    program.push(statement(RETURN, libc::SECCOMP_RET_ALLOW));
    program
}

/// Puts the calling process under the filter and sends the descriptor of its notifications over
/// `socket`. It runs between fork and exec: it allocates nothing and takes no lock.
///
/// # Errors
/// The kernel refuses.
pub(super) fn install(program: &[libc::sock_filter], socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: a call with plain numbers; it lets a process without privileges install a filter.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let listener = match listen(program, libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        // Before Linux 5.19; signals then restart calls that wait.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => listen(program, 0)?,
        other => other?,
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(b"n")], &mut ancillary, SendFlags::empty())?;
    Ok(())
}

fn listen(program: &[libc::sock_filter], more_flags: libc::c_ulong) -> io::Result<OwnedFd> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let flags = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | more_flags;
    // SAFETY: the kernel copies the program, which outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(result as i32) })
}

/// Whether the kernel can pass system calls to a supervisor.
///
/// # Errors
/// The reason why it cannot.
pub(super) fn probe() -> io::Result<()> {
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the kernel reads one number that outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const action) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The filter's answer to a system call.
    fn answer(number: i64, architecture: u32) -> u32 {
        let (program, mut at, mut loaded) = (program(), 0, 0);
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                LOAD if step.k == offset_of!(libc::seccomp_data, arch) as u32 => loaded = architecture,
                LOAD => loaded = number as u32,
                RETURN => return step.k,
                _ => at += usize::from(if loaded == step.k { step.jt } else { step.jf }),
            }
        }
    }

    #[test]
    fn the_filter_watches_files_refuses_rings_and_lets_all_else_pass() {
        for call in WATCHED {
            assert_eq!(answer(call.number(), ARCHITECTURE), libc::SECCOMP_RET_USER_NOTIF);
        }
        let refused = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        assert_eq!(answer(libc::SYS_io_uring_setup, ARCHITECTURE), refused);
        for number in [libc::SYS_read, libc::SYS_sendmsg, libc::SYS_futex, libc::SYS_exit_group] {
            assert_eq!(answer(number, ARCHITECTURE), libc::SECCOMP_RET_ALLOW);
        }
        assert_eq!(answer(libc::SYS_preadv, 0x4000_0003), libc::SECCOMP_RET_ALLOW, "another architecture's");
    }
}
