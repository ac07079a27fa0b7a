//! Tests of the whole target, over loopback, with volumes in memory: with our own host, with raw
//! PDUs, and with garbage.

mod crowd;
mod data;
mod discovery;
mod ends;
mod fuzz;
mod lifecycle;
mod malformed;
mod manage;
mod shares;
mod turns;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::memory::{Behavior, MemoryStorage};
use super::{Target, TargetConfig};
use crate::dma::DmaPool;
use crate::nvmf::host::{ConnectOptions, Controller, Queue};
use crate::nvmf::nqn;
use crate::reactor::{Reactor, ReactorConfig, ReactorHandle};
use crate::volume::VolumeId;

/// The longest that anything in these tests may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Size of the volume "one", in blocks.
const BLOCKS: u64 = 4096;
/// Bytes of a block.
const BLOCK: usize = 4096;

/// State of the reactor's thread.
struct State {
    storage: Rc<MemoryStorage>,
    target: Target,
    dma: DmaPool,
}

/// A target on its own thread, with the volume "one" of 16 MiB and the read-only volume "fixed" of
/// 1 MiB.
struct Served {
    address: SocketAddr,
    handle: ReactorHandle<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    fn start() -> Self {
        Self::with_config(TargetConfig::default(), 64 << 20)
    }

    fn with_config(config: TargetConfig, dma_bytes: usize) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut reactor: Reactor<State> = Reactor::new(ReactorConfig::default()).expect("a reactor");
            let storage = MemoryStorage::new();
            storage.create("one", BLOCKS * BLOCK as u64, false);
            storage.create("fixed", 256 * BLOCK as u64, true);
            let dma = DmaPool::new(dma_bytes);
            let target =
                Target::new(reactor.local(), Rc::<MemoryStorage>::clone(&storage), dma.clone(), config);
            let address = target.listen("127.0.0.1:0".parse().expect("an address")).expect("a free port");
            let (receive, poll, send) = (target.clone(), Rc::clone(&storage), target.clone());
            reactor.local().add_poller(move || receive.poll_receive());
            reactor.local().add_poller(move || poll.poll());
            reactor.local().add_poller(move || send.poll_send());
            sender.send((address, reactor.handle())).expect("the test waits");
            reactor.run(&State { storage, target, dma });
        });
        let (address, handle) = receiver.recv_timeout(LIMIT).expect("the target starts");
        Served { address, handle, thread: Some(thread) }
    }

    /// Runs something on the target's reactor.
    fn with<T: Send + 'static>(&self, work: impl FnOnce(&State) -> T + Send + 'static) -> T {
        self.handle.call(LIMIT, move |state, reply| reply.send(work(state))).expect("the reactor turns")
    }

    fn behave(&self, behavior: Behavior) {
        self.with(move |state| state.storage.set_behavior(behavior));
    }

    fn volume(&self, name: &'static str) -> VolumeId {
        self.with(move |state| {
            use super::Storage;
            state.storage.find(name).expect("the volume").id
        })
    }

    fn connect(&self, options: ConnectOptions) -> Controller {
        Controller::connect(self.address, &nqn::of_volume("one"), options).expect("the target answers")
    }

    /// A controller and its first I/O queue, whose namespace is known.
    fn open(&self, options: ConnectOptions) -> (Controller, Queue) {
        let mut controller = self.connect(options);
        let namespace = controller.namespaces().expect("it lists").remove(0);
        let mut queue = controller.take_queues().remove(0);
        queue.set_geometry(namespace.geometry());
        (controller, queue)
    }

    /// Waits until a condition holds on the reactor.
    fn await_that(&self, what: &str, condition: impl Fn(&State) -> bool + Send + Clone + 'static) {
        let start = Instant::now();
        loop {
            let condition = condition.clone();
            if self.with(move |state| condition(state)) {
                return;
            }
            assert!(start.elapsed() < LIMIT, "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for the last connection to close, and checks that nothing is left.
    fn finish(self) {
        self.await_that("connections stay", |state| state.target.stats().connections == 0);
        self.behave(Behavior::default());
        self.await_that("memory is lost", |state| {
            state.dma.stats().in_use_bytes == 0
                && state.storage.dma_in_use_bytes() == 0
                && state.target.stats().staging_bytes == 0
                && state.target.stats().host_memory_bytes == 0
                && state.target.stats().waiting_for_memory == 0
        });
        let controllers =
            self.with(|state| state.target.subsystems().iter().map(|one| one.controllers).sum::<u64>());
        assert_eq!(controllers, 0);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the target's thread panicked");
        }
    }
}

/// Bytes that depend on their position and on the seed.
fn pattern(seed: u64, len_bytes: usize) -> Vec<u8> {
    (0..len_bytes as u64)
        .map(|at| (at.wrapping_mul(0x9E37_79B9).wrapping_add(seed * 31) >> 7) as u8)
        .collect()
}
