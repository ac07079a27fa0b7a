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

/// A session as `restore_status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Its name, which is its clone's too.
    pub name: String,
    /// The volume whose past it shows, by the name that it had when the session was opened.
    pub volume: String,
    /// That volume's UUID.
    pub volume_uuid: Uuid,
    /// The name of the clone now.
    pub clone: String,
    /// When it was opened, ns since the Unix epoch.
    pub made_ns: u64,
    /// Where it stands.
    pub at: Position,
    /// The size of the volume there.
    pub size_bytes: u64,
    /// The oldest LSN at which it stood.
    pub oldest_lsn: u64,
    /// The newest. The archive keeps what is between.
    pub newest_lsn: u64,
    /// Whether a host has written to the clone since the last step.
    pub is_written: bool,
    /// What was found at positions, in the order of the log.
    pub verdicts: Vec<VerdictInfo>,
}

impl SessionInfo {
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

/// The answer of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInfo {
    /// The session after it.
    pub session: SessionInfo,
    /// The LSN from which it moved.
    pub from_lsn: u64,
    /// What the move along the log cost.
    pub cost: WalkReport,
    /// The blocks that may be different now, as ranges: first block and length; what is not in them
    /// is the same.
    pub changed: Vec<(u64, u64)>,
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
