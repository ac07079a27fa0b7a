//! A responder on `io_uring`.
//!
//! One receive and one send are in flight at a time, because the bytes of a stream are ordered.
//! Checking for completions submits nothing; the kernel is entered only if there is something to
//! submit, or if the ring's flags report pending work.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;

use io_uring::squeue::Entry;
use io_uring::{CompletionQueue, IoUring, SubmissionQueue, Submitter, cqueue, opcode, types};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use varve::dma::{DmaBufMut, DmaPool};
use varve::nvmf::server::TargetConfig;

use super::answers::Answers;
use super::provided::{GROUP, Provided};
use super::{ZERO_COPY_BYTES_LEAST, refused};
use crate::floor::tcp::Shape;
use crate::spin::Spin;

/// Entries of the ring.
const ENTRIES: u32 = 64;
/// Memory of a responder, in bytes.
const MEMORY_BYTES: usize = 16 << 20;
/// The most bytes of contiguous answers in registered memory.
const REGISTERED_BYTES_MAX: usize = 2 << 20;
/// The registered socket.
const SOCKET: types::Fixed = types::Fixed(0);
/// The registered memory.
const REGISTERED: u16 = 0;
const RECEIVE: u64 = 1;
const SEND: u64 = 2;
/// Makes a notification report whether the kernel copied (`IORING_SEND_ZC_REPORT_USAGE`), and the
/// flag with which it does (`IORING_NOTIF_USAGE_ZC_COPIED`).
const REPORT_USAGE: u16 = 1 << 3;
const COPIED: u32 = 1 << 31;

/// Which functions of the ring are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uses {
    /// One multishot receive, into buffers that the kernel chooses.
    pub(super) multishot: bool,
    /// Sends without a copy, from registered memory.
    pub(super) zero_copy: bool,
}

/// Counts of sends without a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZeroCopy {
    /// Sends that requested no copy.
    pub sends: u64,
    /// How many of these the kernel copied after all.
    pub copied: u64,
}

/// Answers until the other side closes.
///
/// # Errors
/// What the kernel refuses.
pub(super) fn serve(stream: TcpStream, shape: Shape, uses: Uses) -> io::Result<ZeroCopy> {
    let memory = DmaPool::new(MEMORY_BYTES);
    let mut ring = make_ring().map_err(refused("making a ring"))?;
    let mut server = Server::new(&mut ring, &stream, shape, uses, &memory)?;
    let mut spin = Spin::new();
    let result = loop {
        match server.turn() {
            Ok(found) if !server.ended => spin.looked(found),
            Ok(_) => break Ok(server.zero_copy),
            Err(error) => break Err(error),
        };
    };
    // Operations in flight end with the socket.
    let _ = stream.shutdown(Shutdown::Both);
    if server.drain().is_err() {
        // The kernel may still write to this memory, so it is never freed.
        std::mem::forget(server);
    }
    result
}

/// A ring for one thread. If the kernel supports it, the work for a completion is deferred until
/// this thread asks for it, and the ring's flags report that it is pending.
fn make_ring() -> io::Result<IoUring> {
    let deferred =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().build(ENTRIES);
    match deferred {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            IoUring::builder().setup_coop_taskrun().setup_taskrun_flag().build(ENTRIES)
        }
        other => other,
    }
}

/// The pieces of one send; they do not move until it has completed.
struct Message {
    slices: Vec<libc::iovec>,
    header: Box<libc::msghdr>,
}

/// Contiguous answers in registered memory, which are sent repeatedly.
struct Registered {
    buffer: DmaBufMut,
    len_bytes: usize,
    /// Where the next send begins.
    at: usize,
}

struct Server<'a> {
    submitter: Submitter<'a>,
    submission: SubmissionQueue<'a>,
    completion: CompletionQueue<'a>,
    answers: Answers,
    message: Message,
    input: DmaBufMut,
    provided: Option<Provided>,
    registered: Option<Registered>,
    receiving: bool,
    sending: bool,
    /// Submitted entries that will still produce completions.
    in_flight: usize,
    zero_copy: ZeroCopy,
    ended: bool,
}

impl<'a> Server<'a> {
    fn new(
        ring: &'a mut IoUring,
        stream: &TcpStream,
        shape: Shape,
        uses: Uses,
        memory: &DmaPool,
    ) -> io::Result<Self> {
        let (mut submitter, submission, completion) = ring.split();
        // This saves a look-up for each entry; the ring works without it too.
        let _ = submitter.register_ring_fd();
        submitter.register_files(&[stream.as_raw_fd()]).map_err(refused("registering a socket"))?;
        let input =
            memory.allocate(TargetConfig::default().receive_buffer_bytes).map_err(io::Error::other)?;
        let provided = uses.multishot.then(|| Provided::new(memory, &submitter)).transpose()?;
        let registered = uses.zero_copy.then(|| Registered::new(memory, &submitter, shape)).transpose()?;
        // SAFETY: all zeroes is a valid message without parts.
        let header = Box::new(unsafe { std::mem::zeroed() });
        Ok(Server {
            submitter,
            submission,
            completion,
            answers: Answers::new(shape),
            message: Message { slices: Vec::new(), header },
            input,
            provided,
            registered,
            receiving: false,
            sending: false,
            in_flight: 0,
            zero_copy: ZeroCopy::default(),
            ended: false,
        })
    }

    /// Submits what can be submitted, and processes completions. Returns whether there was
    /// anything.
    fn turn(&mut self) -> io::Result<bool> {
        if !self.receiving {
            let entry = match &self.provided {
                Some(_) => opcode::RecvMulti::new(SOCKET, GROUP).build(),
                None => opcode::Recv::new(SOCKET, self.input.as_mut_ptr(), self.input.len() as u32).build(),
            };
            self.push(entry.user_data(RECEIVE))?;
            self.receiving = true;
        }
        if !self.sending && self.answers.owed() > 0 {
            let entry = self.send();
            self.push(entry.user_data(SEND))?;
            self.sending = true;
        }
        self.submission.sync();
        let enters =
            !self.submission.is_empty() || self.submission.taskrun() || self.submission.cq_overflow();
        if enters {
            match self.submitter.submit() {
                Err(error) if !is_passing(error.raw_os_error()) => {
                    return Err(refused("entering the ring")(error));
                }
                _ => {}
            }
        }
        self.take()
    }

    fn push(&mut self, entry: Entry) -> io::Result<()> {
        // SAFETY: input, provided and registered memory, the message and what it points to are
        // owned by this server, do not move and are not changed until the entry's last completion.
        // `drain` waits for that; if it cannot, the server is never dropped.
        unsafe { self.submission.push(&entry) }.map_err(io::Error::other)?;
        self.in_flight += 1;
        Ok(())
    }

    /// The next send. The answers in memory never change, only how many are owed.
    fn send(&mut self) -> Entry {
        if let Some(registered) = &self.registered
            && self.answers.owed() >= ZERO_COPY_BYTES_LEAST
        {
            let rest = &registered.buffer.as_slice()[registered.at..registered.len_bytes];
            let len = rest.len().min(self.answers.owed());
            self.zero_copy.sends += 1;
            return opcode::SendZc::new(SOCKET, rest.as_ptr(), len as u32)
                .buf_index(Some(REGISTERED))
                .zc_flags(REPORT_USAGE)
                .build();
        }
        let Message { slices, header } = &mut self.message;
        slices.clear();
        slices.extend(
            self.answers.slices().iter().map(|slice| libc::iovec {
                iov_base: slice.as_ptr().cast_mut().cast(),
                iov_len: slice.len(),
            }),
        );
        header.msg_iov = slices.as_mut_ptr();
        header.msg_iovlen = slices.len() as _;
        opcode::SendMsg::new(SOCKET, &raw const **header).flags(libc::MSG_NOSIGNAL as u32).build()
    }

    /// Processes completions; returns whether there were any.
    fn take(&mut self) -> io::Result<bool> {
        self.completion.sync();
        let mut found = false;
        while let Some(completion) = self.completion.next() {
            found = true;
            let (flags, result) = (completion.flags(), completion.result());
            if !cqueue::more(flags) {
                self.in_flight -= 1;
            }
            match completion.user_data() {
                RECEIVE => self.received(flags, result)?,
                _ if cqueue::notif(flags) => {
                    self.zero_copy.copied += u64::from(result as u32 & COPIED != 0);
                }
                _ => self.sent(result)?,
            }
        }
        self.completion.sync();
        Ok(found)
    }

    fn received(&mut self, flags: u32, result: i32) -> io::Result<()> {
        self.receiving = cqueue::more(flags);
        if let (Some(provided), Some(id)) = (&mut self.provided, cqueue::buffer_select(flags)) {
            provided.lend(id);
        }
        match usize::try_from(result) {
            Ok(0) => self.ended = true,
            Ok(count) => self.answers.received(count),
            // Every buffer was in use: the receive starts again with the returned buffers.
            Err(_) if result == -Errno::NOBUFS.raw_os_error() => {}
            Err(_) if is_passing(Some(-result)) => {}
            Err(_) => return Err(refused("receiving")(io::Error::from_raw_os_error(-result))),
        }
        Ok(())
    }

    fn sent(&mut self, result: i32) -> io::Result<()> {
        self.sending = false;
        match usize::try_from(result) {
            Ok(count) => {
                self.answers.sent(count);
                if let Some(registered) = &mut self.registered {
                    registered.at = (registered.at + count) % registered.len_bytes;
                }
            }
            // Too many notifications are pending: the send is tried again later.
            Err(_) if [Errno::NOBUFS, Errno::NOMEM].map(|errno| -errno.raw_os_error()).contains(&result) => {}
            Err(_) if is_passing(Some(-result)) => {}
            Err(_) => return Err(refused("sending")(io::Error::from_raw_os_error(-result))),
        }
        Ok(())
    }

    /// Waits until nothing is in flight.
    fn drain(&mut self) -> io::Result<()> {
        self.submission.sync();
        while self.in_flight > self.submission.len() {
            match self.submitter.submit_and_wait(1) {
                Err(error) if !is_passing(error.raw_os_error()) => return Err(error),
                _ => {}
            }
            // The outcome of these operations does not matter any more.
            let _ = self.take();
            self.submission.sync();
        }
        Ok(())
    }
}

/// Whether an error only means that the operation must be tried again.
fn is_passing(errno: Option<i32>) -> bool {
    let passing = [Errno::INTR, Errno::AGAIN, Errno::BUSY];
    passing.iter().any(|passing| Some(passing.raw_os_error()) == errno)
}

impl Registered {
    fn new(memory: &DmaPool, submitter: &Submitter<'_>, shape: Shape) -> io::Result<Self> {
        let count = (REGISTERED_BYTES_MAX / shape.response_bytes).max(1);
        let len_bytes = count * shape.response_bytes;
        let mut buffer = memory.allocate(len_bytes).map_err(io::Error::other)?;
        buffer.as_mut_slice().fill(0);
        let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: len_bytes };
        // SAFETY: the memory lives until nothing is in flight any more, and was written, so all of
        // it is allocated.
        let registered = unsafe { submitter.register_buffers(&[part]) };
        registered.map_err(refused("registering memory"))?;
        Ok(Registered { buffer, len_bytes, at: 0 })
    }
}
