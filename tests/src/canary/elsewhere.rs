//! Adversaries would run on their own machines. Here they share the cores with the appliance, so
//! their threads get the lowest priority: the work that they cause in the appliance counts, and the
//! time that their own code takes on a core does not.

use rustix::process::nice;

/// The lowest priority.
const LOWEST: i32 = 19;

/// Runs an action in a thread of the lowest priority. Threads that it starts inherit it.
pub(super) fn run<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        super::joined(scope.spawn(|| {
            if let Err(error) = nice(LOWEST) {
                tracing::warn!(%error, "an adversary competes with the appliance for cores");
            }
            action()
        }))
    })
}
