//! The file engine for systems without `io_uring`: a few threads that move bytes with ordinary
//! system calls.
//!
//! `submit` only records a command. `poll` passes the recorded commands to the workers in one step
//! and takes their results. The queue depth bounds commands, work and results. The workers get
//! addresses only: the buffers stay in this handle's slots until the result is back. The wake
//! descriptor is an eventfd. A worker writes it once, and then not again until the next `poll`.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};

use super::file::{OpenFile, discard};
use super::transfer::{Kind, Slots, Step, Transfer, complete};
use super::{Bdev, BdevErrorKind, BdevInfo, Command, Completion, Space, Submit};

/// A file or block device with worker threads.
pub(super) struct ThreadsBdev {
    info: BdevInfo,
    file: Arc<OpenFile>,
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    slots: Slots,
    /// Accepted and not yet passed to the workers.
    noted: Vec<u32>,
    /// Commands that failed the checks. The next `poll` completes them.
    refused: Vec<Completion>,
    /// The value of `wakes` when `poll` last read the eventfd.
    wakes_seen: u64,
}

struct Shared {
    work: Mutex<Waiting>,
    more: Condvar,
    /// Its capacity is the queue depth, so a push always has space.
    done: ArrayQueue<Done>,
    wake: OwnedFd,
    /// Whether the eventfd has been written, or is being written, for the results in `done`.
    waking: AtomicBool,
    /// How often the eventfd was written.
    wakes: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    transfers: VecDeque<(u32, Transfer)>,
    stop: bool,
}

struct Done {
    slot: u32,
    outcome: Result<(), BdevErrorKind>,
}

impl Shared {
    fn work(&self) -> MutexGuard<'_, Waiting> {
        // No code can panic while it holds the lock.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadsBdev {
    /// Starts the workers, at least one.
    pub(super) fn new(file: Arc<OpenFile>, worker_count: usize) -> std::io::Result<Self> {
        let info = file.info("threads");
        let shared = Arc::new(Shared {
            work: Mutex::default(),
            more: Condvar::new(),
            done: ArrayQueue::new(info.queue_depth),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            waking: AtomicBool::new(false),
            wakes: AtomicU64::new(0),
        });
        // From here on, dropping the handle ends the workers that were started.
        let mut device = ThreadsBdev {
            slots: Slots::new(info.queue_depth),
            info,
            file,
            shared,
            workers: Vec::new(),
            noted: Vec::new(),
            refused: Vec::new(),
            wakes_seen: 0,
        };
        for index in 0..worker_count.max(1) {
            let (file, shared) = (Arc::clone(&device.file), Arc::clone(&device.shared));
            let worker = std::thread::Builder::new()
                .name(format!("bdev-{index}"))
                .spawn(move || run(&file, &shared))?;
            device.workers.push(worker);
        }
        Ok(device)
    }

    fn hand_over(&mut self) {
        if self.noted.is_empty() {
            return;
        }
        let count = self.noted.len();
        let mut work = self.shared.work();
        for slot in self.noted.drain(..) {
            if let Some(transfer) = self.slots.get_mut(slot).and_then(|in_flight| in_flight.transfer.take()) {
                work.transfers.push_back((slot, transfer));
            }
        }
        drop(work);
        if count >= self.workers.len() {
            self.shared.more.notify_all();
        } else {
            (0..count).for_each(|_| self.shared.more.notify_one());
        }
    }

    /// Clears the eventfd before the results are taken, so that a later result makes it readable
    /// again.
    ///
    /// A worker sets `waking` before it writes and counts in `wakes` after the write. A write that
    /// comes after the read below is counted later than `wakes_seen`, so a later poll reads again,
    /// and no write stays unread.
    fn hush(&mut self) {
        let wakes = self.shared.wakes.load(Ordering::Acquire);
        let waking = self.shared.waking.load(Ordering::Acquire);
        if wakes == self.wakes_seen && !waking {
            return;
        }
        self.wakes_seen = wakes;
        // An empty eventfd is fine: the write is still to come, or an earlier poll read it.
        let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
        self.shared.waking.swap(false, Ordering::AcqRel);
    }
}

impl Bdev for ThreadsBdev {
    fn info(&self) -> &BdevInfo {
        &self.info
    }

    fn submit(&mut self, command: Command) -> Submit {
        if self.in_flight() >= self.info.queue_depth {
            return Submit::Full(command);
        }
        if let Err(kind) = self.file.check(&command.operation) {
            self.refused.push(complete(&self.info, command, Err(kind)));
            return Submit::Queued;
        }
        match self.slots.insert(command) {
            Ok(slot) => {
                self.noted.push(slot);
                Submit::Queued
            }
            Err(command) => Submit::Full(command),
        }
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        let before = completions.len();
        completions.append(&mut self.refused);
        self.hand_over();
        self.hush();
        // Bounded: the workers have no more than was passed to them.
        while let Some(done) = self.shared.done.pop() {
            completions.extend(self.slots.finish(done.slot, &self.info, done.outcome));
        }
        completions.len() - before
    }

    fn in_flight(&self) -> usize {
        self.slots.in_use() + self.refused.len()
    }

    fn wake_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.shared.wake.as_fd())
    }

    fn space(&self) -> Option<Space> {
        self.file.space()
    }
}

impl Drop for ThreadsBdev {
    fn drop(&mut self) {
        self.hand_over();
        self.shared.work().stop = true;
        self.shared.more.notify_all();
        for worker in self.workers.drain(..) {
            // A worker that panicked has ended too, and no longer touches a buffer.
            let _ = worker.join();
        }
    }
}

/// The loop of a worker. It returns when it must stop and no work is left.
fn run(file: &OpenFile, shared: &Shared) {
    loop {
        let mut work = shared.work();
        let (slot, mut transfer) = loop {
            if let Some(next) = work.transfers.pop_front() {
                break next;
            }
            if work.stop {
                return;
            }
            work = shared.more.wait(work).unwrap_or_else(PoisonError::into_inner);
        };
        drop(work);
        let outcome = loop {
            let result = attempt(file, &mut transfer).map_err(rustix::io::Errno::raw_os_error);
            if let Step::Done(outcome) = transfer.after(result) {
                break outcome;
            }
        };
        let pushed = shared.done.push(Done { slot, outcome });
        debug_assert!(pushed.is_ok(), "as many results as places");
        if !shared.waking.swap(true, Ordering::AcqRel) {
            // The write can fail only when the counter is full, and then the descriptor is
            // readable.
            let _ = rustix::io::write(&shared.wake, &1_u64.to_ne_bytes());
            shared.wakes.fetch_add(1, Ordering::Release);
        }
    }
}

fn attempt(file: &OpenFile, transfer: &mut Transfer) -> rustix::io::Result<usize> {
    let pieces = &mut transfer.pieces;
    match transfer.kind {
        Kind::Read => {
            // SAFETY: `TransferPiece` and `IoSliceMut` both have the layout of `iovec`. Each piece
            // is a range of unique views that the command's slot holds until this transfer's result
            // is back, so nothing else touches the bytes.
            let slices = unsafe {
                std::slice::from_raw_parts_mut(pieces.as_mut_ptr().cast::<IoSliceMut<'_>>(), pieces.len())
            };
            rustix::io::preadv(&file.fd, slices, transfer.offset_bytes)
        }
        Kind::Write => {
            // SAFETY: as above with `IoSlice`. Each piece is a range of frozen views, which nobody
            // writes.
            let slices =
                unsafe { std::slice::from_raw_parts(pieces.as_ptr().cast::<IoSlice<'_>>(), pieces.len()) };
            rustix::io::pwritev(&file.fd, slices, transfer.offset_bytes)
        }
        Kind::Flush => rustix::fs::fdatasync(&file.fd).map(|()| 0),
        Kind::Discard if transfer.len_bytes == 0 => Ok(0),
        Kind::Discard => discard(&file.fd, transfer.offset_bytes, transfer.len_bytes).map(|()| 0),
    }
}
