//! Reading back what the primary device keeps: each block of the sealed segments, against the
//! checksum of its entry.
//!
//! **What is bad** is read once more first. A live block that the archive has is copied forward
//! from there, as copy-forward does it: from then on it is good again. One that nobody points at
//! any more is history, which is read from the archive as soon as the segment has left; until then
//! a host's read of it takes the archive's copy. What is nowhere else is told, and stays as it is:
//! what it is worth, its checksum says.
//!
//! **Bounds and costs:** [`BATCH_BLOCKS`] blocks at a time, and whoever calls pauses between
//! batches; a segment is pinned only while a batch of it is read.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::copies::{Source, read};
use super::error::VolumeError;
use super::index::Mapping;
use super::pool::Pool;
use super::request::VolumeId;
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::checksum::crc32c;
use crate::log::format::EntryKind;
use crate::log::load::load_segment;
use crate::log::reader::{PlacedEntry, SegmentEntries};
use crate::log::{AppendClass, AppendError, BlockNumber, SegmentSeq};
use crate::reactor::yield_now;

/// Blocks that are read together.
pub const BATCH_BLOCKS: usize = 64;
/// How often room for a copy is waited for before the block is left to the next pass.
const TURNS_MAX: usize = 10_000;

/// What scrubbing the primary device has found since start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryScrub {
    /// Passes that were ended.
    pub passes: u64,
    /// When the last one ended, ns since the Unix epoch.
    pub last_pass_ns: Option<u64>,
    /// Segments that were read.
    pub segments: u64,
    /// Blocks that were read.
    pub blocks: u64,
    /// Blocks that could not be read, or did not have their checksum.
    pub bad_blocks: u64,
    /// Of these, those that were copied forward from the archive.
    pub repaired_blocks: u64,
    /// Of these, those that are nowhere else.
    pub lost_blocks: u64,
}

/// What was found in one segment.
#[derive(Default)]
struct Findings {
    bad: u64,
    repaired: u64,
    lost: u64,
}

impl Pool {
    /// The sealed segments on the primary device, oldest first.
    pub fn sealed_segments(&self) -> Vec<SegmentSeq> {
        let log = self.log.borrow();
        let sealed = log.table().iter().filter(|(_, segment)| segment.sealed && segment.slot.is_some());
        sealed.map(|(sequence, _)| sequence).collect()
    }

    /// Begins with a number that differs from start to start, so that no segment is always the last
    /// one of a pass that a restart cuts off.
    pub fn scrub_begin(&self) -> u64 {
        self.log.borrow().environment().random.uuid().as_u128() as u64
    }

    /// What scrubbing has found since start.
    pub fn primary_scrub(&self) -> PrimaryScrub {
        self.state.borrow().primary_scrub
    }

    /// A pass over all segments has ended.
    pub fn note_scrub_pass(&self) {
        let now_ns = self.log.borrow().now_ns();
        let mut state = self.state.borrow_mut();
        state.primary_scrub.passes += 1;
        state.primary_scrub.last_pass_ns = Some(now_ns);
    }

    /// Reads a sealed segment back; `pause` is awaited after each batch. One that has left the
    /// device meanwhile is none of its business any more.
    ///
    /// # Errors
    /// Its entries cannot be read, which copy-forward and the archivist deal with.
    pub async fn scrub_segment(
        self: Rc<Self>,
        sequence: SegmentSeq,
        pause: impl AsyncFn(),
    ) -> Result<(), VolumeError> {
        if !self.log.borrow_mut().pin(sequence) {
            return Ok(());
        }
        let loaded = load_segment(&self.log, sequence).await;
        self.log.borrow_mut().unpin(sequence);
        let entries = loaded?;
        let mut findings = Findings::default();
        let mut from = 0;
        while from < entries.len() {
            let sources = batch(&entries, &mut from);
            if !self.scrub_batch(sequence, sources, &mut findings).await? {
                break;
            }
            pause().await;
        }
        self.state.borrow_mut().primary_scrub.segments += 1;
        self.tell_findings(sequence, &findings);
        Ok(())
    }

    /// `false`: the segment is gone.
    async fn scrub_batch(
        &self,
        sequence: SegmentSeq,
        sources: Vec<Source>,
        findings: &mut Findings,
    ) -> Result<bool, VolumeError> {
        let read_pinned = async |sources: Vec<Source>| {
            if !self.log.borrow_mut().pin(sequence) {
                return None;
            }
            let batch = read(Rc::clone(&self.log), sources).await;
            self.log.borrow_mut().unpin(sequence);
            let is_bad = |(source, data): (Source, Option<DmaBuf>)| {
                (!data.is_some_and(|data| source.is_of(&data))).then_some(source)
            };
            Some(batch.into_iter().filter_map(is_bad).collect::<Vec<Source>>())
        };
        self.state.borrow_mut().primary_scrub.blocks += sources.len() as u64;
        let Some(bad) = read_pinned(sources).await else { return Ok(false) };
        if bad.is_empty() {
            return Ok(true);
        }
        let Some(bad) = read_pinned(bad).await else { return Ok(false) };
        for source in bad {
            self.state.borrow_mut().primary_scrub.bad_blocks += 1;
            findings.bad += 1;
            match self.archived_block(sequence, source.lsn, source.crc).await {
                Ok(Some(data)) => self.repair(source, &data, findings).await?,
                // Another pass finds it again.
                Err(VolumeError::ArchiveAway { .. }) => {}
                Ok(None) | Err(_) => {
                    findings.lost += 1;
                    self.state.borrow_mut().primary_scrub.lost_blocks += 1;
                }
            }
        }
        Ok(true)
    }

    /// Copies a block forward from the archive for each volume that still has it.
    async fn repair(&self, source: Source, data: &[u8], findings: &mut Findings) -> Result<(), VolumeError> {
        let owners = self.state.borrow().owners_of(source.image, source.block, source.mapping());
        for image in owners {
            let source = Source { image, ..source };
            for _ in 0..TURNS_MAX {
                match self.append_repaired(source, data) {
                    Ok(true) => {
                        findings.repaired += 1;
                        self.state.borrow_mut().primary_scrub.repaired_blocks += 1;
                        break;
                    }
                    // It was written, or copied, meanwhile.
                    Ok(false) => break,
                    Err(AppendError::Busy) => yield_now().await,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Whether it was still to be done, and is.
    fn append_repaired(&self, source: Source, data: &[u8]) -> Result<bool, AppendError> {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let owner: Option<VolumeId> = state.owner_of(source.image, source.block, source.mapping());
        let Some(volume) = owner else { return Ok(false) };
        if state.is_uncertain(volume, source.lsn) {
            return Ok(false);
        }
        let mut buffer = log.environment().dma.allocate(BLOCK_BYTES).map_err(|_| AppendError::Busy)?;
        buffer.as_mut_slice().copy_from_slice(data);
        debug_assert_eq!(crc32c(data), source.crc, "the archive's copy was checked");
        log.reserve(AppendClass::CopyAhead, 1, 1, false)?;
        let block = BlockNumber(source.block);
        let lsn = log.append_copied(source.image, block, buffer.freeze(), source.crc, source.origin, false);
        state.move_block(volume, source.block, Mapping::new(lsn, source.crc));
        log.note_dead(source.lsn);
        log.note_live(lsn);
        Ok(true)
    }

    fn tell_findings(&self, sequence: SegmentSeq, findings: &Findings) {
        if findings.bad == 0 {
            return;
        }
        let Findings { bad, repaired, lost } = findings;
        let rest = bad.saturating_sub(repaired + lost);
        let problem = format!(
            "{bad} of its blocks are damaged on the device, which a scrub found: {repaired} were copied forward from the archive, {rest} are not in use or in the archive still, {lost} are nowhere else. The device may be failing: replace it soon"
        );
        self.log.borrow_mut().note_problem(sequence, problem);
    }
}

/// The next blocks of a segment, from a record on: whole records, [`BATCH_BLOCKS`] blocks or
/// somewhat more.
fn batch(entries: &SegmentEntries, from: &mut usize) -> Vec<Source> {
    let mut sources = Vec::new();
    while *from < entries.len() && sources.len() < BATCH_BLOCKS {
        let (line, of_record) = entries.record(*from);
        let is_block = |placed: &PlacedEntry| {
            matches!(placed.entry.kind(), Some(EntryKind::Write | EntryKind::Copied))
                && !placed.entry.is_bad()
        };
        let placed = SegmentEntries::placed(line, of_record).filter(is_block);
        sources.extend(placed.map(|placed| Source::of_entry(&placed, placed.entry.image())));
        *from += 1;
    }
    sources
}
