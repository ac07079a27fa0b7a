//! Creating a log on a blank device, and finding it again after a stop of any kind.
//!
//! **What is read:** both superblocks; the header and the trailer's head of every slot; then, for segments without a trailer (at most the last two after a crash), their
//! records one by one. Entries are read later, newest first, by whoever builds indexes.
//!
//! **Where the log ends.** Segments are walked in order of their sequence. A segment belongs to the log if its header continues where the one before it ended and
//! its epoch is not older. The log ends at the first record or segment that is not there, unless something proves that it had been stable: then it is
//! damage, reported as a lost range, and the walk goes on. So a torn tail is cut, a damaged middle is not.
//!
//! **What stands twice.** What a segment's header says stands again in the segment's first record,
//! and its entries stand in its records and in its trailer. Superblocks tell where the log ended at
//! the last start: all before that is stable, and no record of an earlier session behind it is of
//! the log.
//!
//! **What a recovery writes:** segment headers that were damaged, and a flush; a superblock with the next epoch, and a flush, before anything is
//! appended. A crash in between leaves the other
//! superblock; running recovery again finds the same log.

mod session;
mod superblocks;
mod tail_search;
mod walk;

use std::collections::BTreeSet;
use std::task::Poll;

use smallvec::smallvec;
use uuid::Uuid;

use session::Session;
use superblocks::write_superblock;
pub use superblocks::{is_blank, read_superblock, read_superblocks, write_shape};
use walk::{Walk, find_segments};

use crate::bdev::{BdevError, BdevErrorKind, SharedBdev};
use crate::dma::{BLOCK_BYTES, DmaError};
use crate::log::environment::Environment;
use crate::log::format::{FORMAT_VERSION, SegmentHeader, Superblock, TrailerUnit};
use crate::log::geometry::Geometry;
use crate::log::reader::{LsnRange, ReadError, SegmentReader};
use crate::log::table::SegmentTable;
use crate::log::types::{Lsn, SegmentSeq, Slot};
use crate::log::writer::{Beginning, Log, LogStart, Opening, SharedLog};

/// Slots looked at together.
const SLOTS_AT_ONCE: usize = 64;

/// Why a log could not be created, found or closed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The device failed.
    #[error("{0}")]
    Device(#[from] BdevError),
    /// A segment could not be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// No memory.
    #[error("{0}")]
    Memory(#[from] DmaError),
    /// The device holds something that is not a varve pool.
    #[error(
        "{device} is not empty and holds no varve pool; nothing was changed. Name an empty file or device, or clear this one first"
    )]
    NotBlank {
        /// The device.
        device: String,
    },
    /// The device is too small.
    #[error(
        "{device} has {len_blocks} blocks of 4 KiB; with segments of {segment_blocks} blocks a pool needs at least {needed_blocks}"
    )]
    TooSmall {
        /// The device.
        device: String,
        /// Its size.
        len_blocks: u64,
        /// The segment size.
        segment_blocks: u64,
        /// The least size.
        needed_blocks: u64,
    },
    /// The segment size is not allowed.
    #[error(
        "a segment of {segment_blocks} blocks is not possible: it must be a power of two from 256 to 262144 (1 MiB to 1 GiB)"
    )]
    SegmentSize {
        /// The segment size asked for.
        segment_blocks: u64,
    },
    /// A segment holds an entry that this build does not know.
    #[error(
        "segment {sequence} holds an entry of a kind or with a flag that this build does not know ({entry}); the pool, of format version {version}, was written by a later version of varve: open it with that one. Nothing was changed"
    )]
    UnknownEntry {
        /// The segment.
        sequence: SegmentSeq,
        /// The entry.
        entry: String,
        /// The pool's format version.
        version: u32,
    },
    /// There is no pool on the device.
    #[error("{device} holds no varve pool: {reason}")]
    NoPool {
        /// The device.
        device: String,
        /// What is wrong with each superblock.
        reason: String,
    },
    /// The device is smaller than the pool on it.
    #[error(
        "{device} has shrunk: it has {len_blocks} blocks and the pool on it {pool_blocks}; nothing was changed"
    )]
    Shrunk {
        /// The device.
        device: String,
        /// Its size now.
        len_blocks: u64,
        /// The pool's size.
        pool_blocks: u64,
    },
    /// The log failed.
    #[error(
        "the log failed: {reason}; writes are refused. Check the device (dmesg), cure it and restart: everything acknowledged is in the log"
    )]
    Poisoned {
        /// The first failure.
        reason: String,
    },
}

/// How to create a log.
#[derive(Debug, Clone, Copy)]
pub struct CreateLog {
    /// Size of a segment in blocks.
    pub segment_blocks: u64,
    /// Working set in segments; `None`: all slots but the reserve.
    pub working_set: Option<u64>,
}

/// A log, found again.
pub struct Recovered {
    /// The log, ready to append.
    pub log: Log,
    /// What was found wrong, in words for the operator.
    pub problems: Vec<String>,
    /// Stretches that had been stable and whose entries are lost.
    pub lost: Vec<LsnRange>,
    /// Whether the last stop was clean.
    pub clean: bool,
}

/// Creates a log on a blank device.
///
/// # Errors
/// See [`LogError`]; nothing is written unless the device is blank and large enough.
pub async fn create(
    device: SharedBdev,
    environment: Environment,
    request: CreateLog,
) -> Result<Log, LogError> {
    let created_ns = environment.clock.wall_ns();
    let from = ContinueLog {
        pool: environment.random.uuid(),
        first: SegmentSeq(0),
        end_lsn: Lsn(0),
        epoch: 1,
        created_ns,
        last_time_ns: created_ns,
    };
    let log = begin_continuing(device.clone(), environment.clone(), request, from).await?;
    finish_continuing(&device, &environment, log.geometry(), from).await?;
    Ok(log)
}

/// The shape of a log on a blank device.
async fn fit_blank(
    device: &SharedBdev,
    environment: &Environment,
    request: CreateLog,
) -> Result<Geometry, LogError> {
    let info = device.info();
    let segment_blocks = request.segment_blocks;
    if !segment_blocks.is_power_of_two()
        || !(super::geometry::SEGMENT_BLOCKS_MIN..=super::geometry::SEGMENT_BLOCKS_MAX)
            .contains(&segment_blocks)
    {
        return Err(LogError::SegmentSize { segment_blocks });
    }
    let mut geometry = Geometry::fit(info.len_blocks, segment_blocks).ok_or_else(|| LogError::TooSmall {
        device: info.name.clone(),
        len_blocks: info.len_blocks,
        segment_blocks,
        needed_blocks: super::geometry::device_blocks_min(segment_blocks),
    })?;
    if let Some(working_set) = request.working_set {
        geometry.working_set = working_set.clamp(2, geometry.working_set);
    }
    if !is_blank(device, environment).await? {
        return Err(LogError::NotBlank { device: info.name });
    }
    Ok(geometry)
}

/// Where a log begins on a blank device: at its birth, or behind what is known of it from elsewhere.
#[derive(Debug, Clone, Copy)]
pub struct ContinueLog {
    /// The pool.
    pub pool: Uuid,
    /// Its first segment there.
    pub first: SegmentSeq,
    /// Where the log ended before.
    pub end_lsn: Lsn,
    /// An epoch that no record of the pool has had.
    pub epoch: u32,
    /// When the pool was created, ns since the Unix epoch.
    pub created_ns: u64,
    /// The time of its last record.
    pub last_time_ns: u64,
}

/// Begins a log again on a blank device, behind what is known of it from elsewhere. The device becomes a pool's only with [`finish_continuing`]: a crash before leaves it blank.
///
/// # Errors
/// As [`create`].
pub async fn begin_continuing(
    device: SharedBdev,
    environment: Environment,
    request: CreateLog,
    from: ContinueLog,
) -> Result<Log, LogError> {
    let geometry = fit_blank(&device, &environment, request).await?;
    Ok(Log::start(LogStart {
        device,
        version: FORMAT_VERSION,
        pool: from.pool,
        created_ns: from.created_ns,
        geometry,
        epoch: from.epoch,
        table: SegmentTable::new(from.first, (0..geometry.slots).map(Slot)),
        current: None,
        unsealed: Vec::new(),
        end_lsn: from.end_lsn,
        last_time_ns: from.last_time_ns,
        beginning: Beginning::Begun,
        environment,
    }))
}

/// Writes the superblocks of a log that was begun with [`begin_continuing`]. Its first segment must be stable.
///
/// # Errors
/// The device's; no memory.
pub async fn finish_continuing(
    device: &SharedBdev,
    environment: &Environment,
    geometry: Geometry,
    from: ContinueLog,
) -> Result<(), LogError> {
    let superblock = Superblock {
        version: FORMAT_VERSION,
        pool: from.pool,
        device_blocks: device.info().len_blocks,
        segment_blocks: geometry.segment_blocks,
        slots: geometry.slots,
        working_set: geometry.working_set,
        first_slot_block: geometry.first_slot_block,
        created_ns: from.created_ns,
        generation: 1,
        epoch: from.epoch,
        begun_lsn: Lsn(0),
    };
    // A crash in between leaves one valid superblock, and the pool is there or not.
    for generation in [1, 2] {
        write_superblock(device, environment, &Superblock { generation, ..superblock }).await?;
    }
    Ok(())
}

/// The log as it is found on a device; nothing was written to find it.
pub struct Survey {
    /// The superblock in force.
    pub superblock: Superblock,
    /// Whether the other copy is damaged.
    pub superblock_damaged: bool,
    /// The shape of the device.
    pub geometry: Geometry,
    /// The segments of the log, and the slots that are free.
    pub table: SegmentTable,
    /// The segments without a full trailer, with the units of their records, oldest first.
    pub pending: Vec<(SegmentSeq, Vec<TrailerUnit>)>,
    /// Where the log ends.
    pub end_lsn: Lsn,
    /// The newest time that was seen, ns since the Unix epoch.
    pub last_time_ns: u64,
    /// The newest epoch that was seen anywhere.
    pub newest_epoch: u32,
    /// Segment headers that are damaged, as they should be.
    pub repairs: Vec<(Slot, SegmentHeader)>,
    /// What is damaged, in words for the operator.
    pub problems: Vec<String>,
    /// What a stop of the power or of the process has cut off, in words for the operator. Nobody was promised that it would stay.
    pub notes: Vec<String>,
    /// Stretches whose entries are lost: they had been stable, or cannot be read.
    pub lost: Vec<LsnRange>,
    /// Slots that are not used because nobody knows what they hold: the device cannot read it.
    pub withheld: BTreeSet<Slot>,
    /// Whether the last stop was clean.
    pub clean: bool,
}

impl Survey {
    /// The segment that is not full yet, if there is one: where the log goes on.
    pub fn current(&self) -> Option<SegmentSeq> {
        let (newest, _) = self.table.iter().next_back()?;
        self.pending.last().map(|(sequence, _)| *sequence).filter(|&sequence| sequence == newest)
    }
}

/// Finds the log on a device; only reads.
///
/// # Errors
/// See [`LogError`]. Damage to segments is not an error: it is in [`Survey::problems`].
pub async fn survey(device: &SharedBdev, environment: &Environment) -> Result<Survey, LogError> {
    let (superblock, mut problems) = read_superblock(device, environment).await?;
    let superblock_damaged = !problems.is_empty();
    let geometry = Geometry::of(&superblock);
    let reader = SegmentReader::new(device.clone(), environment, geometry, superblock.pool);
    let mut slots = find_segments(&reader).await?;
    let mut walk = Walk {
        reader,
        version: superblock.version,
        geometry,
        table: SegmentTable::default(),
        stable_lsn: superblock.begun_lsn,
        end_lsn: Lsn(0),
        epoch: 0,
        last_time_ns: superblock.created_ns,
        session: superblock.epoch,
        begun_lsn: superblock.begun_lsn,
        oldest: SegmentSeq(0),
        released: std::collections::BTreeSet::new(),
        ends: std::collections::BTreeMap::new(),
        missing: Vec::new(),
        repairs: Vec::new(),
        pending: Vec::new(),
        clean: true,
        lost: Vec::new(),
        problems: Vec::new(),
        notes: Vec::new(),
    };
    walk.run(&mut slots.found).await?;
    let withheld = walk.withhold(&slots);
    let mut free: Vec<Slot> = (0..geometry.slots).map(Slot).collect();
    free.retain(|slot| !walk.table.iter().any(|(_, segment)| segment.slot == Some(*slot)));
    free.retain(|slot| !withheld.contains(slot));
    let mut table = SegmentTable::new(walk.table.oldest(), free);
    for (_, segment) in walk.table.iter() {
        table.push(segment.clone());
    }
    table.set_missing(walk.missing);
    problems.append(&mut walk.problems);
    let newest_epoch =
        slots.found.values().map(|candidate| candidate.epoch).max().unwrap_or(0).max(walk.epoch);
    Ok(Survey {
        superblock,
        superblock_damaged,
        geometry,
        table,
        pending: walk.pending,
        end_lsn: walk.end_lsn,
        last_time_ns: walk.last_time_ns,
        newest_epoch,
        repairs: walk.repairs,
        problems,
        notes: walk.notes,
        lost: walk.lost,
        withheld,
        clean: walk.clean,
    })
}

/// Finds the log on a device and makes it ready to append.
///
/// # Errors
/// See [`LogError`]. Damage to segments is not an error: it is in [`Recovered::problems`].
pub async fn recover(device: SharedBdev, environment: Environment) -> Result<Recovered, LogError> {
    let info = device.info();
    let (superblock, _) = read_superblock(&device, &environment).await?;
    if superblock.device_blocks > info.len_blocks {
        return Err(LogError::Shrunk {
            device: info.name,
            len_blocks: info.len_blocks,
            pool_blocks: superblock.device_blocks,
        });
    }
    let mut survey = survey(&device, &environment).await?;
    for (slot, header) in std::mem::take(&mut survey.repairs) {
        let mut block = environment.wait_for_memory(BLOCK_BYTES).await?;
        header.encode(survey.superblock.pool, block.as_mut_slice());
        if let Err(error) = device.write(survey.geometry.slot_block(slot), smallvec![block.freeze()]).await {
            let sequence = header.sequence;
            survey.problems.push(format!("segment {sequence}: its header cannot be written again: {error}"));
        }
    }
    let (epoch, beginning) = begin_session(&device, &environment, &mut survey).await;
    let current = survey.current().and_then(|_| survey.pending.pop());
    let log = Log::start(LogStart {
        device,
        environment,
        version: survey.superblock.version,
        pool: survey.superblock.pool,
        created_ns: survey.superblock.created_ns,
        geometry: survey.geometry,
        epoch,
        table: survey.table,
        current,
        unsealed: survey.pending,
        end_lsn: survey.end_lsn,
        last_time_ns: survey.last_time_ns,
        beginning,
    });
    survey.problems.append(&mut survey.notes);
    Ok(Recovered { log, problems: survey.problems, lost: survey.lost, clean: survey.clean })
}

/// Begins a session on the device; its epoch, and how far that came. What is there can be read whatever comes of it.
async fn begin_session(
    device: &SharedBdev,
    environment: &Environment,
    survey: &mut Survey,
) -> (u32, Beginning) {
    let failed = |error: LogError| Beginning::Failed(format!("the device takes no writes at start: {error}"));
    let session = match Session::plan(device, environment, survey).await {
        Ok(session) => session,
        Err(error) => return (survey.superblock.epoch, failed(error)),
    };
    let beginning = match session.clone().write().await {
        Ok(mut problems) => {
            survey.problems.append(&mut problems);
            Beginning::Begun
        }
        Err(LogError::Device(error)) if error.kind == BdevErrorKind::NoRoom => {
            let again = session.clone();
            Beginning::NoRoom(error, Opening::new(move || again.clone().write()))
        }
        Err(error) => failed(error),
    };
    (session.epoch(), beginning)
}

/// Writes what is open, waits for it, makes it stable, and leaves a partial trailer, so that the next start need not scan.
///
/// # Errors
/// [`LogError::Poisoned`] when the log has failed or fails now; the device's errors.
pub async fn close(log: &SharedLog) -> Result<(), LogError> {
    loop {
        {
            let mut log = log.borrow_mut();
            let head = log.head_lsn();
            log.close_up_to(head);
            log.request_stable(head);
        }
        let head = log.borrow().head_lsn();
        stable(log, head).await?;
        if log.borrow().is_quiet() {
            break;
        }
        crate::reactor::yield_now().await;
    }
    let (device, trailer) = {
        let log = log.borrow();
        (log.device().clone(), log.closing_trailer())
    };
    if let Some((mut block, buffers)) = trailer {
        for buffer in buffers {
            let len_blocks = (buffer.len() / BLOCK_BYTES) as u64;
            match device.write(block, smallvec![buffer]).await {
                // It only saves the next start a scan, and a part of it is none.
                Err(error) if error.kind == BdevErrorKind::NoRoom => break,
                result => result?,
            }
            block += len_blocks;
        }
    }
    device.flush().await?;
    Ok(())
}

/// Waits until everything before `lsn` is stable.
///
/// # Errors
/// [`LogError::Poisoned`].
pub async fn stable(log: &SharedLog, lsn: Lsn) -> Result<(), LogError> {
    log.borrow_mut().request_stable(lsn);
    std::future::poll_fn(|context| {
        let mut log = log.borrow_mut();
        if log.stable_lsn() >= lsn {
            return Poll::Ready(Ok(()));
        }
        if let Some(reason) = log.poisoned() {
            return Poll::Ready(Err(LogError::Poisoned { reason: reason.to_string() }));
        }
        log.add_waiter(context.waker().clone());
        Poll::Pending
    })
    .await
}
