//! The requests of a pool to its archive's threads, in the order in which they were made.
//!
//! **States of a request that reads:** sent → answered, or (the store may succeed later) waiting
//! for its next try → sent again, at most [`ASKS_MAX`] times.
//!
//! **Invariants.** A token is given out once. A request that the service has no room for waits in
//! the outbox, and no later request is sent before it. A request that reads is in `asked` until its
//! last reply was taken.

use std::collections::{HashMap, VecDeque};

use crate::archive::object::ObjectId;
use crate::archive::service::{ArchiveReply, ArchiveRequest, ArchiveService};
use crate::log::Lsn;

/// How many times a request is repeated before its caller gets the error.
const ASKS_MAX: u32 = 14;
/// The first pause before a request is repeated; it doubles each time.
const ASK_AGAIN_NS: u64 = 5_000_000;
/// The longest such pause.
const ASK_AGAIN_LAST_NS: u64 = 2_000_000_000;

/// What a request reads from the archive.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    pub(super) id: ObjectId,
    /// The position of a block; `None`: the entries.
    pub(super) lsn: Option<Lsn>,
}

impl Ask {
    fn request(self, token: u64) -> ArchiveRequest {
        match self.lsn {
            Some(lsn) => ArchiveRequest::Blocks { token, id: self.id, lsn },
            None => ArchiveRequest::Entries { token, id: self.id },
        }
    }
}

/// The requests under way. See the module's documentation.
pub(super) struct Requests {
    service: Box<dyn ArchiveService>,
    next_token: u64,
    /// Requests that the service had no room for.
    outbox: VecDeque<ArchiveRequest>,
    /// The requests that read, so that they can be repeated, and how many times each was made.
    asked: HashMap<u64, (Ask, u32)>,
    /// The requests to repeat, and when.
    later: Vec<(u64, u64)>,
    /// The memory for the replies of a turn.
    replies: Vec<ArchiveReply>,
}

impl Requests {
    pub(super) fn new(service: Box<dyn ArchiveService>) -> Self {
        Requests {
            service,
            next_token: 1,
            outbox: VecDeque::new(),
            asked: HashMap::new(),
            later: Vec::new(),
            replies: Vec::new(),
        }
    }

    /// The archive's threads.
    pub(super) fn service(&self) -> &dyn ArchiveService {
        &*self.service
    }

    /// The archive's threads, for changes of their settings.
    pub(super) fn service_mut(&mut self) -> &mut dyn ArchiveService {
        &mut *self.service
    }

    /// Gives the archive's threads back.
    pub(super) fn into_service(self) -> Box<dyn ArchiveService> {
        self.service
    }

    /// A token for a new request.
    pub(super) fn token(&mut self) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        token
    }

    /// Makes a request that is not repeated.
    pub(super) fn send(&mut self, request: ArchiveRequest) {
        // Keep the order: earlier requests go first.
        if !self.outbox.is_empty() {
            self.outbox.push_back(request);
        } else if let Err(request) = self.service.submit(request) {
            self.outbox.push_back(request);
        }
    }

    /// Requests entries (without a position) or blocks.
    pub(super) fn ask(&mut self, token: u64, ask: Ask) {
        self.asked.insert(token, (ask, 1));
        self.send(ask.request(token));
    }

    /// Schedules another try of a request, because the store may succeed later, such as a tape that
    /// is being written. `false`: it was tried often enough.
    pub(super) fn ask_later(&mut self, token: u64, now_ns: u64) -> bool {
        let Some((_, tries)) = self.asked.get_mut(&token).filter(|(_, tries)| *tries < ASKS_MAX) else {
            return false;
        };
        self.later.push((now_ns + (ASK_AGAIN_NS << *tries).min(ASK_AGAIN_LAST_NS), token));
        *tries += 1;
        true
    }

    /// Notes that a request that reads has its last reply.
    pub(super) fn end(&mut self, token: u64) {
        self.asked.remove(&token);
    }

    /// Sends what waits in the outbox, as far as the service has room. Returns how many requests.
    pub(super) fn send_waiting(&mut self) -> usize {
        let mut work = 0;
        while let Some(request) = self.outbox.pop_front() {
            if let Err(request) = self.service.submit(request) {
                self.outbox.push_front(request);
                break;
            }
            work += 1;
        }
        work
    }

    /// Repeats the requests that are due. Returns how many.
    pub(super) fn ask_due(&mut self, now_ns: u64) -> usize {
        if self.later.is_empty() {
            return 0;
        }
        let (due, later): (Vec<_>, Vec<_>) = self.later.drain(..).partition(|(due_ns, _)| *due_ns <= now_ns);
        self.later = later;
        for &(_, token) in &due {
            if let Some((ask, _)) = self.asked.get(&token) {
                let request = ask.request(token);
                self.send(request);
            }
        }
        due.len()
    }

    /// The replies that have arrived, and how much the service did; return the list with
    /// [`keep_replies`](Self::keep_replies).
    pub(super) fn take_replies(&mut self) -> (Vec<ArchiveReply>, usize) {
        let mut replies = std::mem::take(&mut self.replies);
        let work = self.service.poll(&mut replies);
        (replies, work)
    }

    /// Keeps the memory of an empty list for the next replies.
    pub(super) fn keep_replies(&mut self, list: Vec<ArchiveReply>) {
        assert!(list.is_empty(), "every reply is taken");
        self.replies = list;
    }
}
