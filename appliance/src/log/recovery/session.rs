//! The writes of a start before anything is appended: it erases an old trailer where the log
//! continues, and writes superblocks with a new epoch. Writing them twice gives the same result, so
//! they are retried on a device without room: see `log::writer::state::beginning`.

use smallvec::smallvec;

use super::superblocks::write_superblock;
use super::survey::Survey;
use crate::bdev::SharedBdev;
use crate::dma::BLOCK_BYTES;
use crate::log::environment::Environment;
use crate::log::error::LogError;
use crate::log::format::Superblock;
use crate::log::read::DeviceReader;
use crate::log::types::{Lsn, SegmentSeq};

/// The writes of a start.
#[derive(Clone)]
pub(super) struct Session {
    device: SharedBdev,
    environment: Environment,
    /// The head of an earlier trailer, which must be erased.
    stale_trailer: Option<u64>,
    /// In the order of writing; the last one is in force.
    superblocks: Vec<Superblock>,
}

impl Session {
    /// Determines the writes of a start. It also makes the recovered log stable: that it was
    /// readable proves only that it had been written.
    ///
    /// # Errors
    /// The flush failed; no memory.
    pub(super) async fn plan(
        device: &SharedBdev,
        environment: &Environment,
        survey: &Survey,
    ) -> Result<Self, LogError> {
        device.flush().await?;
        let mut stale_trailer = None;
        let goes_on = survey.current().filter(|_| !survey.clean);
        if let Some(slot) = goes_on.and_then(|sequence| survey.table.get(sequence)?.slot) {
            // After a crash the segment continues. An earlier trailer must not become valid again
            // in front of the body of the next one, which begins with the same units: it would say
            // that the log ends at the old position. If there is no trailer, nothing is written: a
            // full file system may have no room for it.
            let block = survey.geometry.trailer_block(slot);
            let head = DeviceReader::new(device.clone(), environment).read_around(block, 1).await?;
            let is_there = head.is_lost(0) || head.buffer.as_slice().iter().any(|&byte| byte != 0);
            stale_trailer = is_there.then_some(block);
        }
        Ok(Session {
            device: device.clone(),
            environment: environment.clone(),
            stale_trailer,
            superblocks: superblocks(survey),
        })
    }

    /// The epoch of the session.
    pub(super) fn epoch(&self) -> u32 {
        self.superblocks.last().map_or(0, |superblock| superblock.epoch)
    }

    /// Writes it and makes it stable. Returns what could not be written although the rest was.
    ///
    /// # Errors
    /// The device's; no memory.
    pub(super) async fn write(self) -> Result<Vec<String>, LogError> {
        let Session { device, environment, stale_trailer, superblocks } = self;
        if let Some(block) = stale_trailer {
            let mut zeroes = environment.wait_for_memory(BLOCK_BYTES).await?;
            zeroes.as_mut_slice().fill(0);
            device.write(block, smallvec![zeroes.freeze()]).await?;
            device.flush().await?;
        }
        let mut problems = Vec::new();
        for superblock in &superblocks {
            problems.append(&mut write_superblock(&device, &environment, superblock).await?);
        }
        if superblocks.len() > 1 {
            problems.push("superblocks: all copies were written again".to_owned());
        }
        Ok(problems)
    }
}

/// Where the recovered log ends. A header without a record does not count: if it is damaged later,
/// nothing is lost with it.
fn begun_lsn(survey: &Survey) -> Lsn {
    let sequence = survey.geometry.sequence_of(survey.end_lsn);
    if survey.end_lsn > survey.geometry.first_lsn(sequence).plus(1) {
        return survey.end_lsn;
    }
    let previous = sequence.0.checked_sub(1).and_then(|previous| survey.table.get(SegmentSeq(previous)));
    previous.map_or(Lsn(0), |previous| previous.end_lsn)
}

/// The superblocks of the next session. If one copy is damaged, all copies are rewritten, so that
/// they are never more than one epoch apart.
fn superblocks(survey: &Survey) -> Vec<Superblock> {
    let (generation, epochs) = if survey.superblock_damaged { (3, 2) } else { (1, 1) };
    let next = Superblock {
        generation: survey.superblock.generation + generation,
        epoch: survey.superblock.epoch.max(survey.newest_epoch) + epochs,
        begun_lsn: begun_lsn(survey),
        ..survey.superblock
    };
    let copy = Superblock { generation: next.generation + 1, ..next };
    if survey.superblock_damaged { vec![next, copy] } else { vec![next] }
}
