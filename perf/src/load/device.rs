//! A port to a block device, without network or log.

use std::time::Duration;

use smallvec::smallvec;
use varve::bdev::{self, Bdev, Completion, Operation, Submit};
use varve::dma::DmaPool;

use super::aim::Kind;
use super::port::{Command, Done, Port};
use crate::error::PerfError;

/// A device, and the memory for its commands.
pub(super) struct DevicePort {
    device: Box<dyn Bdev>,
    dma: DmaPool,
    completions: Vec<Completion>,
}

impl DevicePort {
    /// A port with memory for `queue_depth` commands of `block_bytes`.
    pub(super) fn new(device: Box<dyn Bdev>, queue_depth: u16, block_bytes: u32) -> Self {
        let bytes = usize::from(queue_depth) * (block_bytes as usize).next_power_of_two();
        // One arena more, because size classes do not share arenas.
        DevicePort { device, dma: DmaPool::new(bytes + (64 << 20)), completions: Vec::new() }
    }
}

impl Port for DevicePort {
    fn submit(&mut self, command: Command<'_>) -> Result<bool, PerfError> {
        let Command { tag, kind, block, len_blocks, data } = command;
        let operation = match kind {
            Kind::Read => {
                let buffer = self.dma.allocate(len_blocks as usize * bdev::BLOCK_BYTES)?;
                Operation::Read { block, buffers: smallvec![buffer] }
            }
            Kind::Write => {
                let data = data.bytes();
                let mut buffer = self.dma.allocate(data.len())?;
                buffer.as_mut_slice().copy_from_slice(data);
                Operation::Write { block, buffers: smallvec![buffer.freeze()] }
            }
            Kind::Trim => Operation::Discard { block, len_blocks: len_blocks.into() },
        };
        Ok(matches!(self.device.submit(bdev::Command { tag: tag.into(), operation }), Submit::Queued))
    }

    fn poll(&mut self, _spin: Duration, done: &mut dyn FnMut(Done<'_>)) -> Result<usize, PerfError> {
        let completed = self.device.poll(&mut self.completions);
        for completion in self.completions.drain(..) {
            let data = completion.buffers.first().map_or(&[][..], |buffer| buffer.as_slice());
            let result = completion.result.map(|()| data).map_err(|error| error.to_string());
            done(Done { tag: completion.tag as u32, result });
        }
        Ok(completed)
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight()
    }
}
