//! Turns a point as an operator names it into a position of the log, and says what is there.
//!
//! **Never hidden:** an answer has a note wherever a name could mean something else: a label that
//! several synchs have, a label that looks like an id, a name that ends like an offset, a time that
//! is a mark's, a local time. A refusal repeats what was typed, and names the nearest points that
//! can be opened, and the earliest.

use std::rc::Rc;

use crate::dma::BLOCK_BYTES;
use crate::log::Lsn;
use crate::log::time::SpanBy;
use crate::volume::catalog::CatalogVolume;
use crate::volume::error::VolumeError;
use crate::volume::history::host_commands::Counted;
use crate::volume::history::past::{Boundary, in_hole};
use crate::volume::history::point::{NamedPoint, Point, split_offset};
use crate::volume::history::synch_names;
use crate::volume::history::whose::Whose;
use crate::volume::info::{PointKind, ResolvedPoint, SnapshotInfo, SynchInfo, VolumeAt};
use crate::volume::pool::Pool;

/// How many snapshots near a time are looked at.
const NEAR_SNAPSHOTS_MAX: usize = 1000;
/// A record is closed at most so many blocks after a snapshot was taken in it.
const NEAR_BLOCKS: u64 = 1024;
/// How many events after its birth are searched for the one that created a volume.
const CREATING_EVENTS_MAX: usize = 16;

/// A position that was found.
#[derive(Debug, Default)]
struct Located {
    lsn: Lsn,
    counted_by: Option<SpanBy>,
    notes: Vec<String>,
    /// What was asked for by its name or its time.
    mark: Option<Mark>,
}

#[derive(Debug, Clone, PartialEq)]
enum Mark {
    Synch(SynchInfo),
    Snapshot(SnapshotInfo),
    Volume { name: String, lsn: Lsn },
}

impl Mark {
    fn lsn(&self) -> Lsn {
        match self {
            Mark::Synch(synch) => Lsn(synch.lsn),
            Mark::Snapshot(snapshot) => Lsn(snapshot.lsn),
            Mark::Volume { lsn, .. } => *lsn,
        }
    }

    fn in_words(&self) -> String {
        match self {
            Mark::Synch(synch) => format!("synch {} '{}'", synch.id, synch.label),
            Mark::Snapshot(snapshot) => format!("snapshot '{}'", snapshot.name),
            Mark::Volume { name, .. } => format!("the creation of volume '{name}'"),
        }
    }
}

impl Located {
    fn at(lsn: Lsn) -> Self {
        Located { lsn, ..Located::default() }
    }

    fn at_mark(mark: Mark, note: Option<String>) -> Self {
        Located { lsn: mark.lsn(), notes: note.into_iter().collect(), mark: Some(mark), counted_by: None }
    }
}

impl Pool {
    /// Resolves a point to an LSN and describes it.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchPoint`] says what exists instead.
    pub async fn resolve(self: Rc<Self>, point: impl Into<NamedPoint>) -> Result<ResolvedPoint, VolumeError> {
        self.resolve_for(&point.into(), None).await
    }

    /// The same for one volume, by its present name, or by that which it had last: offsets count
    /// its host commands, and it must exist at the point. Of a group, those of its volumes count.
    ///
    /// # Errors
    /// [`VolumeError::NoSuchPoint`] says what exists instead; no volume ever had the name.
    pub async fn resolve_of(
        self: Rc<Self>,
        point: impl Into<NamedPoint>,
        volume: Option<String>,
    ) -> Result<ResolvedPoint, VolumeError> {
        self.resolve_for(&point.into(), volume.as_deref()).await
    }

    pub(in crate::volume) async fn resolve_for(
        &self,
        named: &NamedPoint,
        volume: Option<&str>,
    ) -> Result<ResolvedPoint, VolumeError> {
        let whose = self.whose(volume).await?;
        let mut found = match self.locate(named, &whose).await {
            Ok(found) => found,
            Err(error) => return Err(self.with_choices(error, named, None).await),
        };
        found.notes.extend(named.note());
        let boundary = match self.boundary_and_hole(found.lsn).await {
            Ok((boundary, None)) => boundary,
            Ok((_, Some(hole))) => {
                let error = in_hole(&named.text, hole);
                return Err(self.with_choices(error, named, Some(hole.start)).await);
            }
            Err(error) => return Err(self.with_choices(error, named, Some(found.lsn)).await),
        };
        let catalog = match self.catalog_at(boundary.lsn).await {
            Ok(catalog) => catalog,
            Err(error) => return Err(self.with_choices(error, named, Some(boundary.lsn)).await),
        };
        let of_volume = volume.filter(|name| !self.is_group(name));
        if let (Whose::Volumes(uuids), Some(name)) = (&whose, of_volume) {
            match uuids.first().and_then(|&uuid| catalog.volume_with_uuid(uuid)) {
                None => return Err(self.no_such_volume_then(name, &catalog, &named.text).await),
                Some(then) if then.name != name => {
                    found.notes.push(format!("volume '{name}' had the name '{}' then", then.name));
                }
                Some(_) => {}
            }
        }
        let volumes = catalog.volumes.iter().map(volume_at).collect();
        let (kind, time_ns) = match found.mark {
            Some(Mark::Snapshot(snapshot)) => (PointKind::Snapshot(snapshot.clone()), snapshot.time_ns),
            Some(Mark::Synch(synch)) => {
                let time_ns = synch.time_ns;
                (PointKind::Synch(synch), time_ns)
            }
            _ => (self.kind_of(&boundary), boundary.time_ns),
        };
        let kind = match kind {
            PointKind::Synch(synch) => PointKind::Synch(self.with_all_details(synch).await),
            kind => kind,
        };
        Ok(ResolvedPoint {
            point: named.text.clone(),
            lsn: boundary.lsn.0,
            time_ns,
            kind,
            counted_by: found.counted_by,
            volumes,
            notes: found.notes,
        })
    }

    /// The UUID of the volume that has a name, or had it last.
    ///
    /// # Errors
    /// No volume is known by that name.
    pub(in crate::volume) async fn uuid_of(&self, name: &str) -> Result<uuid::Uuid, VolumeError> {
        let present = self.state.borrow().catalog.volume(name).map(|volume| volume.uuid);
        if let Some(uuid) = present {
            return Ok(uuid);
        }
        match self.find_deleted(name).await? {
            Some(deleted) => Ok(deleted.uuid),
            None => Err(VolumeError::NoSuchVolume { name: name.to_owned() }),
        }
    }

    /// Adds to a refusal what was typed, and what may be chosen instead.
    pub(in crate::volume) async fn with_choices(
        &self,
        error: VolumeError,
        named: &NamedPoint,
        near: Option<Lsn>,
    ) -> VolumeError {
        match error {
            VolumeError::NoSuchPoint { reason, .. } => {
                let near = near.or(match &named.point {
                    Point::Lsn(lsn) => Some(Lsn(*lsn)),
                    Point::Time(time_ns) | Point::Shown { time_ns, .. } => self.near_time(*time_ns).await,
                    Point::Ago(span_ns) => {
                        let (time_ns, _) = self.log.borrow().time_ago(*span_ns);
                        self.near_time(time_ns).await
                    }
                    _ => None,
                });
                let choices = self.instead_of(near).await;
                VolumeError::NoSuchPoint { point: named.text.clone(), reason: format!("{reason}{choices}") }
            }
            error => error,
        }
    }

    /// A position near a time of which the log may not be kept.
    async fn near_time(&self, time_ns: u64) -> Option<Lsn> {
        let stretches = self.stretches().await;
        let place = self.stretch_of(&stretches, time_ns).await.ok()?;
        let geometry = self.log.borrow().geometry();
        let Some(stretch) = place.and_then(|place| stretches.get(place)) else { return Some(Lsn(0)) };
        Some(Lsn(geometry.first_lsn(stretch.last.next()).0 - 1))
    }

    fn kind_of(&self, boundary: &Boundary) -> PointKind {
        let state = self.state.borrow();
        if boundary.lsn.0 == 0 {
            PointKind::Beginning
        } else if let Some(synch) = synch_names::at(&state.synchs, boundary.lsn) {
            PointKind::Synch(synch)
        } else if let Some(snapshot) = state.catalog.snapshots.at(boundary.lsn) {
            PointKind::Snapshot((&snapshot).into())
        } else if boundary.is_event {
            PointKind::Event
        } else {
            PointKind::Write
        }
    }

    /// The position that a point names, before it is moved to the end of a command.
    async fn locate(&self, named: &NamedPoint, whose: &Whose) -> Result<Located, VolumeError> {
        let no_such = |reason: String| VolumeError::NoSuchPoint { point: named.text.clone(), reason };
        let (mut base, mut commands) = (&named.point, 0_i64);
        while let Point::Offset { from, commands: more } = base {
            (base, commands) = (&**from, commands.saturating_add(*more));
        }
        let newest = Lsn(self.close_up_to_now().0.saturating_sub(1));
        let mut found = match base {
            Point::Now => Located::at(newest),
            Point::Lsn(lsn) if *lsn > newest.0 => {
                return Err(no_such(format!("the log ends at lsn:{newest}")));
            }
            Point::Lsn(lsn) => Located::at(Lsn(*lsn)),
            Point::Write(number) => {
                let counted = self.nth_command(whose, *number).await;
                match counted.map_err(|error| uncounted(error, *number))? {
                    Counted::At(lsn) => Located::at(lsn),
                    Counted::Only(count) => {
                        return Err(no_such(format!("there are only {count} host commands")));
                    }
                }
            }
            Point::Time(time_ns) => self.locate_moment(named, *time_ns, 1).await?,
            Point::Shown { time_ns, span_ns } => self.locate_moment(named, *time_ns, *span_ns).await?,
            Point::Ago(span_ns) => {
                let (time_ns, by) = self.time_ago(&named.text, *span_ns)?;
                Located { counted_by: Some(by), ..self.locate_moment(named, time_ns, 1).await? }
            }
            Point::Synch(name) => self.locate_name(named, name, &mut commands, "synch").await?,
            Point::Snapshot(name) => self.locate_name(named, name, &mut commands, "snapshot").await?,
            Point::Offset { .. } => unreachable!("offsets were taken off"),
        };
        if commands != 0 {
            let from = self.boundary_and_hole(found.lsn).await?.0.lsn;
            found.lsn = match self.count_commands(whose, from, commands).await? {
                Counted::At(lsn) => lsn,
                Counted::Only(count) => {
                    let (side, whole) = if commands > 0 { ("after", "") } else { ("up to", " and at") };
                    return Err(no_such(format!(
                        "there are only {count} host commands {side}{whole} lsn:{from}"
                    )));
                }
            };
            found.mark = None;
        }
        Ok(found)
    }

    /// The position of a synch or a snapshot. If nothing has the name, and it ends like an offset,
    /// the rest of it is the name.
    async fn locate_name(
        &self,
        named: &NamedPoint,
        name: &str,
        commands: &mut i64,
        kind: &str,
    ) -> Result<Located, VolumeError> {
        let split = split_offset(name);
        if let Some(mut found) = self.look_up(name, kind).await {
            if let Some(base) = split
                && self.look_up(base.base, kind).await.is_some()
            {
                found.notes.push(format!(
                    "'{name}' is the name of a {kind}; for host commands from '{}' on, give its position: lsn:N{:+}",
                    base.base, base.commands
                ));
            }
            return Ok(found);
        }
        if let Some(split) = split
            && let Some(mut found) = self.look_up(split.base, kind).await
        {
            *commands = commands.saturating_add(split.commands);
            found
                .notes
                .push(format!("no {kind} has the name '{name}'; it is '{}' and an offset", split.base));
            return Ok(found);
        }
        if kind == "synch" {
            // It may be known only in the archive.
            self.check_reached()?;
        }
        let what = if kind == "synch" { "label or id" } else { "name" };
        let reason = format!("no {kind} has that {what}; `varve {kind} list` shows what there is");
        Err(VolumeError::NoSuchPoint { point: named.text.clone(), reason })
    }

    async fn look_up(&self, name: &str, kind: &str) -> Option<Located> {
        if kind == "synch" {
            let found = synch_names::by_name(&self.synchs(), name).await?;
            return Some(Located::at_mark(Mark::Synch(found.synch), found.note));
        }
        let state = self.state.borrow();
        let snapshot = state.catalog.snapshots.get(name)?;
        Some(Located::at_mark(Mark::Snapshot((&snapshot).into()), None))
    }

    /// The position of a moment: the mark that is shown with this time, if there is one; otherwise
    /// the end of the last record in it or before it.
    async fn locate_moment(
        &self,
        named: &NamedPoint,
        time_ns: u64,
        span_ns: u64,
    ) -> Result<Located, VolumeError> {
        let no_such = |reason: String| VolumeError::NoSuchPoint { point: named.text.clone(), reason };
        self.check_past(time_ns).map_err(no_such)?;
        let last_ns = time_ns.saturating_add(span_ns - 1);
        let end = self.locate_time(last_ns, &named.text).await?;
        if span_ns == 1 {
            return Ok(Located::at(end));
        }
        let start = self.locate_time(time_ns.saturating_sub(1), &named.text).await.unwrap_or(Lsn(0));
        let marks = self.marks_within(start, end, time_ns..=last_ns).await?;
        let Some((newest, others)) = marks.split_last() else { return Ok(Located::at(end)) };
        let mut note = format!("the time is that of {}", newest.in_words());
        if !others.is_empty() {
            let others: Vec<String> =
                others.iter().map(|mark| format!("{} (lsn:{})", mark.in_words(), mark.lsn())).collect();
            note = format!("{note}, the newest mark of that time; others: {}", others.join(", "));
        }
        Ok(Located::at_mark(newest.clone(), Some(note)))
    }

    /// The marks that lists show with a time of a range, in the order of the log.
    async fn marks_within(
        &self,
        start: Lsn,
        end: Lsn,
        times_ns: std::ops::RangeInclusive<u64>,
    ) -> Result<Vec<Mark>, VolumeError> {
        let (mut marks, created) = {
            let state = self.state.borrow();
            let synchs =
                synch_names::within(&state.synchs, *times_ns.start()..times_ns.end().saturating_add(1));
            let mut marks: Vec<Mark> = synchs.into_iter().map(Mark::Synch).collect();
            let near = state.catalog.snapshots.iter_from(start).take(NEAR_SNAPSHOTS_MAX);
            let near = near.take_while(|snapshot| snapshot.lsn <= end.plus(NEAR_BLOCKS).0);
            let shown = near.filter(|snapshot| times_ns.contains(&snapshot.time_ns));
            marks.extend(shown.map(|snapshot| Mark::Snapshot((&snapshot).into())));
            let created: Vec<CatalogVolume> = state
                .catalog
                .volumes
                .iter()
                .filter(|volume| times_ns.contains(&volume.created_ns))
                .cloned()
                .collect();
            (marks, created)
        };
        for volume in created {
            if let Some(lsn) = self.creation_of(&volume).await? {
                marks.push(Mark::Volume { name: volume.name, lsn });
            }
        }
        marks.sort_by_key(Mark::lsn);
        Ok(marks)
    }

    /// The position of the event that created a volume; `None` if it is not found near its image's
    /// birth.
    async fn creation_of(&self, volume: &CatalogVolume) -> Result<Option<Lsn>, VolumeError> {
        let (born, geometry) = {
            let (state, log) = (self.state.borrow(), self.log.borrow());
            let Some(image) = state.catalog.image(volume.image) else { return Ok(None) };
            (Lsn(image.born_lsn), log.geometry())
        };
        let first = geometry.sequence_of(born);
        for sequence in [first, first.next()] {
            let Ok(known) = self.known_of(sequence).await else { return Ok(None) };
            let (mut found, mut seen) = (None, 0);
            self.visit_catalogs(sequence, &known, |catalog, lsn| {
                if lsn > born && found.is_none() && seen < CREATING_EVENTS_MAX {
                    seen += 1;
                    found = catalog.volume_with_uuid(volume.uuid).map(|_| lsn);
                }
            })
            .await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn volume_at(volume: &CatalogVolume) -> VolumeAt {
    VolumeAt { name: volume.name.clone(), size_bytes: volume.size_blocks * BLOCK_BYTES as u64 }
}

/// The error if the log is not kept from its beginning, so that its commands have no number.
fn uncounted(error: VolumeError, number: u64) -> VolumeError {
    match error {
        VolumeError::NoSuchPoint { point, reason } => VolumeError::NoSuchPoint {
            point,
            reason: format!(
                "command {number} cannot be counted from the beginning of the log: {reason}; count from a point that is kept, for example now-{number}"
            ),
        },
        error => error,
    }
}
