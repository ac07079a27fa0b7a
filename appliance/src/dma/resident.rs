//! Makes arenas resident in the background: the kernel allocates mapped memory only when it is
//! first touched. A thread of the process touches the arenas that are to be registered with the
//! kernel, so no reactor waits for it.
//!
//! **Synchronisation:** the thread touches one piece at a time, under a lock that an arena takes
//! before it is unmapped. The kernel does the touching (`MADV_POPULATE_WRITE`, Linux 5.14), which
//! changes no contents, so a reactor may use the memory meanwhile.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::mm::{Advice, madvise};

/// Bytes touched per system call. The kernel lets no other thread of the process map memory during
/// the call.
const PIECE_BYTES: usize = 256 << 10;

/// Whether an arena is resident, whether that was requested, and whether the arena was unmapped.
#[derive(Debug, Default)]
pub(super) struct Residency {
    unmapped: Mutex<bool>,
    asked_for: AtomicBool,
    resident: AtomicBool,
}

/// An arena to be touched.
struct Job {
    address: usize,
    len_bytes: usize,
    residency: Arc<Residency>,
}

impl Residency {
    /// Whether the arena at `base` is resident. The first call requests that it be made resident.
    pub(super) fn is_resident(self: &Arc<Self>, base: NonNull<u8>, len_bytes: usize) -> bool {
        if self.resident.load(Ordering::Acquire) {
            return true;
        }
        if !self.asked_for.swap(true, Ordering::Relaxed) {
            let job = Job { address: base.as_ptr() as usize, len_bytes, residency: Arc::clone(self) };
            if thread().is_none_or(|jobs| jobs.send(job).is_err()) {
                // Without the thread, the kernel makes it resident when it is registered.
                self.resident.store(true, Ordering::Release);
            }
        }
        self.resident.load(Ordering::Acquire)
    }

    /// The arena is about to be unmapped. The thread does not touch it after this call.
    pub(super) fn end(&self) {
        *self.lock() = true;
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.unmapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job {
    fn run(&self) {
        for offset in (0..self.len_bytes).step_by(PIECE_BYTES) {
            let is_unmapped = self.residency.lock();
            if *is_unmapped {
                return;
            }
            let piece = (self.address + offset) as *mut std::ffi::c_void;
            let len_bytes = PIECE_BYTES.min(self.len_bytes - offset);
            // SAFETY: the arena is mapped while this lock is held, and the advice changes no
            // contents.
            let touched = unsafe { madvise(piece, len_bytes, Advice::LinuxPopulateWrite) };
            if let Err(error) = touched {
                tracing::debug!(%error, "memory cannot be touched before it is registered");
                break;
            }
        }
        self.residency.resident.store(true, Ordering::Release);
    }
}

/// The thread's channel. `None` if no thread could be started.
fn thread() -> Option<&'static Sender<Job>> {
    static JOBS: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    let start = || {
        let (sender, jobs): (_, Receiver<Job>) = channel();
        let work = move || jobs.iter().for_each(|job| job.run());
        std::thread::Builder::new().name("memory".to_owned()).spawn(work).ok().map(|_| sender)
    };
    JOBS.get_or_init(start).as_ref()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{ARENA_BYTES, DmaPool};

    /// An arena becomes resident in the background and keeps what was written to it meanwhile. An
    /// arena that is unmapped before its turn does no harm.
    #[test]
    fn arenas_become_resident_and_keep_what_is_in_them() {
        let pool = DmaPool::new(4 * ARENA_BYTES);
        let mut buffer = pool.allocate(ARENA_BYTES).expect("memory");
        let region = buffer.region();
        let gone = DmaPool::new(ARENA_BYTES).allocate(ARENA_BYTES).expect("memory");
        gone.region().is_resident();
        drop(gone);
        let begun = Instant::now();
        let mut written = 0;
        while !region.is_resident() {
            buffer.as_mut_slice()[written * 4096 % ARENA_BYTES] = 7;
            written += 1;
            assert!(begun.elapsed() < Duration::from_mins(1));
        }
        for page in 0..written.min(ARENA_BYTES / 4096) {
            assert_eq!(buffer.as_slice()[page * 4096], 7);
        }
    }
}
