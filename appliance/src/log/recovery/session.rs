//! The session that a start begins: what it writes before anything is appended. No trailer where
//! the log goes on, and superblocks with a new epoch. Written twice it is the same, so a device
//! without room for it is asked again: see `log::writer::state::beginning`.

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

/// What is to be written.
#[derive(Clone)]
pub(super) struct Session {
    device: SharedBdev,
    environment: Environment,
    /// The head of an earlier trailer that must go.
    stale_trailer: Option<u64>,
    /// One after the other; the last is the one in force.
    superblocks: Vec<Superblock>,
}

impl Session {
    /// What a start must write. Makes what was found stable: that it could be read says only that
    /// it had been written.
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
            // After a crash the segment goes on. What is left of an earlier trailer must not become
            // one again under the body of the next, which begins with the same units: it would say
            // that the log ends where it ended then. Where there is none, nothing is written: a
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

    /// Writes it and makes it stable; what could not be written although the rest was.
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

/// Where what was found ends. A header without a record does not count: it may be damaged later,
/// and nothing is lost with it.
fn begun_lsn(survey: &Survey) -> Lsn {
    let sequence = survey.geometry.sequence_of(survey.end_lsn);
    if survey.end_lsn > survey.geometry.first_lsn(sequence).plus(1) {
        return survey.end_lsn;
    }
    let previous = sequence.0.checked_sub(1).and_then(|previous| survey.table.get(SegmentSeq(previous)));
    previous.map_or(Lsn(0), |previous| previous.end_lsn)
}

/// The superblocks of the next session. All copies are made good when one is damaged, so that they
/// are never more than one epoch apart.
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
