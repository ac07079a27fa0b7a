//! The time line of a pool: which points can be opened, the marks in it, and what hosts wrote.
//!
//! **Bounds.** One answer reads the entries of at most [`SEGMENTS_MAX`] segments, and only if
//! commands or intervals were asked for; it has at most as many marks, intervals and commands as
//! were asked for, and then those of the last position. It says where to continue.

use std::collections::BTreeMap;
use std::rc::Rc;

use uuid::Uuid;

use crate::dma::BLOCK_BYTES;
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;
use crate::volume::history::host_commands::{HostCommand, visit_commands};
use crate::volume::history::known::Known;
use crate::volume::history::point::NamedPoint;
use crate::volume::history::point_info::{BurstInfo, CommandInfo, MarkInfo, MarkKind, TimeLine};
use crate::volume::history::stretches::Stretch;
use crate::volume::history::whose::Whose;
use crate::volume::pool::Pool;

/// The maximum number of segments whose entries one answer reads.
pub(in crate::volume) const SEGMENTS_MAX: usize = 32;
/// The default and the maximum number of entries of each kind in an answer.
const LIMIT_DEFAULT: usize = 1000;
const LIMIT_MAX: usize = 10_000;
/// The maximum number of gaps in an answer.
const GAPS_MAX: usize = 1000;
/// How many marks one turn of the reactor copies, and the bytes of their texts.
const PIECE_MARKS: usize = 256;
/// The shortest interval, in nanoseconds.
const EVERY_MIN_NS: u64 = 1_000_000;
/// The maximum number of ranges in an answer's commands; the last command may exceed it.
const RANGES_MAX: usize = 50_000;

/// Which part of the time line to show.
#[derive(Debug, Clone, Default)]
pub struct TimeLineRequest {
    /// Only the commands of this volume or group, and the marks that are for it.
    pub volume: Option<String>,
    /// From this point on.
    pub from: Option<NamedPoint>,
    /// Up to this point.
    pub to: Option<NamedPoint>,
    /// Continue at this position.
    pub from_lsn: Option<u64>,
    /// The length of the intervals for which to sum up what hosts wrote, in nanoseconds.
    pub every_ns: Option<u64>,
    /// Whether to list single commands.
    pub commands: bool,
    /// The maximum number of entries.
    pub limit: Option<usize>,
}

/// What is shown of the segments.
struct Scan {
    whose: Whose,
    /// The requested range, both included.
    from: Lsn,
    to: Lsn,
    every_ns: Option<u64>,
    commands: bool,
    limit: usize,
}

impl Pool {
    /// A piece of the time line.
    ///
    /// # Errors
    /// Points that do not exist, a volume that was never there, an archive that does not answer.
    pub async fn time_line(self: Rc<Self>, request: TimeLineRequest) -> Result<TimeLine, VolumeError> {
        if request.every_ns.is_some_and(|every_ns| every_ns < EVERY_MIN_NS) {
            let reason = "an interval has at least 1 ms".to_owned();
            return Err(VolumeError::Invalid { what: "every", reason });
        }
        let newest = Lsn(self.close_up_to_now().0.saturating_sub(1));
        let whose = self.whose(request.volume.as_deref()).await?;
        let marks = self.whose_marks(request.volume.as_deref()).await?;
        let from = match (request.from_lsn, &request.from) {
            (Some(lsn), _) => Lsn(lsn),
            (None, Some(point)) => Lsn(self.resolve_for(point, None).await?.lsn),
            (None, None) => Lsn(0),
        };
        let to = match &request.to {
            Some(point) => Lsn(self.resolve_for(point, None).await?.lsn),
            None => newest,
        };
        let stretches = self.stretches().await;
        let (earliest, newest) = self.ends_of(&stretches).await?;
        let mut gaps = self.gaps_between(&stretches);
        gaps.retain(|gap| gap.to_lsn > from.0 && gap.from_lsn <= to.0);
        gaps.truncate(GAPS_MAX);
        let mut scan = Scan {
            whose,
            from,
            to,
            every_ns: request.every_ns,
            commands: request.commands,
            limit: request.limit.unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX),
        };
        let mut line = TimeLine { earliest, newest, gaps, ..TimeLine::default() };
        if from > to {
            return Ok(line);
        }
        let mut end = self.add_marks(&scan, marks.as_deref(), &mut line).await;
        if scan.commands || scan.every_ns.is_some() {
            scan.to = end;
            end = self.scan_segments(&scan, &stretches, &mut line).await?;
        }
        line.marks.retain(|mark| (from.0..=end.0).contains(&mark.lsn));
        line.marks.sort_by_key(|mark| mark.lsn);
        line.next_lsn = (end < to).then(|| end.plus(1).0);
        Ok(line)
    }

    /// Reads segments until the answer is full. Returns the last position that it covers.
    async fn scan_segments(
        &self,
        scan: &Scan,
        stretches: &[Stretch],
        line: &mut TimeLine,
    ) -> Result<Lsn, VolumeError> {
        let geometry = self.log.borrow().geometry();
        let (first, last) = (geometry.sequence_of(scan.from), geometry.sequence_of(scan.to));
        let there = stretches.iter().flat_map(|stretch| {
            let range = stretch.first.max(first).0..=stretch.last.min(last).0;
            range.map(SegmentSeq)
        });
        for (read, sequence) in there.enumerate() {
            if read == SEGMENTS_MAX {
                return Ok(Lsn(geometry.first_lsn(sequence).0 - 1));
            }
            let known = self.known_of(sequence).await?;
            if let Some(full) = self.scan_segment(scan, sequence, &known, line).await? {
                return Ok(full);
            }
            yield_now().await;
        }
        Ok(scan.to)
    }

    /// Adds what one segment has. Returns the last position that is covered, if the answer is full.
    async fn scan_segment(
        &self,
        scan: &Scan,
        sequence: SegmentSeq,
        known: &Known,
        line: &mut TimeLine,
    ) -> Result<Option<Lsn>, VolumeError> {
        let images = self.images_in(&scan.whose, sequence, known).await?;
        let names = if scan.commands { self.names_in(sequence, known).await? } else { BTreeMap::default() };
        let mut ranges: usize = line.commands.iter().map(|command| command.ranges.len()).sum();
        let (mut covered, mut is_full) = (Lsn(0), false);
        // Positions begin at 1: `from` itself is included.
        visit_commands(&known.entries, Lsn(scan.from.0.saturating_sub(1)), scan.to, |command| {
            if !images.contains(command.image) {
                return true;
            }
            let begins = scan.every_ns.filter(|&every_ns| begins_burst(&line.bursts, &command, every_ns));
            is_full = line.commands.len() >= scan.limit
                || ranges >= RANGES_MAX
                || (begins.is_some() && line.bursts.len() >= scan.limit);
            if is_full {
                return false;
            }
            covered = command.lsn;
            if let Some(every_ns) = scan.every_ns {
                add_to_burst(&mut line.bursts, &command, every_ns, begins.is_some());
            }
            if scan.commands {
                ranges += command.ranges.len();
                let volume = names.get(&command.image).map(|(_, name)| name.clone()).unwrap_or_default();
                line.commands.push(CommandInfo {
                    lsn: command.lsn.0,
                    time_ns: command.time_ns,
                    volume,
                    trim: command.is_trim,
                    ranges: command.ranges,
                });
            }
            true
        });
        let geometry = self.log.borrow().geometry();
        let seal = self.seal_of(sequence, known, scan.from, scan.to);
        line.marks.extend(seal.filter(|mark| !is_full || mark.lsn <= covered.0));
        Ok(is_full.then(|| covered.max(Lsn(geometry.first_lsn(sequence).0.saturating_sub(1)))))
    }

    /// The end of a segment as a mark, if it was sealed in a range.
    fn seal_of(&self, sequence: SegmentSeq, known: &Known, from: Lsn, to: Lsn) -> Option<MarkInfo> {
        if sequence.next() >= self.log.borrow().table().next_sequence() {
            return None;
        }
        let (line, _) = known.entries.records().next_back()?;
        let lsn = line.end_lsn().0 - 1;
        (from.0..=to.0).contains(&lsn).then(|| seal(sequence, lsn, line.time_ns()))
    }

    /// Adds the synchs and the snapshots, and, unless the segments are read, the ends of the
    /// segments on the primary device. Returns the last position for which all were added.
    async fn add_marks(&self, scan: &Scan, of: Option<&[Uuid]>, line: &mut TimeLine) -> Lsn {
        let (mut end, limit) = (scan.to, scan.limit);
        let mut from = scan.from;
        let (table, mut synchs) = (self.synchs(), 0);
        while from <= end && synchs < limit {
            let page = table.iter_from(from).take_while(|synch| synch.lsn <= end);
            let page: Vec<_> = page.take(PIECE_MARKS.min(limit - synchs)).collect();
            let Some(last) = page.last() else { break };
            from = last.lsn.plus(1);
            synchs += page.len();
            if synchs >= limit {
                end = last.lsn;
            }
            for synch in page.into_iter().filter(|synch| synch.is_for(of)) {
                line.marks.push(MarkInfo {
                    kind: MarkKind::Synch,
                    lsn: synch.lsn.0,
                    time_ns: synch.time_ns,
                    name: synch.label.to_owned(),
                    id: Some(synch.id),
                });
            }
            yield_now().await;
        }
        let mut from = scan.from;
        let mut snapshots = 0;
        while from <= end && snapshots < limit {
            let page = self.snapshots_from(from, PIECE_MARKS.min(limit - snapshots));
            let Some(last) = page.last().map(|last| last.lsn) else { break };
            from = Lsn(last + 1);
            snapshots += page.len();
            if snapshots >= limit {
                end = end.min(Lsn(last));
            }
            line.marks.extend(page.into_iter().map(|snapshot| MarkInfo {
                kind: MarkKind::Snapshot,
                lsn: snapshot.lsn,
                time_ns: snapshot.time_ns,
                name: snapshot.name,
                id: None,
            }));
            yield_now().await;
        }
        if !scan.commands && scan.every_ns.is_none() {
            end = self.add_seals(scan, end, line);
        }
        end
    }

    /// Adds the ends of the segments on the primary device.
    fn add_seals(&self, scan: &Scan, end: Lsn, line: &mut TimeLine) -> Lsn {
        let log = self.log.borrow();
        let first = log.geometry().sequence_of(scan.from);
        let mut seals = 0;
        let segments: Vec<_> = log.table().iter().skip_while(|(sequence, _)| *sequence < first).collect();
        for pair in segments.windows(2) {
            let ((sequence, segment), (_, next)) = (pair[0], pair[1]);
            let lsn = segment.end_lsn.0.saturating_sub(1);
            if segment.slot.is_none() || next.slot.is_none() || lsn < scan.from.0 {
                continue;
            }
            if lsn > end.0 {
                break;
            }
            line.marks.push(seal(sequence, lsn, next.opened_ns));
            seals += 1;
            if seals >= scan.limit {
                return Lsn(lsn);
            }
        }
        end
    }
}

fn seal(sequence: SegmentSeq, lsn: u64, time_ns: u64) -> MarkInfo {
    MarkInfo { kind: MarkKind::Seal, lsn, time_ns, name: format!("segment {sequence}"), id: None }
}

/// Whether a command is the first of another interval.
fn begins_burst(bursts: &[BurstInfo], command: &HostCommand, every_ns: u64) -> bool {
    bursts.last().is_none_or(|last| last.from_ns != command.time_ns - command.time_ns % every_ns)
}

fn add_to_burst(bursts: &mut Vec<BurstInfo>, command: &HostCommand, every_ns: u64, begins: bool) {
    if begins {
        bursts.push(BurstInfo {
            from_ns: command.time_ns - command.time_ns % every_ns,
            first_lsn: command.lsn.0,
            last_lsn: command.lsn.0,
            writes: 0,
            written_bytes: 0,
            trims: 0,
            trimmed_bytes: 0,
        });
    }
    let Some(burst) = bursts.last_mut() else { return };
    let BurstInfo { last_lsn, writes, written_bytes, trims, trimmed_bytes, .. } = burst;
    *last_lsn = command.lsn.0;
    let blocks = command.ranges.iter().fold(0_u64, |sum, (_, len_blocks)| sum.saturating_add(*len_blocks));
    let bytes = blocks.saturating_mul(BLOCK_BYTES as u64);
    if command.is_trim {
        *trims += 1;
        *trimmed_bytes = trimmed_bytes.saturating_add(bytes);
    } else {
        *writes += 1;
        *written_bytes = written_bytes.saturating_add(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_one_interval_are_one_burst() {
        let mut bursts = Vec::new();
        for (lsn, time_ns, is_trim) in [(1, 10, false), (2, 19, true), (3, 20, false), (4, 41, false)] {
            let ranges = vec![(0, 2), (9, 1)];
            let command = HostCommand { lsn: Lsn(lsn), time_ns, image: 1, is_trim, ranges };
            let begins = begins_burst(&bursts, &command, 10);
            add_to_burst(&mut bursts, &command, 10, begins);
        }
        let seen: Vec<_> = bursts
            .iter()
            .map(|burst| (burst.from_ns, burst.first_lsn, burst.last_lsn, burst.writes, burst.trimmed_bytes))
            .collect();
        assert_eq!(seen, [(10, 1, 2, 1, 12_288), (20, 3, 3, 1, 0), (40, 4, 4, 1, 0)]);
    }
}
