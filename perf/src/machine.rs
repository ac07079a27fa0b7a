//! The machine on which the figures were measured.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// The properties of the machine that affect its figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// The name that the processor reports.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Whether the processor reports that it is virtual.
    pub is_guest: bool,
    /// The kernel's release.
    pub kernel: String,
}

impl Machine {
    /// This machine. What the system does not report is empty.
    pub fn here() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            info.lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(key, _)| key.trim() == name)
                .map_or("", |(_, value)| value.trim())
        };
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            processor: format!("{} at {} MHz", field("model name"), field("cpu MHz")),
            cores: varve::reactor::current_core_count(),
            is_guest: field("flags").split(' ').any(|flag| flag == "hypervisor"),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// The cores of a measurement. The load runs on the first core that this process may use; the
/// appliance, or the other side of a floor, on the last. `None` if there is only one: then nothing
/// is pinned.
///
/// Without pinning, the scheduler puts a woken thread on the core of the thread that woke it, and
/// two polling threads then share that core for some time: latencies vary by a factor of five from
/// run to run.
///
/// The result is that of the first call, so a thread that was pinned later still gets both cores.
pub fn two_cores() -> Option<(usize, usize)> {
    static CORES: OnceLock<Option<(usize, usize)>> = OnceLock::new();
    *CORES.get_or_init(ends_of_my_cores)
}

fn ends_of_my_cores() -> Option<(usize, usize)> {
    let mine = rustix::thread::sched_getaffinity(None).ok()?;
    let mut cores = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| mine.is_set(core));
    let first = cores.next()?;
    cores.next_back().map(|last| (first, last))
}

/// Whether the calling thread is pinned to one of several cores.
pub fn is_pinned() -> bool {
    two_cores().is_some() && rustix::thread::sched_getaffinity(None).is_ok_and(|mine| mine.count() == 1)
}

/// Runs `work` with the calling thread pinned to a core, and restores its cores afterwards. If
/// pinning is refused, that is logged and is not fatal.
pub fn pinned<T>(core: Option<usize>, work: impl FnOnce() -> T) -> T {
    let before = core.and_then(|core| {
        let before = rustix::thread::sched_getaffinity(None).ok()?;
        let mut set = rustix::thread::CpuSet::new();
        set.set(core);
        match rustix::thread::sched_setaffinity(None, &set) {
            Ok(()) => Some(before),
            Err(error) => {
                tracing::warn!(core, %error, "cannot pin a thread; figures will vary more");
                None
            }
        }
    });
    let result = work();
    if let Some(before) = before {
        // Since the first change succeeded, so does this one.
        let _ = rustix::thread::sched_setaffinity(None, &before);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_hears_of_both_cores_and_gets_its_own_back() {
        let cores = two_cores();
        let mine = rustix::thread::sched_getaffinity(None).unwrap();
        let (inside, pinned_to) = pinned(cores.map(|cores| cores.1), || {
            assert_eq!(is_pinned(), cores.is_some());
            (two_cores(), rustix::thread::sched_getaffinity(None).unwrap())
        });
        assert!(!is_pinned());
        assert_eq!(inside, cores);
        if cores.is_some() {
            assert_eq!(pinned_to.count(), 1);
        }
        assert_eq!(rustix::thread::sched_getaffinity(None).unwrap(), mine);
    }
}
