//! Runs blocking work off the reactor.

use std::time::Duration;

use crate::reactor::Local;
use crate::serve::ServeError;

/// How often the reactor first checks whether the work has ended; the interval doubles with each
/// check.
const LEARN_INTERVAL: Duration = Duration::from_millis(2);
/// The longest interval between two checks: a store may not answer for minutes.
const LEARN_INTERVAL_LAST: Duration = Duration::from_millis(50);

/// Runs blocking work on a thread of its own, while the reactor turns.
pub(in crate::serve) async fn off_reactor<T: Send + 'static>(
    local: &Local,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ServeError> {
    let thread = std::thread::Builder::new()
        .name("archive-start".to_owned())
        .spawn(work)
        .map_err(ServeError::Reactor)?;
    let mut interval = LEARN_INTERVAL;
    while !thread.is_finished() {
        local.sleep(interval).await;
        interval = (interval * 2).min(LEARN_INTERVAL_LAST);
    }
    thread.join().map_err(|_| ServeError::ThreadEnded)
}
