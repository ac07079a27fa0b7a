//! Compares the state that a walk along the log gives with that of a scan at the same position.

use std::rc::Rc;

use crate::log::Lsn;
use crate::log::format::EntryKind;
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::history::entry_cache::EntryCache;
use crate::volume::history::walk::{PastVolume, WalkReport};
use crate::volume::image::index::Mapping;
use crate::volume::pool::Pool;

/// How many leaves are compared in one piece.
const PIECE_LEAVES: usize = 4;

/// The result of a comparison.
#[derive(Debug, Clone, Default)]
pub struct WalkCheck {
    /// Positions at which the walk was compared with a scan.
    pub positions: u64,
    /// Blocks whose mappings were at other positions, and whose contents had to be compared.
    pub copies: u64,
    /// The first blocks that differ, with their positions in the log: a defect.
    pub differing: Vec<(Lsn, u64)>,
    /// What the walks cost.
    pub walked: WalkReport,
}

impl Pool {
    /// Opens a volume at the first of some positions, which are ends of commands, walks it from
    /// there to each of the others, and compares the state at each with a scan.
    ///
    /// # Errors
    /// No such volume; it did not exist at a position; the history there is gone.
    pub async fn check_walk(
        self: Rc<Self>,
        volume: String,
        positions: Vec<Lsn>,
    ) -> Result<WalkCheck, VolumeError> {
        let mut positions = positions.into_iter();
        let mut check = WalkCheck::default();
        let Some(first) = positions.next() else { return Ok(check) };
        let found = self.find_volume(&volume);
        let uuid = found.ok_or(VolumeError::NoSuchVolume { name: volume })?.uuid;
        self.log.borrow_mut().close_up_to(Lsn::MAX);
        let (mut past, _) = self.past_volume(uuid, first).await?;
        let mut cache = EntryCache::default();
        for position in positions {
            let report = self.walk(&mut past, position, &mut cache, None).await?;
            check.walked.add(&report);
            self.compare_with_scan(&past, &mut check).await?;
        }
        Ok(check)
    }

    /// Compares a state with a scan at its position.
    pub(in crate::volume) async fn compare_with_scan(
        &self,
        past: &PastVolume,
        check: &mut WalkCheck,
    ) -> Result<(), VolumeError> {
        let (scanned, _) = self.past_volume(past.then().uuid, past.at()).await?;
        check.positions += 1;
        if scanned.then() != past.then() || scanned.index().mapped() != past.index().mapped() {
            check.differing.push((past.at(), u64::MAX));
        }
        let mut next = Some(0);
        while let Some(from) = next {
            let mut differing = Vec::new();
            next = past.index().differences(scanned.index(), from, PIECE_LEAVES, |block, one, other| {
                differing.push((block, one, other));
            });
            for (block, one, other) in differing {
                check.copies += 1;
                if one.is_none()
                    || other.is_none()
                    || self.content_of(block, one).await? != self.content_of(block, other).await?
                {
                    check.differing.push((past.at(), block));
                }
            }
            yield_now().await;
        }
        Ok(())
    }

    /// Where the content of a mapping was first written.
    async fn content_of(&self, block: u64, mapping: Mapping) -> Result<Lsn, VolumeError> {
        let mut cache = EntryCache::default();
        let sequence = self.log.borrow().geometry().sequence_of(mapping.lsn());
        let known = self.cached_known(&mut cache, sequence, mapping.lsn()).await?;
        let placed = known.entries.at(mapping.lsn()).filter(|placed| placed.entry.block().0 == block);
        let placed = placed.ok_or_else(|| VolumeError::Failed {
            reason: format!("there is no entry of block {block} at LSN {}", mapping.lsn()),
        })?;
        let is_copy = placed.entry.kind() == Some(EntryKind::Copied);
        Ok(if is_copy { Lsn(placed.entry.value()) } else { placed.lsn })
    }
}
