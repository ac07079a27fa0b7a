//! Measures what an idle appliance costs: processor time of its reactor with one connected host
//! that sends only keep-alives.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use varve::nvmf::host::{ConnectOptions, Controller};
use varve::nvmf::nqn;
use varve::serve::{Appliance, ApplianceConfig, Backing, FIRST_VOLUME_NAME};

use crate::bar::{Bar, Bound};
use crate::error::PerfError;

/// The bar, in percent of a core.
pub const PERCENT_MAX: f64 = 1.0;
/// After this time, the work left from the start and the connection is done.
const SETTLE: Duration = Duration::from_millis(200);
/// Size of the pool, in bytes; none of it is used.
const POOL_BYTES: u64 = 256 << 20;
/// KATO, the value that the Linux host uses.
const KEEP_ALIVE_TIMEOUT_MS: u32 = 5000;

/// The cost of idling.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct IdleResult {
    /// How long it was measured.
    pub seconds: f64,
    /// Processor time of the reactor's thread.
    pub cpu_ms: f64,
    /// The same, in percent of a core.
    pub percent: f64,
    /// Whether that is under [`PERCENT_MAX`].
    pub passed: bool,
}

impl IdleResult {
    /// The bar.
    pub fn bar(&self) -> Bar {
        Bar::alone("idle appliance, of a core", self.percent, "%", Some(Bound::AtMost(PERCENT_MAX)))
    }
}

/// Starts an adaptive appliance in memory, connects a host, and measures the reactor's thread for
/// `duration`.
///
/// # Errors
/// The appliance does not start, the host does not connect, or /proc cannot be read.
pub fn measure(duration: Duration) -> Result<IdleResult, PerfError> {
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = ApplianceConfig::new(Backing::Memory { len_bytes: POOL_BYTES }, listen);
    config.first_volume_bytes = Some(POOL_BYTES / 4);
    // A unique name, so that the thread can be found among those of the process. At most 15 bytes.
    config.reactor.name = format!("idle-{}", std::process::id() % 1_000_000_000);
    let name = config.reactor.name.clone();
    let appliance = Appliance::start(config)?;
    let options =
        ConnectOptions { keep_alive_timeout_ms: KEEP_ALIVE_TIMEOUT_MS, ..ConnectOptions::default() };
    let mut controller =
        Controller::connect(appliance.address(), &nqn::of_volume(FIRST_VOLUME_NAME), options)?;
    std::thread::sleep(SETTLE);
    let thread = find_thread(&name)?;
    let started = Instant::now();
    let before = thread.cpu_time()?;
    while let Some(left) = duration.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
        std::thread::sleep(left.min(Duration::from_millis(500)));
        controller.keep_alive_if_due()?;
    }
    let used = thread.cpu_time()?.saturating_sub(before);
    let elapsed = started.elapsed();
    controller.shutdown()?;
    appliance.stop()?;
    let percent = 100.0 * used.as_secs_f64() / elapsed.as_secs_f64();
    Ok(IdleResult {
        seconds: elapsed.as_secs_f64(),
        cpu_ms: used.as_secs_f64() * 1000.0,
        percent,
        passed: percent < PERCENT_MAX,
    })
}

/// A thread of this process in /proc.
struct Thread {
    directory: PathBuf,
}

fn find_thread(name: &str) -> Result<Thread, PerfError> {
    let failed = PerfError::io("list the threads of this process");
    let tasks = std::fs::read_dir("/proc/self/task").map_err(failed)?;
    tasks
        .flatten()
        .map(|task| Thread { directory: task.path() })
        .find(|thread| {
            std::fs::read_to_string(thread.directory.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        })
        .ok_or_else(|| PerfError::NoThread { name: name.to_owned() })
}

impl Thread {
    /// Processor time since its start, from `schedstat`, which counts nanoseconds (proc(5); `stat`
    /// counts ticks of 10 ms).
    fn cpu_time(&self) -> Result<Duration, PerfError> {
        let text = std::fs::read_to_string(self.directory.join("schedstat"))
            .map_err(PerfError::io("read the scheduler's statistics of a thread"))?;
        let nanoseconds = text.split(' ').next().and_then(|field| field.parse().ok());
        nanoseconds.map(Duration::from_nanos).ok_or(PerfError::Io {
            what: "read the scheduler's statistics of a thread",
            source: std::io::ErrorKind::InvalidData.into(),
        })
    }
}
