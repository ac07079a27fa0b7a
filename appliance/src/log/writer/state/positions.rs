//! The progress of the log: closed, written, stable.
//!
//! **Invariants.** `stable_lsn` ≤ `written_lsn` ≤ `end_lsn`, and none of them falls. Without a
//! volatile cache `stable_lsn` is `written_lsn`. At most one flush is in progress, and it makes
//! stable only what had been written when it began. The newest point does not fall either; it may
//! be in the open record, after `end_lsn`.

use crate::log::types::Lsn;

/// The positions. See the module's documentation.
pub(in crate::log) struct Positions {
    /// Where the closed records end.
    end_lsn: Lsn,
    /// The last block of the newest command or event.
    point_lsn: Lsn,
    written_lsn: Lsn,
    stable_lsn: Lsn,
    /// The position up to which a caller wants the log to be stable.
    wanted_stable_lsn: Lsn,
    /// The position up to which the current flush makes the log stable.
    flushing_lsn: Option<Lsn>,
    volatile_cache: bool,
}

impl Positions {
    /// Everything before `end_lsn` is written and stable.
    pub(in crate::log) fn new(end_lsn: Lsn, volatile_cache: bool) -> Self {
        Positions {
            end_lsn,
            point_lsn: Lsn(end_lsn.0.saturating_sub(1)),
            written_lsn: end_lsn,
            stable_lsn: end_lsn,
            wanted_stable_lsn: Lsn(0),
            flushing_lsn: None,
            volatile_cache,
        }
    }

    /// Where the closed records end.
    pub(in crate::log) fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    /// The last block of the newest command or event.
    pub(in crate::log) fn point_lsn(&self) -> Lsn {
        self.point_lsn
    }

    /// Everything before this position has been written.
    pub(in crate::log) fn written_lsn(&self) -> Lsn {
        self.written_lsn
    }

    /// Everything before this position survives loss of power.
    pub(in crate::log) fn stable_lsn(&self) -> Lsn {
        self.stable_lsn
    }

    /// A caller wants everything before this position to be stable.
    pub(in crate::log) fn wanted_stable_lsn(&self) -> Lsn {
        self.wanted_stable_lsn
    }

    /// Whether completed writes need a flush to survive loss of power.
    pub(in crate::log) fn volatile_cache(&self) -> bool {
        self.volatile_cache
    }

    /// Whether a flush is in progress.
    pub(in crate::log) fn is_flushing(&self) -> bool {
        self.flushing_lsn.is_some()
    }

    /// Notes that a record was closed, or a segment opened: the log's end moves forward.
    pub(in crate::log) fn close_up_to(&mut self, end_lsn: Lsn) {
        assert!(end_lsn > self.end_lsn, "the log only grows");
        self.end_lsn = end_lsn;
    }

    /// Notes that a command or an event has ended here.
    pub(in crate::log) fn note_point(&mut self, lsn: Lsn) {
        debug_assert!(lsn >= self.point_lsn, "points follow each other");
        self.point_lsn = lsn;
    }

    /// Notes that every record before this position has completed.
    pub(in crate::log) fn note_written(&mut self, lsn: Lsn) {
        assert!(self.written_lsn < lsn && lsn <= self.end_lsn, "what is written was closed before");
        self.written_lsn = lsn;
        if !self.volatile_cache {
            self.stable_lsn = lsn;
        }
    }

    /// Requests that everything before this position become stable.
    pub(in crate::log) fn request_stable(&mut self, lsn: Lsn) {
        self.wanted_stable_lsn = self.wanted_stable_lsn.max(lsn);
    }

    /// Starts a flush if one is requested and useful, and returns whether it did.
    pub(in crate::log) fn begin_flush(&mut self) -> bool {
        let wanted = self.wanted_stable_lsn > self.stable_lsn && self.written_lsn > self.stable_lsn;
        if !wanted || self.is_flushing() {
            return false;
        }
        self.flushing_lsn = Some(self.written_lsn);
        true
    }

    /// Notes the end of the flush. A failed flush makes nothing stable.
    pub(in crate::log) fn end_flush(&mut self, is_ok: bool) {
        let target = self.flushing_lsn.take();
        debug_assert!(target.is_some(), "a flush ends once");
        if is_ok {
            self.stable_lsn = self.stable_lsn.max(target.unwrap_or_default());
        }
        assert!(self.stable_lsn <= self.written_lsn, "only what is written becomes stable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_makes_stable_what_was_written_when_it_began() {
        let mut positions = Positions::new(Lsn(10), true);
        positions.close_up_to(Lsn(20));
        positions.request_stable(Lsn(20));
        assert!(!positions.begin_flush(), "nothing is written that is not stable");
        positions.note_written(Lsn(15));
        assert!(positions.begin_flush() && !positions.begin_flush(), "one flush at once");
        positions.note_written(Lsn(20));
        positions.end_flush(true);
        assert_eq!(positions.stable_lsn(), Lsn(15));
        assert!(positions.begin_flush());
        positions.end_flush(false);
        assert_eq!(positions.stable_lsn(), Lsn(15), "a flush that failed has made nothing stable");
    }

    #[test]
    fn without_a_volatile_cache_what_is_written_is_stable() {
        let mut positions = Positions::new(Lsn(10), false);
        positions.close_up_to(Lsn(20));
        positions.request_stable(Lsn(20));
        positions.note_written(Lsn(20));
        assert_eq!(positions.stable_lsn(), Lsn(20));
        assert!(!positions.begin_flush());
    }

    #[test]
    #[should_panic(expected = "what is written was closed before")]
    fn nothing_is_written_that_was_not_closed() {
        Positions::new(Lsn(10), true).note_written(Lsn(11));
    }
}
