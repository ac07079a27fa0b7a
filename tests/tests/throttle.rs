//! Gradual back-pressure, in simulated time: hosts that write faster than the archivist archives
//! slow down to its rate before the primary is full.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use varve::archive::service::{
    ArchiveReply, ArchiveService, InlineArchive, InlineOptions, VerifyPolicy, WorkerOptions,
};
use varve::archive::store::Store;
use varve::dma::BLOCK_BYTES;
use varve::log::{Clock, Recycling};
use varve::volume::{
    ArchivePolicy, BackPressure, CreateVolume, KnownObjects, Pool, PoolOptions, Request, Sink, Submitted,
    SynchTable, VolumeId,
};
use varve_tests::sim::disk::SimDisk;
use varve_tests::sim::store::{DiskSource, MemoryStore};
use varve_tests::sim::world::{SimClock, World, wait};

const SEGMENT_BLOCKS: u64 = 256;
const SLOTS: u64 = 24;
/// The duration of a turn; a host could write one block in each.
const TURN_NS: u64 = 20_000;
/// The archivist's time for one block.
const ARCHIVE_NS_PER_BLOCK: u64 = 100_000;

/// A slow archivist: replies to jobs arrive at the times of the simulated clock.
struct SlowArchive {
    inner: InlineArchive,
    clock: Rc<SimClock>,
    free_ns: u64,
    done: VecDeque<(u64, ArchiveReply)>,
}

impl ArchiveService for SlowArchive {
    fn submit(
        &mut self,
        request: varve::archive::service::ArchiveRequest,
    ) -> Result<(), varve::archive::service::ArchiveRequest> {
        self.inner.submit(request)
    }

    fn poll(&mut self, replies: &mut Vec<ArchiveReply>) -> usize {
        let before = replies.len();
        let now_ns = self.clock.wall_ns();
        let mut came = Vec::new();
        self.inner.poll(&mut came);
        for reply in came {
            match &reply {
                ArchiveReply::Archived { result: Ok(archived), .. } => {
                    let blocks = archived.content_bytes / BLOCK_BYTES as u64;
                    self.free_ns = self.free_ns.max(now_ns) + blocks * ARCHIVE_NS_PER_BLOCK;
                    self.done.push_back((self.free_ns, reply));
                }
                _ => replies.push(reply),
            }
        }
        while self.done.front().is_some_and(|(due_ns, _)| *due_ns <= now_ns) {
            replies.extend(self.done.pop_front().map(|(_, reply)| reply));
        }
        replies.len() - before
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.inner.store()
    }

    fn verify(&self) -> VerifyPolicy {
        self.inner.verify()
    }

    fn set_verify(&mut self, verify: VerifyPolicy) {
        self.inner.set_verify(verify);
    }
}

/// A pool with one volume and a slow archive.
fn pool(back_pressure: BackPressure) -> (World, Rc<Pool>, VolumeId) {
    let mut world = World::new(1);
    world.options = PoolOptions { recycling: Recycling::Archived, ..PoolOptions::default() };
    let disk = SimDisk::new(257 + SLOTS * SEGMENT_BLOCKS, false, 1);
    let pool = world.create(disk.open(), SEGMENT_BLOCKS).expect("a blank disk becomes a pool");
    let options = InlineOptions {
        worker: WorkerOptions {
            level: 1,
            frame_bytes: 64 << 10,
            verify: VerifyPolicy::Stat,
            ..WorkerOptions::default()
        },
        ..InlineOptions::default()
    };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    let inner = InlineArchive::new(store, Box::new(DiskSource::new(disk)), options).expect("a compressor");
    let clock = Rc::clone(&world.clock);
    let service = Box::new(SlowArchive { inner, clock, free_ns: 0, done: VecDeque::new() });
    let policy = ArchivePolicy { seal_interval_ns: 0, back_pressure, ..ArchivePolicy::default() };
    pool.attach_archive(service, policy, KnownObjects::default(), SynchTable::default())
        .expect("it has none yet");
    let request =
        CreateVolume { name: "v".to_owned(), size_bytes: 200 * BLOCK_BYTES as u64, uuid: None, thin: false };
    let volume = wait(&pool, Rc::clone(&pool).create_volume(request)).expect("there is room");
    (world, pool, volume.id)
}

/// Writes as fast as the pool accepts for `span_ns`; returns the number of accepted commands, and
/// the maximum number of segments that waited for the archive.
fn write_for(world: &World, pool: &Pool, volume: VolumeId, span_ns: u64) -> (u64, u64) {
    let sink = Sink::new();
    let data = [7; BLOCK_BYTES];
    let (mut written, mut backlog) = (0, 0);
    for _ in 0..span_ns / TURN_NS {
        let request = Request::Write { block: written % 200, data: &[&data], force_unit_access: false };
        written += u64::from(pool.submit(volume, &request, written, &sink) == Submitted::Queued);
        pool.poll();
        while let Some(completion) = sink.pop() {
            completion.result.expect("no write is refused");
        }
        world.clock.advance(TURN_NS as i64);
        backlog = backlog.max(pool.archive_status().expect("an archive").backlog_segments);
    }
    (written, backlog)
}

#[test]
fn hosts_come_down_to_the_archivists_rate_before_the_primary_is_full() {
    let (world, pool, volume) = pool(BackPressure::Throttle);
    // Nobody waits while there is space.
    let first_ns = SLOTS / 8 * SEGMENT_BLOCKS * TURN_NS;
    let (written, _) = write_for(&world, &pool, volume, first_ns);
    assert!(written > first_ns / TURN_NS * 9 / 10, "{written}");
    assert!(pool.archive_status().expect("an archive").throttled_ms_per_s < 1.0);
    // Long enough to fill the slots three times at the host's own rate.
    write_for(&world, &pool, volume, 3 * SLOTS * SEGMENT_BLOCKS * TURN_NS);
    // Longer than the 1 s over which the waiting is measured.
    let span_ns = 60 * SEGMENT_BLOCKS * ARCHIVE_NS_PER_BLOCK;
    // Record headers are archived as well, so this measures the log.
    let before = pool.stats().head_lsn;
    let (_, backlog) = write_for(&world, &pool, volume, span_ns);
    let ratio = (pool.stats().head_lsn - before) as f64 / (span_ns / ARCHIVE_NS_PER_BLOCK) as f64;
    assert!((0.8..1.1).contains(&ratio), "{ratio} of the archivist's rate");
    assert!(backlog > SLOTS / 2 && backlog < SLOTS - 2, "{backlog} of {SLOTS}");
    let status = pool.archive_status().expect("an archive");
    assert!(status.throttled_ms_per_s > 500.0, "{status:?}");
    assert_ne!(status.state, "refusing");
}

#[test]
fn a_policy_that_gives_history_up_does_not_slow_hosts_down() {
    let (world, pool, volume) = pool(BackPressure::Degrade);
    let span_ns = 4 * SLOTS * SEGMENT_BLOCKS * TURN_NS;
    let (written, _) = write_for(&world, &pool, volume, span_ns);
    assert!(written > span_ns / TURN_NS * 8 / 10, "{written}");
    let status = pool.archive_status().expect("an archive");
    assert!(status.throttled_ms_per_s < 1.0 && !status.gaps.is_empty(), "{status:?}");
}
