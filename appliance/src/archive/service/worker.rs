//! The work of the archive: one object is made, verified or read, on the calling thread.
//!
//! Nothing here knows threads, and time comes from [`WorkerOptions::clock_us`], so the same code runs behind [`ThreadedArchive`](super::ThreadedArchive) and in a simulator.
//!
//! **Making an object:** put, then verify by [`VerifyPolicy`]. When the name is taken, the object of an earlier try is there, which was cut off between its
//! commit and its report: it is read whole with every check, and accepted when it holds this stretch with these entries. If it is damaged it is deleted and put
//! again, once. One that is whole but holds something else is never touched: that is for a person to decide.
//!
//! What the device did not give, after the source has tried often enough, and what is not what its entry says is put with the rest and stands in the object's list of damaged blocks. An
//! object of an earlier try that knows fewer records than this job is damaged too; one that knows more is better, and stays.
//!
//! **Costs:** one pass over the blocks (CRC32C, XXH64, zstd, BLAKE3 of the compressed bytes); memory as of [`ObjectWriter`] and one piece of the source's.
//! **Stopping:** [`StopFlag`] is looked at between frames and before every call of the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::check::DataCheck;
use super::failure;
use super::{ArchiveError, ArchiveJob, Archived, ObjectBlocks, ObjectEntries, TablesCache};
use crate::archive::object::{
    Compressor, Decompressor, FRAME_BYTES_DEFAULT, LEVEL_DEFAULT, ObjectError, ObjectFront, ObjectId,
    ObjectReader, ObjectSpec, ObjectSummary, ObjectWriter, RangedRead, read_front,
};
use crate::archive::store::{Name, ObjectStat, Reason, Store, StoreError, StoreErrorKind, StoredObject};
use crate::dma::BLOCK_BYTES;
use crate::log::Lsn;
use crate::log::format::TrailerUnit;
use crate::log::reader::SegmentEntries;

/// Where the blocks of a stretch come from.
pub trait BlockSource {
    /// Gives `len_blocks` blocks from the device's block `block` on to `take`, in order, in pieces of whole blocks. Pieces that are multiples of a frame
    /// are compressed where they lie. A block that cannot be read is given as anything and told by [`lost`](Self::lost). Stops at the first error of `take`, and must be usable again after
    /// any error.
    ///
    /// # Errors
    /// [`SourceError::Device`] when nothing of it can be read, or that of `take`.
    fn read(
        &mut self,
        block: u64,
        len_blocks: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError>;

    /// The blocks of the last read that could not be read, counted from its first, ascending.
    fn lost(&self) -> &[u64] {
        &[]
    }
}

/// Why a source stopped before its end.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The device cannot be read; its words.
    #[error("{0}")]
    Device(String),
    /// Whoever took the blocks failed.
    #[error(transparent)]
    Taker(#[from] ObjectError),
}

/// How an object is verified after it was put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyPolicy {
    /// The store knows it, with the right length.
    Stat,
    /// Its end is read back, and says what was put: one read, or two.
    Tail,
    /// It is read back whole, with every check. Nothing less finds a byte that the store changed, and after it the primary's copy is given away.
    #[default]
    Digest,
}

impl std::fmt::Display for VerifyPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            VerifyPolicy::Stat => "stat",
            VerifyPolicy::Tail => "tail",
            VerifyPolicy::Digest => "digest",
        })
    }
}

/// Ends work early. Clones share one flag; it is never taken back.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

/// How the work is done.
#[derive(Clone)]
pub struct WorkerOptions {
    /// The compression level, for whoever makes the compressor.
    pub level: i32,
    /// Content of a data frame: a power of two, 64 KiB to 1 MiB.
    pub frame_bytes: u32,
    /// How an object is verified.
    pub verify: VerifyPolicy,
    /// A clock that never falls, in microseconds from any begin.
    pub clock_us: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Ends the work early.
    pub stop: StopFlag,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        let born = Instant::now();
        WorkerOptions {
            level: LEVEL_DEFAULT,
            frame_bytes: FRAME_BYTES_DEFAULT,
            verify: VerifyPolicy::default(),
            clock_us: Arc::new(move || born.elapsed().as_micros() as u64),
            stop: StopFlag::default(),
        }
    }
}

impl StopFlag {
    /// Asks for the end.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the end was asked for.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    pub(super) fn check(
        &self,
        store: &dyn Store,
        operation: &'static str,
        name: &Name,
    ) -> Result<(), StoreError> {
        if !self.is_set() {
            return Ok(());
        }
        let reason = Reason::Busy("the archive of this pool stops");
        Err(StoreError::new(store.label(), operation, StoreErrorKind::Unavailable(reason)).of(name))
    }
}

/// Puts a stretch into the store and verifies it. See the module's documentation.
///
/// # Errors
/// [`ArchiveError`]. After `Damaged` the object may be in the store; the next try finds it and puts it again.
pub fn archive(
    job: &ArchiveJob,
    source: &mut dyn BlockSource,
    store: &dyn Store,
    compressor: &mut Compressor,
    options: &WorkerOptions,
) -> Result<Archived, ArchiveError> {
    let started_us = (options.clock_us)();
    let work = Work { job, store, name: name_of(store, &job.id)?, options };
    let done = match work.put(source, compressor)? {
        Some(done) => done,
        None => match work.accept_existing()? {
            Some(done) => done,
            None => work.put(source, compressor)?.ok_or_else(|| work.taken_again())?,
        },
    };
    Ok(Archived {
        object_bytes: done.object_bytes,
        content_bytes: job.id.content_bytes(),
        bad_blocks: done.bad_blocks,
        elapsed_us: (options.clock_us)().saturating_sub(started_us),
    })
}

/// The header and the entries of an object, from its front alone.
///
/// # Errors
/// [`ArchiveError::Damaged`] also when it is the object of another stretch, or lacks records and does not say so; [`ArchiveError::Store`].
pub fn read_entries(
    store: &dyn Store,
    id: &ObjectId,
    codec: &mut Decompressor,
    options: &WorkerOptions,
) -> Result<ObjectEntries, ArchiveError> {
    let name = name_of(store, id)?;
    let object = Watched::open(store, &name, options).map_err(failure::of_store)?;
    let ObjectFront { header, units, holes } =
        read_front(&object, codec).map_err(|error| failure::of_object(store, &name, error))?;
    check_identity(store, &name, id, &header.id)?;
    Ok(ObjectEntries { header, units, holes })
}

/// The frame of an object that holds the block at `lsn`. The object's seek table is taken from `tables`, or kept there.
///
/// # Errors
/// [`ArchiveError::Damaged`] also when it is the object of another stretch; [`ArchiveError::Store`], also for a position outside of the object.
pub fn read_blocks(
    store: &dyn Store,
    id: &ObjectId,
    lsn: Lsn,
    codec: &mut Decompressor,
    tables: &TablesCache,
    options: &WorkerOptions,
) -> Result<ObjectBlocks, ArchiveError> {
    let name = name_of(store, id)?;
    let failed = |error| failure::of_object(store, &name, error);
    if !(id.from_lsn..id.to_lsn).contains(&lsn) {
        let (from_lsn, to_lsn) = (id.from_lsn, id.to_lsn);
        return Err(failed(ObjectError::NotHere { lsn, len_blocks: 1, from_lsn, to_lsn }));
    }
    if let Some(table) = tables.get(id) {
        let stat = ObjectStat { name: name.clone(), len_bytes: table.object_bytes() };
        let object = StoredObject::known(store, stat);
        let object = Watched { object, store, name: &name, stop: &options.stop };
        match read_frame(&ObjectReader::with_table(&object, table), lsn, codec) {
            Ok(blocks) => return Ok(blocks),
            Err(error) => {
                let error = failed(error);
                if matches!(error, ArchiveError::Store { retry: true, .. }) {
                    return Err(error);
                }
                // The object itself is looked at: it may have been put again, or be gone.
                tables.forget(id);
            }
        }
    }
    let object = Watched::open(store, &name, options).map_err(failure::of_store)?;
    let reader = ObjectReader::open(&object).map_err(failed)?;
    check_identity(store, &name, id, &reader.tail().id)?;
    let blocks = read_frame(&reader, lsn, codec).map_err(failed)?;
    tables.insert(Arc::clone(reader.table()));
    Ok(blocks)
}

/// The frame that holds the block at `lsn`, which is in the object.
fn read_frame(
    reader: &ObjectReader<'_, Watched<'_>>,
    lsn: Lsn,
    codec: &mut Decompressor,
) -> Result<ObjectBlocks, ObjectError> {
    let id = &reader.tail().id;
    let frame_blocks = u64::from(reader.tail().frame_bytes) / BLOCK_BYTES as u64;
    let index = (lsn.0 - id.from_lsn.0) / frame_blocks;
    let first_lsn = id.from_lsn.plus(index * frame_blocks);
    // The reader has checked that there are as many frames as the range needs.
    let content_bytes = reader.frames()[index as usize].content_bytes;
    let mut bytes = vec![0; content_bytes as usize];
    reader.read_with_damaged(first_lsn, &mut bytes, codec)?;
    let damaged = reader.table().damaged_in(first_lsn, (bytes.len() / BLOCK_BYTES) as u64).to_vec();
    Ok(ObjectBlocks { first_lsn, bytes, damaged })
}

pub(super) fn name_of(store: &dyn Store, id: &ObjectId) -> Result<Name, ArchiveError> {
    id.name().map_err(|error| failure::refused(store, error.to_string()))
}

fn check_identity(
    store: &dyn Store,
    name: &Name,
    asked: &ObjectId,
    found: &ObjectId,
) -> Result<(), ArchiveError> {
    if asked.is_same_stretch(found) {
        return Ok(());
    }
    Err(failure::damaged(store, name, format!("it holds another stretch: {}", spell(found))))
}

/// An identity for messages.
fn spell(id: &ObjectId) -> String {
    id.name().map_or_else(|_| format!("{id:?}"), |name| name.to_string())
}

/// Whether every record of `part` is one of `all`, where both are in the order of the log.
fn is_part_of(part: &[TrailerUnit], all: &[TrailerUnit]) -> bool {
    let (part, all) = (SegmentEntries::new(part.to_vec()), SegmentEntries::new(all.to_vec()));
    let mut all = all.records();
    part.records().all(|record| all.any(|known| known == record))
}

/// An object in a store that is no longer read once the end was asked for.
struct Watched<'a> {
    object: StoredObject<'a>,
    store: &'a dyn Store,
    name: &'a Name,
    stop: &'a StopFlag,
}

impl<'a> Watched<'a> {
    fn open(store: &'a dyn Store, name: &'a Name, options: &'a WorkerOptions) -> Result<Self, StoreError> {
        options.stop.check(store, "stat", name)?;
        Ok(Watched { object: StoredObject::open(store, name)?, store, name, stop: &options.stop })
    }
}

impl RangedRead for Watched<'_> {
    fn len_bytes(&self) -> Result<u64, StoreError> {
        self.object.len_bytes()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.stop.check(self.store, "get", self.name)?;
        self.object.read_at(offset, buffer)
    }
}

/// One job under way.
struct Work<'a> {
    job: &'a ArchiveJob,
    store: &'a dyn Store,
    name: Name,
    options: &'a WorkerOptions,
}

/// What is in the store and verified.
struct Done {
    object_bytes: u64,
    bad_blocks: u64,
}

impl Work<'_> {
    /// Puts and verifies; `None` when the name is taken.
    fn put(
        &self,
        source: &mut dyn BlockSource,
        compressor: &mut Compressor,
    ) -> Result<Option<Done>, ArchiveError> {
        let job = self.job;
        let spec = ObjectSpec {
            id: job.id,
            segment_blocks: job.segment_blocks,
            opened_ns: job.opened_ns,
            sealed_ns: job.sealed_ns,
            frame_bytes: self.options.frame_bytes,
        };
        self.check_stop("put")?;
        let mut put = match self.store.put_start(&self.name, spec.max_bytes(job.units.len())) {
            Ok(put) => put,
            Err(error) if error.kind == StoreErrorKind::Exists => return Ok(None),
            Err(error) => return Err(failure::of_store(error)),
        };
        let mut check = DataCheck::new(&job.units, job.id.from_lsn);
        let mut writer = ObjectWriter::begin(compressor, spec, &job.units, &job.holes, &mut *put)
            .map_err(|error| self.put_failed(error))?;
        source
            .read(job.device_block, job.id.len_blocks(), &mut |piece| {
                for frame in piece.chunks(self.options.frame_bytes as usize) {
                    self.options.stop.check(self.store, "put", &self.name)?;
                    check.take(frame);
                    writer.push(frame)?;
                }
                Ok(())
            })
            .map_err(|error| match error {
                SourceError::Device(reason) => self.source_failed(reason),
                SourceError::Taker(error) => self.put_failed(error),
            })?;
        let lost = source.lost();
        if !lost.is_empty() && !job.accept_lost {
            let reason = format!("{} of its blocks cannot be read", lost.len());
            return Err(self.source_failed(reason));
        }
        let damaged = self.damaged(check, lost);
        let summary = writer.finish(&damaged).map_err(|error| self.put_failed(error))?;
        self.check_stop("put")?;
        match put.commit() {
            Ok(_) => {}
            Err(error) if error.kind == StoreErrorKind::Exists => return Ok(None),
            Err(error) => return Err(failure::of_store(error)),
        }
        self.verify(&summary)?;
        Ok(Some(Done { object_bytes: summary.object_bytes, bad_blocks: damaged.len() as u64 }))
    }

    /// What is not what its entry says, and what the device did not give.
    fn damaged(&self, check: DataCheck<'_>, lost: &[u64]) -> Vec<Lsn> {
        let mut damaged = check.into_damaged();
        if !lost.is_empty() {
            damaged.extend(lost.iter().map(|&block| self.job.id.from_lsn.plus(block)));
            damaged.sort_unstable();
            damaged.dedup();
        }
        damaged
    }

    /// Finds out whether the store has what was put.
    fn verify(&self, summary: &ObjectSummary) -> Result<(), ArchiveError> {
        let object = Watched::open(self.store, &self.name, self.options).map_err(|error| self.lost(error))?;
        let len_bytes = object.len_bytes().map_err(|error| self.lost(error))?;
        if len_bytes != summary.object_bytes {
            let reason = format!("{} bytes were put, {len_bytes} are there", summary.object_bytes);
            return Err(failure::damaged(self.store, &self.name, reason));
        }
        if self.options.verify == VerifyPolicy::Stat {
            return Ok(());
        }
        let failed = |error| failure::of_object(self.store, &self.name, error);
        let reader = ObjectReader::open(&object).map_err(failed)?;
        check_identity(self.store, &self.name, &self.job.id, &reader.tail().id)?;
        if reader.tail().digest != summary.digest {
            let reason = "its digest is not that of what was put".to_owned();
            return Err(failure::damaged(self.store, &self.name, reason));
        }
        if self.options.verify == VerifyPolicy::Digest {
            let mut codec = Decompressor::new().map_err(failed)?;
            reader.verify(&mut codec, |_| {}).map_err(failed)?;
        }
        Ok(())
    }

    /// What to do with the object that has the name already: `None` when the name is free again.
    fn accept_existing(&self) -> Result<Option<Done>, ArchiveError> {
        let object = match Watched::open(self.store, &self.name, self.options) {
            Ok(object) => object,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failure::of_store(error)),
        };
        match self.check_existing(&object) {
            Ok(done) => {
                // The process that put it may have died before it was stable, and what it holds is given away on this word.
                self.store.make_durable(&self.name).map_err(failure::of_store)?;
                Ok(Some(done))
            }
            Err(ArchiveError::Damaged { store, object, reason }) => {
                tracing::warn!(
                    store,
                    object,
                    reason,
                    "a damaged object is replaced by the stretch on the device"
                );
                self.check_stop("delete")?;
                match self.store.delete(&self.name) {
                    Err(error) if error.kind != StoreErrorKind::NotFound => Err(failure::of_store(error)),
                    _ => Ok(None),
                }
            }
            Err(error) => Err(error),
        }
    }

    fn check_existing(&self, object: &Watched<'_>) -> Result<Done, ArchiveError> {
        let job = self.job;
        let failed = |error| failure::of_object(self.store, &self.name, error);
        let mut codec = Decompressor::new().map_err(failed)?;
        let reader = ObjectReader::open(object).map_err(failed)?;
        let mut check = DataCheck::new(&job.units, job.id.from_lsn);
        let front = reader.verify(&mut codec, |blocks| check.take(blocks)).map_err(failed)?;
        let ObjectFront { header, units, .. } = front;
        let is_ours = header.id.is_same_stretch(&job.id) && header.segment_blocks == job.segment_blocks;
        if is_ours && units != *job.units && is_part_of(&units, &job.units) {
            let reason = "it lacks records that are on the device".to_owned();
            return Err(failure::damaged(self.store, &self.name, reason));
        }
        if !is_ours || !is_part_of(&job.units, &units) {
            let reason = format!(
                "object {} exists, is whole, and holds something else ({}): look at it, and remove it if it may go",
                self.name,
                spell(&header.id)
            );
            return Err(failure::refused(self.store, reason));
        }
        if check.into_damaged().iter().any(|lsn| reader.table().damaged().binary_search(lsn).is_err()) {
            let reason = "it holds damaged blocks that it does not tell".to_owned();
            return Err(failure::damaged(self.store, &self.name, reason));
        }
        let object_bytes = object.len_bytes().map_err(failure::of_store)?;
        Ok(Done { object_bytes, bad_blocks: reader.table().damaged().len() as u64 })
    }

    fn check_stop(&self, operation: &'static str) -> Result<(), ArchiveError> {
        self.options.stop.check(self.store, operation, &self.name).map_err(failure::of_store)
    }

    /// A failure while the object was written.
    fn put_failed(&self, error: ObjectError) -> ArchiveError {
        match error {
            // The writer counts what the source gives.
            ObjectError::Count { .. } | ObjectError::NotBlocks(_) => self.source_failed(error.to_string()),
            error => failure::of_object(self.store, &self.name, error),
        }
    }

    fn source_failed(&self, reason: String) -> ArchiveError {
        ArchiveError::Source { sequence: self.job.id.sequence.0, reason }
    }

    /// A failure to find what was committed a moment ago.
    fn lost(&self, error: StoreError) -> ArchiveError {
        if error.kind == StoreErrorKind::NotFound {
            let reason = "it was committed and is not there".to_owned();
            return failure::damaged(self.store, &self.name, reason);
        }
        failure::of_store(error)
    }

    /// The name was free for a moment, and is taken again: the next try looks at what is there.
    fn taken_again(&self) -> ArchiveError {
        let error = StoreError::new(self.store.label(), "put", StoreErrorKind::Exists).of(&self.name);
        failure::of_store(error)
    }
}
