//! Signals: at once, whatever the appliance does.
//!
//! **States:** starting → serving → stopping. While it starts (which may take long: a large pool, a slow archive) a signal ends the process, as a kill would, which every start is made for:
//! what was not complete is finished or begun anew by the next one. While it serves, a signal asks for a clean stop. A second one during that ends the process.
//!
//! **Exit status:** 0 when it was stopped before it served and after a clean stop; 128 and the signal's number when a second signal ended it, and when a recovery was stopped.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::signal_name;

/// What to do before a signal ends the process while it starts; its exit status.
type OnStop = Box<dyn FnMut(i32) -> i32 + Send>;

enum Phase {
    Starting(OnStop),
    Serving,
    Stopping(i32),
}

/// The signals of this process, taken by a thread of their own.
pub(super) struct StopSignals {
    phase: Arc<Mutex<Phase>>,
}

impl StopSignals {
    /// Takes the signals from here on. While the start lasts, one has `on_stop` run and the process end with the status that it gives.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn take(on_stop: impl FnMut(i32) -> i32 + Send + 'static) -> std::io::Result<Self> {
        let phase = Arc::new(Mutex::new(Phase::Starting(Box::new(on_stop))));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let shared = Arc::clone(&phase);
        std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                // Held to the end of the process: nothing goes from starting to serving any more.
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

    /// The start is over.
    pub(super) fn serving(&self) {
        *lock(&self.phase) = Phase::Serving;
    }

    /// The signal that asked for a stop.
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
