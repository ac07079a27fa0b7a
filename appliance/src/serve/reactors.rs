//! The reactors besides the pool's: pinned to their cores, asleep until they are given work.

use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use super::ServeError;
use crate::reactor::{IdlePolicy, Local, Reactor, ReactorConfig};
use crate::rpc::IdleReactor;

/// Their threads; they end when this is dropped.
#[derive(Default)]
pub(super) struct IdleReactors {
    running: Vec<(IdleReactor, JoinHandle<()>)>,
}

impl IdleReactors {
    /// Starts one on each of `cores`, named from `reactor1` on. They sleep whatever the idle policy
    /// of the pool's reactor is: polling without work would only heat the core.
    pub(super) fn start(cores: &[usize]) -> Result<Self, ServeError> {
        let mut reactors = IdleReactors::default();
        for (number, &core) in (1..).zip(cores) {
            let name = format!("reactor{number}");
            let config = ReactorConfig {
                name: name.clone(),
                core: Some(core),
                idle: IdlePolicy::default(),
                ..ReactorConfig::default()
            };
            let (sender, receiver) = mpsc::sync_channel(1);
            let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
                let mut reactor: Reactor<Local> = match Reactor::new(config) {
                    Ok(reactor) => reactor,
                    Err(error) => {
                        // The caller waits for this message.
                        let _ = sender.send(Err(error));
                        return;
                    }
                };
                reactor.pin();
                let _ = sender.send(Ok(reactor.handle()));
                let local = reactor.local();
                reactor.run(&local);
            });
            let thread = thread.map_err(ServeError::Reactor)?;
            let handle =
                receiver.recv().map_err(|_| ServeError::ThreadEnded)?.map_err(ServeError::Reactor)?;
            reactors.running.push((IdleReactor { name, core, started: Instant::now(), handle }, thread));
        }
        Ok(reactors)
    }

    /// The handles by which the command plane reaches them.
    pub(super) fn views(&self) -> Vec<IdleReactor> {
        self.running.iter().map(|(reactor, _)| reactor.clone()).collect()
    }
}

impl Drop for IdleReactors {
    fn drop(&mut self) {
        for (reactor, _) in &self.running {
            reactor.handle.stop();
        }
        for (reactor, thread) in self.running.drain(..) {
            if thread.join().is_err() {
                tracing::warn!(reactor = %reactor.name, "the reactor's thread ended with a panic");
            }
        }
    }
}
