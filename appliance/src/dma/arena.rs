//! Arenas: the few large stretches of memory from which the pool cuts its buffers, so that an engine can register them with the kernel.

use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};

use super::resident::Residency;

/// An anonymous private mapping; unmapped when the last who holds it lets go.
pub(super) struct Arena {
    base: NonNull<u8>,
    len_bytes: usize,
    residency: Arc<Residency>,
}

impl Arena {
    /// Maps `len_bytes` of zeroes, aligned to a page. Memory is taken when it is first touched. `None` when the system refuses.
    pub(super) fn map(len_bytes: usize) -> Option<Rc<Self>> {
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no memory that exists.
        let base = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                len_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let base = NonNull::new(base.ok()?.cast())?;
        Some(Rc::new(Arena { base, len_bytes, residency: Arc::default() }))
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.residency.end();
        // SAFETY: the mapping is ours, of this length, and nobody holds a view of it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// The arena that a buffer lies in. While one of these is held, the arena stays mapped, so its addresses mean the same memory.
#[derive(Clone)]
pub struct Region(pub(super) Rc<Arena>);

impl Region {
    /// The address of its first byte.
    pub fn base(&self) -> *mut u8 {
        self.0.base().as_ptr()
    }

    /// Its length in bytes.
    pub fn len_bytes(&self) -> usize {
        self.0.len_bytes()
    }

    /// Whether all of it is in memory. Where it is not, a thread of its own begins to see to that:
    /// to register memory that is not there takes up to 10 ms for an arena.
    pub fn is_resident(&self) -> bool {
        self.0.residency.is_resident(self.0.base, self.0.len_bytes)
    }

    /// Whether both are the same arena.
    pub fn is(&self, other: &Region) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Whether `len_bytes` bytes at `address` lie in it.
    pub fn holds(&self, address: *const u8, len_bytes: usize) -> bool {
        let offset = (address as usize).wrapping_sub(self.base() as usize);
        offset <= self.len_bytes() && len_bytes <= self.len_bytes() - offset
    }
}
