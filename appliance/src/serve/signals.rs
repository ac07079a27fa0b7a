//! Handles signals at once, whatever the appliance is doing.
//!
//! **States:** starting → serving → stopping. While the appliance starts (which may take long: a
//! large pool, a slow archive), a signal ends the process as a kill would. Every start is made for
//! that: the next one completes what was not complete, or begins it again. While the appliance
//! serves, a signal requests a clean stop. A second signal during the stop ends the process.
//!
//! **Exit status:** 0 after a stop before it served and after a clean stop; 128 plus the signal's
//! number after a second signal, and after a recovery was stopped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

/// What to do before a signal ends the process during the start; returns the exit status.
type OnStop = Box<dyn FnMut(i32) -> i32 + Send>;

enum Phase {
    Starting(OnStop),
    Serving,
    Stopping(i32),
}

/// The signals of this process, handled by a separate thread.
pub(super) struct StopSignals {
    phase: Arc<Mutex<Phase>>,
}

impl StopSignals {
    /// Takes the signals from now on. During the start, a signal runs `on_stop` and ends the
    /// process with the status that it returns.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn take(on_stop: impl FnMut(i32) -> i32 + Send + 'static) -> std::io::Result<Self> {
        let phase = Arc::new(Mutex::new(Phase::Starting(Box::new(on_stop))));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let shared = Arc::clone(&phase);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                // Held until the process ends: the phase cannot change from starting to serving any
                // more.
                let mut phase = lock(&shared);
                match &mut *phase {
                    Phase::Starting(on_stop) => std::process::exit(on_stop(signal)),
                    Phase::Serving => *phase = Phase::Stopping(signal),
                    Phase::Stopping(_) => std::process::exit(128 + signal),
                }
            }
        })?;
        Ok(StopSignals { phase })
    }

    /// Ends the starting phase.
    pub(super) fn serving(&self) {
        *lock(&self.phase) = Phase::Serving;
    }

    /// The signal that requested a stop.
    pub(super) fn asked(&self) -> Option<i32> {
        match *lock(&self.phase) {
            Phase::Stopping(signal) => Some(signal),
            _ => None,
        }
    }
}

/// A signal's name.
pub(super) fn name(signal: i32) -> &'static str {
    signal_name(signal).unwrap_or("a signal")
}

fn lock(phase: &Mutex<Phase>) -> MutexGuard<'_, Phase> {
    phase.lock().unwrap_or_else(PoisonError::into_inner)
}
