//! A system call of the watched program as rules see it: an operation on files. One table lists the
//! system calls and where each has its arguments.

use std::io;
use std::ops::Range;
use std::path::Path;

use super::rule::Operation;

/// The arguments (by index) in which a system call names its file and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Descriptor, pieces, count of pieces, offset.
    Vectored,
    /// Descriptor, buffer, length, offset.
    Buffer,
    /// Descriptor, mode, offset, length: `fallocate`.
    Stretch,
    /// A descriptor and no other argument of interest.
    Descriptor,
    /// A path, in this argument.
    Path(usize),
    /// Two paths, in these arguments.
    Paths(usize, usize),
}

/// A watched system call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    number: i64,
    operation: Operation,
    shape: Shape,
}

const fn watched(number: i64, operation: Operation, shape: Shape) -> Watched {
    Watched { number, operation, shape }
}

/// Every system call that can be made to fail.
pub(super) const WATCHED: &[Watched] = &[
    watched(libc::SYS_pread64, Operation::Read, Shape::Buffer),
    watched(libc::SYS_preadv, Operation::Read, Shape::Vectored),
    watched(libc::SYS_preadv2, Operation::Read, Shape::Vectored),
    watched(libc::SYS_pwrite64, Operation::Write, Shape::Buffer),
    watched(libc::SYS_pwritev, Operation::Write, Shape::Vectored),
    watched(libc::SYS_pwritev2, Operation::Write, Shape::Vectored),
    watched(libc::SYS_fsync, Operation::Sync, Shape::Descriptor),
    watched(libc::SYS_fdatasync, Operation::Sync, Shape::Descriptor),
    watched(libc::SYS_openat, Operation::Open, Shape::Path(1)),
    watched(libc::SYS_renameat, Operation::Rename, Shape::Paths(1, 3)),
    watched(libc::SYS_renameat2, Operation::Rename, Shape::Paths(1, 3)),
    watched(libc::SYS_linkat, Operation::Link, Shape::Paths(1, 3)),
    watched(libc::SYS_unlinkat, Operation::Unlink, Shape::Path(1)),
    watched(libc::SYS_mkdirat, Operation::MakeDirectory, Shape::Path(1)),
    watched(libc::SYS_fallocate, Operation::Allocate, Shape::Stretch),
    watched(libc::SYS_truncate, Operation::Truncate, Shape::Path(0)),
    watched(libc::SYS_ftruncate, Operation::Truncate, Shape::Descriptor),
    // Old system calls that newer architectures do not have.
    #[cfg(target_arch = "x86_64")]
    watched(libc::SYS_open, Operation::Open, Shape::Path(0)),
    #[cfg(target_arch = "x86_64")]
    watched(libc::SYS_rename, Operation::Rename, Shape::Paths(0, 1)),
    #[cfg(target_arch = "x86_64")]
    watched(libc::SYS_link, Operation::Link, Shape::Paths(0, 1)),
    #[cfg(target_arch = "x86_64")]
    watched(libc::SYS_unlink, Operation::Unlink, Shape::Path(0)),
    #[cfg(target_arch = "x86_64")]
    watched(libc::SYS_rmdir, Operation::Unlink, Shape::Path(0)),
    #[cfg(target_arch = "x86_64")]
    watched(libc::SYS_mkdir, Operation::MakeDirectory, Shape::Path(0)),
];

/// The maximum number of pieces of one vectored transfer (the kernel's `UIO_MAXIOV`).
const PIECES_MAX: usize = 1024;

impl Watched {
    /// The row of a system call.
    pub(super) fn find(number: i64) -> Option<&'static Watched> {
        WATCHED.iter().find(|row| row.number == number)
    }

    /// The number of the system call.
    pub(super) fn number(&self) -> i64 {
        self.number
    }

    /// The operation, as far as the arguments in registers show it.
    pub(super) fn operation(&self, arguments: &[u64; 6]) -> Operation {
        let takes_room = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_COLLAPSE_RANGE;
        if self.shape == Shape::Stretch && arguments[1] as i32 & takes_room != 0 {
            return Operation::Discard;
        }
        self.operation
    }

    /// Reads the details of the call from the memory of the thread that makes it, and from `/proc`.
    ///
    /// # Errors
    /// The thread has ended, or the system does not permit the access.
    pub(super) fn decode(&self, thread: Thread, arguments: &[u64; 6]) -> io::Result<Call> {
        let operation = self.operation(arguments);
        let stretch = |offset: u64, len: u64| Some(offset..offset.saturating_add(len));
        let (path, second_path, range) = match self.shape {
            Shape::Vectored | Shape::Buffer => {
                let len = pieces_of(self, thread, arguments)?.iter().map(|piece| piece.len as u64).sum();
                (thread.path_of(arguments[0])?, None, stretch(arguments[3], len))
            }
            Shape::Stretch => (thread.path_of(arguments[0])?, None, stretch(arguments[2], arguments[3])),
            Shape::Descriptor => (thread.path_of(arguments[0])?, None, None),
            Shape::Path(index) => (thread.text(arguments[index])?, None, None),
            Shape::Paths(from, to) => {
                (thread.text(arguments[from])?, Some(thread.text(arguments[to])?), None)
            }
        };
        Ok(Call { operation, path, second_path, range })
    }
}

/// A call with everything that rules check.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) operation: Operation,
    /// The file: the path that the program used, or the one that its descriptor refers to.
    pub(super) path: String,
    /// The other name of a rename or a link.
    pub(super) second_path: Option<String>,
    /// The bytes of the file that it reads or changes.
    pub(super) range: Option<Range<u64>>,
}

impl Call {
    /// Every path that the call names.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        [Some(self.path.as_str()), self.second_path.as_deref()].into_iter().flatten()
    }
}

/// A piece of the program's memory, with the layout of the system's `iovec`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Piece {
    pub(super) address: usize,
    pub(super) len: usize,
}

/// The memory that a read fills or a write takes, in order.
pub(super) fn pieces_of(call: &Watched, thread: Thread, arguments: &[u64; 6]) -> io::Result<Vec<Piece>> {
    if call.shape == Shape::Buffer {
        return Ok(vec![Piece { address: arguments[1] as usize, len: arguments[2] as usize }]);
    }
    let count = (arguments[2] as usize).min(PIECES_MAX);
    let mut bytes = vec![0; count * size_of::<Piece>()];
    thread.read(arguments[1] as usize, &mut bytes)?;
    let word = |at: &[u8]| at.try_into().map_or(0, usize::from_ne_bytes);
    Ok(bytes
        .chunks_exact(16)
        .map(|piece| Piece { address: word(&piece[..8]), len: word(&piece[8..]) })
        .collect())
}

/// A stopped thread of the watched program, by its number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Thread(pub(super) u32);

impl Thread {
    /// The path that a descriptor of this thread refers to.
    fn path_of(self, descriptor: u64) -> io::Result<String> {
        Ok(std::fs::read_link(self.descriptor(descriptor))?.to_string_lossy().into_owned())
    }

    /// The path under which a descriptor of this thread can be opened again.
    pub(super) fn descriptor(self, descriptor: u64) -> std::path::PathBuf {
        Path::new("/proc").join(self.0.to_string()).join("fd").join((descriptor as i32).to_string())
    }

    /// A text that ends with a zero byte.
    fn text(self, address: u64) -> io::Result<String> {
        // In pieces that do not cross a page boundary: the memory after the text need not exist.
        const PAGE: usize = 4096;
        let (mut at, mut text) = (address as usize, Vec::new());
        while text.len() <= libc::PATH_MAX as usize {
            let mut piece = vec![0; PAGE - at % PAGE];
            self.read(at, &mut piece)?;
            if let Some(end) = piece.iter().position(|&byte| byte == 0) {
                text.extend_from_slice(&piece[..end]);
                break;
            }
            at += piece.len();
            text.append(&mut piece);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Copies bytes out of its memory.
    pub(super) fn read(self, address: usize, bytes: &mut [u8]) -> io::Result<()> {
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
        // SAFETY: `local` is the exclusive slice; the kernel checks the addresses of the other
        // process.
        let moved =
            unsafe { libc::process_vm_readv(self.0 as i32, &raw const local, 1, &raw const remote, 1, 0) };
        whole(moved, bytes.len())
    }

    /// Copies bytes into its memory.
    pub(super) fn write(self, address: usize, bytes: &[u8]) -> io::Result<()> {
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
        // SAFETY: `local` is only read; the kernel checks the addresses of the other process, which
        // waits in a system call that is to fill this memory.
        let moved =
            unsafe { libc::process_vm_writev(self.0 as i32, &raw const local, 1, &raw const remote, 1, 0) };
        whole(moved, bytes.len())
    }
}

fn whole(moved: isize, wanted: usize) -> io::Result<()> {
    match usize::try_from(moved) {
        Ok(moved) if moved == wanted => Ok(()),
        Ok(_) => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        Err(_) => Err(io::Error::last_os_error()),
    }
}
