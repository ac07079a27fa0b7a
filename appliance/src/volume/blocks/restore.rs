//! Writes the contents that a range of blocks had at a point again, as ordinary writes.
//!
//! Only blocks that differ are written; blocks that had no contents are discarded. A restore goes
//! through the segments of the point and writes what it finds there, neighbouring blocks in one
//! command of at most [`COMMAND_BLOCKS`] blocks, each of which is atomic. So the log holds the
//! restore as it holds every write: it can be undone by restoring the point before it. A restore
//! that ends early leaves some blocks old and some new; the same request goes on with the rest.

use std::ops::Range;
use std::rc::Rc;

use uuid::Uuid;

use super::diff::Side;
use super::history::check_range;
use super::images_then::Entries;
use super::info::{BlockRestoreInfo, BlockRestoreState, DiffKind, DiffRange};
use crate::dma::{BLOCK_BYTES, DmaBuf};
use crate::log::format::EntryKind;
use crate::log::reader::SegmentEntries;
use crate::log::{ImageId, Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::history::past::{Nowhere, ScanReport};
use crate::volume::history::point::NamedPoint;
use crate::volume::image::free::free;
use crate::volume::image::index::{Index, IndexBuilder, Mapping};
use crate::volume::pool::Pool;
use crate::volume::request::{IoError, Request, Sink, Submitted, VolumeId};
use crate::volume::space::copies::Source;

/// The most blocks that one command writes.
const COMMAND_BLOCKS: usize = 64;

/// The most blocks that one command discards.
const TRIM_BLOCKS: u64 = 1 << 20;

/// Which restore.
#[derive(Debug, Clone)]
pub struct BlockRestoreRequest {
    /// The volume, by name.
    pub volume: String,
    /// The first block.
    pub block: u64,
    /// How many blocks.
    pub blocks: u64,
    /// The point whose contents are to be written.
    pub at: NamedPoint,
}

/// A restore that has begun.
pub struct BlockRestore {
    id: VolumeId,
    uuid: Uuid,
    then: Side,
    window: Range<u64>,
}

impl Pool {
    /// Checks a restore and begins it; [`restore_blocks`](Self::restore_blocks) does it.
    ///
    /// # Errors
    /// No such volume or point; the range is not in the volume, now and then; the volume is
    /// read-only; another restore is running.
    pub async fn begin_block_restore(
        self: Rc<Self>,
        request: BlockRestoreRequest,
    ) -> Result<(BlockRestoreInfo, BlockRestore), VolumeError> {
        let BlockRestoreRequest { volume: name, block, blocks, at } = request;
        let window = check_range(block, blocks)?;
        let present =
            self.find_volume(&name).ok_or_else(|| VolumeError::NoSuchVolume { name: name.clone() })?;
        let then = self.side(&name, Some(at)).await?;
        let size_blocks = then.volume.size_blocks.min(present.size_bytes / BLOCK_BYTES as u64);
        if window.end > size_blocks {
            let reason =
                format!("volume '{name}' has blocks 0 to {} both now and at the point", size_blocks - 1);
            return Err(VolumeError::Invalid { what: "range of blocks", reason });
        }
        if present.read_only {
            let reason = format!("volume '{name}' is read-only");
            return Err(VolumeError::Invalid { what: "volume", reason });
        }
        let info = BlockRestoreInfo {
            volume: name,
            block,
            blocks,
            lsn: then.at.lsn,
            time_ns: then.at.time_ns,
            before_lsn: self.stats().newest_point_lsn,
            state: BlockRestoreState::Comparing,
            differing_blocks: 0,
            written_blocks: 0,
            unmapped_blocks: 0,
            problem: None,
        };
        let mut state = self.state.borrow_mut();
        if let Some(other) = state.block_restores.running() {
            let reason = format!("blocks of volume '{}' are being restored; wait for the end", other.volume);
            return Err(VolumeError::Busy { reason });
        }
        state.block_restores.begin(info.clone());
        Ok((info, BlockRestore { id: present.id, uuid: present.uuid, then, window }))
    }

    /// The last restore of blocks, running or ended.
    pub fn block_restore(&self) -> Option<BlockRestoreInfo> {
        self.state.borrow().block_restores.last().cloned()
    }

    /// Does a restore that has begun; its result is in [`block_restore`](Self::block_restore).
    pub async fn restore_blocks(self: Rc<Self>, restore: BlockRestore) {
        let result = self.restore_all(&restore).await;
        if let Err(error) = &result {
            tracing::warn!(%error, "a restore of blocks ended early");
        }
        self.state.borrow_mut().block_restores.end(result.err().map(|error| error.to_string()));
    }

    async fn restore_all(self: &Rc<Self>, restore: &BlockRestore) -> Result<(), VolumeError> {
        let mut first_block = restore.window.start;
        loop {
            let now = self.side(&restore.uuid.to_string(), None).await?;
            let window = first_block..restore.window.end;
            let difference = self.difference(&now, &restore.then, window.clone()).await?;
            if first_block == restore.window.start {
                let blocks = difference.written_blocks + difference.unmapped_blocks;
                self.state.borrow_mut().block_restores.note_differing(blocks);
            }
            for range in difference.ranges.iter().filter(|range| range.kind == DiffKind::Unmapped) {
                self.discard(restore.id, range.block..range.block + range.blocks).await?;
            }
            if difference.ranges.iter().any(|range| range.kind == DiffKind::Written) {
                let positions = self.positions(&restore.then, window).await?;
                let written = self.write_again(restore, &positions, &difference.ranges).await;
                free(positions).await;
                written?;
            }
            match difference.next_block {
                Some(next) => first_block = next,
                None => return self.command(restore.id, &Request::Flush).await,
            }
        }
    }

    /// Where the contents of a side are.
    async fn positions(&self, side: &Side, window: Range<u64>) -> Result<Index, VolumeError> {
        let mut builder = IndexBuilder::new(side.volume.size_blocks).within(window);
        let mut report = ScanReport::default();
        let (image, lsn) = (side.volume.image, Lsn(side.at.lsn));
        self.scan_generations(&side.catalog, image, lsn, &mut builder, &mut report, Nowhere::Refuse).await?;
        Ok(builder.finish())
    }

    /// Writes the wanted blocks as the point has them, in the order of their positions. The ranges
    /// are
    /// in order of blocks.
    async fn write_again(
        self: &Rc<Self>,
        restore: &BlockRestore,
        positions: &Index,
        wanted: &[DiffRange],
    ) -> Result<(), VolumeError> {
        let Side { volume, catalog, at, .. } = &restore.then;
        for Entries { image, above, up_to, .. } in self.counting_entries(catalog, volume.image, Lsn(at.lsn)) {
            for sequence in self.segments_between(above, up_to).map(SegmentSeq) {
                let known = self.known_of(sequence).await?;
                let mut from = 0;
                while from < known.entries.len() {
                    let sources;
                    (sources, from) = sources_of(&known.entries, from, ImageId(image), positions, wanted);
                    if !sources.is_empty() {
                        self.write_sources(restore.id, sequence, sources).await?;
                    }
                    yield_now().await;
                }
            }
        }
        Ok(())
    }

    /// Reads blocks of a segment and writes them, neighbours together.
    async fn write_sources(
        self: &Rc<Self>,
        id: VolumeId,
        sequence: SegmentSeq,
        sources: Vec<Source>,
    ) -> Result<(), VolumeError> {
        let batch = self.read_sources(sequence, sources).await?;
        let mut blocks: Vec<(u64, DmaBuf)> = Vec::with_capacity(batch.len());
        for (source, data) in batch {
            let whole = data.filter(|data| !source.bad && source.is_of(data));
            let data = whole.ok_or_else(|| VolumeError::Failed {
                reason: format!(
                    "block {} cannot be read at LSN {}, where the point has it: nothing older is written in its place; blocks before it may have been restored",
                    source.block, source.lsn
                ),
            })?;
            blocks.push((source.block, data));
        }
        blocks.sort_by_key(|(block, _)| *block);
        for run in blocks.chunk_by(|(one, _), (other, _)| one + 1 == *other) {
            let data: Vec<&[u8]> = run.iter().map(|(_, data)| &data[..]).collect();
            let write = Request::Write { block: run[0].0, data: &data, force_unit_access: false };
            self.command(id, &write).await?;
            self.state.borrow_mut().block_restores.note_written(run.len() as u64);
        }
        Ok(())
    }

    /// Discards blocks.
    async fn discard(self: &Rc<Self>, id: VolumeId, blocks: Range<u64>) -> Result<(), VolumeError> {
        let mut at = blocks.start;
        while at < blocks.end {
            let len_blocks = (blocks.end - at).min(TRIM_BLOCKS);
            self.command(id, &Request::Trim { ranges: &[(at, len_blocks)] }).await?;
            self.state.borrow_mut().block_restores.note_unmapped(len_blocks);
            at += len_blocks;
        }
        Ok(())
    }

    /// Submits a host's command and waits for its end.
    async fn command(&self, id: VolumeId, request: &Request<'_>) -> Result<(), VolumeError> {
        let sink = Sink::new();
        while self.submit(id, request, 0, &sink) == Submitted::Busy {
            yield_now().await;
        }
        let completion = loop {
            match sink.pop() {
                Some(completion) => break completion,
                None => yield_now().await,
            }
        };
        completion.result.map_err(|error| match error {
            IoError::CapacityExceeded | IoError::NoRoom => VolumeError::NoSpace { reason: error.to_string() },
            error => VolumeError::Failed { reason: error.to_string() },
        })
    }
}

/// Whether a block is in a range that is to be written; the ranges are in order.
fn is_wanted(ranges: &[DiffRange], block: u64) -> bool {
    let at = ranges.partition_point(|range| range.block + range.blocks <= block);
    ranges.get(at).is_some_and(|range| range.block <= block && range.kind == DiffKind::Written)
}

/// Wanted blocks of a segment, from a record on, and the record to continue with.
fn sources_of(
    entries: &SegmentEntries,
    from: usize,
    image: ImageId,
    positions: &Index,
    wanted: &[DiffRange],
) -> (Vec<Source>, usize) {
    let (mut sources, mut record) = (Vec::new(), from);
    while record < entries.len() && sources.len() < COMMAND_BLOCKS {
        let (line, of_record) = entries.record(record);
        for placed in SegmentEntries::placed(line, of_record) {
            let (entry, block) = (placed.entry, placed.entry.block().0);
            let is_block = matches!(entry.kind(), Some(EntryKind::Write | EntryKind::Copied));
            if is_block
                && entry.image() == image
                && is_wanted(wanted, block)
                && positions.get(block) == Mapping::new(placed.lsn, entry.crc())
            {
                sources.push(Source::of_entry(&placed, image));
            }
        }
        record += 1;
    }
    (sources, record)
}
