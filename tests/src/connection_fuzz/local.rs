//! A target over volumes in memory, whose turns this thread executes: nothing happens outside these
//! turns.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use varve::dma::DmaPool;
use varve::nvmf::server::memory::{Behavior, MemoryStorage};
use varve::nvmf::server::{Target, TargetConfig};
use varve::reactor::{IdlePolicy, Reactor, ReactorConfig};

/// The volume of the fuzzed connections.
pub(super) const FUZZED: &str = "one";
/// The volume of the innocent host.
pub(super) const INNOCENT: &str = "two";
/// Blocks of each.
pub(super) const VOLUME_BLOCKS: u64 = 256;
/// The time limit of every wait.
const LIMIT: Duration = Duration::from_secs(5);

pub(super) struct Local {
    reactor: Reactor<()>,
    storage: Rc<MemoryStorage>,
    target: Target,
    dma: DmaPool,
    pub(super) address: SocketAddr,
}

impl Local {
    pub(super) fn new(behavior: Behavior) -> Self {
        let config = ReactorConfig { idle: IdlePolicy::Poll, ..ReactorConfig::default() };
        let reactor: Reactor<()> = Reactor::new(config).expect("a reactor");
        let storage = MemoryStorage::new();
        for name in [FUZZED, INNOCENT] {
            storage.create(name, VOLUME_BLOCKS * 4096, false);
        }
        storage.set_behavior(behavior);
        let dma = DmaPool::new(4 << 20);
        let config = TargetConfig {
            host_memory_bytes_max: 4 << 20,
            staging_bytes_per_connection_max: 512 << 10,
            output_bytes_max: 512 << 10,
            ..TargetConfig::default()
        };
        let target = Target::new(reactor.local(), Rc::<MemoryStorage>::clone(&storage), dma.clone(), config);
        let address = target.listen(([127, 0, 0, 1], 0).into()).expect("a free port");
        Local { reactor, storage, target, dma, address }
    }

    /// Executes one turn.
    pub(super) fn turn(&mut self) {
        self.reactor.turn(&());
        self.target.poll_receive();
        self.storage.poll();
        self.target.poll_send();
    }

    /// Executes turns until a condition holds; `look` checks it and also runs the hosts.
    ///
    /// # Panics
    /// When it does not hold within 5 s.
    pub(super) fn turn_until(&mut self, what: &str, mut look: impl FnMut(&Self) -> Result<(), String>) {
        let begin = Instant::now();
        loop {
            self.turn();
            let Err(missing) = look(self) else { return };
            let stats = self.target.stats();
            assert!(
                begin.elapsed() < LIMIT,
                "{what}: not within {LIMIT:?}: {missing}; {} connections, {} staging bytes, {:?}, queues {:?}",
                stats.connections,
                stats.staging_bytes,
                self.dma.stats(),
                self.target.queue_pairs()
            );
        }
    }

    /// Checks that nothing is held except `connections` connections of one controller; the error
    /// names what is held.
    pub(super) fn is_at_rest(&self, connections: u64) -> Result<(), String> {
        let stats = self.target.stats();
        let controllers = self.target.subsystems().iter().map(|one| one.controllers).sum::<u64>();
        let held = [
            ("connections", stats.connections, connections),
            ("controllers", controllers, u64::from(connections > 0)),
            ("staging bytes", stats.staging_bytes, 0),
            ("DMA bytes", self.dma.stats().in_use_bytes as u64, 0),
            ("DMA bytes of the storage", self.storage.dma_in_use_bytes() as u64, 0),
        ];
        match held.iter().find(|(_, found, expected)| found != expected) {
            None => Ok(()),
            Some((what, found, expected)) => Err(format!("{found} {what}, not {expected}")),
        }
    }
}
