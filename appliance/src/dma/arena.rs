//! Arenas: the large memory mappings from which the pool cuts its buffers. There are few of them,
//! so an engine can register them with the kernel.

use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::Arc;

use rustix::mm::{MapFlags, ProtFlags};

use super::resident::Residency;

/// An anonymous private mapping. It is unmapped when its last owner drops it.
pub(super) struct Arena {
    base: NonNull<u8>,
    len_bytes: usize,
    residency: Arc<Residency>,
}

impl Arena {
    /// Maps `len_bytes` of zeroes, aligned to a page. The kernel allocates a page when it is first
    /// touched. `None` when the system refuses.
    pub(super) fn map(len_bytes: usize) -> Option<Rc<Self>> {
        // SAFETY: a new anonymous mapping at an address that the kernel chooses touches no existing
        // memory.
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
        // SAFETY: this arena owns the mapping, which has this length, and no view of it is left.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours can be unmapped");
    }
}

/// The arena that contains a buffer. The arena stays mapped while one of these exists, so its
/// addresses keep referring to the same memory.
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

    /// Whether the whole arena is resident in memory. If it is not, a background thread starts to
    /// make it resident, because registering memory that is not resident takes up to 10 ms for an
    /// arena.
    pub fn is_resident(&self) -> bool {
        self.0.residency.is_resident(self.0.base, self.0.len_bytes)
    }

    /// Whether both are the same arena.
    pub fn is(&self, other: &Region) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the `len_bytes` bytes at `address` lie in it.
    pub fn holds(&self, address: *const u8, len_bytes: usize) -> bool {
        let offset = (address as usize).wrapping_sub(self.base() as usize);
        offset <= self.len_bytes() && len_bytes <= self.len_bytes() - offset
    }
}
