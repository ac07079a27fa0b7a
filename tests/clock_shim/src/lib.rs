//! A library to preload into a program under test: it changes the time of day that the program
//! reads, and no other clock.
//!
//! `VARVE_CLOCK_OFFSET_FILE` names a file of at least 8 bytes: the nanoseconds to add, signed, in
//! the machine's byte order. The file is mapped once and read in each call, so a test changes the
//! clock of a running program by writing to the file. Without the variable, or when the file cannot
//! be mapped, the program reads the system's time.

use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicI64, AtomicPtr, Ordering};

/// The variable that names the file.
const VARIABLE: &CStr = c"VARVE_CLOCK_OFFSET_FILE";

/// Used instead of a file that cannot be mapped.
static NO_OFFSET: AtomicI64 = AtomicI64::new(0);
/// The mapped offset, or [`NO_OFFSET`]; null until the first call.
static OFFSET: AtomicPtr<AtomicI64> = AtomicPtr::new(std::ptr::null_mut());

fn offset_ns() -> i64 {
    let mut offset = OFFSET.load(Ordering::Acquire);
    if offset.is_null() {
        // Two threads may both map it; then one mapping stays unused.
        offset = map().unwrap_or((&raw const NO_OFFSET).cast_mut());
        OFFSET.store(offset, Ordering::Release);
    }
    // SAFETY: it is the static, or a mapping of eight aligned bytes that is never unmapped; other
    // processes change these bytes only as a whole.
    unsafe { (*offset).load(Ordering::Relaxed) }
}

fn map() -> Option<*mut AtomicI64> {
    // SAFETY: the name is a C string; the value is valid until the environment changes, and is used
    // at once.
    let path = unsafe { libc::getenv(VARIABLE.as_ptr()) };
    if path.is_null() {
        return None;
    }
    // SAFETY: the path is a C string; the mapping is new and covers a whole page, of which the file
    // provides the first eight bytes.
    unsafe {
        let file = libc::open(path, libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let mapped: *mut c_void =
            libc::mmap(std::ptr::null_mut(), size_of::<i64>(), libc::PROT_READ, libc::MAP_SHARED, file, 0);
        libc::close(file);
        (mapped != libc::MAP_FAILED).then_some(mapped.cast())
    }
}

/// Reads a clock of the system, and adds the offset if it is the time of day.
fn read_clock(clock: libc::clockid_t, time: &mut libc::timespec) -> c_int {
    let time: *mut libc::timespec = time;
    // SAFETY: the kernel writes one timespec, which is borrowed for that.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
    if result == 0 && matches!(clock, libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE) {
        // SAFETY: the same timespec; no other reference to it exists.
        let time = unsafe { &mut *time };
        let now_ns = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
        let moved_ns = now_ns + i128::from(offset_ns());
        time.tv_sec = moved_ns.div_euclid(1_000_000_000) as libc::time_t;
        time.tv_nsec = moved_ns.rem_euclid(1_000_000_000) as _;
    }
    result
}

fn time_of_day() -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    read_clock(libc::CLOCK_REALTIME, &mut now);
    now
}

/// Replaces the system's function of this name.
///
/// # Safety
/// `time` is null or points to a timespec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let result = read_clock(clock, &mut now);
    if result == 0 && !time.is_null() {
        // SAFETY: the caller guarantees it.
        unsafe { time.write(now) };
    }
    result
}

/// Replaces the system's function of this name.
///
/// # Safety
/// `time` is null or points to a timeval. The zone is not used.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(time: *mut libc::timeval, _zone: *mut c_void) -> c_int {
    let now = time_of_day();
    if !time.is_null() {
        let now = libc::timeval { tv_sec: now.tv_sec, tv_usec: (now.tv_nsec / 1000) as _ };
        // SAFETY: the caller guarantees it.
        unsafe { time.write(now) };
    }
    0
}

/// Replaces the system's function of this name.
///
/// # Safety
/// `time` is null or points to a `time_t`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(time: *mut libc::time_t) -> libc::time_t {
    let now = time_of_day().tv_sec;
    if !time.is_null() {
        // SAFETY: the caller guarantees it.
        unsafe { time.write(now) };
    }
    now
}
