//! A port over `NVMe`/TCP: one I/O queue of our own host.

use std::time::{Duration, Instant};

use varve::nvmf::host::{Queue, Wait};

use super::aim::Kind;
use super::port::{Command, Data, Done, Port};
use crate::error::PerfError;
use crate::spin::Spin;

/// An I/O queue whose geometry is set.
pub(super) struct NvmePort {
    pub(super) queue: Queue,
    /// Whether the thread has its own core, and so does not yield while it polls.
    pub(super) keeps_core: bool,
}

impl Port for NvmePort {
    fn submit(&mut self, command: Command<'_>) -> Result<bool, PerfError> {
        let Command { tag, kind, block, len_blocks, data } = command;
        match kind {
            Kind::Read => self.queue.submit_read(block, len_blocks, tag.into())?,
            Kind::Write => match data {
                Data::Borrowed(bytes) => self.queue.submit_write(block, bytes, false, tag.into())?,
                Data::Shared(bytes) => self.queue.submit_write_shared(block, bytes, false, tag.into())?,
            },
            Kind::Trim => self.queue.submit_trim(&[(block, len_blocks)], tag.into())?,
        }
        Ok(true)
    }

    fn poll(&mut self, spin: Duration, done: &mut dyn FnMut(Done<'_>)) -> Result<usize, PerfError> {
        // The host's own spinning yields the core after each empty poll.
        let wait = if spin.is_zero() || self.keeps_core { Wait::Now } else { Wait::Spin(spin) };
        let deadline = Instant::now() + spin;
        let mut looks = Spin::new();
        loop {
            let completed = self.queue.poll(wait, |completion| {
                let success = completion.status.is_success();
                let result = if success { Ok(completion.data) } else { Err(completion.status.to_string()) };
                done(Done { tag: completion.tag as u32, result });
            })?;
            let ends = completed > 0 || wait != Wait::Now || self.queue.outstanding_count() == 0;
            if ends || spin.is_zero() || Instant::now() >= deadline {
                return Ok(completed);
            }
            looks.looked(false);
        }
    }

    fn in_flight(&self) -> usize {
        self.queue.outstanding_count().into()
    }
}
