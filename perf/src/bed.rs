//! A pool that the caller drives directly, without network or threads, so that only the pool is
//! measured.
//!
//! The bed has one volume, written in commands of one block. A write is submitted, turning the pool
//! until it has room, and its completion is taken from a sink. If a bed keeps several writes in
//! flight, they share records, as those of a busy host do.

use std::future::Future;
use std::rc::Rc;

use varve::bdev::{BLOCK_BYTES, Bdev, SharedBdev};
use varve::dma::DmaPool;
use varve::log::format::ENTRIES_PER_RECORD;
use varve::log::geometry::{FIRST_SLOT_BLOCK, RESERVE_SLOTS, with_tail};
use varve::log::{CreateLog, Environment, Geometry, Recycling};
use varve::reactor::block_on;
use varve::volume::{
    CreateVolume, IoCompletion, OVERPROVISIONING_PERCENT_RANGE, Pool, PoolOptions, Request, Sink, Submitted,
    VolumeId,
};

use crate::error::PerfError;
use crate::rng::Rng;

/// DMA memory of a bed, in bytes.
const DMA_BYTES: usize = 256 << 20;
/// Blocks that a catalog of one volume takes at the start of each segment: two copies of one block.
const CATALOG_BLOCKS: u64 = 2;
/// The name of the volume.
pub const VOLUME: &str = "bed";

/// The shape of a bed's pool.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Blocks of a segment.
    pub segment_blocks: u64,
    /// Segments of the working set (W).
    pub segments: u64,
    /// What happens to segments that contain no live blocks.
    pub recycling: Recycling,
}

/// A pool with one volume. See the module's documentation.
pub struct Bed {
    /// The pool.
    pub pool: Rc<Pool>,
    /// The volume.
    pub volume: VolumeId,
    sink: Rc<Sink>,
    payload: Vec<u8>,
}

impl Shape {
    /// Blocks that the device must have.
    pub fn device_blocks(&self) -> u64 {
        with_tail(FIRST_SLOT_BLOCK + (self.segments + RESERVE_SLOTS) * self.segment_blocks)
    }

    /// The most data blocks of hosts, and copies of them, that a segment can hold: its blocks
    /// without its header, its trailer, its catalog, the headers of full records and the room that
    /// the log reserves for events.
    ///
    /// # Errors
    /// The log does not support this shape.
    pub fn data_blocks_max(&self) -> Result<u64, PerfError> {
        let geometry = Geometry::fit(self.device_blocks(), self.segment_blocks)
            .filter(|_| self.segment_blocks.is_power_of_two())
            .ok_or_else(|| PerfError::shape("a pool has at least 2 segments of 1 MiB to 1 GiB"))?;
        // The same as `Log::event_room_blocks`.
        let events = CATALOG_BLOCKS + 8 + (geometry.record_blocks() / 32).min(64);
        let record = ENTRIES_PER_RECORD as u64 + 1;
        let blocks = geometry.record_blocks() - events;
        Ok(blocks - blocks.div_ceil(record) - CATALOG_BLOCKS)
    }
}

impl Bed {
    /// A new pool on a blank device with a volume of `volume_blocks`.
    ///
    /// # Errors
    /// The pool's.
    pub fn create(
        device: Box<dyn Bdev>,
        shape: Shape,
        volume_blocks: u64,
        thin: bool,
    ) -> Result<Self, PerfError> {
        let environment = Environment::system(DmaPool::new(DMA_BYTES));
        let request = CreateLog { segment_blocks: shape.segment_blocks, working_set: Some(shape.segments) };
        let options = PoolOptions {
            recycling: shape.recycling,
            // The measurement chooses how much is live.
            overprovisioning_percent: Some(*OVERPROVISIONING_PERCENT_RANGE.start()),
            ..PoolOptions::default()
        };
        let device = SharedBdev::new(device);
        let queue = device.clone();
        let pool = block_on(Pool::create(device, environment, request, options), move || {
            queue.queue().drive();
        })?;
        let mut payload = vec![0; BLOCK_BYTES];
        Rng::new(11).fill(&mut payload);
        let request = CreateVolume {
            name: VOLUME.to_owned(),
            size_bytes: volume_blocks * BLOCK_BYTES as u64,
            uuid: None,
            thin,
        };
        let created = wait(&pool, Rc::clone(&pool).create_volume(request))?;
        Ok(Bed { pool, volume: created.id, sink: Sink::new(), payload })
    }

    /// A volume of an existing pool, to read from.
    pub fn of(pool: Rc<Pool>, volume: VolumeId) -> Self {
        Bed { pool, volume, sink: Sink::new(), payload: vec![0; BLOCK_BYTES] }
    }

    /// Sets what is written into every block; it is one block long.
    pub fn set_payload(&mut self, payload: Vec<u8>) {
        self.payload = payload;
    }

    /// Tries to submit a write of `len_blocks` copies of the payload; `false` if the pool has no
    /// room now.
    pub fn submit(&self, block: u64, len_blocks: usize, tag: u64) -> bool {
        let data = [&self.payload[..]; 128];
        let request = Request::Write { block, data: &data[..len_blocks], force_unit_access: false };
        self.pool.submit(self.volume, &request, tag, &self.sink) == Submitted::Queued
    }

    /// The next completion.
    ///
    /// # Errors
    /// A command that failed.
    pub fn pop(&self) -> Result<Option<IoCompletion>, PerfError> {
        match self.sink.pop() {
            Some(IoCompletion { result: Err(error), .. }) => Err(PerfError::Command(error)),
            completion => Ok(completion),
        }
    }

    /// Writes that were submitted and have not completed.
    pub fn in_flight(&self) -> usize {
        self.sink.outstanding()
    }

    /// Writes the blocks that `next` returns, `depth` in flight, until it returns none; some writes
    /// may not have completed then.
    ///
    /// # Errors
    /// A write that failed.
    pub fn write_all_but(
        &self,
        depth: usize,
        mut next: impl FnMut() -> Option<u64>,
    ) -> Result<(), PerfError> {
        while let Some(block) = next() {
            while self.in_flight() >= depth || !self.submit(block, 1, 0) {
                self.pool.poll();
                while self.pop()?.is_some() {}
            }
        }
        Ok(())
    }

    /// Writes the blocks that `next` returns, `depth` in flight, until it returns none; all writes
    /// have completed then.
    ///
    /// # Errors
    /// A write that failed.
    pub fn write_all(&self, depth: usize, next: impl FnMut() -> Option<u64>) -> Result<(), PerfError> {
        self.write_all_but(depth, next)?;
        while self.in_flight() > 0 {
            self.pool.poll();
            while self.pop()?.is_some() {}
        }
        Ok(())
    }

    /// Writes every block of a range once, in order.
    ///
    /// # Errors
    /// A write that failed.
    pub fn fill(&self, len_blocks: u64) -> Result<(), PerfError> {
        let mut blocks = 0..len_blocks;
        self.write_all(ENTRIES_PER_RECORD, || blocks.next())
    }

    /// Reads a block and returns its bytes.
    ///
    /// # Errors
    /// A read that failed.
    pub fn read(&self, volume: VolumeId, block: u64) -> Result<Vec<u8>, PerfError> {
        let request = Request::Read { block, len_blocks: 1 };
        let mut queued = false;
        loop {
            queued = queued || self.pool.submit(volume, &request, 0, &self.sink) == Submitted::Queued;
            self.pool.poll();
            if let Some(completion) = self.pop()? {
                return Ok(completion.data.iter().flat_map(|part| part.iter().copied()).collect());
            }
        }
    }
}

/// Runs a future of a pool and turns the pool meanwhile.
pub fn wait<T: 'static>(pool: &Rc<Pool>, future: impl Future<Output = T> + 'static) -> T {
    let pool = Rc::clone(pool);
    block_on(future, move || {
        pool.poll();
    })
}
