//! Reads back the primary device: each block of the sealed segments, against the checksum of its
//! entry.
//!
//! **A bad block** is first read once more. If it is live and in the archive, it is copied forward
//! from there, as in copy-forward, and is good again from then on. If no index points to it any
//! longer, it is history, which is read from the archive as soon as the segment has left; until
//! then a host's read of it uses the archive's copy. If it is nowhere else, it is reported and left
//! as it is: its checksum shows that it is bad.
//!
//! **Bounds and costs:** [`BATCH_BLOCKS`] blocks at a time, and the caller pauses between batches;
//! a segment is pinned only while a batch of it is read.

use std::rc::Rc;

use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::checksum::crc32c;
use crate::log::format::EntryKind;
use crate::log::load::load_segment;
use crate::log::reader::{PlacedEntry, SegmentEntries};
use crate::log::{AppendClass, AppendError, BlockNumber, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::image::index::Mapping;
use crate::volume::pool::Pool;
use crate::volume::request::VolumeId;
use crate::volume::space::copies::{Source, read};
use crate::volume::space::scrubbed::PrimaryScrub;

/// How many blocks are read together.
pub const BATCH_BLOCKS: usize = 64;
/// How many turns a copy waits for room before the block is left to the next pass.
const TURNS_MAX: usize = 10_000;

/// The findings in one segment.
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

    /// A start number that differs from start to start, so that no segment is always the last one
    /// of a pass that a restart interrupts.
    pub fn scrub_begin(&self) -> u64 {
        self.log.borrow().environment().random.uuid().as_u128() as u64
    }

    /// The findings of the scrub since the start.
    pub fn primary_scrub(&self) -> PrimaryScrub {
        self.state.borrow().scrubbed.found()
    }

    /// Notes that a pass over all segments has ended.
    pub fn note_scrub_pass(&self) {
        let now_ns = self.log.borrow().now_ns();
        self.state.borrow_mut().scrubbed.note_pass(now_ns);
    }

    /// Reads a sealed segment back; `pause` is awaited after each batch. A segment that has left
    /// the device in the meantime is skipped.
    ///
    /// # Errors
    /// Its entries cannot be read; copy-forward and the archivist handle that.
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
        self.state.borrow_mut().scrubbed.note_segment();
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
        self.state.borrow_mut().scrubbed.note_blocks(sources.len() as u64);
        let Some(bad) = read_pinned(sources).await else { return Ok(false) };
        if bad.is_empty() {
            return Ok(true);
        }
        let Some(bad) = read_pinned(bad).await else { return Ok(false) };
        for source in bad {
            self.state.borrow_mut().scrubbed.note_bad();
            findings.bad += 1;
            match self.archived_block(sequence, source.lsn, source.crc).await {
                Ok(Some(data)) => self.repair(source, &data, findings).await?,
                // Another pass finds it again.
                Err(VolumeError::ArchiveAway { .. }) => {}
                Ok(None) | Err(_) => {
                    findings.lost += 1;
                    self.state.borrow_mut().scrubbed.note_lost();
                }
            }
        }
        Ok(true)
    }

    /// Copies a block forward from the archive for each volume that still has it.
    async fn repair(&self, source: Source, data: &[u8], findings: &mut Findings) -> Result<(), VolumeError> {
        let owners = self.state.borrow().volumes.owners_of(source.image, source.block, source.mapping());
        for image in owners {
            let source = Source { image, ..source };
            for _ in 0..TURNS_MAX {
                match self.append_repaired(source, data) {
                    Ok(true) => {
                        findings.repaired += 1;
                        self.state.borrow_mut().scrubbed.note_repaired();
                        break;
                    }
                    // It was written, or copied, in the meantime.
                    Ok(false) => break,
                    Err(AppendError::Busy) => yield_now().await,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Returns whether the repair was still needed, and is done.
    fn append_repaired(&self, source: Source, data: &[u8]) -> Result<bool, AppendError> {
        let mut state = self.state.borrow_mut();
        let mut log = self.log.borrow_mut();
        let owner: Option<VolumeId> = state.volumes.owner_of(source.image, source.block, source.mapping());
        let Some(volume) = owner else { return Ok(false) };
        if state.volumes.is_uncertain(volume, source.lsn) {
            return Ok(false);
        }
        let mut buffer = log.environment().dma.allocate(BLOCK_BYTES).map_err(|_| AppendError::Busy)?;
        buffer.as_mut_slice().copy_from_slice(data);
        debug_assert_eq!(crc32c(data), source.crc, "the archive's copy was checked");
        log.reserve(AppendClass::CopyAhead, 1, 1, false)?;
        let block = BlockNumber(source.block);
        let lsn = log.append_copied(source.image, block, buffer.freeze(), source.crc, source.origin, false);
        state.volumes.move_block(volume, source.block, Mapping::new(lsn, source.crc));
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
/// slightly more.
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
