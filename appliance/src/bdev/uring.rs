//! The file engine for Linux's `io_uring`: one system call for all queued commands, none for
//! completions.
//!
//! `submit` only records a command. `poll` fills the submission ring, enters the kernel once if
//! there is something to submit or if completions wait for the kernel's task work, and takes what
//! is in the completion ring. The file is registered. So are the arenas of the buffers, each with
//! its first buffer. If the memory of a command is one piece of a registered arena, the kernel does
//! not have to look up and pin its pages. Registering pins a whole arena (`dma::ARENA_BYTES`) and
//! counts against `RLIMIT_MEMLOCK`. If the kernel refuses, plain commands do the same work. Pieces
//! that are not adjacent become a vectored read or write.
//!
//! The ring uses cooperative task work and a single issuer if the kernel supports them. Completions
//! then become visible at any entry into the kernel, and a thread that sleeps in epoll on the
//! ring's descriptor wakes up (its wait may first return as interrupted). Deferred task work is not
//! used: it would need an entry into the kernel for every batch of completions.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::squeue::Entry;
use io_uring::{IoUring, Probe, opcode, types};
use rustix::io::Errno;

use super::file::{DISCARD_MODE, OpenFile};
use super::registered::RegisteredArenas;
use super::transfer::{Kind, Slots, Step, Transfer, TransferPiece, complete};
use super::{Bdev, BdevErrorKind, BdevInfo, Command, Completion, Space, Submit};

/// The registered file.
const FILE: types::Fixed = types::Fixed(0);

/// How often an entry is tried while the kernel has no memory for it and no command is in flight
/// whose completion would wake the reactor. With [`ENTRY_PAUSE`] this is 1 second.
const MAX_ENTRY_RETRIES: u32 = 1000;

/// The kernel's flag for an entry that only waits.
const GET_EVENTS: u32 = 1;

/// The pause between two such tries.
const ENTRY_PAUSE: Duration = Duration::from_millis(1);

/// A file or block device with its own ring.
pub(super) struct UringBdev {
    info: BdevInfo,
    /// Declared before `file` and `arenas`, so it is closed before them.
    ring: IoUring,
    file: Arc<OpenFile>,
    slots: Slots,
    /// Dropped after the ring, so no arena is unmapped while the kernel still uses it.
    arenas: RegisteredArenas,
    /// Accepted and not yet in the submission ring.
    noted: VecDeque<u32>,
    /// In the submission ring and not yet taken by the kernel, in order.
    pushed: VecDeque<u32>,
    /// Taken by the kernel and not completed.
    in_kernel: usize,
    /// Commands that failed the checks. The next `poll` completes them.
    refused: Vec<Completion>,
    /// The error of an entry that retries cannot solve. After it nothing more is submitted.
    broken: Option<i32>,
}

/// The outcome of an entry into the kernel.
#[must_use]
enum Entered {
    Fine,
    /// The kernel has no memory for it now.
    Later(i32),
    Never(i32),
}

impl UringBdev {
    /// Sets up the ring.
    ///
    /// # Errors
    /// The kernel's refusal. `ENOSYS` also when the kernel does not support an operation.
    pub(super) fn new(file: Arc<OpenFile>, register_buffers: bool) -> io::Result<Self> {
        let info = file.info("uring");
        let ring = make_ring(info.queue_depth as u32)?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [
            opcode::Read::CODE,
            opcode::Write::CODE,
            opcode::Readv::CODE,
            opcode::Writev::CODE,
            opcode::Fsync::CODE,
            opcode::Fallocate::CODE,
        ];
        if !needed.iter().all(|&code| probe.is_supported(code)) {
            return Err(Errno::NOSYS.into());
        }
        ring.submitter().register_files(&[file.fd.as_raw_fd()])?;
        let arenas = RegisteredArenas::new(&ring, register_buffers);
        Ok(UringBdev {
            arenas,
            slots: Slots::new(info.queue_depth),
            info,
            ring,
            file,
            noted: VecDeque::new(),
            pushed: VecDeque::new(),
            in_kernel: 0,
            refused: Vec::new(),
            broken: None,
        })
    }

    /// Moves recorded commands into the submission ring while it has space.
    fn fill(&mut self) {
        let mut submission = self.ring.submission();
        while let Some(&slot) = self.noted.front() {
            let transfer = self.slots.get_mut(slot).and_then(|in_flight| in_flight.transfer.as_ref());
            if let Some(transfer) = transfer {
                let entry = entry(transfer, &self.arenas).user_data(u64::from(slot));
                // SAFETY: the buffers and the vector of pieces stay in the slot, which does not
                // move, until the completion has been taken. A slot that may still be in the kernel
                // is never freed (see `drop`).
                if unsafe { submission.push(&entry) }.is_err() {
                    return;
                }
                self.pushed.push_back(slot);
            }
            self.noted.pop_front();
        }
    }

    /// Enters the kernel and waits there for `want` completions.
    fn enter(&mut self, want: usize) -> Entered {
        let result = loop {
            let result = if self.broken.is_some() {
                // SAFETY: nothing is submitted, and no argument is passed.
                unsafe { self.ring.submitter().enter::<()>(0, want as u32, GET_EVENTS, None) }
            } else {
                self.ring.submitter().submit_and_wait(want)
            };
            if !matches!(&result, Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error())) {
                break result;
            }
        };
        let left = self.ring.submission().len();
        while self.pushed.len() > left {
            self.pushed.pop_front();
            self.in_kernel += 1;
        }
        match result.map_err(|error| error.raw_os_error().unwrap_or(0)) {
            Ok(_) => Entered::Fine,
            Err(errno) if [Errno::AGAIN.raw_os_error(), Errno::BUSY.raw_os_error()].contains(&errno) => {
                Entered::Later(errno)
            }
            Err(errno) => Entered::Never(errno),
        }
    }

    /// Takes the completions.
    fn reap(&mut self, completions: &mut Vec<Completion>) {
        for completion in self.ring.completion() {
            let slot = completion.user_data() as u32;
            let result = completion.result();
            self.in_kernel -= 1;
            let Some(transfer) = self.slots.get_mut(slot).and_then(|in_flight| in_flight.transfer.as_mut())
            else {
                continue;
            };
            match transfer.after(usize::try_from(result).map_err(|_| -result)) {
                Step::Again => self.noted.push_back(slot),
                Step::Done(outcome) => completions.extend(self.slots.finish(slot, &self.info, outcome)),
            }
        }
    }

    /// Fails every command that the kernel has not taken, now and from now on.
    fn break_down(&mut self, errno: i32, completions: &mut Vec<Completion>) {
        if self.broken.is_none() {
            tracing::error!(
                device = %self.info.name,
                error = %io::Error::from_raw_os_error(errno),
                "the kernel takes no more commands through io_uring; the device fails everything until it is opened again"
            );
            self.broken = Some(errno);
        }
        // Those in the submission ring stay there for ever: the ring is never entered for
        // submission again.
        for slot in self.pushed.drain(..).chain(self.noted.drain(..)) {
            completions.extend(self.slots.finish(slot, &self.info, Err(BdevErrorKind::Os(errno))));
        }
    }

    /// Enters the kernel if there is a reason to, and repeats it until the kernel has taken
    /// everything.
    fn start(&mut self, completions: &mut Vec<Completion>) {
        let mut retries = 0;
        loop {
            self.fill();
            // Reading the ring's flags is free. Completions that the kernel has but has not posted
            // need an entry.
            let waiting = { self.ring.submission().taskrun() };
            if self.pushed.is_empty() && !waiting {
                return;
            }
            match self.enter(0) {
                Entered::Never(errno) => return self.break_down(errno, completions),
                // A completion wakes the reactor, and the next poll starts the rest.
                Entered::Later(_) if self.in_kernel > 0 => return,
                Entered::Later(errno) if retries >= MAX_ENTRY_RETRIES => {
                    return self.break_down(errno, completions);
                }
                Entered::Later(_) => {
                    retries += 1;
                    std::thread::sleep(ENTRY_PAUSE);
                }
                Entered::Fine if self.pushed.is_empty() => return,
                Entered::Fine => {}
            }
        }
    }
}

impl Bdev for UringBdev {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn submit(&mut self, command: Command) -> Submit {
        if self.in_flight() >= self.info.queue_depth {
            return Submit::Full(command);
        }
        let checked = match self.broken {
            Some(errno) => Err(BdevErrorKind::Os(errno)),
            None => self.file.check(&command.operation),
        };
        if let Err(kind) = checked {
            self.refused.push(complete(&self.info, command, Err(kind)));
            return Submit::Queued;
        }
        self.arenas.learn(&self.ring, &command.operation);
        match self.slots.insert(command) {
            Ok(slot) => {
                self.noted.push_back(slot);
                Submit::Queued
            }
            Err(command) => Submit::Full(command),
        }
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        let before = completions.len();
        self.arenas.begin_turn();
        completions.append(&mut self.refused);
        if self.slots.in_use() == 0 {
            return completions.len() - before;
        }
        // Repeat for transfers that must be resumed: nothing would wake the reactor for them. The
        // retries of a transfer are bounded, so this is too.
        loop {
            if self.broken.is_none() {
                self.start(completions);
            } else if self.in_kernel > 0 {
                // Whatever the result is, the next step takes the completions.
                let _ = self.enter(0);
            }
            self.reap(completions);
            if let Some(errno) = self.broken {
                self.break_down(errno, completions);
            }
            if self.noted.is_empty() && (self.pushed.is_empty() || self.in_kernel > 0) {
                return completions.len() - before;
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.in_use() + self.refused.len()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        // SAFETY: the ring's descriptor is open while the ring exists, and `self` is borrowed that
        // long.
        Some(unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) })
    }

    fn space(&self) -> Option<Space> {
        self.file.space()
    }
}

impl Drop for UringBdev {
    fn drop(&mut self) {
        let mut lost = Vec::new();
        self.poll(&mut lost);
        while self.slots.in_use() > 0 {
            if self.broken.is_none() {
                self.fill();
            }
            match self.enter(1) {
                Entered::Fine => {}
                Entered::Later(_) => std::thread::sleep(ENTRY_PAUSE),
                Entered::Never(errno) if self.broken.is_none() => self.break_down(errno, &mut lost),
                Entered::Never(_) => {
                    // The kernel may still write to these buffers, so they are never freed.
                    std::mem::forget(std::mem::replace(&mut self.slots, Slots::new(0)));
                    tracing::error!(device = %self.info.name, "buffers of a failed io_uring are lost");
                    return;
                }
            }
            self.reap(&mut lost);
            if let Some(errno) = self.broken {
                self.break_down(errno, &mut lost);
            }
            lost.clear();
        }
        // The kernel frees a ring some time after it is closed. The file must be free before that.
        let _ = self.ring.submitter().unregister_files();
    }
}

/// A ring with the cheapest kind of task work that the kernel supports.
fn make_ring(entries: u32) -> io::Result<IoUring> {
    // SINGLE_ISSUER came with Linux 6.0, COOP_TASKRUN with 5.19; an unknown flag is EINVAL.
    let modern = IoUring::builder()
        .dontfork()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_single_issuer()
        .build(entries);
    let modern = match modern {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            IoUring::builder().dontfork().setup_coop_taskrun().setup_taskrun_flag().build(entries)
        }
        result => result,
    };
    match modern {
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            IoUring::builder().dontfork().build(entries)
        }
        result => result,
    }
}

fn entry(transfer: &Transfer, arenas: &RegisteredArenas) -> Entry {
    let offset = transfer.offset_bytes;
    let (vector, count) = (transfer.pieces.as_ptr().cast(), transfer.pieces.len() as u32);
    match (transfer.kind, transfer.pieces.as_slice()) {
        (Kind::Read, &[TransferPiece { address, len_bytes }]) => match arenas.find(address, len_bytes) {
            Some(index) => {
                opcode::ReadFixed::new(FILE, address, len_bytes as u32, index).offset(offset).build()
            }
            None => opcode::Read::new(FILE, address, len_bytes as u32).offset(offset).build(),
        },
        (Kind::Write, &[TransferPiece { address, len_bytes }]) => match arenas.find(address, len_bytes) {
            Some(index) => {
                opcode::WriteFixed::new(FILE, address, len_bytes as u32, index).offset(offset).build()
            }
            None => opcode::Write::new(FILE, address, len_bytes as u32).offset(offset).build(),
        },
        (Kind::Read, _) => opcode::Readv::new(FILE, vector, count).offset(offset).build(),
        (Kind::Write, _) => opcode::Writev::new(FILE, vector, count).offset(offset).build(),
        (Kind::Flush, _) => opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build(),
        // The system refuses an empty range. Such a discard has nothing to do.
        (Kind::Discard, _) if transfer.len_bytes == 0 => opcode::Nop::new().build(),
        (Kind::Discard, _) => opcode::Fallocate::new(FILE, transfer.len_bytes)
            .offset(offset)
            .mode(DISCARD_MODE.bits() as i32)
            .build(),
    }
}
