//! What a restore would read from where, before anything is done.
//!
//! The plan of an exact count builds the index of the point, as opening it would, and throws it
//! away again in pieces: it reads entries, and a few blocks to measure the archive, and changes
//! nothing. A quick plan reads only the catalog of the point.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use crate::dma::BLOCK_BYTES;
use crate::log::format::Entry;
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::catalog::{Catalog, CatalogVolume};
use crate::volume::error::VolumeError;
use crate::volume::history::point::NamedPoint;
use crate::volume::history::point_info::{Place, PlaceBytes, PlanEstimate, PlanSegment, RestorePlan};
use crate::volume::image::free::free;
use crate::volume::image::index::{Index, Mapping};
use crate::volume::info::ResolvedPoint;
use crate::volume::pool::Pool;

/// Leaves of the index that one turn of the reactor visits.
const LEAVES_PER_TURN: usize = 32;
/// The maximum number of segments that the answer lists.
const SEGMENTS_MAX: usize = 10_000;
/// How many reads measure the archive.
const SAMPLES: usize = 4;

/// How the archive answered a few reads.
#[derive(Debug, Clone, Copy, Default)]
struct Measured {
    read_count: u64,
    bytes: u64,
    elapsed_ns: u64,
}

impl Pool {
    /// What opening a point of a volume, and copying what it needs, would read. The volume is
    /// looked up by the name that it had at the point. `quick`: without reading the entries, so
    /// that the bytes of the volume's blocks are not known.
    ///
    /// # Errors
    /// As for opening the point.
    pub async fn restore_plan(
        self: Rc<Self>,
        volume: String,
        point: impl Into<NamedPoint>,
        quick: bool,
    ) -> Result<RestorePlan, VolumeError> {
        let (_, mut plans) = self.restore_plans(volume.clone(), point, quick).await?;
        plans.pop().ok_or(VolumeError::NoSuchVolume { name: volume })
    }

    /// The same for a volume, or for each volume of a group; with the name of the group.
    ///
    /// # Errors
    /// As for opening the point.
    pub async fn restore_plans(
        self: Rc<Self>,
        name: String,
        point: impl Into<NamedPoint>,
        quick: bool,
    ) -> Result<(Option<String>, Vec<RestorePlan>), VolumeError> {
        let (at, members) = self.members_at(&name, &point.into()).await?;
        let mut plans = Vec::with_capacity(members.volumes.len());
        for source in &members.volumes {
            plans.push(self.plan_of(source, &members.catalog, at.clone(), quick).await?);
        }
        Ok((members.group, plans))
    }

    /// The plan for a volume of the catalog at a point.
    async fn plan_of(
        &self,
        source: &CatalogVolume,
        catalog: &Catalog,
        at: ResolvedPoint,
        quick: bool,
    ) -> Result<RestorePlan, VolumeError> {
        let at_lsn = Lsn(at.lsn);
        let shared = self.share_index(source.image, at_lsn);
        let unchanged = shared.is_some();
        let began_ns = self.monotonic_ns();
        let (mut scanned, mut uncertain_below, mut anchor) = (0, Lsn(0), None);
        let index = match shared {
            Some(index) => Some(index),
            None if quick => None,
            None => {
                let (index, report) = self.index_at(catalog, source, at_lsn).await?;
                (scanned, uncertain_below) = (report.entries_scanned, report.uncertain_below);
                anchor = report.anchor_lsn.map(|lsn| (lsn, report.anchor_bytes));
                Some(index)
            }
        };
        let open_s = self.monotonic_ns().saturating_sub(began_ns) as f64 / 1e9;
        let mut segments = if unchanged { BTreeSet::new() } else { self.windows_of(catalog, source, at_lsn) };
        let mut mapped = Mapped { uncertain_below, ..Mapped::default() };
        if let Some(index) = &index {
            mapped = self.count_mapped(index, mapped).await;
            segments.extend(mapped.blocks.keys().copied());
        }
        let mapped_bytes = index.as_ref().map_or(0, Index::mapped) * BLOCK_BYTES as u64;
        if let Some(index) = index.filter(|_| !unchanged) {
            free(index).await;
        }
        let mut plan = RestorePlan {
            volume: source.name.clone(),
            point: at,
            size_bytes: source.size_blocks * BLOCK_BYTES as u64,
            mapped_bytes,
            unchanged,
            store: self.archive_status().map(|status| status.store),
            primary: PlaceBytes::default(),
            archive: PlaceBytes::default(),
            uncertain_bytes: mapped.uncertain * BLOCK_BYTES as u64,
            anchor_lsn: None,
            anchor_bytes: 0,
            segments: Vec::new(),
            estimate: PlanEstimate { open_s: None, hydrate_s: None, basis: String::new() },
        };
        for sequence in segments {
            // An anchor has what is older, but it names the record before it.
            let is_read = !unchanged && anchor.is_none_or(|(lsn, _)| sequence >= self.sequence_of(lsn));
            let segment = self.plan_segment(sequence, mapped.blocks.get(&sequence).copied(), is_read);
            let RestorePlan { primary, archive, .. } = &mut plan;
            match segment.place {
                Place::Primary => add(primary, &segment),
                Place::Archive => add(archive, &segment),
                Place::Nowhere => {}
            }
            plan.segments.push(segment);
            if plan.segments.len().is_multiple_of(256) {
                yield_now().await;
            }
        }
        plan.segments.truncate(SEGMENTS_MAX);
        let measured = self.measure_archive(&mapped.archived).await;
        plan.anchor_lsn = anchor.map(|(lsn, _)| lsn.0);
        plan.anchor_bytes = anchor.map_or(0, |(_, bytes)| bytes);
        plan.estimate = estimate(&plan, quick, scanned, open_s, measured);
        Ok(plan)
    }

    /// The segments whose entries opening a point reads: the window of each range.
    fn windows_of(&self, catalog: &Catalog, source: &CatalogVolume, lsn: Lsn) -> BTreeSet<SegmentSeq> {
        let ranges = catalog.image_ranges(source.image, lsn, |at| self.window_before(at));
        let windows = ranges.iter().map(|one| self.segments_between(one.above, one.up_to));
        windows.flatten().map(SegmentSeq).collect()
    }

    /// Counts the blocks of an index by their segments, in pieces.
    async fn count_mapped(&self, index: &Index, mut mapped: Mapped) -> Mapped {
        let geometry = self.log.borrow().geometry();
        let mut next = Some(0);
        while let Some(from) = next {
            next = index.visit_some(from, LEAVES_PER_TURN, |_, mapping| {
                let sequence = geometry.sequence_of(mapping.lsn());
                let blocks = mapped.blocks.entry(sequence).or_default();
                *blocks += 1;
                if *blocks == 1 {
                    mapped.archived.push((sequence, mapping));
                }
                mapped.uncertain += u64::from(mapping.lsn() < mapped.uncertain_below);
            });
            yield_now().await;
        }
        mapped
    }

    /// Where a segment is, and what would be read of it.
    fn plan_segment(&self, sequence: SegmentSeq, mapped_blocks: Option<u64>, is_read: bool) -> PlanSegment {
        let (on_device, entries) = {
            let log = self.log.borrow();
            let segment = log.table().get(sequence).filter(|_| log.table().slot(sequence).is_some());
            (segment.is_some(), segment.map(|segment| segment.entries))
        };
        let (objects, archived_entries) = self.archived_size(sequence);
        let place = match (on_device, objects) {
            (true, _) => Place::Primary,
            (false, 0) => Place::Nowhere,
            (false, _) => Place::Archive,
        };
        let entries = entries.or(archived_entries).unwrap_or(0);
        PlanSegment {
            segment: sequence.0,
            place,
            objects,
            entries_bytes: if is_read { entries * size_of::<Entry>() as u64 } else { 0 },
            mapped_bytes: mapped_blocks.unwrap_or(0) * BLOCK_BYTES as u64,
        }
    }

    /// Reads a few blocks of the archive to see how fast it answers. A failure measures nothing.
    async fn measure_archive(&self, first_blocks: &[(SegmentSeq, Mapping)]) -> Measured {
        let archived: Vec<&(SegmentSeq, Mapping)> = first_blocks
            .iter()
            .filter(|(sequence, _)| self.log.borrow().table().slot(*sequence).is_none())
            .collect();
        let step = (archived.len() / SAMPLES).max(1);
        let mut measured = Measured::default();
        for &&(sequence, mapping) in archived.iter().step_by(step).take(SAMPLES) {
            let began_ns = self.monotonic_ns();
            let Ok(Some(bytes)) = self.read_frame_bytes(sequence, mapping.lsn()).await else { break };
            measured.read_count += 1;
            measured.bytes += bytes;
            measured.elapsed_ns += self.monotonic_ns().saturating_sub(began_ns);
        }
        measured
    }

    fn sequence_of(&self, lsn: Lsn) -> SegmentSeq {
        self.log.borrow().geometry().sequence_of(lsn)
    }

    fn monotonic_ns(&self) -> u64 {
        self.log.borrow().environment().clock.monotonic_ns()
    }
}

/// The blocks that an index holds, by segment.
#[derive(Default)]
struct Mapped {
    blocks: BTreeMap<SegmentSeq, u64>,
    /// One block of each segment.
    archived: Vec<(SegmentSeq, Mapping)>,
    uncertain: u64,
    uncertain_below: Lsn,
}

fn add(sum: &mut PlaceBytes, segment: &PlanSegment) {
    sum.segments += 1;
    sum.entries_bytes += segment.entries_bytes;
    sum.mapped_bytes += segment.mapped_bytes;
}

/// The times that a restore takes, and what they are based on.
fn estimate(plan: &RestorePlan, quick: bool, scanned: u64, open_s: f64, measured: Measured) -> PlanEstimate {
    let opening = if plan.unchanged {
        "the volume has not changed since, so opening reads nothing".to_owned()
    } else if quick {
        "nothing was read, so the time to open is not known".to_owned()
    } else {
        let anchor = plan.anchor_lsn.map_or_else(String::new, |lsn| {
            format!(" and {} KiB of the anchor at lsn:{lsn}", plan.anchor_bytes >> 10)
        });
        format!(
            "the {scanned} entries{anchor} were read now, in {open_s:.3} s; what the caches keep is read faster next time"
        )
    };
    let rate = measured.bytes as f64 / (measured.elapsed_ns.max(1) as f64 / 1e9);
    let (hydrate_s, copying) = match (plan.archive.mapped_bytes, measured.read_count) {
        (0, _) if quick && !plan.unchanged => (None, "what is mapped where was not counted".to_owned()),
        (0, _) => (Some(0.0), "everything is on the primary device".to_owned()),
        (_, 0) => (None, "the archive could not be measured".to_owned()),
        (bytes, reads) => (
            Some(bytes as f64 / rate),
            format!(
                "{reads} reads of the archive gave {:.1} MiB/s now, one after the other; more at once are faster",
                rate / f64::from(1 << 20)
            ),
        ),
    };
    PlanEstimate {
        open_s: (!quick || plan.unchanged).then_some(open_s),
        hydrate_s,
        basis: format!("{opening}; {copying}"),
    }
}
