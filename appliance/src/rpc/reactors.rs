//! The reactors as the command plane sees them: the one that owns the pool, and those that own none
//! yet.

use std::time::Duration;

use super::app::App;
use super::error::RpcError;
use super::idle::IdleReactor;
use super::method::Registry;
use crate::histogram::Histogram;
use crate::reactor::ReactorStats;

/// What a reactor reports about itself.
#[derive(Debug)]
pub struct ReactorReport {
    /// Its name.
    pub name: String,
    /// The core that it is pinned to, if it is.
    pub core: Option<usize>,
    /// How long it has run.
    pub elapsed: Duration,
    /// Its counters.
    pub stats: ReactorStats,
    /// The durations of the turns that did some work, in nanoseconds.
    pub turn_times: Histogram,
}

impl ReactorReport {
    fn of_app(app: &App) -> Self {
        ReactorReport {
            name: app.reactor_name().to_owned(),
            core: app.core(),
            elapsed: app.started().elapsed(),
            stats: app.local().stats(),
            turn_times: app.local().turn_times(),
        }
    }
}

impl Registry {
    /// Asks every reactor, the pool's first.
    pub(super) fn reactor_reports(&self, method: &str) -> Result<Vec<ReactorReport>, RpcError> {
        let first = self.on_reactor(method, |app| std::future::ready(Ok(ReactorReport::of_app(&app))))?;
        let idle = self.idle_reactors.iter().map(|reactor| {
            let IdleReactor { name, core, started, handle } = reactor.clone();
            let answer = handle.call(self.call_timeout(), move |local, reply| {
                reply.send(ReactorReport {
                    name,
                    core: Some(core),
                    elapsed: started.elapsed(),
                    stats: local.stats(),
                    turn_times: local.turn_times(),
                });
            });
            answer.map_err(|source| RpcError::NoAnswer { method: method.to_owned(), source })
        });
        std::iter::once(Ok(first)).chain(idle).collect()
    }
}
