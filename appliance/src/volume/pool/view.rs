//! The information that a pool reports: volumes, counters, segments. All are copies; nothing here
//! changes anything.

use super::Pool;
use super::state::State;
use crate::bdev::Space;
use crate::dma::BLOCK_BYTES;
use crate::log::LogFailure;
use crate::log::table::Phase;
use crate::volume::catalog::room_problem;
use crate::volume::history::clock::clock_problem;
use crate::volume::history::synch_table::SynchTable;
use crate::volume::image::image_ids;
use crate::volume::image::index::index_bytes;
use crate::volume::image::volume::{Volume, VolumeIndex};
use crate::volume::info::{PoolInfo, PoolStats, SegmentInfo, SegmentState, VolumeInfo, VolumeState};
use crate::volume::request::VolumeId;
use crate::volume::space::working_set::device_slots;

impl Pool {
    /// Every volume, by name.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let state = self.state.borrow();
        let mut volumes: Vec<VolumeInfo> = state.volumes.ids().filter_map(|id| state.info(id)).collect();
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        volumes
    }

    /// A volume.
    pub fn volume(&self, id: VolumeId) -> Option<VolumeInfo> {
        self.state.borrow().info(id)
    }

    /// A volume by its name.
    pub fn find_volume(&self, name: &str) -> Option<VolumeInfo> {
        let state = self.state.borrow();
        state.volumes.find(name).and_then(|id| state.info(id))
    }

    /// The synchs that can be restored: a copy that shares its pages, so it costs one reference and
    /// may be read on any thread.
    pub fn synchs(&self) -> SynchTable {
        self.state.borrow().synchs.share()
    }

    /// How many synchs there are.
    pub fn synch_count(&self) -> usize {
        self.state.borrow().synchs.len()
    }

    /// Whether writes wait because the device has no room.
    pub fn waits_for_room(&self) -> bool {
        self.log.borrow().starved().is_some()
    }

    /// Whether the device failed, so that no write is accepted until a restart.
    pub fn has_failed(&self) -> bool {
        self.log.borrow().poisoned().is_some()
    }

    /// The pool's properties and state.
    pub fn info(&self) -> PoolInfo {
        let state = self.state.borrow();
        let log = self.log.borrow();
        let (device, geometry) = (log.device().info(), log.geometry());
        let mut problems: Vec<String> = state.problems.iter().cloned().collect();
        problems.extend(log.damage().cloned());
        problems.extend(state.faults.iter().cloned());
        problems.extend(state.nearly_full_problem(&log));
        problems.extend(log.poisoned().map(LogFailure::problem));
        problems.extend(log.starved().map(|starved| {
            let space = log.device().queue().device().space();
            no_room(&device.name, space.as_ref(), &starved.reason)
        }));
        let clock = log.clock_status();
        problems.extend(state.ended_busy.problem(log.environment().clock.monotonic_ns(), &state.volumes));
        problems.extend(image_ids::problem(state.catalog.next_image, log.format_version()));
        problems.extend(room_problem(&log, &state.catalog));
        problems.extend(clock_problem(&clock, state.archive.is_attached()));
        PoolInfo {
            uuid: log.pool(),
            device: device.name,
            device_kind: device.kind.to_owned(),
            device_bytes: device.len_blocks * BLOCK_BYTES as u64,
            segment_bytes: geometry.segment_blocks * BLOCK_BYTES as u64,
            slots: geometry.slots,
            device_slots: device_slots(&log),
            working_set_segments: geometry.working_set,
            working_set_target_segments: state.catalog.working_set_target,
            created_ns: log.created_ns(),
            volumes: state.volumes.len() as u64,
            state: if log.poisoned().is_some() { "failed" } else { "online" }.to_owned(),
            clock,
            problems,
        }
    }

    /// Counters and gauges.
    pub fn stats(&self) -> PoolStats {
        let state = self.state.borrow();
        let log = self.log.borrow();
        let (log_stats, dma) = (log.stats(), log.environment().dma_stats());
        let (log_used_blocks, log_capacity_blocks) = log.usage_blocks();
        let (read_ahead_blocks, read_ahead_used_blocks) = state.read_ahead.counts();
        let phases = |phase| log.table().iter().filter(|(_, segment)| segment.phase == phase).count() as u64;
        PoolStats {
            head_lsn: log.head_lsn().0,
            newest_point_lsn: log.point_lsn().0,
            newest_change_lsn: state.catalog.change_lsn().0,
            written_lsn: log.written_lsn().0,
            stable_lsn: log.stable_lsn().0,
            log_used_blocks,
            log_capacity_blocks,
            host_written_blocks: state.stats.host_written_blocks(),
            host_read_blocks: state.stats.host_read_blocks(),
            device_written_blocks: log_stats.device_written_blocks,
            copied_blocks: log_stats.copied_blocks,
            hydrated_blocks: state.capacity.hydrated_blocks(),
            write_amplification: match state.stats.host_written_blocks() {
                0 => 0.0,
                host => {
                    (host + log_stats.copied_blocks - state.capacity.hydrated_blocks()) as f64 / host as f64
                }
            },
            header_blocks: log_stats.header_blocks,
            trailer_blocks: log_stats.trailer_blocks,
            capacity_blocks: state.capacity_of(&log).unwrap_or(0),
            reserved_blocks: state.reserved_blocks(),
            thin_blocks: state.capacity.thin_blocks(),
            masks: log.table().masks(),
            segments_in_use: phases(Phase::InUse),
            segments_inactive: phases(Phase::Inactive),
            segments_recycle: log.table().free_len() as u64,
            released_segments: log_stats.released_segments,
            released_early_segments: log_stats.released_early_segments,
            records: log_stats.records,
            flushes: log_stats.flushes,
            checksum_errors: state.stats.checksum_errors(),
            retried_reads: state.stats.retried_reads(),
            rescued_reads: state.stats.rescued_reads(),
            unreadable_blocks: state.stats.unreadable_blocks(),
            read_ahead_blocks,
            read_ahead_used_blocks,
            index_bytes: index_bytes(),
            dma_in_use_bytes: dma.in_use_bytes as u64,
            dma_budget_bytes: dma.budget_bytes as u64,
            mapped_blocks: state.volumes.iter().map(Volume::mapped).sum(),
        }
    }

    /// Every segment, oldest first, then the free slots (R3, R4).
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let log = self.log.borrow();
        let geometry = log.geometry();
        let current = log.current_sequence();
        let there = log.table().iter().filter(|(_, segment)| segment.phase != Phase::Released);
        let kept = there.map(|(sequence, segment)| SegmentInfo {
            sequence: Some(sequence.0),
            slot: segment.slot.map_or(u64::MAX, |slot| slot.0),
            state: match segment.phase {
                _ if Some(sequence) == current => SegmentState::Current,
                Phase::InUse => SegmentState::Active,
                Phase::Inactive | Phase::Released => SegmentState::Inactive,
            },
            first_lsn: geometry.first_lsn(sequence).0,
            used_blocks: segment.end_lsn.0 - geometry.first_lsn(sequence).0,
            opened_ns: segment.opened_ns,
            entries: segment.entries,
            live_blocks: segment.live,
            archived: segment.archived,
            problems: segment.problems.clone(),
        });
        let free = log.table().free().map(|slot| SegmentInfo {
            sequence: None,
            slot: slot.0,
            state: SegmentState::Recycle,
            first_lsn: 0,
            used_blocks: 0,
            opened_ns: 0,
            entries: 0,
            live_blocks: 0,
            archived: false,
            problems: Vec::new(),
        });
        kept.chain(free).collect()
    }
}

impl State {
    pub(super) fn info(&self, id: VolumeId) -> Option<VolumeInfo> {
        let volume = self.volumes.get(id)?;
        let entry = self.catalog.volume(volume.name())?;
        let state = match volume.index() {
            VolumeIndex::Ready(_) if volume.uncertain_below().0 == 0 => VolumeState::Online,
            VolumeIndex::Inherits(_) => VolumeState::Loading,
            VolumeIndex::Ready(_) | VolumeIndex::Failed(_) => VolumeState::Degraded,
        };
        let image = self.catalog.image(volume.image().0).filter(|image| image.inherits());
        let inherited_blocks =
            if volume.inherits() { volume.mapped().saturating_sub(volume.resident()) } else { 0 };
        Some(VolumeInfo {
            id,
            name: volume.name().to_owned(),
            uuid: entry.uuid,
            size_bytes: volume.size_blocks() * BLOCK_BYTES as u64,
            read_only: volume.is_read_only(),
            state,
            image: volume.image().0,
            parent: image.and_then(|image| image.parent),
            origin: entry.origin.clone(),
            created_ns: entry.created_ns,
            mapped_blocks: volume.mapped(),
            inherited_blocks,
            uncertain_blocks: volume.uncertain_blocks(),
            problem: volume.problem(),
            hydrating: volume.is_hydrating(),
            thin: volume.is_thin(),
            stats: volume.stats(),
            histogram: self.latencies.is_on(id),
        })
    }
}

impl Pool {
    /// Notes that a host's command ended with an error because the pool had been busy for too long.
    /// It is reported to the operator for five minutes.
    pub fn note_ended_busy(&self, volume: VolumeId) {
        let now_ns = self.log.borrow().environment().clock.monotonic_ns();
        let mut state = self.state.borrow_mut();
        let is_new = state.ended_busy.note(now_ns, volume);
        if let Some(volume) = state.volumes.get(volume).filter(|_| is_new) {
            tracing::warn!(
                volume = volume.name(),
                "commands end with a request for another try: the pool has been busy for too long"
            );
        }
    }
}

/// The message for the operator while writes wait for room.
fn no_room(device: &str, space: Option<&Space>, reason: &str) -> String {
    let Some(space) = space else { return format!("writes wait for room: {reason}") };
    let Space { file_system, free_bytes, missing_bytes } = space;
    format!(
        "writes wait for room: the file system at {file_system} is full ({free_bytes} bytes free), and {device} may need {missing_bytes} bytes more of it; make room there, and they go on by themselves"
    )
}
