//! The expected content of a pool: every operation with the LSN at which it takes effect, so that
//! replaying a prefix gives the state at any point of the history.
//!
//! Contents are stamps: each written block holds the number of its write, repeated and mixed with
//! the block's position, so that a block from the wrong place or time is recognised.

use std::collections::HashMap;

use varve::dma::BLOCK_BYTES;

/// A block's content; 0 means zeroes.
pub type Stamp = u64;

/// Fills a block for a stamp and a block number.
pub fn fill(stamp: Stamp, block: u64, bytes: &mut [u8]) {
    for (index, word) in bytes.chunks_exact_mut(8).enumerate() {
        let value =
            if stamp == 0 { 0 } else { stamp ^ block.rotate_left(32) ^ (index as u64).rotate_left(48) };
        word.copy_from_slice(&value.to_le_bytes());
    }
}

/// Whether a block's bytes match a stamp.
pub fn is_filled(stamp: Stamp, block: u64, bytes: &[u8]) -> bool {
    let mut expected = vec![0; BLOCK_BYTES];
    fill(stamp, block, &mut expected);
    expected == bytes
}

/// What an operation did.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { volume: usize, block: u64, stamps: Vec<Stamp> },
    Trim { volume: usize, ranges: Vec<(u64, u64)> },
    Create { volume: usize },
    Delete { volume: usize },
    Resize { volume: usize, size_blocks: u64 },
    Synch { label: String },
    Snapshot { name: String, at: u64 },
    DeleteSnapshot { name: String },
}

/// What the model knows about a volume; its place in the list never changes.
#[derive(Debug, Clone)]
pub(super) struct ModelVolume {
    pub(super) name: String,
    pub(super) first_size_blocks: u64,
    /// For a clone: the source and the point.
    pub(super) parent: Option<(usize, u64)>,
}

/// An operation with the position at which it takes effect.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) lsn: u64,
    /// Its position in the log: `lsn`, unless the model was [compacted](Model::compact) since.
    pub(super) written_lsn: u64,
    pub(super) change: Change,
    pub(super) acknowledged: bool,
    pub(super) flushed: bool,
}

/// The model: everything that was ever done, in order.
#[derive(Debug, Default, Clone)]
pub struct Model {
    pub(super) volumes: Vec<ModelVolume>,
    pub(super) steps: Vec<Step>,
    pub(super) next_stamp: Stamp,
}

/// The state of one volume at a point.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeState {
    /// Size in blocks.
    pub size_blocks: u64,
    /// Stamps of the blocks that are not zero.
    pub blocks: HashMap<u64, Stamp>,
}

impl Model {
    /// The state of a volume after everything at or before `lsn`; `None` when it did not exist.
    pub(super) fn state_at(&self, volume: usize, lsn: u64) -> Option<VolumeState> {
        let info = &self.volumes[volume];
        let mut state: Option<VolumeState> = None;
        for step in self.steps.iter().take_while(|step| step.lsn <= lsn) {
            match &step.change {
                Change::Create { volume: created } if *created == volume => {
                    let blocks = match info.parent {
                        Some((parent, at)) => {
                            self.state_at(parent, at).map(|state| state.blocks).unwrap_or_default()
                        }
                        None => HashMap::new(),
                    };
                    state = Some(VolumeState { size_blocks: info.first_size_blocks, blocks });
                }
                Change::Delete { volume: deleted } if *deleted == volume => state = None,
                Change::Resize { volume: resized, size_blocks } if *resized == volume => {
                    if let Some(state) = &mut state {
                        state.size_blocks = *size_blocks;
                    }
                }
                Change::Write { volume: written, block, stamps } if *written == volume => {
                    if let Some(state) = &mut state {
                        for (index, &stamp) in stamps.iter().enumerate() {
                            state.blocks.insert(block + index as u64, stamp);
                        }
                    }
                }
                Change::Trim { volume: trimmed, ranges } if *trimmed == volume => {
                    if let Some(state) = &mut state {
                        state.blocks.retain(|&block, _| {
                            !ranges.iter().any(|&(start, len)| block >= start && block - start < len)
                        });
                    }
                }
                _ => {}
            }
        }
        state
    }

    /// Forgets the history of the present: each block's last stamp becomes one step. For runs that
    /// check only the present.
    pub fn compact(&mut self) {
        let lsn = self.steps.last().map_or(0, |step| step.lsn);
        let acknowledged = self.steps.iter().all(|step| step.acknowledged);
        let flushed = self.steps.iter().all(|step| step.flushed);
        let states: Vec<_> = (0..self.volumes.len()).map(|volume| self.state_at(volume, u64::MAX)).collect();
        let mut written = HashMap::new();
        for step in &self.steps {
            if let Change::Write { stamps, .. } = &step.change {
                written.extend(stamps.iter().map(|&stamp| (stamp, step.written_lsn)));
            }
        }
        self.steps.retain(|step| !matches!(step.change, Change::Write { .. } | Change::Trim { .. }));
        for (volume, state) in states.into_iter().enumerate() {
            let blocks = state.map(|state| state.blocks).unwrap_or_default();
            self.steps.extend(blocks.into_iter().map(|(block, stamp)| Step {
                lsn,
                written_lsn: written.get(&stamp).copied().unwrap_or(lsn),
                change: Change::Write { volume, block, stamps: vec![stamp] },
                acknowledged,
                flushed,
            }));
        }
    }

    /// Whether a volume exists now.
    pub(super) fn is_alive(&self, volume: usize) -> bool {
        let fate = self.steps.iter().rev().find_map(|step| match step.change {
            Change::Create { volume: created } if created == volume => Some(true),
            Change::Delete { volume: deleted } if deleted == volume => Some(false),
            _ => None,
        });
        fate.unwrap_or(false)
    }

    /// The labels of all synchs, oldest first.
    pub(super) fn synchs(&self) -> Vec<String> {
        let labels = self.steps.iter().filter_map(|step| match &step.change {
            Change::Synch { label } => Some(label.clone()),
            _ => None,
        });
        labels.collect()
    }

    /// The snapshots that exist now, with their positions, sorted by position and name.
    pub(super) fn snapshots(&self) -> Vec<(u64, String)> {
        let mut snapshots: Vec<(u64, String)> = Vec::new();
        for step in &self.steps {
            match &step.change {
                Change::Snapshot { name, at } => snapshots.push((*at, name.clone())),
                Change::DeleteSnapshot { name } => snapshots.retain(|(_, known)| known != name),
                _ => {}
            }
        }
        snapshots.sort();
        snapshots
    }
}
