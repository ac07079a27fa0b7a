//! A primary in a world where others may own its archive: how it starts, works, is copied, and is
//! recovered.

use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;

use uuid::Uuid;
use varve::archive::object::{ClaimId, ObjectId, pool_prefix};
use varve::archive::owner::{
    Chain, Claimant, Generation, HistoryId, Inheritance, OwnedStore, Recovered, Settled, read_chain,
};
use varve::archive::store::{PAGE_OBJECTS_MAX, Store, StoreError, StoreErrorKind};
use varve::bdev::SharedBdev;
use varve::dma::BLOCK_BYTES;
use varve::log::{CreateLog, Lsn, Recycling, SegmentSeq};
use varve::volume::{
    CreateVolume, IoError, KnownObjects, Ownership, Point, Pool, RecoverFrom, RecoveryReport, Request,
    VolumeError,
};

use crate::sim::checks::check_volume;
use crate::sim::disk::SimDisk;
use crate::sim::model::{Stamp, VolumeState, fill};
use crate::sim::rng::Rng;
use crate::sim::trouble::Excused;
use crate::sim::world::{World, drive, run, wait};

/// Blocks of the volume.
pub(super) const VOLUME_BLOCKS: u64 = 64;
/// Blocks of a segment.
const SEGMENT_BLOCKS: u64 = 256;
/// Segments of a primary.
const SEGMENTS: u64 = 9;
/// How many times a store that sometimes fails is asked.
const TRIES_MAX: u32 = 10_000;

/// A moment, and the volume's content then.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    /// The position.
    pub lsn: u64,
    /// The volume.
    pub state: VolumeState,
    /// Whether a later seal of the archive has succeeded.
    pub archived: bool,
}

/// A primary.
pub(super) struct Site {
    /// Its device.
    pub disk: SimDisk,
    /// Its pool, while it is open.
    pub pool: Option<Rc<Pool>>,
    /// The history of its log, oldest first.
    pub moments: Vec<Moment>,
    /// The volume's content.
    pub state: VolumeState,
    world: World,
    owned: Option<Arc<OwnedStore>>,
    /// Whether a write failed: it may exist after the next start, and the model does not know.
    pub(super) is_unsure: bool,
}

/// Why a site did not start.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The archive belongs to another owner.
    Conflict,
    /// It was overtaken while it started.
    Overtaken,
}

/// Calls a store until it answers.
pub(super) fn insist<T>(mut ask: impl FnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    for _ in 0..TRIES_MAX {
        match ask() {
            Err(error) if error.is_retryable() => {}
            result => return result,
        }
    }
    panic!("the store does not get well")
}

/// Who owns the archive.
pub(super) fn chain_of(store: &dyn Store, pool: Uuid) -> Chain {
    insist(|| read_chain(store, pool)).expect("it can be read")
}

/// The objects that count.
fn objects(store: &dyn Store, pool: Uuid, counts: impl Fn(&ObjectId) -> bool) -> Vec<ObjectId> {
    let all = insist(|| store.list(&pool_prefix(pool), None, PAGE_OBJECTS_MAX)).expect("it can be listed");
    let ids = all.objects.iter().filter_map(|object| ObjectId::parse(object.name.as_str()).ok());
    ids.filter(counts).collect()
}

fn new_disk(seed: u64) -> SimDisk {
    SimDisk::new(257 + SEGMENTS * SEGMENT_BLOCKS, false, seed)
}

fn new_world(seed: u64, rng: &mut Rng) -> World {
    let mut world = World::new(seed ^ rng.next_u64());
    world.options.recycling = Recycling::Archived;
    // A clock that is right, or days off in either direction.
    let days = [0, 0, 40, -3][rng.below(4) as usize];
    world.clock.advance(100 * 86_400 * 1_000_000_000);
    world.clock.set_wall(days * 86_400 * 1_000_000_000);
    world
}

impl Site {
    /// The first primary of a pool, which owns its archive.
    pub(super) fn create(seed: u64, store: &Arc<dyn Store>, rng: &mut Rng) -> Self {
        let world = new_world(seed, rng);
        let disk = new_disk(seed);
        let pool = world.create(disk.open(), SEGMENT_BLOCKS).expect("a pool");
        wait(&pool, Rc::clone(&pool).close()).expect("closed");
        drop(pool);
        let state = VolumeState { size_blocks: VOLUME_BLOCKS, ..VolumeState::default() };
        let mut site =
            Site { disk, pool: None, moments: Vec::new(), state, world, owned: None, is_unsure: false };
        site.start(store, false, rng).expect("nobody owns it");
        let pool = site.open();
        let size_bytes = VOLUME_BLOCKS * BLOCK_BYTES as u64;
        let request = CreateVolume { name: "v".to_owned(), size_bytes, uuid: None, thin: false };
        wait(&pool, Rc::clone(&pool).create_volume(request)).expect("a volume");
        site
    }

    /// The open pool.
    ///
    /// # Panics
    /// When it is not open.
    pub(super) fn open(&self) -> Rc<Pool> {
        Rc::clone(self.pool.as_ref().expect("it is open"))
    }

    /// A copy of the primary as it is now, not started.
    pub(super) fn copy(&self, seed: u64, rng: &mut Rng) -> Self {
        Site {
            disk: self.disk.fork(),
            pool: None,
            moments: self.moments.clone(),
            state: self.state.clone(),
            world: new_world(seed, rng),
            owned: None,
            is_unsure: self.is_unsure,
        }
    }

    /// As in a power failure: all acknowledged writes remain, because each batch ends with a flush.
    pub(super) fn crash(&mut self) {
        self.pool = None;
        self.owned = None;
    }

    /// Starts it as `varve serve` does.
    pub(super) fn start(&mut self, store: &Arc<dyn Store>, fork: bool, rng: &mut Rng) -> Result<(), Refusal> {
        self.crash();
        let days = [0, 0, 0, 30, -20][rng.below(5) as usize];
        self.world.clock.set_wall(days * 86_400 * 1_000_000_000);
        let pool = self.world.open_loading(self.disk.open()).expect("it opens");
        let uuid = pool.info().uuid;
        let ownership = pool.ownership();
        let claimant = Claimant {
            pool: uuid,
            history: ownership.history,
            claim: ownership.claim,
            next_claim: ownership.next_claim,
            head_lsn: Lsn(pool.stats().head_lsn),
            archived_lsn: pool.archived_below(),
        };
        let chain = chain_of(&**store, uuid);
        let settled = Inheritance::settle(&claimant, &chain, fork, |lineage| {
            let known = objects(&**store, uuid, |id| lineage.counts(id));
            let newest_lsn = known.iter().map(|id| id.to_lsn).max();
            Ok::<_, Infallible>((known, newest_lsn))
        });
        let Ok(settled) = settled;
        let Ok(Settled { inheritance, learned: known, is_fork }) = settled else {
            return Err(Refusal::Conflict);
        };
        if is_fork {
            // A fork takes over only those of its moments that are archived.
            let archived = claimant.archived_lsn.0;
            self.moments.iter_mut().for_each(|moment| moment.archived &= moment.lsn < archived);
        }
        let (claim, history) = (ClaimId(rng.next_u64().max(1)), inheritance.history);
        let announcing = Rc::clone(&pool);
        let held = inheritance.held;
        wait(&pool, async move { announcing.announce_claim(held, claim).await }).expect("it takes writes");
        if rng.one_in(10) {
            // It crashes before it has the archive.
            drop(pool);
            return self.start(store, fork, rng);
        }
        let head_lsn = Lsn(pool.stats().head_lsn);
        let generation = inheritance.generation(uuid, claim, head_lsn, known.iter().copied());
        let owned = Arc::new(OwnedStore::new(Arc::clone(store)));
        owned.claim(generation);
        match insist(|| owned.ensure_owner("claim")) {
            Ok(()) => {}
            Err(error) if error.kind == StoreErrorKind::Overtaken => return Err(Refusal::Overtaken),
            Err(error) => panic!("{error}"),
        }
        owned.finish_deletes();
        if rng.one_in(10) {
            // It crashes before it has recorded the claim.
            drop(pool);
            return self.start(store, fork, rng);
        }
        let noting = Rc::clone(&pool);
        wait(&pool, async move { noting.note_claim(history, claim).await }).expect("it takes writes");
        let mut objects = KnownObjects::default();
        objects.extend(known);
        self.world.attach_as(
            &pool,
            &(Arc::clone(&owned) as Arc<dyn Store>),
            &self.disk,
            objects.with_claim(claim),
        );
        wait(&pool, Rc::clone(&pool).load_archived_synchs(SegmentSeq(0))).expect("the store gets well");
        wait(&pool, Rc::clone(&pool).load_inherited());
        self.pool = Some(pool);
        self.owned = Some(owned);
        Ok(())
    }

    /// Writes 1 to 11 blocks, each with FUA. `false`: the pool refuses writes, permanently or for
    /// now.
    pub(super) fn write(&mut self, rng: &mut Rng) -> bool {
        let pool = self.open();
        let volume = pool.find_volume("v").expect("it is there").id;
        for _ in 0..=rng.below(11) {
            let (block, stamp): (u64, Stamp) = (rng.below(VOLUME_BLOCKS), rng.next_u64().max(1));
            let mut data = vec![0; BLOCK_BYTES];
            fill(stamp, block, &mut data);
            let request = Request::Write { block, data: &[&data], force_unit_access: true };
            match run(&pool, volume, &request).result {
                Ok(()) => drop(self.state.blocks.insert(block, stamp)),
                Err(IoError::WriteFault) => {
                    self.is_unsure = true;
                    return false;
                }
                Err(error) => panic!("a write failed: {error:?}"),
            }
            let (lsn, state) = (pool.stats().newest_point_lsn, self.state.clone());
            self.moments.push(Moment { lsn, state, archived: false });
        }
        true
    }

    /// Archives everything. `false`: it was overtaken.
    pub(super) fn seal(&mut self) -> bool {
        let pool = self.open();
        for _ in 0..TRIES_MAX {
            match wait(&pool, Rc::clone(&pool).seal_archive()) {
                Ok(_) => {
                    self.moments.iter_mut().for_each(|moment| moment.archived = true);
                    return true;
                }
                Err(_) if pool.has_failed() => return false,
                Err(VolumeError::Busy { .. }) => {}
                Err(error) => panic!("a seal failed: {error}"),
            }
        }
        panic!("a seal does not end: {:?}", pool.archive_status());
    }

    /// Compares the volume now and `of` random moments; returns how many moments were compared.
    pub(super) fn check(&self, seed: u64, of: usize, rng: &mut Rng) -> u64 {
        let pool = self.open();
        let volume = pool.find_volume("v").expect("it is there").id;
        check_volume(&pool, volume, &self.state, &Excused::default(), seed);
        let mut checked = 0;
        for _ in 0..of {
            if self.moments.is_empty() {
                break;
            }
            let moment = &self.moments[rng.below(self.moments.len() as u64) as usize];
            check_moment(&pool, moment, seed);
            checked += 1;
        }
        checked
    }

    /// Recovers the archive's owner's history, or another one, on a new device; does not start it.
    /// With `takes_over` it then owns the archive.
    pub(super) fn recover(
        seed: u64,
        store: &Arc<dyn Store>,
        pool: Uuid,
        history: Option<HistoryId>,
        takes_over: bool,
        rng: &mut Rng,
    ) -> (Self, RecoveryReport) {
        let world = new_world(seed, rng);
        let disk = new_disk(seed ^ 1);
        let chain = chain_of(&**store, pool);
        let recovered = Recovered::find(&chain, history).expect("it is there");
        let gone = recovered.tombstones.clone();
        let ids = objects(&**store, pool, |id| {
            recovered.lineage.counts(id) && !gone.contains(&id.name().expect("a name").to_string())
        });
        let (claim, new) =
            (ClaimId(rng.next_u64().max(1)), HistoryId(Uuid::from_u128(rng.next_u64().into())));
        let mut known = KnownObjects::default();
        known.extend(ids.iter().copied());
        let taking = Arc::clone(store);
        let take_over = move |cut_lsn: Lsn| {
            let inheritance = Inheritance::of_recovery(&chain, &recovered, cut_lsn, new);
            let generation: Generation = inheritance.generation(pool, claim, cut_lsn, ids.into_iter());
            let owned = OwnedStore::new(taking);
            owned.claim(generation);
            let taken = insist(|| owned.ensure_owner("claim"));
            taken.map_err(|error| VolumeError::Archive { reason: error.to_string() })
        };
        let service = world.service(store, &disk);
        let rehearsal = Ownership { rehearsal_lsn: Some(Lsn::MAX), ..Ownership::default() };
        let from = RecoverFrom {
            service: Box::new(service),
            policy: world.policy,
            known,
            pool,
            ownership: if takes_over { Ownership::of(new, claim) } else { rehearsal },
            take_over: takes_over.then(|| Box::new(take_over) as _),
            leaves_out_unreadable: false,
        };
        world.clock.move_with_looks(1_000_000);
        let device = SharedBdev::new(disk.open());
        let request = CreateLog { segment_blocks: SEGMENT_BLOCKS, working_set: None };
        let recovering =
            Pool::recover(device.clone(), world.environment.clone(), request, world.options, from);
        let (pool, report) = drive(&device, recovering).expect("it is recovered");
        let state = VolumeState { size_blocks: VOLUME_BLOCKS, ..VolumeState::default() };
        wait(&pool, Rc::clone(&pool).close()).expect("closed");
        (Site { disk, pool: None, moments: Vec::new(), state, world, owned: None, is_unsure: false }, report)
    }

    /// Starts a rehearsal of a history as `varve serve` does: it reads what the owner had at its
    /// recovery point.
    pub(super) fn start_rehearsal(&mut self, store: &Arc<dyn Store>, history: HistoryId) {
        let pool = self.world.open_loading(self.disk.open()).expect("it opens");
        let uuid = pool.info().uuid;
        let end_lsn = pool.ownership().rehearsal_lsn.expect("it is a rehearsal");
        let chain = chain_of(&**store, uuid);
        let lineage = Recovered::find(&chain, Some(history)).expect("it is there").lineage.cut(end_lsn);
        let owned = OwnedStore::new(Arc::clone(store));
        owned.read_only("a rehearsal");
        let mut known = KnownObjects::default();
        known.extend(objects(&**store, uuid, |id| lineage.counts(id)));
        self.world.attach_as(&pool, &(Arc::new(owned) as Arc<dyn Store>), &self.disk, known);
        wait(&pool, Rc::clone(&pool).load_inherited());
        self.pool = Some(pool);
    }
}

/// Checks that a moment opens with its old content.
pub(super) fn check_moment(pool: &Rc<Pool>, moment: &Moment, seed: u64) {
    if pool.find_volume("then").is_some() {
        // The recovery point is in the middle of an earlier check.
        wait(pool, Rc::clone(pool).delete_volume("then".to_owned())).expect("it goes");
    }
    let clone = Rc::clone(pool).clone_volume("v".to_owned(), Point::Lsn(moment.lsn), "then".to_owned(), true);
    let clone = wait(pool, clone)
        .unwrap_or_else(|error| panic!("seed {seed}: LSN {} does not open: {error}", moment.lsn));
    check_volume(pool, clone.volume.id, &moment.state, &Excused::default(), seed);
    wait(pool, Rc::clone(pool).delete_volume("then".to_owned())).expect("it goes");
}
