//! A load's port over `NVMe`/TCP: one I/O queue of our own host.

use std::time::Duration;

use varve::nvmf::host::{Queue, Wait};

use super::aim::Kind;
use super::port::{Command, Data, Done, Port};
use crate::error::PerfError;

/// An I/O queue whose geometry is set.
pub(super) struct NvmePort(pub(super) Queue);

impl Port for NvmePort {
    fn submit(&mut self, command: Command<'_>) -> Result<bool, PerfError> {
        let Command { tag, kind, block, len_blocks, data } = command;
        match kind {
            Kind::Read => self.0.submit_read(block, len_blocks, tag.into())?,
            Kind::Write => match data {
                Data::Borrowed(bytes) => self.0.submit_write(block, bytes, false, tag.into())?,
                Data::Shared(bytes) => self.0.submit_write_shared(block, bytes, false, tag.into())?,
            },
            Kind::Trim => self.0.submit_trim(&[(block, len_blocks)], tag.into())?,
        }
        Ok(true)
    }

    fn poll(&mut self, spin: Duration, done: &mut dyn FnMut(Done<'_>)) -> Result<usize, PerfError> {
        let wait = if spin.is_zero() { Wait::Now } else { Wait::Spin(spin) };
        let completed = self.0.poll(wait, |completion| {
            let success = completion.status.is_success();
            let result = if success { Ok(completion.data) } else { Err(completion.status.to_string()) };
            done(Done { tag: completion.tag as u32, result });
        })?;
        Ok(completed)
    }

    fn in_flight(&self) -> usize {
        self.0.outstanding_count().into()
    }
}
