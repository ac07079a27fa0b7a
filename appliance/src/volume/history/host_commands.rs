//! Host commands of the log: the unit in which offsets of points count.
//!
//! A host's command is a run of entries of kind write or trim in one record; the last one has the
//! flag LAST. Copies, masks and events are none. The commands of a volume are those of all images
//! that it had: a volume is followed by its UUID, because its name and its image may change.
//!
//! **Cost:** counting reads the entries of each segment on the way, with a yield after each.

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use crate::log::format::{EntryKind, EventKind};
use crate::log::reader::{PlacedEntry, SegmentEntries};
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::catalog::{Catalog, CatalogChange};
use crate::volume::error::VolumeError;
use crate::volume::history::event::EventCollector;
use crate::volume::history::known::Known;
use crate::volume::history::whose::Whose;
use crate::volume::pool::Pool;

/// A host's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::volume) struct HostCommand {
    /// The position of its last entry.
    pub(in crate::volume) lsn: Lsn,
    pub(in crate::volume) time_ns: u64,
    pub(in crate::volume) image: u32,
    pub(in crate::volume) is_trim: bool,
    /// First block and count of blocks, in the order in which they were given.
    pub(in crate::volume) ranges: Vec<(u64, u64)>,
}

/// Whether an entry ends a host's command.
pub(in crate::volume) fn ends_command(placed: &PlacedEntry) -> bool {
    placed.entry.is_last() && matches!(placed.entry.kind(), Some(EntryKind::Write | EntryKind::Trim))
}

/// Calls `visit` with each host command of a segment that ends after `after` and not after `up_to`,
/// oldest first, until it returns `false`.
pub(in crate::volume) fn visit_commands(
    entries: &SegmentEntries,
    after: Lsn,
    up_to: Lsn,
    mut visit: impl FnMut(HostCommand) -> bool,
) {
    for (line, of_record) in entries.records_between(after, up_to).map(|index| entries.record(index)) {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for placed in SegmentEntries::placed(line, of_record) {
            let (block, is_trim) = match placed.entry.kind() {
                Some(EntryKind::Write) => (placed.entry.block().0, false),
                Some(EntryKind::Trim) => (placed.entry.block().0, true),
                _ => continue,
            };
            match ranges.last_mut() {
                _ if is_trim => ranges.push((block, placed.entry.value())),
                Some((start, len_blocks)) if *start + *len_blocks == block => *len_blocks += 1,
                _ => ranges.push((block, 1)),
            }
            if !placed.entry.is_last() {
                continue;
            }
            if placed.lsn > up_to {
                return;
            }
            let ranges = std::mem::take(&mut ranges);
            let (lsn, time_ns, image) = (placed.lsn, placed.time_ns, placed.entry.image().0);
            if lsn > after && !visit(HostCommand { lsn, time_ns, image, is_trim, ranges }) {
                return;
            }
        }
    }
}

/// A count of commands from a point, and where it ended.
pub(in crate::volume) enum Counted {
    /// At this point.
    At(Lsn),
    /// There were only so many.
    Only(u64),
}

impl Pool {
    /// The position of the command that is `commands` after the newest one at or before `from`, or
    /// before it if negative.
    ///
    /// # Errors
    /// Entries on the way are not kept, or cannot be read.
    pub(in crate::volume) async fn count_commands(
        &self,
        whose: &Whose,
        from: Lsn,
        commands: i64,
    ) -> Result<Counted, VolumeError> {
        match u64::try_from(commands) {
            Ok(0) => Ok(Counted::At(from)),
            Ok(forward) => self.count_forward(whose, from, forward).await,
            Err(_) => self.count_backward(whose, from, commands.unsigned_abs()).await,
        }
    }

    /// The position of the n-th command of the log, from 1; 0: the point before the first.
    ///
    /// # Errors
    /// The log is not kept from its beginning.
    pub(in crate::volume) async fn nth_command(
        &self,
        whose: &Whose,
        number: u64,
    ) -> Result<Counted, VolumeError> {
        if number > 0 {
            return self.count_forward(whose, Lsn(0), number).await;
        }
        match self.count_forward(whose, Lsn(0), 1).await? {
            Counted::At(first) => Ok(Counted::At(self.before_command(first).await?)),
            Counted::Only(_) => Ok(Counted::At(Lsn(0))),
        }
    }

    async fn count_forward(&self, whose: &Whose, from: Lsn, number: u64) -> Result<Counted, VolumeError> {
        let (first, last) = {
            let log = self.log.borrow();
            let geometry = log.geometry();
            (geometry.sequence_of(from), geometry.sequence_of(Lsn(log.commit_lsn().0.saturating_sub(1))))
        };
        let mut seen = 0;
        for sequence in (first.0..=last.0).map(SegmentSeq) {
            let known = self.known_of(sequence).await?;
            let images = self.images_in(whose, sequence, &known).await?;
            let mut found = None;
            visit_commands(&known.entries, from, Lsn::MAX, |command| {
                seen += u64::from(images.contains(command.image));
                found = (seen == number).then_some(command.lsn);
                found.is_none()
            });
            check_holes(&known, from, found.unwrap_or(Lsn::MAX))?;
            if let Some(lsn) = found {
                return Ok(Counted::At(lsn));
            }
            yield_now().await;
        }
        Ok(Counted::Only(seen))
    }

    async fn count_backward(&self, whose: &Whose, from: Lsn, number: u64) -> Result<Counted, VolumeError> {
        let mut sequence = self.log.borrow().geometry().sequence_of(from);
        let (mut seen, mut oldest) = (0, from);
        loop {
            let known = self.known_of(sequence).await?;
            let images = self.images_in(whose, sequence, &known).await?;
            let mut found = None;
            known.entries.visit_backward(from, |placed| {
                if ends_command(&placed) && images.contains(placed.entry.image().0) {
                    // The first one is the command at `from` itself.
                    found = (seen == number).then_some(placed.lsn);
                    (seen, oldest) = (seen + 1, placed.lsn);
                }
                found.is_none()
            });
            check_holes(&known, found.unwrap_or(Lsn(0)), from)?;
            if let Some(lsn) = found {
                return Ok(Counted::At(lsn));
            }
            if sequence.0 == 0 {
                break;
            }
            sequence = SegmentSeq(sequence.0 - 1);
            yield_now().await;
        }
        if seen == number {
            return Ok(Counted::At(self.before_command(oldest).await?));
        }
        Ok(Counted::Only(seen))
    }

    /// The point before a command.
    async fn before_command(&self, lsn: Lsn) -> Result<Lsn, VolumeError> {
        let first = Lsn(lsn.0.saturating_sub(1));
        Ok(self.boundary_and_hole(first).await?.0.lsn)
    }

    /// The images whose commands count in a segment.
    pub(in crate::volume) async fn images_in(
        &self,
        whose: &Whose,
        sequence: SegmentSeq,
        known: &Known,
    ) -> Result<Images, VolumeError> {
        let Whose::Volumes(uuids) = whose else { return Ok(Images::All) };
        let only: Option<HashSet<u32>> =
            uuids.iter().map(|&uuid| self.only_image_in(uuid, sequence)).collect();
        if let Some(images) = only {
            return Ok(Images::Some(images));
        }
        let mut images = HashSet::new();
        self.visit_catalogs(sequence, known, |catalog, _| {
            let meant = catalog.volumes.iter().filter(|volume| uuids.contains(&volume.uuid));
            images.extend(meant.map(|volume| volume.image));
        })
        .await?;
        Ok(Images::Some(images))
    }

    /// The present image of a volume, if the volume had no other one in a segment: a volume has its
    /// present image since that was born.
    fn only_image_in(&self, uuid: Uuid, sequence: SegmentSeq) -> Option<u32> {
        let first_lsn = self.log.borrow().geometry().first_lsn(sequence);
        let state = self.state.borrow();
        let volume = state.catalog.volume_with_uuid(uuid)?;
        let image = state.catalog.image(volume.image)?;
        (Lsn(image.born_lsn) < first_lsn).then_some(image.id)
    }

    /// The names of the volumes in a segment, by their images: the names that they have now, if
    /// they exist, otherwise those that they had.
    pub(in crate::volume) async fn names_in(
        &self,
        sequence: SegmentSeq,
        known: &Known,
    ) -> Result<BTreeMap<u32, (Uuid, String)>, VolumeError> {
        let mut names = BTreeMap::new();
        self.visit_catalogs(sequence, known, |catalog, _| {
            for volume in catalog.volumes.iter() {
                names.insert(volume.image, (volume.uuid, volume.name.clone()));
            }
        })
        .await?;
        let state = self.state.borrow();
        for (uuid, name) in names.values_mut() {
            if let Some(volume) = state.catalog.volume_with_uuid(*uuid) {
                name.clone_from(&volume.name);
            }
        }
        Ok(names)
    }

    /// Calls `visit` with the catalog with which a segment begins, and with each one that a change
    /// in the segment made, with their positions, oldest first.
    pub(in crate::volume) async fn visit_catalogs(
        &self,
        sequence: SegmentSeq,
        known: &Known,
        mut visit: impl FnMut(&Catalog, Lsn),
    ) -> Result<(), VolumeError> {
        let first_lsn = self.log.borrow().geometry().first_lsn(sequence);
        let mut events = EventCollector::events(&known.entries, Lsn::MAX);
        events.retain(|event| matches!(event.kind, EventKind::Catalog | EventKind::Change));
        // A segment begins with a whole catalog, unless there was no room for it.
        let mut catalog = None;
        for event in events.iter().rev() {
            let text = self.read_event(event).await?;
            let text = text.as_deref();
            if event.kind == EventKind::Catalog {
                catalog = text.and_then(Catalog::decode).or(catalog);
            } else {
                let mut changed = match catalog.take() {
                    Some(catalog) => catalog,
                    None => self.find_catalog(Lsn(first_lsn.0.saturating_sub(1))).await?.catalog,
                };
                if let Some(change) = text.and_then(CatalogChange::decode) {
                    change.apply(&mut changed);
                }
                catalog = Some(changed);
            }
            if let Some(catalog) = &catalog {
                visit(catalog, event.lsn);
            }
        }
        if catalog.is_none() {
            visit(&self.find_catalog(first_lsn).await?.catalog, first_lsn);
        }
        Ok(())
    }
}

/// Refuses to count over a range of which nothing is known.
pub(super) fn check_holes(known: &Known, after: Lsn, up_to: Lsn) -> Result<(), VolumeError> {
    let Some(hole) = known.hole_between(after, up_to) else { return Ok(()) };
    Err(VolumeError::NoSuchPoint {
        point: format!("lsn:{}", hole.start),
        reason: format!(
            "host commands cannot be counted over the records at LSN {} to {}, which cannot be read",
            hole.start, hole.end
        ),
    })
}

/// Images whose commands count.
pub(in crate::volume) enum Images {
    All,
    Some(HashSet<u32>),
}

impl Images {
    /// Whether there are none.
    pub(in crate::volume) fn is_empty(&self) -> bool {
        matches!(self, Images::Some(images) if images.is_empty())
    }

    pub(in crate::volume) fn contains(&self, image: u32) -> bool {
        match self {
            Images::All => true,
            Images::Some(images) => images.contains(&image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::format::{Entry, RecordLine, TrailerUnit};
    use crate::log::{BlockNumber, ImageId};

    fn record(lsn: u64, entries: &[Entry]) -> Vec<TrailerUnit> {
        let data = entries.iter().filter(|entry| entry.has_data()).count() as u8;
        let line = RecordLine::new(Lsn(lsn), 7, entries.len() as u8, data, 1);
        let mut units: Vec<TrailerUnit> = vec![zerocopy::transmute!(line)];
        units.extend(entries.iter().map(|&entry| -> TrailerUnit { zerocopy::transmute!(entry) }));
        units
    }

    fn write(image: u32, block: u64, last: bool) -> Entry {
        Entry::write(ImageId(image), BlockNumber(block), 3, Lsn(0), last)
    }

    #[test]
    fn commands_are_runs_of_entries_up_to_the_last() {
        let trims = [
            Entry::trim(ImageId(1), BlockNumber(9), 5, false),
            Entry::trim(ImageId(1), BlockNumber(20), 2, true),
        ];
        let copied = Entry::copied(ImageId(1), BlockNumber(4), 3, Lsn(1), false);
        let units = [
            record(1, &[write(1, 7, false), write(1, 8, true), copied, write(2, 3, true)]),
            record(6, &trims),
            record(7, &[write(1, 1, true)]),
        ]
        .concat();
        let entries = SegmentEntries::new(units);
        let seen = |after, up_to| {
            let mut seen = Vec::new();
            visit_commands(&entries, Lsn(after), Lsn(up_to), |command| {
                seen.push((command.lsn.0, command.image, command.is_trim, command.ranges));
                true
            });
            seen
        };
        let all = seen(0, 100);
        assert_eq!(
            all,
            [
                (3, 1, false, vec![(7, 2)]),
                (5, 2, false, vec![(3, 1)]),
                (6, 1, true, vec![(9, 5), (20, 2)]),
                (8, 1, false, vec![(1, 1)]),
            ]
        );
        assert_eq!(seen(3, 6), all[1..3]);
        assert_eq!(seen(6, 7), []);
        assert_eq!(seen(8, 100), []);
        let mut lasts = Vec::new();
        entries.visit_backward(Lsn(6), |placed| {
            lasts.extend(ends_command(&placed).then_some(placed.lsn.0));
            true
        });
        assert_eq!(lasts, [6, 5, 3]);
    }
}
