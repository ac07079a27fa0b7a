//! A port to a log, without network, volumes or index: appends with their checksums and entries, in
//! shared records.
//!
//! Nothing that is appended is live, so segments are reused as the log wraps, and a load may last
//! for any time. There is nothing to read back.

use std::collections::VecDeque;
use std::time::Duration;

use varve::bdev::{BLOCK_BYTES, Bdev, SharedBdev};
use varve::dma::DmaPool;
use varve::log::format::ENTRIES_PER_RECORD;
use varve::log::{
    AppendClass, AppendError, BlockNumber, CreateLog, Environment, ImageId, Log, Lsn, Recycling, create,
};
use varve::reactor::block_on;
use varve::volume::VolumeError;

use super::aim::Kind;
use super::port::{Command, Done, Port};
use crate::error::PerfError;

/// DMA memory of the log, in bytes.
const DMA_BYTES: usize = 256 << 20;
/// The image that all blocks belong to.
const IMAGE: ImageId = ImageId(1);

/// A separate log.
pub(super) struct LogPort {
    log: Log,
    /// Commands that were appended, and the LSN of each one's last block.
    waiting: VecDeque<(Lsn, u32)>,
}

impl LogPort {
    /// A new log on a blank device.
    pub(super) fn create(device: Box<dyn Bdev>, segment_blocks: u64) -> Result<Self, PerfError> {
        let device = SharedBdev::new(device);
        let queue = device.clone();
        let request = CreateLog { segment_blocks, working_set: None };
        let creating = create(device, Environment::system(DmaPool::new(DMA_BYTES)), request);
        let mut log = block_on(creating, move || {
            queue.queue().drive();
        })
        .map_err(VolumeError::from)?;
        log.set_recycling(Recycling::Discard);
        Ok(LogPort { log, waiting: VecDeque::new() })
    }
}

impl Port for LogPort {
    fn submit(&mut self, command: Command<'_>) -> Result<bool, PerfError> {
        let Command { tag, kind, block, len_blocks, data } = command;
        let (entries, data_blocks) = match kind {
            Kind::Write => (len_blocks as usize, len_blocks as usize),
            Kind::Trim => (1, 0),
            Kind::Read => return Err(PerfError::shape("a log alone is only appended to: choose writes")),
        };
        if entries > ENTRIES_PER_RECORD {
            return Err(PerfError::shape("a command to a log fits one record: at most 168 blocks"));
        }
        match self.log.reserve(AppendClass::Host, entries, data_blocks, kind == Kind::Trim) {
            Ok(()) => {}
            Err(AppendError::Busy | AppendError::Full { .. }) => return Ok(false),
            Err(error) => return Err(PerfError::Log { reason: error.to_string() }),
        }
        let mut end = Lsn(0);
        if kind == Kind::Trim {
            end = self.log.append_trim(IMAGE, BlockNumber(block), len_blocks.into(), false, true);
        }
        for (index, bytes) in (0..).zip(data.bytes().chunks_exact(BLOCK_BYTES)) {
            let last = index + 1 == u64::from(len_blocks);
            let number = BlockNumber(block + index);
            end = self.log.append_write(IMAGE, number, bytes, Lsn(0), last).0;
        }
        self.waiting.push_back((end, tag));
        Ok(true)
    }

    fn poll(&mut self, _spin: Duration, done: &mut dyn FnMut(Done<'_>)) -> Result<usize, PerfError> {
        self.log.poll(&mut Vec::new());
        if let Some(reason) = self.log.poisoned() {
            return Err(PerfError::Log { reason: reason.to_string() });
        }
        let mut completed = 0;
        while let Some(&(end, tag)) = self.waiting.front()
            && end < self.log.written_lsn()
        {
            self.waiting.pop_front();
            completed += 1;
            done(Done { tag, result: Ok(&[]) });
        }
        Ok(completed)
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }
}
