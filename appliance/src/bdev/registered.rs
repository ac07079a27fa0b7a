//! The arenas of DMA memory that a ring has registered with the kernel.

use io_uring::IoUring;

use super::Operation;
use crate::dma::{DmaBuf, DmaBufMut, Region};

/// The most arenas of one ring: 1 GiB of DMA memory. Buffers of further arenas use plain commands.
const ARENAS_MAX: usize = 256;

/// The registered arenas. While this exists, each arena keeps its index and stays mapped, so an
/// address that is found here refers to memory that the kernel has pinned.
pub(super) struct RegisteredArenas {
    regions: Vec<Region>,
    /// How many more arenas can be registered. 0 after the kernel refuses one.
    room: usize,
    /// Whether an arena may be registered in this turn.
    may_add: bool,
}

impl RegisteredArenas {
    /// Creates an empty table in the kernel, if registration is wanted and the kernel allows it.
    pub(super) fn new(ring: &IoUring, wanted: bool) -> Self {
        let made = wanted && ring.submitter().register_buffers_sparse(ARENAS_MAX as u32).is_ok();
        RegisteredArenas { regions: Vec::new(), room: if made { ARENAS_MAX } else { 0 }, may_add: true }
    }

    /// A turn begins: another arena may be registered. Each registration takes the kernel about 100
    /// us.
    pub(super) fn begin_turn(&mut self) {
        self.may_add = true;
    }

    /// Registers the arena of a command's buffers, if it is new and fully resident. Commands whose
    /// buffers lie in other arenas are plain commands.
    pub(super) fn learn(&mut self, ring: &IoUring, operation: &Operation) {
        if self.room == 0 {
            return;
        }
        match operation {
            Operation::Read { buffers, .. } => {
                buffers.iter().map(DmaBufMut::region).for_each(|region| self.add(ring, region));
            }
            Operation::Write { buffers, .. } => {
                buffers.iter().map(DmaBuf::region).for_each(|region| self.add(ring, region));
            }
            Operation::Flush | Operation::Discard { .. } => {}
        }
    }

    fn add(&mut self, ring: &IoUring, region: Region) {
        let is_known = || self.regions.iter().any(|known| known.is(&region));
        if self.room == 0 || !self.may_add || is_known() || !region.is_resident() {
            return;
        }
        self.may_add = false;
        let vector = libc::iovec { iov_base: region.base().cast(), iov_len: region.len_bytes() };
        // SAFETY: `region` keeps the arena mapped, and is held until after the ring is dropped.
        let registered =
            unsafe { ring.submitter().register_buffers_update(self.regions.len() as u32, &[vector], None) };
        match registered {
            Ok(()) => {
                self.regions.push(region);
                self.room -= 1;
            }
            Err(error) => {
                tracing::debug!(%error, arenas = self.regions.len(), "no further arena is registered with io_uring (RLIMIT_MEMLOCK?)");
                self.room = 0;
            }
        }
    }

    /// The index of the arena that contains the whole piece.
    pub(super) fn find(&self, address: *const u8, len_bytes: usize) -> Option<u16> {
        let found = self.regions.iter().position(|region| region.holds(address, len_bytes))?;
        Some(found as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dma::{ARENA_BYTES, BLOCK_BYTES, DmaPool};

    fn buffers_of(operation: &Operation) -> impl Iterator<Item = Region> {
        let Operation::Read { buffers, .. } = operation else { unreachable!("the test reads") };
        buffers.iter().map(DmaBufMut::region)
    }

    /// Arenas are registered once, are found for any piece that lies in them, and are not found
    /// when registration is off.
    #[test]
    fn arenas_are_registered_once_and_found() {
        // If the kernel refuses io_uring, there is nothing to register. The engine's own tests
        // check that case.
        let Ok(ring) = IoUring::new(8) else { return };
        let pool = DmaPool::new(4 * ARENA_BYTES);
        let buffers: Vec<DmaBufMut> = (0..3).map(|_| pool.allocate(ARENA_BYTES).expect("memory")).collect();
        let small = pool.allocate(BLOCK_BYTES).expect("memory");
        let address = small.as_ptr();
        let places: Vec<*const u8> = buffers.iter().map(DmaBufMut::as_ptr).collect();
        let operation = Operation::Read { block: 0, buffers: buffers.into_iter().chain([small]).collect() };
        let mut none = RegisteredArenas::new(&ring, false);
        none.learn(&ring, &operation);
        assert_eq!(none.find(address, BLOCK_BYTES), None);
        let mut arenas = RegisteredArenas::new(&ring, true);
        if arenas.room == 0 {
            return;
        }
        for region in buffers_of(&operation) {
            while !region.is_resident() {
                std::thread::yield_now();
            }
        }
        arenas.learn(&ring, &operation);
        arenas.learn(&ring, &operation);
        assert!(arenas.regions.len() <= 1, "one in a turn");
        for _ in 0..4 {
            arenas.begin_turn();
            arenas.learn(&ring, &operation);
        }
        // RLIMIT_MEMLOCK of an ordinary user allows at least one arena.
        let count = arenas.regions.len();
        assert!((1..=4).contains(&count), "{count}");
        assert_eq!(arenas.find(places[0], ARENA_BYTES), Some(0));
        assert_eq!(
            arenas.find(places[0].wrapping_add(BLOCK_BYTES), ARENA_BYTES),
            None,
            "it reaches beyond the arena"
        );
        if count == 4 {
            assert_eq!(arenas.find(address, BLOCK_BYTES), Some(3));
        }
        drop(ring);
    }
}
