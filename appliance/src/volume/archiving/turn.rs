//! A turn of a pool's archive: takes the replies of its threads, and makes the requests that are
//! due.

use std::sync::Arc;

use super::flights::Flight;
use super::policy::BackPressure;
use super::side::PoolSide;
use super::state::Archive;
use crate::archive::service::{ArchiveError, ArchiveReply};
use crate::log::Log;
use crate::log::reader::LsnRange;

impl Archive {
    /// Takes the replies of the archive's threads. Returns how many there were.
    pub(in crate::volume) fn take_replies(&mut self, side: &mut PoolSide<'_>, log: &mut Log) -> usize {
        let (mut replies, work) = self.requests.take_replies();
        for reply in replies.drain(..) {
            self.take(reply, side, log);
        }
        self.requests.keep_replies(replies);
        work
    }

    /// One turn: makes the requests that are due. Returns how much was done.
    pub(in crate::volume) fn poll(&mut self, side: &mut PoolSide<'_>, log: &mut Log) -> usize {
        let mut work = self.requests.send_waiting();
        let now_ns = log.environment().clock.monotonic_ns();
        work += self.requests.ask_due(now_ns);
        // The archive of a rehearsal is only read, and has no recovery point of it.
        let is_rehearsal = side.catalog.ownership.rehearsal_lsn.is_some();
        if !self.is_away() && !is_rehearsal {
            work += self.submit_jobs(log, now_ns);
        }
        work += self.relieve(side, log, now_ns);
        if !is_rehearsal {
            self.look_at_recovery_point(side, log, now_ns);
        }
        let is_wanted = self.policy().back_pressure == BackPressure::Throttle;
        work + usize::from(self.throttle.turn(is_wanted, log, now_ns))
    }

    fn take(&mut self, reply: ArchiveReply, side: &mut PoolSide<'_>, log: &mut Log) {
        match reply {
            ArchiveReply::Archived { token, result } => {
                let Some(Flight { id, holes }) = self.flights.end(token) else { return };
                self.throttle.recount();
                match result {
                    Ok(archived) => self.job_done(id, &holes, archived, side, log),
                    Err(error) => self.job_failed(id, &error, side, log),
                }
            }
            ArchiveReply::Deleted { result, .. } => {
                if let Err(error) = result {
                    if matches!(error, ArchiveError::Overtaken { .. }) {
                        Self::overtaken(&error, log);
                    }
                    // They only cost space; the next start finds and deletes them.
                    tracing::warn!(%error, "objects of the archive that nobody needs could not be deleted");
                }
            }
            ArchiveReply::AnchorStored { token, result } => {
                if let Err(error @ ArchiveError::Overtaken { .. }) = self.anchor_stored(token, result) {
                    Self::overtaken(&error, log);
                }
            }
            // Whoever waits for it goes on without it, rather than waiting for the store.
            ArchiveReply::Anchor { token, .. } => self.receivers.answer(token, reply),
            ArchiveReply::Entries { token, result: Err(ArchiveError::Store { retry: true, .. }) }
            | ArchiveReply::Blocks { token, result: Err(ArchiveError::Store { retry: true, .. }) }
                if self.requests.ask_later(token, log.environment().clock.monotonic_ns()) => {}
            ArchiveReply::Entries { token, ref result } => {
                self.requests.end(token);
                if let Ok(entries) = result {
                    self.entries.insert(Arc::clone(entries));
                }
                self.receivers.answer(token, reply);
            }
            ArchiveReply::Blocks { token, .. } => {
                self.requests.end(token);
                self.receivers.answer(token, reply);
            }
        }
    }

    /// Handles writes that wait for a slot while none is free.
    fn relieve(&mut self, side: &mut PoolSide<'_>, log: &mut Log, now_ns: u64) -> usize {
        if !log.why_busy().waits_for_slot() {
            self.note_not_waiting();
            return 0;
        }
        self.note_waiting(now_ns);
        if self.policy().back_pressure == BackPressure::Throttle {
            if self.refuses_writes(now_ns) {
                self.tell_failure(now_ns, side);
            }
            return 0;
        }
        let Some(sequence) = log.release_unarchived() else { return 0 };
        if sequence < side.catalog.archived_below {
            return 1;
        }
        self.seal.note_gap(log, sequence);
        let geometry = log.geometry();
        let gap = LsnRange { start: geometry.first_lsn(sequence), end: geometry.first_lsn(sequence.next()) };
        side.record_gap(log, gap, "it was not archived before its room was needed");
        1
    }
}
