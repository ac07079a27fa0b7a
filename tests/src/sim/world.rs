//! The clock and the randomness of a simulated world, and helpers that drive a pool in it by hand.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use uuid::Uuid;
use varve::archive::object::FRAME_BYTES_MIN;
use varve::archive::service::{InlineArchive, InlineOptions, WorkerOptions};
use varve::archive::store::Store;
use varve::bdev::{Bdev, SharedBdev};
use varve::dma::DmaPool;
use varve::log::{Clock, CreateLog, Environment, Random};
use varve::reactor::block_on;
use varve::volume::{
    AnchorPolicy, ArchivePolicy, IoCompletion, KnownObjects, Pool, PoolOptions, RecoverFrom, Request, Sink,
    Submitted, SynchTable, VolumeError, VolumeId,
};

use super::disk::{Crash, SimDisk};
use super::rng::Rng;
use super::shortage;
use super::store::DiskSource;

/// A clock that moves only on request, and may step back.
#[derive(Default)]
pub struct SimClock {
    now_ns: Cell<u64>,
    /// The same without steps back.
    spans_ns: Cell<u64>,
    /// How much each reading advances it.
    ns_per_look: Cell<u64>,
}

impl SimClock {
    /// Moves the clock by this many nanoseconds.
    pub fn advance(&self, nanoseconds: i64) {
        self.now_ns.set(self.now_ns.get().saturating_add_signed(nanoseconds));
        self.spans_ns.set(self.spans_ns.get().saturating_add_signed(nanoseconds.max(0)));
    }

    /// The time; this does not count as a reading.
    pub fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Makes each reading advance the clock by this much, so that every wait for a time ends.
    pub fn move_with_looks(&self, nanoseconds: u64) {
        self.ns_per_look.set(nanoseconds);
    }

    /// Moves the time of day, as its operator does; spans do not change.
    pub fn set_wall(&self, nanoseconds: i64) {
        self.now_ns.set(self.now_ns.get().saturating_add_signed(nanoseconds));
    }

    fn drift(&self) {
        self.now_ns.set(self.now_ns.get() + self.ns_per_look.get());
        self.spans_ns.set(self.spans_ns.get() + self.ns_per_look.get());
    }
}

impl Clock for SimClock {
    fn wall_ns(&self) -> u64 {
        self.drift();
        self.now_ns.get()
    }

    fn monotonic_ns(&self) -> u64 {
        self.drift();
        self.spans_ns.get()
    }
}

struct SimRandom(RefCell<Rng>);

impl Random for SimRandom {
    fn uuid(&self) -> Uuid {
        let mut rng = self.0.borrow_mut();
        Uuid::from_u64_pair(rng.next_u64(), rng.next_u64())
    }
}

/// The environment of a pool in the simulator.
pub struct World {
    /// The clock.
    pub clock: Rc<SimClock>,
    /// The interfaces that the pool gets.
    pub environment: Environment,
    /// How the pool is opened.
    pub options: PoolOptions,
    /// The archive's store, for a pool that has one.
    pub store: Option<Arc<dyn Store>>,
    /// How the pool uses it.
    pub policy: ArchivePolicy,
    seed: Cell<u64>,
}

impl World {
    /// A world for a seed; its clock starts 1 s after the epoch.
    pub fn new(seed: u64) -> Self {
        let clock = Rc::new(SimClock { now_ns: Cell::new(1_000_000_000), ..SimClock::default() });
        let random = Rc::new(SimRandom(RefCell::new(Rng::new(seed ^ 0x5eed))));
        let environment = Environment {
            dma: DmaPool::new(128 << 20),
            host_dma: DmaPool::new(128 << 20),
            ahead_dma: DmaPool::new(32 << 20),
            clock: Rc::<SimClock>::clone(&clock),
            random,
        };
        World {
            clock,
            environment,
            options: PoolOptions::default(),
            store: None,
            policy: ArchivePolicy {
                seal_interval_ns: 20_000_000,
                anchors: AnchorPolicy::Never,
                ..ArchivePolicy::default()
            },
            seed: Cell::new(seed),
        }
    }

    /// Attaches a pool's archive, if there is one, and lists its objects.
    ///
    /// # Panics
    /// When the store cannot be listed.
    pub fn attach(&self, pool: &Rc<Pool>, disk: &SimDisk) {
        let Some(store) = &self.store else { return };
        let known = (0..1000)
            .find_map(|_| KnownObjects::list(&**store, pool.info().uuid).ok())
            .expect("the store can be listed");
        self.attach_as(pool, store, disk, known);
    }

    /// Attaches an archive with these known objects to a pool.
    pub(super) fn attach_as(
        &self,
        pool: &Rc<Pool>,
        store: &Arc<dyn Store>,
        disk: &SimDisk,
        known: KnownObjects,
    ) {
        // Waiting for the archive takes time; without this the pool would never retry it.
        self.clock.ns_per_look.set(1_000_000);
        let service = self.service(store, disk);
        pool.attach_archive(Box::new(service), self.policy, known, SynchTable::default())
            .expect("it has none yet");
    }

    pub(super) fn service(&self, store: &Arc<dyn Store>, disk: &SimDisk) -> InlineArchive {
        self.seed.set(self.seed.get().wrapping_add(1));
        let mut rng = Rng::new(self.seed.get() ^ 0xa5c4);
        let options = InlineOptions {
            readers: 2,
            worker: WorkerOptions { level: 1, frame_bytes: FRAME_BYTES_MIN, ..WorkerOptions::default() },
            choose: Box::new(move |count| rng.below(count as u64) as usize),
            ..InlineOptions::default()
        };
        InlineArchive::new(Arc::clone(store), Box::new(DiskSource::new(disk.clone())), options)
            .expect("memory for a compressor")
    }

    /// Makes a pool on a blank disk from its archive alone, and closes it. Returns the recovery
    /// point.
    ///
    /// # Errors
    /// The pool's error.
    ///
    /// # Panics
    /// When the store cannot be listed, or the pool cannot be closed.
    pub fn recover(&self, pool: Uuid, disk: &SimDisk, segment_blocks: u64) -> Result<u64, VolumeError> {
        let store = self.store.as_ref().expect("an archive");
        let known =
            (0..1000).find_map(|_| KnownObjects::list(&**store, pool).ok()).expect("the store can be listed");
        let service = Box::new(self.service(store, disk));
        let device = SharedBdev::new(disk.open());
        let from = RecoverFrom::unowned(service, self.policy, known, pool);
        let request = CreateLog { segment_blocks, working_set: None };
        let (pool, report) = drive(
            &device.clone(),
            Pool::recover(device, self.environment.clone(), request, self.options, from),
        )?;
        wait(&pool, Rc::clone(&pool).close()).expect("a pool that was recovered can be closed");
        Ok(report.recovery_point_lsn)
    }

    /// Creates a pool on a blank device.
    ///
    /// # Errors
    /// The pool's error.
    pub fn create(&self, device: Box<dyn Bdev>, segment_blocks: u64) -> Result<Rc<Pool>, VolumeError> {
        let device = SharedBdev::new(device);
        let request = CreateLog { segment_blocks, working_set: None };
        drive(&device.clone(), Pool::create(device, self.environment.clone(), request, self.options))
    }

    /// Opens the pool on a device, and loads what its clones inherit.
    ///
    /// # Errors
    /// The pool's error.
    pub fn open(&self, device: Box<dyn Bdev>) -> Result<Rc<Pool>, VolumeError> {
        let pool = self.open_loading(device)?;
        wait(&pool, Rc::clone(&pool).load_inherited());
        Ok(pool)
    }

    /// Takes a pool; a blank one replaces it.
    ///
    /// # Panics
    /// When a blank disk does not become a pool.
    pub fn take(&self, pool: &mut Rc<Pool>) -> Rc<Pool> {
        let blank = self.create(SimDisk::new(4096, false, 0).open(), 256);
        std::mem::replace(pool, blank.expect("a blank disk becomes a pool"))
    }

    /// Drops a pool, crashes its disk, and opens it again; its clones are still loading.
    ///
    /// # Errors
    /// The pool's error.
    pub fn crash(&self, pool: &mut Rc<Pool>, disk: &SimDisk, crash: Crash) -> Result<(), VolumeError> {
        // The old pool is dropped first, with its device handle: this settles what is in flight.
        forget_background();
        drop(self.take(pool));
        disk.crash(crash);
        disk.die_after_writes(None);
        *pool = self.open_loading(disk.open())?;
        Ok(())
    }

    /// Opens the pool on a device; its clones are still loading.
    ///
    /// # Errors
    /// The pool's error.
    pub fn open_loading(&self, device: Box<dyn Bdev>) -> Result<Rc<Pool>, VolumeError> {
        let device = SharedBdev::new(device);
        drive(&device.clone(), Pool::open(device, self.environment.clone(), self.options))
    }

    /// Starts to open the pool on a disk and gives up when the disk stops answering. Returns
    /// whether it was opened.
    pub fn open_until_dead(&self, disk: &SimDisk) -> bool {
        let device = SharedBdev::new(disk.open());
        let mut future = pin!(Pool::open(device.clone(), self.environment.clone(), self.options));
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..TURNS_MAX {
            shortage::tick();
            match future.as_mut().poll(&mut context) {
                Poll::Ready(Ok(_)) => return true,
                Poll::Ready(Err(error)) => {
                    assert!(disk.is_dead(), "{error}");
                    return false;
                }
                Poll::Pending => {}
            }
            if device.queue().drive() == 0 && disk.is_dead() {
                return false;
            }
        }
        panic!("opening does not end");
    }
}

/// Every wait ends within this many turns, or the seed fails and reports what it waited for.
/// Waiting for a store that keeps failing takes the most.
pub const TURNS_MAX: u64 = 1_000_000;
/// A real device needs real time: after `TURNS_MAX` turns its thread gets this many more turns of 1
/// ms each.
const MORE_MS: u64 = 60_000;

/// Whether something that has taken this many turns may still end.
fn may_end(turns: u64) -> bool {
    if turns >= TURNS_MAX {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    turns < TURNS_MAX + MORE_MS
}

thread_local! {
    /// The maximum number of turns that anything took since the last query.
    static MOST_TURNS: Cell<u64> = const { Cell::new(0) };
}

/// The maximum number of turns that anything took since the last call.
pub fn take_most_turns() -> u64 {
    MOST_TURNS.replace(0)
}

/// Records how many turns something took.
pub fn note_turns(turns: u64) {
    MOST_TURNS.set(MOST_TURNS.get().max(turns));
}

/// Runs a future that makes a pool. This polls the device for it; the future polls the pool itself.
pub(super) fn drive<T: 'static, F: Future<Output = T> + 'static>(device: &SharedBdev, future: F) -> T {
    let device = device.clone();
    let mut turns = 0;
    block_on(future, move || {
        device.queue().drive();
        shortage::tick();
        turns += 1;
        assert!(may_end(turns), "it does not end: {}", std::any::type_name::<F>());
        note_turns(turns);
    })
}

/// Starts a future, turns the pool `turns` times and abandons both.
pub fn begin(pool: &Rc<Pool>, future: impl Future, turns: u64, then: impl FnOnce()) {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    let ready = future.as_mut().poll(&mut context).is_ready();
    then();
    for _ in 0..if ready { 0 } else { turns } {
        turn_alone(pool);
        if future.as_mut().poll(&mut context).is_ready() {
            break;
        }
    }
}

/// An operation has the pool to itself for this many turns; after that the background work runs
/// too, because the operation may wait for it.
const TURNS_ALONE: u32 = 10_000;

thread_local! {
    /// Background work, like the tasks of a reactor.
    static BACKGROUND: RefCell<Vec<Pin<Box<dyn Future<Output = ()>>>>> = const { RefCell::new(Vec::new()) };
}

/// Starts background work that runs whenever the pool is turned; it may hold the pool.
pub fn in_background(future: impl Future<Output = ()> + 'static) {
    BACKGROUND.with_borrow_mut(|background| background.push(Box::pin(future)));
}

/// Abandons all background work, as a crash does.
pub fn forget_background() {
    drop(BACKGROUND.take());
}

/// Whether there is no background work.
pub fn is_background_idle() -> bool {
    BACKGROUND.with_borrow(Vec::is_empty)
}

/// Runs one step of all background work.
pub fn poll_background() {
    let mut context = Context::from_waker(Waker::noop());
    let mut background = BACKGROUND.take();
    background.retain_mut(|future| future.as_mut().poll(&mut context).is_pending());
    BACKGROUND.with_borrow_mut(|now| now.splice(..0, background).for_each(drop));
}

/// Runs a turn of the pool.
pub fn turn_alone(pool: &Pool) {
    shortage::tick();
    pool.poll();
}

/// Runs a turn of the pool and of the background work.
pub fn turn(pool: &Pool) {
    turn_alone(pool);
    poll_background();
}

/// A request without its data.
fn describe(request: &Request<'_>) -> String {
    match request {
        Request::Write { block, .. } => format!("a write of block {block}"),
        Request::WriteReceived { block, data, .. } => {
            format!("a write of block {block}, {} bytes", data.len())
        }
        other => format!("{other:?}"),
    }
}

/// The state of a pool, for the message when something does not end.
pub fn story(pool: &Pool) -> String {
    format!("{:?} {:?} {:?} {:?}", pool.info().problems, pool.archive_status(), pool.stats(), pool.segments())
}

/// Runs a future of a pool, and polls the pool until it ends.
///
/// # Panics
/// When it does not end.
pub fn wait<T: 'static, F: Future<Output = T> + 'static>(pool: &Rc<Pool>, future: F) -> T {
    let pool = Rc::clone(pool);
    let mut turns = 0;
    block_on(future, move || {
        turn_alone(&pool);
        // Only after `TURNS_ALONE` turns: the model would take a change by the background work for
        // one of the future.
        turns += 1;
        if turns > u64::from(TURNS_ALONE) {
            poll_background();
        }
        note_turns(turns);
        assert!(may_end(turns), "it does not end: {}: {}", std::any::type_name::<F>(), story(&pool));
    })
}

/// Submits a request, and polls while the pool is busy.
///
/// # Panics
/// When that does not end.
pub fn submit(pool: &Pool, volume: VolumeId, request: &Request<'_>, tag: u64, sink: &Rc<Sink>) {
    for turns in (0..).take_while(|&turns| may_end(turns)) {
        if pool.submit(volume, request, tag, sink) == Submitted::Queued {
            note_turns(turns);
            finish_command(pool);
            return;
        }
        turn(pool);
    }
    panic!("the pool stays busy for {}: {}", describe(request), story(pool));
}

/// Turns the pool until the accepted command is complete, because the model has only whole
/// commands.
///
/// # Panics
/// When that does not end.
pub fn finish_command(pool: &Pool) {
    for turns in (0..).take_while(|&turns| may_end(turns)) {
        if !pool.is_in_the_middle() {
            note_turns(turns);
            return;
        }
        turn(pool);
    }
    panic!("a command that was taken stays in its middle: {}", story(pool));
}

/// Submits a request and waits for its end.
///
/// # Panics
/// When that does not end.
pub fn run(pool: &Pool, volume: VolumeId, request: &Request<'_>) -> IoCompletion {
    let sink = Sink::new();
    submit(pool, volume, request, 0, &sink);
    for turns in (0..).take_while(|&turns| may_end(turns)) {
        if let Some(completion) = sink.pop() {
            note_turns(turns);
            return completion;
        }
        turn(pool);
    }
    panic!("a request does not end: {}: {}", describe(request), story(pool));
}
