//! Builds the report: compares every segment's entries with the device and with the rebuilt
//! indexes, and collects all problems.

use std::collections::HashMap;
use std::rc::Rc;

use super::report::{
    Check, EntryCounts, ImageReport, IndexList, LogReport, PROBLEMS_MAX, PoolReport, Problem, RecordList,
    Report, SlotReport, SuperblockReport, Totals, VolumeBlock, VolumeReport, event_name,
};
use crate::bdev::BdevInfo;
use crate::dma::BLOCK_BYTES;
use crate::log::format::{EntryKind, EventHead, Superblock};
use crate::log::inspect::{Checked, LogView, Presence, SlotView, TrailerState};
use crate::log::reader::{PlacedEntry, ReadError, SegmentEntries};
use crate::log::table::Segment;
use crate::log::{Lsn, SegmentSeq};
use crate::volume::SnapshotInfo;
use crate::volume::inspect::VolumesView;

/// Checks everything and reports it.
pub(super) async fn report(
    log: &LogView,
    volumes: &VolumesView,
    device: &BdevInfo,
    with_entries: bool,
) -> Result<Report, ReadError> {
    let problems = Problems::found(log, volumes, device);
    let superblocks = superblocks(log);
    let mut count = Count { volumes, problems, tallies: vec![Tally::default(); volumes.volumes.len()] };
    let mut contents: HashMap<SegmentSeq, Contents> = HashMap::new();
    for (sequence, segment) in log.segments().filter(|(_, segment)| segment.slot.is_some()) {
        // Building the indexes has already reported entries that cannot be read.
        let Ok(entries) = log.entries(sequence).await? else { continue };
        let totals = count.segment(log, sequence, segment, &entries).await?;
        contents.insert(sequence, (totals, with_entries.then_some(RecordList(entries))));
    }
    let Count { mut problems, tallies, .. } = count;
    let slots = log.slots().await?;
    let slots: Vec<SlotReport> =
        slots.iter().map(|slot| slot_report(log, slot, &mut contents, &mut problems)).collect();
    let mut totals = Totals::default();
    for slot in &slots {
        totals.add(&slot.totals);
    }
    let volume_reports = volume_reports(volumes, &tallies, with_entries, &mut problems);
    let checks = checks(&superblocks, &slots, &totals, &volume_reports, log);
    let survey = &log.survey;
    let mut notes = survey.notes.clone();
    if !survey.clean {
        notes.push(
            "the appliance was not stopped cleanly; its next start reads the end of the log record by record"
                .to_owned(),
        );
    }
    let superblock = survey.superblock;
    Ok(Report {
        ok: problems.list.is_empty() && checks.iter().all(|check| check.ok),
        file: device.name.clone(),
        file_bytes: bytes(device.len_blocks),
        pool: PoolReport {
            uuid: superblock.pool,
            created_ns: superblock.created_ns,
            segment_bytes: bytes(superblock.segment_blocks),
            slots: superblock.slots,
            working_set_segments: superblock.working_set,
        },
        superblocks,
        log: log_report(log),
        slots,
        catalog_lsn: volumes.catalog_lsn.map(|lsn| lsn.0),
        volumes: volume_reports,
        images: image_reports(volumes),
        snapshots: volumes.snapshots.iter().map(SnapshotInfo::from).collect(),
        synchs: volumes.synchs.clone(),
        totals,
        checks,
        notes,
        problems: problems.list,
        problems_omitted: problems.omitted,
    })
}

fn image_reports(volumes: &VolumesView) -> Vec<ImageReport> {
    let images = volumes.images.iter();
    images.map(|image| ImageReport { id: image.id, parent: image.parent, born_lsn: image.born_lsn }).collect()
}

/// A segment's sums, and its records if they were requested.
type Contents = (Totals, Option<RecordList>);

fn bytes(blocks: u64) -> u64 {
    blocks.saturating_mul(BLOCK_BYTES as u64)
}

/// The problems, up to [`PROBLEMS_MAX`], and how many were omitted.
#[derive(Default)]
struct Problems {
    list: Vec<Problem>,
    omitted: u64,
}

impl Problems {
    /// Those that were found before any entry was compared.
    fn found(log: &LogView, volumes: &VolumesView, device: &BdevInfo) -> Self {
        let mut problems = Problems::default();
        for problem in log.survey.problems.iter().chain(&volumes.problems) {
            problems.say(problem.clone());
        }
        let device_blocks = log.survey.superblock.device_blocks;
        if device.len_blocks < device_blocks {
            let (name, len_blocks) = (&device.name, device.len_blocks);
            problems.say(format!(
                "{name} has shrunk: it has {len_blocks} blocks and the pool on it {device_blocks}"
            ));
        }
        if volumes.catalog_lsn.is_none() && log.segments().next().is_some() {
            problems.say("no catalog can be read: which volumes there are is not known".to_owned());
        }
        problems
    }

    fn say(&mut self, text: String) {
        self.add(Problem { text, ..Problem::default() });
    }

    fn add(&mut self, problem: Problem) {
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        } else {
            self.omitted += 1;
        }
    }
}

/// What the check of all data blocks found for a volume.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    checked_blocks: u64,
    damaged_blocks: u64,
}

/// The check of all segments, in progress.
struct Count<'a> {
    volumes: &'a VolumesView,
    problems: Problems,
    /// One for each volume.
    tallies: Vec<Tally>,
}

impl Count<'_> {
    async fn segment(
        &mut self,
        log: &LogView,
        sequence: SegmentSeq,
        segment: &Segment,
        entries: &Rc<SegmentEntries>,
    ) -> Result<Totals, ReadError> {
        let mut totals = Totals { entries: EntryCounts::default(), ..Totals::default() };
        for (_, record) in entries.records() {
            totals.records += 1;
            for entry in record {
                totals.entries.add(entry);
            }
        }
        if totals.entries.total() != segment.entries {
            self.problems.add(Problem {
                text: format!(
                    "segment {sequence}: its records hold {} entries and its table entry says {}",
                    totals.entries.total(),
                    segment.entries
                ),
                sequence: Some(sequence.0),
                ..Problem::default()
            });
        }
        let check = |checked: Checked<'_>| match checked {
            Checked::Record(lsn, Err(reason)) => {
                totals.damaged_records += 1;
                self.damaged_record(sequence, lsn, reason);
            }
            Checked::Record(_, Ok(())) => {}
            Checked::Data(placed, result) => {
                totals.data_blocks += 1;
                totals.damaged_blocks += u64::from(result.is_err());
                totals.live_blocks += u64::from(self.data(sequence, &placed, result));
            }
        };
        log.check(sequence, entries, check).await?;
        Ok(totals)
    }

    fn damaged_record(&mut self, sequence: SegmentSeq, lsn: Lsn, reason: &str) {
        self.problems.add(Problem {
            text: format!(
                "segment {sequence}: the record header at LSN {lsn} is damaged ({reason}); its entries are known from the trailer"
            ),
            sequence: Some(sequence.0),
            lsn: Some(lsn.0),
            blocks: Vec::new(),
        });
    }

    /// Counts a data block; returns whether some volume's index points at it.
    fn data(&mut self, sequence: SegmentSeq, placed: &PlacedEntry, result: Result<(), &str>) -> bool {
        let mut blocks = Vec::new();
        for (volume, tally) in self.volumes.volumes.iter().zip(&mut self.tallies) {
            if volume.holds(placed) {
                tally.checked_blocks += 1;
                tally.damaged_blocks += u64::from(result.is_err());
                blocks
                    .push(VolumeBlock { volume: volume.catalog.name.clone(), block: placed.entry.block().0 });
            }
        }
        let is_live = !blocks.is_empty();
        if let Err(reason) = result {
            let what = if is_live { holders(&blocks) } else { unheld(placed) };
            self.problems.add(Problem {
                text: format!(
                    "segment {sequence}: the data block at LSN {} is damaged ({reason}): {what}",
                    placed.lsn
                ),
                sequence: Some(sequence.0),
                lsn: Some(placed.lsn.0),
                blocks,
            });
        }
        is_live
    }
}

fn holders(blocks: &[VolumeBlock]) -> String {
    let names = blocks.iter().map(|block| format!("block {} of volume '{}'", block.block, block.volume));
    names.collect::<Vec<_>>().join(", ")
}

/// Describes a data block that no volume's index points at.
fn unheld(placed: &PlacedEntry) -> String {
    if placed.entry.kind() == Some(EntryKind::Event) {
        let head = EventHead::decode(placed.entry.block().0);
        return format!("copy {} of the text of a {} event", head.copy, event_name(head.kind));
    }
    format!(
        "a version of block {} of image {} that no volume holds any more",
        placed.entry.block(),
        placed.entry.image()
    )
}

fn superblocks(log: &LogView) -> Vec<SuperblockReport> {
    let report = |(copy, superblock): (u64, &Result<Superblock, String>)| {
        let error = superblock.as_ref().err().cloned();
        let valid = superblock.as_ref().ok();
        SuperblockReport {
            copy,
            in_force: valid == Some(&log.survey.superblock),
            error,
            generation: valid.map(|valid| valid.generation),
            epoch: valid.map(|valid| valid.epoch),
            device_blocks: valid.map(|valid| valid.device_blocks),
            segment_blocks: valid.map(|valid| valid.segment_blocks),
            slots: valid.map(|valid| valid.slots),
            working_set: valid.map(|valid| valid.working_set),
            first_slot_block: valid.map(|valid| valid.first_slot_block),
        }
    };
    (0..).zip(&log.superblocks).map(report).collect()
}

fn log_report(log: &LogView) -> LogReport {
    let survey = &log.survey;
    let missing = log.segments().filter(|(_, segment)| segment.slot.is_none());
    LogReport {
        oldest_sequence: log.segments().next().map(|(sequence, _)| sequence.0),
        current_sequence: survey.current().map(|sequence| sequence.0),
        end_lsn: survey.end_lsn.0,
        clean: survey.clean,
        last_time_ns: survey.last_time_ns,
        missing_segments: missing.map(|(sequence, _)| sequence.0).collect(),
        lost: survey.lost.clone(),
    }
}

fn slot_report(
    log: &LogView,
    view: &SlotView,
    contents: &mut HashMap<SegmentSeq, Contents>,
    problems: &mut Problems,
) -> SlotReport {
    let sequence = view.sequence;
    let segment = sequence
        .and_then(|sequence| log.survey.table.get(sequence))
        .filter(|segment| segment.slot == Some(view.slot));
    let (totals, records) = match (sequence, segment) {
        (Some(sequence), Some(_)) => contents.remove(&sequence).unwrap_or_default(),
        _ => Contents::default(),
    };
    let mut own = segment.map(|segment| segment.problems.clone()).unwrap_or_default();
    if let (Some(sequence), Some(_), true) = (sequence, segment, own.is_empty()) {
        // The search for the log did not need these parts.
        if view.header_presence != Presence::Valid {
            own.push("its header is damaged".to_owned());
        }
        if view.trailer == TrailerState::Damaged {
            own.push("its trailer is damaged; it was read record by record".to_owned());
        }
        for text in &own {
            let text = format!("segment {sequence}: {text}");
            problems.add(Problem { text, sequence: Some(sequence.0), ..Problem::default() });
        }
    }
    SlotReport {
        slot: view.slot.0,
        device_block: log.geometry().slot_block(view.slot),
        state: view.state,
        sequence: sequence.map(|sequence| sequence.0),
        header: view.header_presence,
        trailer: view.trailer,
        epoch: segment.map(|segment| segment.epoch).or(view.header.as_ref().map(|header| header.epoch)),
        first_lsn: sequence.map(|sequence| log.geometry().first_lsn(sequence).0),
        end_lsn: segment.map(|segment| segment.end_lsn.0),
        opened_ns: segment
            .map(|segment| segment.opened_ns)
            .or(view.header.as_ref().map(|header| header.opened_ns)),
        totals,
        problems: own,
        records,
    }
}

fn volume_reports(
    volumes: &VolumesView,
    tallies: &[Tally],
    with_entries: bool,
    problems: &mut Problems,
) -> Vec<VolumeReport> {
    let mut reports = Vec::new();
    for (volume, tally) in volumes.volumes.iter().zip(tallies) {
        let catalog = &volume.catalog;
        let mut uncertain_blocks = 0;
        if volume.uncertain_below > Lsn(0) {
            volume.index.visit(|_, mapping| {
                uncertain_blocks += u64::from(mapping.lsn() < volume.uncertain_below);
            });
            problems.say(format!(
                "volume '{}': what is older than LSN {} is not certain, because records were lost: {uncertain_blocks} blocks with contents, and all without",
                catalog.name, volume.uncertain_below
            ));
        }
        let mapped_blocks = volume.index.mapped();
        if mapped_blocks != tally.checked_blocks {
            problems.say(format!(
                "volume '{}': its index maps {mapped_blocks} blocks and the segments hold {} of them",
                catalog.name, tally.checked_blocks
            ));
        }
        reports.push(VolumeReport {
            name: catalog.name.clone(),
            uuid: catalog.uuid,
            size_bytes: bytes(catalog.size_blocks),
            read_only: catalog.read_only,
            image: catalog.image,
            parent: volume.image.as_ref().and_then(|image| image.parent),
            created_ns: catalog.created_ns,
            mapped_blocks,
            checked_blocks: tally.checked_blocks,
            damaged_blocks: tally.damaged_blocks,
            uncertain_blocks,
            index: with_entries.then(|| IndexList(volume.index.clone())),
        });
    }
    reports
}

fn checks(
    superblocks: &[SuperblockReport],
    slots: &[SlotReport],
    totals: &Totals,
    volumes: &[VolumeReport],
    log: &LogView,
) -> Vec<Check> {
    let valid = superblocks.iter().filter(|superblock| superblock.error.is_none()).count();
    let segments = log.segments().count();
    let damaged = slots.iter().filter(|slot| !slot.problems.is_empty()).count();
    let missing = log.segments().filter(|(_, segment)| segment.slot.is_none()).count();
    let mapped: u64 = volumes.iter().map(|volume| volume.mapped_blocks).sum();
    let checked: u64 = volumes.iter().map(|volume| volume.checked_blocks).sum();
    let bad: u64 = volumes.iter().map(|volume| volume.damaged_blocks + volume.uncertain_blocks).sum();
    let agree = volumes.iter().all(|volume| volume.mapped_blocks == volume.checked_blocks);
    vec![
        Check {
            name: "superblocks",
            ok: valid == superblocks.len(),
            detail: format!("{valid} of {} valid", superblocks.len()),
        },
        Check {
            name: "segments",
            ok: damaged == 0 && missing == 0 && log.lost().is_empty(),
            detail: format!("{segments} in the log, {damaged} damaged, {missing} missing"),
        },
        Check {
            name: "records",
            ok: totals.damaged_records == 0,
            detail: format!("{} read, {} damaged", totals.records, totals.damaged_records),
        },
        Check {
            name: "data blocks",
            ok: totals.damaged_blocks == 0,
            detail: format!("{} read, {} damaged", totals.data_blocks, totals.damaged_blocks),
        },
        Check {
            name: "indexes",
            ok: agree && bad == 0,
            detail: format!(
                "{mapped} blocks mapped, {checked} found in segments, {bad} of them not readable"
            ),
        },
    ]
}
