//! Buffers from which the kernel chooses when data arrives (`io_uring_register_buf_ring(3)`).

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use varve::dma::{DmaBufMut, DmaPool};

use super::refused;

/// The group by which an operation selects these buffers.
pub(super) const GROUP: u16 = 0;
/// How many buffers there are, a power of two.
const COUNT: u16 = 32;
/// Bytes of a buffer.
const BUFFER_BYTES: usize = 64 << 10;

/// The buffers and the ring that lends them to the kernel.
pub(super) struct Provided {
    entries: DmaBufMut,
    buffers: DmaBufMut,
    tail: u16,
}

impl Provided {
    /// Registers a ring and lends it all buffers.
    ///
    /// # Errors
    /// The kernel's refusal; no memory.
    pub(super) fn new(memory: &DmaPool, submitter: &Submitter<'_>) -> io::Result<Self> {
        let mut entries =
            memory.allocate(usize::from(COUNT) * size_of::<BufRingEntry>()).map_err(io::Error::other)?;
        entries.as_mut_slice().fill(0);
        let buffers = memory.allocate(usize::from(COUNT) * BUFFER_BYTES).map_err(io::Error::other)?;
        // SAFETY: the entries are aligned to a page, there are as many as stated, and they live
        // until the ring's owner has nothing in flight.
        let registered =
            unsafe { submitter.register_buf_ring_with_flags(entries.as_mut_ptr() as u64, COUNT, GROUP, 0) };
        registered.map_err(refused("registering a ring of buffers"))?;
        let mut provided = Provided { entries, buffers, tail: 0 };
        for id in 0..COUNT {
            provided.lend(id);
        }
        Ok(provided)
    }

    /// Lends the kernel a buffer that it has returned or never had. An invalid ID is ignored.
    #[allow(clippy::cast_ptr_alignment, reason = "DMA memory is aligned to a page")]
    pub(super) fn lend(&mut self, id: u16) {
        if id >= COUNT {
            return;
        }
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: the address is within the buffers; COUNT of BUFFER_BYTES were allocated.
        let buffer = unsafe { self.buffers.as_mut_ptr().add(usize::from(id) * BUFFER_BYTES) };
        // SAFETY: the address is within the entries and initialized, and the kernel does not read
        // it before the tail has passed it.
        let entry = unsafe { &mut *base.add(usize::from(self.tail % COUNT)) };
        entry.set_addr(buffer as u64);
        entry.set_len(BUFFER_BYTES as u32);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the base is that of the first entry, which is initialized; its tail is aligned
        // and shared with the kernel by atomic accesses only.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(base).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}
