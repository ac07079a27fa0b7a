//! The work of the archive: writes, verifies or reads one object, on the calling thread.
//!
//! Nothing here uses threads, and time comes from [`WorkerOptions::clock_us`], so the same code
//! runs in [`ThreadedArchive`](super::ThreadedArchive) and in a simulator.
//!
//! **Writing an object:** it is stored, then verified as [`VerifyPolicy`] says. If the name is
//! taken, an earlier try was cut off between its commit and its report. The existing object is read
//! whole with every check, and accepted if it holds this stretch with these entries. A damaged one
//! is deleted and stored again, once. One that is intact but holds something else is never touched:
//! an operator must decide.
//!
//! Blocks that the device could not read after the source's retries, and blocks that do not match
//! their entries, are stored with the rest and are in the object's list of damaged blocks. An
//! object of an earlier try that has fewer records than this job counts as damaged; one that has
//! more is better, and stays.
//!
//! **Costs:** one pass over the blocks (CRC32C, XXH64, zstd, BLAKE3 of the compressed bytes);
//! memory as for [`ObjectWriter`], plus one piece of the source.
//!
//! **Stopping:** [`StopFlag`] is checked between frames and before every call of the store.

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

/// Supplies the blocks of a stretch.
pub trait BlockSource {
    /// Passes `len_blocks` blocks from the device's block `block` on to `take`, in order, in pieces
    /// of whole blocks. Pieces that are multiples of a frame are compressed in place. A block that
    /// cannot be read is passed with arbitrary content and listed by [`lost`](Self::lost). Stops at
    /// the first error of `take`, and must be usable again after any error.
    ///
    /// # Errors
    /// [`SourceError::Device`] when no block can be read, or the error of `take`.
    fn read(
        &mut self,
        block: u64,
        len_blocks: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError>;

    /// The blocks of the last read that could not be read, counted from its first block, ascending.
    fn lost(&self) -> &[u64] {
        &[]
    }
}

/// Why a source stopped early.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The device cannot be read; its error.
    #[error("{0}")]
    Device(String),
    /// The receiver of the blocks failed.
    #[error(transparent)]
    Taker(#[from] ObjectError),
}

/// How an object is verified after it was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerifyPolicy {
    /// The store reports the object with the right length.
    Stat,
    /// The object's end is read back and must match what was written: one read, or two.
    Tail,
    /// The object is read back whole, with every check. Only this finds a byte that the store
    /// changed; afterwards the primary's copy may be overwritten.
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

/// Ends work early. Clones share one flag; it is never cleared.
#[derive(Debug, Clone, Default)]
pub struct StopFlag(Arc<AtomicBool>);

/// How the work is done.
#[derive(Clone)]
pub struct WorkerOptions {
    /// The compression level, used by the code that makes the compressor.
    pub level: i32,
    /// Content of a data frame: a power of two, 64 KiB to 1 MiB.
    pub frame_bytes: u32,
    /// How an object is verified.
    pub verify: VerifyPolicy,
    /// A clock that never decreases, in microseconds from an arbitrary start.
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
    /// Requests the end.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether the end was requested.
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

/// Stores a stretch and verifies it. See the module's documentation.
///
/// # Errors
/// [`ArchiveError`]. After `Damaged` the object may be in the store; the next try finds it and
/// stores it again.
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

/// The header and the entries of an object, read from its front alone.
///
/// # Errors
/// [`ArchiveError::Damaged`], also when it is the object of another stretch, or lacks records
/// without recording the hole; [`ArchiveError::Store`].
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

/// The frame of an object that contains the block at `lsn`. The object's seek table is taken from
/// `tables`, or added there.
///
/// # Errors
/// [`ArchiveError::Damaged`], also when it is the object of another stretch;
/// [`ArchiveError::Store`], also for a position outside the object.
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
                // Read the object itself: it may have been stored again, or be gone.
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

/// The frame that contains the block at `lsn`, which must be in the object.
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

/// An identity as text for messages.
fn spell(id: &ObjectId) -> String {
    id.name().map_or_else(|_| format!("{id:?}"), |name| name.to_string())
}

/// Whether every record of `part` is also in `all`; both are in the order of the log.
fn is_part_of(part: &[TrailerUnit], all: &[TrailerUnit]) -> bool {
    let (part, all) = (SegmentEntries::new(part.to_vec()), SegmentEntries::new(all.to_vec()));
    let mut all = all.records();
    part.records().all(|record| all.any(|known| known == record))
}

/// An object in a store that is not read any more after the end was requested.
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

/// What is stored and verified.
struct Done {
    object_bytes: u64,
    bad_blocks: u64,
}

impl Work<'_> {
    /// Stores and verifies; `None` when the name is taken.
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

    /// The blocks that do not match their entries, and those that the device could not read.
    fn damaged(&self, check: DataCheck<'_>, lost: &[u64]) -> Vec<Lsn> {
        let mut damaged = check.into_damaged();
        if !lost.is_empty() {
            damaged.extend(lost.iter().map(|&block| self.job.id.from_lsn.plus(block)));
            damaged.sort_unstable();
            damaged.dedup();
        }
        damaged
    }

    /// Checks whether the store has what was written.
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

    /// Handles the object that has the name already: `None` when the name is free again.
    fn accept_existing(&self) -> Result<Option<Done>, ArchiveError> {
        let object = match Watched::open(self.store, &self.name, self.options) {
            Ok(object) => object,
            Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failure::of_store(error)),
        };
        match self.check_existing(&object) {
            Ok(done) => {
                // The process that stored it may have died before it was stable, and the pool may
                // overwrite its copy after this report.
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
            // The writer counts the blocks that the source supplies.
            ObjectError::Count { .. } | ObjectError::NotBlocks(_) => self.source_failed(error.to_string()),
            error => failure::of_object(self.store, &self.name, error),
        }
    }

    fn source_failed(&self, reason: String) -> ArchiveError {
        ArchiveError::Source { sequence: self.job.id.sequence.0, reason }
    }

    /// The object that was just committed cannot be found.
    fn lost(&self, error: StoreError) -> ArchiveError {
        if error.kind == StoreErrorKind::NotFound {
            let reason = "it was committed and is not there".to_owned();
            return failure::damaged(self.store, &self.name, reason);
        }
        failure::of_store(error)
    }

    /// The name was free for a moment, and is taken again: the next try checks the existing object.
    fn taken_again(&self) -> ArchiveError {
        let error = StoreError::new(self.store.label(), "put", StoreErrorKind::Exists).of(&self.name);
        failure::of_store(error)
    }
}
