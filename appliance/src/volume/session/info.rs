//! What operators see of sessions.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::volume::catalog::{CatalogSession, Verdict};
use crate::volume::history::point::NamedPoint;
use crate::volume::history::walk::WalkReport;

/// A position of the log, and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The LSN.
    pub lsn: u64,
    /// The time of the record there, ns since the Unix epoch.
    pub time_ns: u64,
}

/// What was found at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictInfo {
    /// The position.
    pub lsn: u64,
    /// Its time.
    pub time_ns: u64,
    /// What was found.
    pub verdict: Verdict,
}

/// A volume of a session, and its clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The volume whose past it shows, by the name that it had when the session was opened.
    pub volume: String,
    /// That volume's UUID.
    pub volume_uuid: Uuid,
    /// The name of the clone now.
    pub clone: String,
    /// The size of the volume where the session stands.
    pub size_bytes: u64,
    /// Whether a host has written to the clone since the last step.
    pub is_written: bool,
}

/// A session as `restore_status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its name. A clone of one volume has it too; those of a group have it before the names of the
    /// volumes.
    pub name: String,
    /// The group that was opened, by the name that it had then; none: it was one volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Its volumes, at least one.
    pub members: Vec<MemberInfo>,
    /// When it was opened, ns since the Unix epoch.
    pub made_ns: u64,
    /// Where it stands.
    pub at: Position,
    /// The oldest LSN at which it stood.
    pub oldest_lsn: u64,
    /// The newest. The archive keeps what is between.
    pub newest_lsn: u64,
    /// What was found at positions, in the order of the log.
    pub verdicts: Vec<VerdictInfo>,
}

impl SessionInfo {
    /// What was opened: the name of the group, or of the volume.
    pub fn of(&self) -> &str {
        let first = self.members.first().map_or("", |member| member.volume.as_str());
        self.group.as_deref().unwrap_or(first)
    }

    /// Whether a host has written to a clone since the last step.
    pub fn is_written(&self) -> bool {
        self.members.iter().any(|member| member.is_written)
    }

    /// The parts that the catalog has.
    pub(in crate::volume) fn verdicts_of(session: &CatalogSession) -> Vec<VerdictInfo> {
        let info = session.verdicts.iter().map(|known| VerdictInfo {
            lsn: known.lsn,
            time_ns: known.time_ns,
            verdict: known.verdict,
        });
        info.collect()
    }
}

/// Where a session is to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepTo {
    /// Over this many commands of hosts: forward, or backward if it is negative.
    Commands(i64),
    /// To a point.
    Point(NamedPoint),
}

/// The blocks of a clone that a step may have changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedBlocks {
    /// The clone.
    pub clone: String,
    /// The blocks as ranges: first block and length. What is not in them is the same.
    pub ranges: Vec<(u64, u64)>,
}

/// The answer of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInfo {
    /// The session after it.
    pub session: SessionInfo,
    /// The LSN from which it moved.
    pub from_lsn: u64,
    /// What the move along the log cost.
    pub cost: WalkReport,
    /// The blocks that may be different now, of each clone.
    pub changed: Vec<ChangedBlocks>,
    /// How long the move took, in microseconds.
    pub moved_us: u64,
    /// How long it took until the change was stable, in microseconds.
    pub durable_us: u64,
}

/// A command that bisecting found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundCommand {
    /// Where it ends.
    pub at: Position,
    /// The volume, by the name that it had when the session was opened.
    pub volume: String,
    /// Whether it is a trim; otherwise it is a write.
    pub is_trim: bool,
    /// Its blocks, as ranges: first block and length. Empty if its entries are gone.
    pub blocks: Vec<(u64, u64)>,
}

/// The answer of bisecting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BisectInfo {
    /// The step to the next position to look at; none if the search is over.
    pub step: Option<StepInfo>,
    /// Commands after the last good position, up to the first bad one.
    pub commands: u64,
    /// How many positions must still be looked at, if none is skipped.
    pub looks_left: u32,
    /// The newest good position before the first bad one.
    pub last_good: Position,
    /// The first bad position.
    pub first_bad: Position,
    /// The command that made it bad, if it is found.
    pub found: Option<FoundCommand>,
    /// Skipped positions between the two. If the search is over and there are any, the command is
    /// one of those after `last_good`, up to `first_bad`.
    pub skipped: Vec<u64>,
    /// Good positions after the first bad one: then the fault came and went.
    pub good_behind_bad: Vec<u64>,
}
