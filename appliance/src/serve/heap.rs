//! Makes the heap give memory back.
//!
//! glibc gives each thread an arena, and an arena keeps what was once needed: up to 64 MiB each
//! after a long list was sent, for as many arenas as there are callers. With fixed thresholds,
//! large blocks are mappings of their own, which end when they are freed, and arenas are trimmed.

/// Blocks from this length on are mappings of their own. Nothing on the path of a host's command
/// allocates as much.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES_MIN: libc::c_int = 512 << 10;
/// What an arena keeps at its end.
#[cfg(target_env = "gnu")]
const KEPT_BYTES_MAX: libc::c_int = 1 << 20;

/// Sets the thresholds, for the whole process. Call it before other threads start.
pub(super) fn give_back() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES_MIN), (libc::M_TRIM_THRESHOLD, KEPT_BYTES_MAX)]
    {
        // SAFETY: it takes two numbers, and is safe to call at any time.
        if unsafe { libc::mallopt(parameter, value) } == 0 {
            tracing::warn!(parameter, "the heap may keep memory that is not needed any more");
        }
    }
}
