//! The expected content of a pool: every operation with the LSN at which it takes effect, so that
//! replaying a prefix gives the state at any point of the history.
//!
//! Contents are stamps: each written block holds the number of its write, repeated and mixed with
//! the block's position, so that a block from the wrong place or time is recognised.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use varve::dma::BLOCK_BYTES;
use varve::volume::Verdict;

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
    Write {
        volume: usize,
        block: u64,
        stamps: Vec<Stamp>,
    },
    Trim {
        volume: usize,
        ranges: Vec<(u64, u64)>,
    },
    Create {
        volume: usize,
    },
    Delete {
        volume: usize,
    },
    Resize {
        volume: usize,
        size_blocks: u64,
    },
    Synch {
        label: String,
    },
    Snapshot {
        name: String,
        at: u64,
    },
    DeleteSnapshot {
        name: String,
    },
    DeleteSynch {
        label: String,
    },
    Rename {
        volume: usize,
        name: String,
    },
    /// The volume goes on from another state: that of the volume `from` at a position, if that is
    /// known. `base` is the state that a reset takes it to.
    Set {
        volume: usize,
        from: Option<(usize, u64)>,
        state: Rc<VolumeState>,
        base: Option<Rc<VolumeState>>,
    },
    OpenSession {
        name: String,
        clone: usize,
        source: usize,
        at: u64,
    },
    Stand {
        clone: usize,
        at: u64,
    },
    Judge {
        clone: usize,
        at: u64,
        verdict: Verdict,
    },
    EndSession {
        clone: usize,
    },
}

/// A session, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelSession {
    pub(super) name: String,
    /// The places of the clone and of the volume whose past it shows.
    pub(super) clone: usize,
    pub(super) source: usize,
    pub(super) at: u64,
    pub(super) verdicts: BTreeMap<u64, Verdict>,
}

/// What the model knows about a volume; its place in the list never changes.
#[derive(Debug, Clone)]
pub(super) struct ModelVolume {
    /// The name with which it was made.
    pub(super) name: String,
    pub(super) read_only: bool,
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
    /// How many steps are at or before `lsn`.
    fn end_at(&self, lsn: u64) -> usize {
        self.steps.iter().position(|step| step.lsn > lsn).unwrap_or(self.steps.len())
    }

    /// The last step that gave a volume a whole state, or ended it, among the first `end`.
    fn base_step(&self, volume: usize, end: usize) -> Option<usize> {
        self.steps[..end].iter().rposition(|step| match step.change {
            Change::Create { volume: of }
            | Change::Delete { volume: of }
            | Change::Set { volume: of, .. } => of == volume,
            _ => false,
        })
    }

    /// The state of a volume after everything at or before `lsn`; `None` when it did not exist.
    pub(super) fn state_at(&self, volume: usize, lsn: u64) -> Option<VolumeState> {
        let end = self.end_at(lsn);
        let base = self.base_step(volume, end)?;
        let mut state = match &self.steps[base].change {
            Change::Create { .. } => self.first_state(volume),
            Change::Set { state, .. } => VolumeState::clone(state),
            _ => return None,
        };
        for step in &self.steps[base + 1..end] {
            match &step.change {
                Change::Resize { volume: resized, size_blocks } if *resized == volume => {
                    state.size_blocks = *size_blocks;
                }
                Change::Write { volume: written, block, stamps } if *written == volume => {
                    state.blocks.extend((*block..).zip(stamps.iter().copied()));
                }
                Change::Trim { volume: trimmed, ranges } if *trimmed == volume => {
                    state.blocks.retain(|&block, _| {
                        !ranges.iter().any(|&(start, len)| block >= start && block - start < len)
                    });
                }
                _ => {}
            }
        }
        Some(state)
    }

    /// The state with which a volume began.
    fn first_state(&self, volume: usize) -> VolumeState {
        let info = &self.volumes[volume];
        let inherited = info.parent.and_then(|(parent, at)| self.state_at(parent, at));
        let blocks = inherited.map(|state| state.blocks).unwrap_or_default();
        VolumeState { size_blocks: info.first_size_blocks, blocks }
    }

    /// The state to which a reset takes a clone, as it was at or before `lsn`; `None` for a volume
    /// that is no clone.
    pub(super) fn base_at(&self, volume: usize, lsn: u64) -> Option<Rc<VolumeState>> {
        self.volumes[volume].parent?;
        match &self.steps[self.base_step(volume, self.end_at(lsn))?].change {
            Change::Create { .. } => Some(Rc::new(self.first_state(volume))),
            Change::Set { base, .. } => base.clone(),
            _ => None,
        }
    }

    /// What happened to a volume, for a message: a line for each step.
    pub(super) fn history_of(&self, volume: usize) -> impl Iterator<Item = String> + '_ {
        let steps = self.steps.iter().filter(move |step| match &step.change {
            Change::Write { volume: of, .. }
            | Change::Trim { volume: of, .. }
            | Change::Create { volume: of }
            | Change::Delete { volume: of }
            | Change::Resize { volume: of, .. }
            | Change::Rename { volume: of, .. }
            | Change::Set { volume: of, .. }
            | Change::Stand { clone: of, .. }
            | Change::EndSession { clone: of } => *of == volume,
            Change::OpenSession { clone, source, .. } => *clone == volume || *source == volume,
            _ => false,
        });
        let parent = self.volumes[volume].parent;
        steps.map(move |step| match &step.change {
            Change::Set { from, state, base, .. } => {
                let base = base.as_ref().map(|base| base.size_blocks);
                let (size, held) = (state.size_blocks, state.blocks.len());
                format!("lsn:{} Set to {from:?}, size {size}, {held} blocks, base {base:?}", step.lsn)
            }
            Change::Create { .. } => {
                let size = self.volumes[volume].first_size_blocks;
                format!("lsn:{} Create from {parent:?} with a size of {size}", step.lsn)
            }
            change => format!("lsn:{} {change:?}", step.lsn),
        })
    }

    /// Whether a volume inherits, or may: it is a clone, or was taken back.
    pub(super) fn may_inherit(&self, volume: usize) -> bool {
        self.volumes[volume].parent.is_some() || self.was_set(volume)
    }

    /// Whether a volume was taken to another state since it was made.
    pub(super) fn was_set(&self, volume: usize) -> bool {
        self.steps.iter().any(|step| matches!(step.change, Change::Set { volume: of, .. } if of == volume))
    }

    /// Whether a host has written to a volume since it has a state.
    pub(super) fn is_written(&self, volume: usize) -> bool {
        let base = self.base_step(volume, self.steps.len()).unwrap_or(0);
        let is_command = |step: &Step| match step.change {
            Change::Write { volume: of, .. } | Change::Trim { volume: of, .. } => of == volume,
            _ => false,
        };
        self.steps[base..].iter().any(is_command)
    }

    /// Where the commands of hosts to a volume end, oldest first.
    pub(super) fn commands(&self, volume: usize) -> Vec<u64> {
        let ends = self.steps.iter().filter(|step| match step.change {
            Change::Write { volume: of, .. } | Change::Trim { volume: of, .. } => of == volume,
            _ => false,
        });
        ends.map(|step| step.lsn).collect()
    }

    /// The name that a volume had at a position.
    pub(super) fn name_at(&self, volume: usize, lsn: u64) -> &str {
        let named = self.steps[..self.end_at(lsn)].iter().rev().find_map(|step| match &step.change {
            Change::Rename { volume: renamed, name } if *renamed == volume => Some(name.as_str()),
            _ => None,
        });
        named.unwrap_or(&self.volumes[volume].name)
    }

    /// The name of a volume now, or the last that it had.
    pub(super) fn name(&self, volume: usize) -> &str {
        self.name_at(volume, u64::MAX)
    }

    /// The sessions that exist now, by name.
    pub(super) fn sessions(&self) -> Vec<ModelSession> {
        let mut sessions: Vec<ModelSession> = Vec::new();
        for step in &self.steps {
            match &step.change {
                &Change::OpenSession { ref name, clone, source, at } => {
                    let verdicts = BTreeMap::new();
                    sessions.push(ModelSession { name: name.clone(), clone, source, at, verdicts });
                }
                Change::Stand { clone, at } => {
                    sessions.iter_mut().filter(|one| one.clone == *clone).for_each(|one| one.at = *at);
                }
                Change::Judge { clone, at, verdict } => {
                    for one in sessions.iter_mut().filter(|one| one.clone == *clone) {
                        one.verdicts.insert(*at, *verdict);
                    }
                }
                Change::EndSession { clone: of } | Change::Delete { volume: of } => {
                    sessions.retain(|one| one.clone != *of);
                }
                _ => {}
            }
        }
        sessions.sort_by(|one, other| one.name.cmp(&other.name));
        sessions
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
        for step in &mut self.steps {
            if let Change::Set { state, .. } = &mut step.change {
                *state = Rc::new(VolumeState { size_blocks: state.size_blocks, ..VolumeState::default() });
            }
        }
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

    /// The labels of all synchs that were not deleted, oldest first.
    pub(super) fn synchs(&self) -> Vec<String> {
        let mut labels: Vec<String> = Vec::new();
        for step in &self.steps {
            match &step.change {
                Change::Synch { label } => labels.push(label.clone()),
                Change::DeleteSynch { label } => labels.retain(|known| known != label),
                _ => {}
            }
        }
        labels
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
