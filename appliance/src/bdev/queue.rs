//! Shares a device between a fast path that polls for tags and tasks that await single commands.
//!
//! [`BdevQueue`] owns a [`Bdev`]. The owner of the fast path submits with its own tags and gets its
//! completions from [`BdevQueue::poll`]. Tasks use [`SharedBdev`]'s `read`, `write` and `flush`,
//! which are futures. A bit in the tag separates their completions from those of the fast path.
//! When the device's queue is full, commands wait here in order. The users bound this wait list:
//! the fast path checks [`BdevQueue::room`], and each task awaits one command at a time.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use smallvec::{SmallVec, smallvec};

use super::{Bdev, BdevError, BdevInfo, Command, Completion, Operation, Submit};
use crate::dma::{DmaBuf, DmaBufMut};

/// Set in the tags of awaited commands. The tags of the fast path leave it clear.
const AWAITED: u64 = 1 << 63;

/// A device with its wait list and its awaited commands.
pub struct BdevQueue {
    device: Box<dyn Bdev>,
    waiting: VecDeque<Command>,
    awaited: Vec<Slot>,
    free_slots: Vec<usize>,
    /// Completions of the fast path that came while only tasks were served.
    stash: Vec<Completion>,
}

enum Slot {
    Free,
    InFlight(Option<Waker>),
    Abandoned,
    Done(Completion),
}

impl BdevQueue {
    /// Takes a device.
    pub fn new(device: Box<dyn Bdev>) -> Self {
        BdevQueue {
            device,
            waiting: VecDeque::new(),
            awaited: Vec::new(),
            free_slots: Vec::new(),
            stash: Vec::new(),
        }
    }

    /// What the device is.
    pub fn info(&self) -> &BdevInfo {
        self.device.info()
    }

    /// The device itself.
    pub fn device(&self) -> &dyn Bdev {
        &*self.device
    }

    /// Number of commands that the device accepts now.
    pub fn room(&self) -> usize {
        if self.waiting.is_empty() {
            self.info().queue_depth.saturating_sub(self.device.in_flight())
        } else {
            0
        }
    }

    /// Commands submitted here and not completed.
    pub fn in_flight(&self) -> usize {
        self.device.in_flight() + self.waiting.len()
    }

    /// Queues a command of the fast path. Its tag must leave the top bit clear.
    pub fn submit(&mut self, command: Command) {
        debug_assert_eq!(command.tag & AWAITED, 0, "the top bit of a tag is taken");
        self.push(command);
    }

    fn push(&mut self, command: Command) {
        if self.waiting.is_empty() {
            if let Submit::Full(command) = self.device.submit(command) {
                self.waiting.push_back(command);
            }
        } else {
            self.waiting.push_back(command);
        }
    }

    /// Polls the device. Appends the fast path's completions to `completions` and wakes the tasks
    /// whose commands completed. Returns the number of completions of both.
    #[inline]
    pub fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        let kept = self.stash.len();
        if kept > 0 {
            completions.append(&mut self.stash);
        }
        kept + self.reap(completions)
    }

    /// Polls the device for the tasks only. Keeps completions of the fast path for its next
    /// [`poll`](Self::poll).
    pub fn drive(&mut self) -> usize {
        let mut stash = std::mem::take(&mut self.stash);
        let count = self.reap(&mut stash);
        self.stash = stash;
        count
    }

    /// Appends the completions of the fast path to `completions`, and finishes the awaited ones.
    #[inline]
    fn reap(&mut self, completions: &mut Vec<Completion>) -> usize {
        if !self.waiting.is_empty() {
            self.submit_waiting();
        }
        let before = completions.len();
        let count = self.device.poll(completions);
        // The device writes into the caller's list; only awaited completions are moved again.
        if self.awaited.len() > self.free_slots.len() && count > 0 {
            self.finish_awaited(completions, before);
        }
        count
    }

    #[cold]
    fn submit_waiting(&mut self) {
        while let Some(command) = self.waiting.pop_front() {
            if let Submit::Full(command) = self.device.submit(command) {
                self.waiting.push_front(command);
                break;
            }
        }
    }

    /// Takes the awaited completions from position `from` on out of a list.
    fn finish_awaited(&mut self, completions: &mut Vec<Completion>, from: usize) {
        for completion in completions.extract_if(from.., |completion| completion.tag & AWAITED != 0) {
            self.finish(completion);
        }
    }

    fn finish(&mut self, completion: Completion) {
        let index = (completion.tag & !AWAITED) as usize;
        match std::mem::replace(&mut self.awaited[index], Slot::Free) {
            Slot::InFlight(waker) => {
                self.awaited[index] = Slot::Done(completion);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Slot::Abandoned => self.free_slots.push(index),
            Slot::Free | Slot::Done(_) => unreachable!("a command completes once"),
        }
    }

    fn submit_awaited(&mut self, operation: Operation) -> usize {
        let index = self.free_slots.pop().unwrap_or_else(|| {
            self.awaited.push(Slot::Free);
            self.awaited.len() - 1
        });
        self.awaited[index] = Slot::InFlight(None);
        self.push(Command { tag: AWAITED | index as u64, operation });
        index
    }
}

/// A [`BdevQueue`] that tasks and a fast path of one reactor share.
#[derive(Clone)]
pub struct SharedBdev(Rc<RefCell<BdevQueue>>);

impl SharedBdev {
    /// Takes a device.
    pub fn new(device: Box<dyn Bdev>) -> Self {
        SharedBdev(Rc::new(RefCell::new(BdevQueue::new(device))))
    }

    /// The queue, borrowed for a short time. Do not hold it across an await.
    pub fn queue(&self) -> std::cell::RefMut<'_, BdevQueue> {
        self.0.borrow_mut()
    }

    /// What the device is.
    pub fn info(&self) -> BdevInfo {
        self.0.borrow().info().clone()
    }

    /// Reads the whole of `buffer` from `block` on.
    ///
    /// # Errors
    /// As the device reports.
    pub async fn read(&self, block: u64, buffer: DmaBufMut) -> Result<DmaBufMut, BdevError> {
        let mut completion = self.run(Operation::Read { block, buffers: smallvec![buffer] }).await;
        completion.result?;
        completion.buffers.pop().ok_or_else(|| unreachable!("a read gives its buffers back"))
    }

    /// Writes `buffers` from `block` on.
    ///
    /// # Errors
    /// As the device reports.
    pub async fn write(&self, block: u64, buffers: SmallVec<[DmaBuf; 2]>) -> Result<(), BdevError> {
        self.run(Operation::Write { block, buffers }).await.result
    }

    /// Makes completed writes stable.
    ///
    /// # Errors
    /// As the device reports.
    pub async fn flush(&self) -> Result<(), BdevError> {
        self.run(Operation::Flush).await.result
    }

    fn run(&self, operation: Operation) -> Awaited {
        let slot = self.0.borrow_mut().submit_awaited(operation);
        Awaited { queue: Rc::clone(&self.0), slot: Some(slot) }
    }
}

/// One awaited command. If this is dropped early, the command still runs to its end, and its
/// buffers are freed then.
struct Awaited {
    queue: Rc<RefCell<BdevQueue>>,
    slot: Option<usize>,
}

impl Future for Awaited {
    type Output = Completion;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Completion> {
        let slot = self.slot.expect("polled after completion");
        let mut queue = self.queue.borrow_mut();
        match std::mem::replace(&mut queue.awaited[slot], Slot::Free) {
            Slot::Done(completion) => {
                queue.free_slots.push(slot);
                drop(queue);
                self.slot = None;
                Poll::Ready(completion)
            }
            Slot::InFlight(_) => {
                queue.awaited[slot] = Slot::InFlight(Some(context.waker().clone()));
                Poll::Pending
            }
            Slot::Free | Slot::Abandoned => unreachable!("an awaited command keeps its slot"),
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut queue = self.queue.borrow_mut();
        if matches!(queue.awaited[slot], Slot::InFlight(_)) {
            queue.awaited[slot] = Slot::Abandoned;
        } else {
            queue.awaited[slot] = Slot::Free;
            queue.free_slots.push(slot);
        }
    }
}
