//! Hosts' reads for which the device failed or returned a wrong checksum: they are read again,
//! block by block, so that one bad sector fails only the requests for its block. See
//! [`rescues`](super::rescues) for the states of a piece. The archive is asked for the blocks that
//! are still missing at the end; if it does not have a block either, that is a media error.
//!
//! **Invariant:** a piece keeps the pin of its device read, so that its segment's slot is not
//! reused while the device may be asked for it. It also keeps its memory, so a retry waits for
//! nobody. The pin of a piece that waits for memory is bounded in time, because the holder of the
//! memory may wait for the slot.
//!
//! **Bounds:** [`LOOKED_AT_MAX`] pieces in a turn.

use super::rescues::{Rescue, Settled};
use super::state::State;
use crate::bdev::BdevError;
use crate::dma::DmaBufMut;
use crate::log::{Log, ReadDone};
use crate::volume::request::IoError;

/// How many pieces one turn handles.
const LOOKED_AT_MAX: usize = 64;

impl State {
    /// Starts the rescue of a piece: `buffer` is its memory, `None` if there was none, and `result`
    /// is the device's.
    pub(super) fn begin_rescue(
        &mut self,
        log: &Log,
        place: (usize, usize),
        buffer: Option<DmaBufMut>,
        result: Result<(), BdevError>,
    ) {
        let (first_lsn, checksums) = self.reads.waiting_piece(place);
        let Some(device_block) = log.device_block(first_lsn) else {
            unreachable!("a segment that is pinned stays where it is")
        };
        let now_ns = log.environment().clock.monotonic_ns();
        let mut rescue = Rescue::new(place, first_lsn, device_block, checksums.len(), now_ns);
        if let Some(buffer) = buffer {
            self.stats.note_retried();
            rescue.begin(buffer, checksums, result.is_ok(), now_ns);
        }
        rescue.set_error(result.err());
        self.rescues.add(rescue);
    }

    /// One turn of all rescues: pieces whose pause has ended go to the device. Returns how much
    /// there is to do, so that the reactor does not sleep before it is done.
    pub(super) fn go_on_rescuing(&mut self, log: &mut Log) -> usize {
        let under_way = self.rescues.under_way();
        if under_way == 0 {
            return 0;
        }
        let now_ns = log.environment().clock.monotonic_ns();
        for _ in 0..self.rescues.places().min(LOOKED_AT_MAX) {
            let Some((number, mut rescue)) = self.rescues.take_next() else { continue };
            let stands = rescue.look(now_ns);
            if rescue.has_no_memory()
                && !self.find_memory(log, &mut rescue)
                && (stands || rescue.has_waited_for_memory(now_ns))
            {
                self.rescues.finish(number);
                self.end_without_memory(log, &rescue);
                continue;
            }
            if (rescue.is_due(now_ns) || stands) && !rescue.has_no_memory() {
                while let Some((device_block, buffer, token)) = self.rescues.next_missing(number, &mut rescue)
                {
                    self.reads.read_device(log, device_block, buffer, token);
                }
            }
            self.rescues.put_back(number, rescue);
        }
        under_way
    }

    /// Allocates memory for a piece that had none. Returns whether there was some.
    fn find_memory(&mut self, log: &Log, rescue: &mut Rescue) -> bool {
        let (_, checksums) = self.reads.waiting_piece(rescue.place());
        match log.environment().dma.allocate(rescue.len_bytes()) {
            Ok(buffer) => {
                rescue.take_memory(buffer, checksums, false);
                true
            }
            Err(_) => false,
        }
    }

    /// Ends a piece that got no memory: the host should try again.
    fn end_without_memory(&mut self, log: &mut Log, rescue: &Rescue) {
        log.unpin(log.geometry().sequence_of(rescue.first_lsn()));
        let (read, _) = rescue.place();
        self.reads.give_up(read, IoError::NotNow);
        self.end_read(read);
    }

    /// Handles the end of a rescue's device read.
    pub(super) fn rescue_answered(&mut self, log: &mut Log, done: ReadDone) {
        let now_ns = || log.environment().clock.monotonic_ns();
        if let Some(rescue) = self.rescues.answered(done, now_ns) {
            self.settle(log, rescue);
        }
    }

    /// Ends a rescue: its read gets the blocks that were read, and the archive is asked for the
    /// rest.
    fn settle(&mut self, log: &mut Log, rescue: Rescue) {
        let sequence = log.geometry().sequence_of(rescue.first_lsn());
        let Settled { place, blocks, bad, damaged, error } = rescue.settle();
        self.stats.note_checksum_errors(damaged);
        log.unpin(sequence);
        if bad == 0 {
            self.stats.note_rescued();
            self.reads.fill(place, blocks.buffer.freeze());
            return self.end_read(place.0);
        }
        let why = if damaged > 0 { "have a wrong checksum" } else { "cannot be read" };
        log.note_problem(sequence, format!("blocks of it {why} on the device; hosts get the archive's copy where there is one, else a media error. The device may be failing: replace it soon"));
        if let Some(error) = &error
            && let Some(unsaid) = self.faults.may_say(log.environment().clock.monotonic_ns())
        {
            tracing::error!(%error, segment = sequence.0, unsaid, "blocks cannot be read from the device");
        }
        self.reads.leave_to_archive(place, blocks);
        self.fetch_archived(log, place.0);
        self.end_read(place.0);
    }
}
