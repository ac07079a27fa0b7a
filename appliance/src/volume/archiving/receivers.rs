//! Who receives the archive's replies: tasks, and hosts' reads.
//!
//! **Invariant:** a receiver is in the table from its request to its reply, and gets one reply. The
//! reply for a task that was dropped goes nowhere.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::archive::service::{ArchiveError, ArchiveReply, ObjectBlocks};
use crate::volume::error::VolumeError;

/// A reply for a host's read, by its place among the pool's reads.
pub(in crate::volume) type ReadReply = (usize, Result<Arc<ObjectBlocks>, ArchiveError>);

/// Where a reply goes.
enum ReplyTo {
    /// A task.
    Task(Rc<RefCell<FetchSlot>>),
    /// A host's read, by its place among the pool's reads.
    Read(usize),
}

/// Where a task finds its reply.
#[derive(Default)]
pub(super) struct FetchSlot {
    reply: Option<ArchiveReply>,
    waker: Option<Waker>,
}

/// All receivers, by the tokens of their requests. See the module's documentation.
#[derive(Default)]
pub(super) struct Receivers {
    receivers: HashMap<u64, ReplyTo>,
    /// Replies for hosts' reads, by their places, until the pool takes them.
    for_reads: Vec<ReadReply>,
}

impl Receivers {
    /// Adds a task; the result is for [`reply`].
    pub(super) fn add_task(&mut self, token: u64) -> Rc<RefCell<FetchSlot>> {
        let slot = Rc::new(RefCell::new(FetchSlot::default()));
        self.receivers.insert(token, ReplyTo::Task(Rc::clone(&slot)));
        slot
    }

    /// Adds a host's read, by its place among the pool's reads.
    pub(super) fn add_read(&mut self, token: u64, read: usize) {
        self.receivers.insert(token, ReplyTo::Read(read));
    }

    /// Passes a reply to its receiver.
    pub(super) fn answer(&mut self, token: u64, reply: ArchiveReply) {
        match self.receivers.remove(&token) {
            Some(ReplyTo::Task(slot)) => {
                let mut slot = slot.borrow_mut();
                slot.reply = Some(reply);
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
            Some(ReplyTo::Read(read)) => {
                if let ArchiveReply::Blocks { result, .. } = reply {
                    self.for_reads.push((read, result));
                }
            }
            // The task was dropped.
            None => {}
        }
    }

    /// The replies for hosts' reads that have arrived; return the list with
    /// [`keep_for_reads`](Self::keep_for_reads).
    pub(super) fn take_for_reads(&mut self) -> Vec<ReadReply> {
        std::mem::take(&mut self.for_reads)
    }

    /// Keeps the memory of an empty list for the next replies.
    pub(super) fn keep_for_reads(&mut self, list: Vec<ReadReply>) {
        assert!(list.is_empty(), "every reply is handed to its read");
        self.for_reads = list;
    }
}

/// Waits for a reply.
pub(super) async fn reply(slot: Rc<RefCell<FetchSlot>>) -> ArchiveReply {
    std::future::poll_fn(move |context| {
        let mut slot = slot.borrow_mut();
        if let Some(reply) = slot.reply.take() {
            return Poll::Ready(reply);
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    })
    .await
}

/// The error of a reply, for a task.
pub(super) fn failed(error: ArchiveError) -> VolumeError {
    let reason = error.to_string();
    match error {
        ArchiveError::Store { retry: true, .. } => VolumeError::ArchiveAway { reason },
        _ => VolumeError::Archive { reason },
    }
}
