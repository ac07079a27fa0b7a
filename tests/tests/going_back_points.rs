//! Points: how they are named, what they mean, and what an operator is told. Everything is compared
//! with a list of all commands that hosts gave.

use std::rc::Rc;
use std::sync::Arc;

use varve::archive::retention::NamedPoints;
use varve::archive::retention::SegmentRange;
use varve::dma::BLOCK_BYTES;
use varve::log::{Lsn, Recycling, SegmentSeq};
use varve::text::units::format_time;
use varve::volume::{
    CreateVolume, MarkKind, NamedPoint, PointKind, Pool, Request, ResolvedPoint, SynchFilter, TimeLine,
    TimeLineRequest, VolumeError, VolumeId,
};
use varve_tests::sim::disk::{Crash, SimDisk};
use varve_tests::sim::rng::Rng;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::world::{World, begin, run, wait};

const SEGMENT_BLOCKS: u64 = 256;
const VOLUME_BLOCKS: u64 = 60;

/// A host's command.
#[derive(Debug, Clone, PartialEq)]
struct Command {
    lsn: u64,
    volume: String,
    trim: bool,
    ranges: Vec<(u64, u64)>,
}

/// A pool with an archive, and everything that hosts did to it.
struct Bed {
    world: World,
    disk: SimDisk,
    pool: Rc<Pool>,
    rng: Rng,
    commands: Vec<Command>,
}

impl Bed {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed);
        world.options.recycling = Recycling::Archived;
        world.store = Some(Arc::new(MemoryStore::default()));
        let disk = SimDisk::new(257 + 12 * SEGMENT_BLOCKS, true, seed);
        let pool = world.create(disk.open(), SEGMENT_BLOCKS).expect("a new pool");
        world.attach(&pool, &disk);
        Bed { world, disk, pool, rng: Rng::new(seed), commands: Vec::new() }
    }

    /// A pool without an archive: its clock stands still unless it is moved.
    fn without_archive(seed: u64) -> Self {
        let world = World::new(seed);
        let disk = SimDisk::new(257 + 12 * SEGMENT_BLOCKS, true, seed);
        let pool = world.create(disk.open(), SEGMENT_BLOCKS).expect("a new pool");
        Bed { world, disk, pool, rng: Rng::new(seed), commands: Vec::new() }
    }

    fn create(&self, name: &str) -> VolumeId {
        let size_bytes = VOLUME_BLOCKS * BLOCK_BYTES as u64;
        let request = CreateVolume { name: name.to_owned(), size_bytes, uuid: None, thin: false };
        wait(&self.pool, Rc::clone(&self.pool).create_volume(request)).expect("a volume").id
    }

    /// Writes or trims at random.
    fn act(&mut self, volume: &str) {
        self.world.clock.advance(1_000_000 + self.rng.below(300_000_000) as i64);
        let id = self.pool.find_volume(volume).expect("a volume").id;
        let (trim, ranges) = if self.rng.one_in(6) {
            let ranges: Vec<(u64, u64)> = (0..=self.rng.below(4))
                .map(|_| (self.rng.below(VOLUME_BLOCKS - 5), 1 + self.rng.below(5)))
                .collect();
            run(&self.pool, id, &Request::Trim { ranges: &ranges }).result.expect("a trim");
            (true, ranges)
        } else {
            let len_blocks = 1 + self.rng.below(8);
            let block = self.rng.below(VOLUME_BLOCKS - len_blocks);
            let bytes = vec![self.rng.next_u64() as u8; len_blocks as usize * BLOCK_BYTES];
            let request = Request::Write { block, data: &[&bytes], force_unit_access: false };
            run(&self.pool, id, &request).result.expect("a write");
            (false, vec![(block, len_blocks)])
        };
        let lsn = self.pool.stats().newest_point_lsn;
        self.commands.push(Command { lsn, volume: volume.to_owned(), trim, ranges });
    }

    fn resolve(&self, text: &str, volume: Option<&str>) -> Result<ResolvedPoint, VolumeError> {
        let named: NamedPoint = text.parse().expect(text);
        wait(&self.pool, Rc::clone(&self.pool).resolve_of(named, volume.map(str::to_owned)))
    }

    fn found(&self, text: &str) -> ResolvedPoint {
        self.resolve(text, None).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn refused(&self, text: &str) -> String {
        self.resolve(text, None).expect_err(text).to_string()
    }

    fn synch(&self, label: &str, volume: Option<&str>) -> u64 {
        let details = serde_json::Value::Null;
        let synch =
            Rc::clone(&self.pool).create_synch_of(label.to_owned(), details, volume.map(str::to_owned));
        wait(&self.pool, synch).expect("a synch").lsn
    }

    fn line(&self, request: &TimeLineRequest) -> TimeLine {
        wait(&self.pool, Rc::clone(&self.pool).time_line(request.clone())).expect("a time line")
    }

    /// Every piece of a time line.
    fn whole_line(&self, request: &TimeLineRequest) -> (TimeLine, u64) {
        let mut whole = self.line(request);
        let mut pieces = 1;
        while let Some(next_lsn) = whole.next_lsn {
            let piece = self.line(&TimeLineRequest { from_lsn: Some(next_lsn), ..request.clone() });
            whole.marks.extend(piece.marks);
            whole.commands.extend(piece.commands);
            whole.bursts.extend(piece.bursts);
            whole.next_lsn = piece.next_lsn;
            pieces += 1;
            assert!(piece.next_lsn.is_none_or(|next| next > next_lsn), "it goes on");
        }
        (whole, pieces)
    }

    fn archive_all(&self) {
        wait(&self.pool, Rc::clone(&self.pool).seal_archive()).expect("it seals");
    }

    fn clone_at(&self, volume: &str, text: &str, name: &str) -> Result<u64, VolumeError> {
        let point: NamedPoint = text.parse().expect(text);
        let clone = Rc::clone(&self.pool).clone_volume(volume.to_owned(), point, name.to_owned(), true);
        wait(&self.pool, clone).map(|clone| clone.point.lsn)
    }

    fn delete(&self, name: &str) {
        wait(&self.pool, Rc::clone(&self.pool).delete_volume(name.to_owned())).expect("it is deleted");
    }

    fn reopen(&mut self, crash: Option<Crash>) {
        match crash {
            Some(crash) => self.disk.crash(crash),
            None => wait(&self.pool, Rc::clone(&self.pool).close()).expect("a clean close"),
        }
        self.pool = self.world.open(self.disk.open()).expect("it opens");
        self.world.attach(&self.pool, &self.disk);
        wait(&self.pool, Rc::clone(&self.pool).load_archived_synchs(SegmentSeq(0))).expect("synchs");
    }

    fn labels(&self) -> Vec<String> {
        self.pool.synchs().iter().map(|synch| synch.label.to_owned()).collect()
    }

    /// Forgets the archived segments before `below` which are not on the primary device.
    fn expire_below(&self, below: u64) {
        let range = SegmentRange { first: SegmentSeq(0), last: SegmentSeq(below - 1) };
        let change_lsn = self.pool.lineage().change_lsn;
        self.pool.forget_archived(&[range], change_lsn).expect("it is only in the archive");
    }
}

/// Two volumes, events between their commands, and most of the history only in the archive.
fn busy(seed: u64, commands: usize) -> Bed {
    let mut bed = Bed::new(seed);
    bed.create("v0");
    bed.create("v1");
    for number in 0..commands {
        let volume = if bed.rng.one_in(4) { "v1" } else { "v0" };
        bed.act(volume);
        if bed.rng.one_in(40) {
            bed.synch(&format!("s{number}"), None);
        }
        if bed.rng.one_in(60) {
            wait(&bed.pool, Rc::clone(&bed.pool).create_snapshot(format!("n{number}"))).expect("a snapshot");
        }
        if bed.rng.one_in(150) {
            bed.delete("v1");
            bed.commands
                .iter_mut()
                .filter(|command| command.volume == "v1")
                .for_each(|command| command.volume.push('x'));
            bed.create("v1");
        }
    }
    bed.archive_all();
    bed
}

/// Offsets and numbers of commands, of one volume and of all, are those of the list.
#[test]
fn offsets_count_the_commands_of_hosts() {
    for seed in 700..703 {
        let mut bed = busy(seed, 900);
        let head = bed.pool.stats().newest_point_lsn;
        assert!(bed.pool.archive_status().expect("an archive").segments > 14, "the archive has most of it");
        let mut refused = 0;
        for _ in 0..300 {
            let volume = [None, Some("v0"), Some("v1")][bed.rng.below(3) as usize];
            let of: Vec<u64> = bed
                .commands
                .iter()
                .filter(|command| volume.is_none_or(|volume| command.volume == volume))
                .map(|command| command.lsn)
                .collect();
            let from =
                if volume == Some("v1") { of.first().copied().unwrap_or(head) } else { bed.commands[0].lsn };
            let base = from + bed.rng.below(head - from + 1);
            let commands = bed.rng.below(41) as i64 - 20;
            let before = of.partition_point(|&lsn| lsn <= base) as i64;
            let text = format!("lsn:{base}{commands:+}");
            let target = before + commands;
            match bed.resolve(&text, volume) {
                Ok(found) if commands == 0 => assert!(found.lsn <= base, "{text}"),
                Ok(found) if target > 0 => {
                    assert_eq!(found.lsn, of[target as usize - 1], "seed {seed} {text} {volume:?}");
                    assert_eq!(
                        bed.resolve(&format!("write:{target}"), volume).expect("a write").lsn,
                        found.lsn
                    );
                }
                Ok(found) => {
                    assert!(target == 0 && found.lsn < of[0], "seed {seed} {text} {volume:?} {found:?}");
                }
                Err(error) => {
                    refused += 1;
                    let is_known = target < 0 || target > of.len() as i64;
                    assert!(
                        is_known && error.to_string().contains("there are only"),
                        "{text} {volume:?}: {error}"
                    );
                    assert!(error.to_string().contains(&text), "{error}");
                }
            }
        }
        assert!(refused > 0);
        let last = bed.commands.last().expect("a command").lsn;
        assert_eq!(bed.found("now-0").lsn, bed.found("now").lsn);
        assert_eq!(bed.found(&format!("write:{}", bed.commands.len())).lsn, last);
        assert!(bed.refused(&format!("write:{}", bed.commands.len() + 1)).contains("there are only"));
    }
}

/// The pieces of a time line are the list of commands, the sums of their intervals, and all marks.
#[test]
fn the_time_line_is_what_hosts_did() {
    let bed = busy(710, 600);
    let request = TimeLineRequest { commands: true, limit: Some(37), ..TimeLineRequest::default() };
    let (line, pieces) = bed.whole_line(&request);
    let seen: Vec<Command> = line
        .commands
        .iter()
        .map(|command| Command {
            lsn: command.lsn,
            volume: command.volume.clone(),
            trim: command.trim,
            ranges: command.ranges.clone(),
        })
        .collect();
    let expected: Vec<Command> = bed
        .commands
        .iter()
        .map(|command| Command { volume: command.volume.trim_end_matches('x').to_owned(), ..command.clone() })
        .collect();
    assert_eq!(seen, expected);
    assert!(pieces > 10, "{pieces}");
    let synchs: Vec<u64> = bed.pool.synchs().iter().map(|synch| synch.lsn.0).collect();
    let marks = |kind| line.marks.iter().filter(move |mark| mark.kind == kind).map(|mark| mark.lsn);
    assert!(marks(MarkKind::Synch).eq(synchs.iter().copied()));
    assert!(marks(MarkKind::Snapshot).eq(bed.pool.snapshots().iter().map(|snapshot| snapshot.lsn)));
    assert!(marks(MarkKind::Seal).count() > 10);
    assert!(line.marks.is_sorted_by_key(|mark| mark.lsn));

    // One volume, in intervals.
    let every_ns = 1_000_000_000;
    let of_volume = TimeLineRequest {
        volume: Some("v0".to_owned()),
        every_ns: Some(every_ns),
        ..TimeLineRequest::default()
    };
    let (line, _) = bed.whole_line(&of_volume);
    let of: Vec<&Command> = bed.commands.iter().filter(|command| command.volume == "v0").collect();
    let writes: u64 = line.bursts.iter().map(|burst| burst.writes).sum();
    let trims: u64 = line.bursts.iter().map(|burst| burst.trims).sum();
    let bytes: u64 = line.bursts.iter().map(|burst| burst.written_bytes).sum();
    let blocks = |command: &&Command| command.ranges.iter().map(|(_, len_blocks)| len_blocks).sum::<u64>();
    assert_eq!(writes, of.iter().filter(|command| !command.trim).count() as u64);
    assert_eq!(trims, of.iter().filter(|command| command.trim).count() as u64);
    let expected: u64 =
        of.iter().copied().filter(|command| !command.trim).map(|command| blocks(&command)).sum();
    assert_eq!(bytes, expected * BLOCK_BYTES as u64);
    assert!(line.bursts.len() > 5 && line.bursts.is_sorted_by_key(|burst| burst.first_lsn));

    // A part of it; without commands and intervals nothing is read.
    let (from, to) = (bed.commands[100].lsn, bed.commands[200].lsn);
    let named = |lsn: u64| Some(format!("lsn:{lsn}").parse::<NamedPoint>().expect("a point"));
    let part =
        TimeLineRequest { from: named(from), to: named(to), commands: true, ..TimeLineRequest::default() };
    let (line, _) = bed.whole_line(&part);
    assert_eq!(line.commands.len(), 101);
    let (all, _) = bed.whole_line(&TimeLineRequest { limit: Some(5), ..TimeLineRequest::default() });
    let found = all.marks.iter().filter(|mark| mark.kind == MarkKind::Synch).map(|mark| mark.lsn);
    assert!(found.eq(synchs));
    assert_eq!(all.earliest.map(|point| point.lsn), Some(0));
    assert_eq!(all.newest.map(|point| point.lsn), Some(bed.found("now").lsn));
}

/// A time that a list shows is that of the mark for which it was shown, although other commands
/// have the same time.
#[test]
fn a_time_from_a_list_is_the_mark_that_it_was_shown_for() {
    let mut bed = Bed::without_archive(720);
    bed.create("v0");
    let mut marks = Vec::new();
    for number in 0..40 {
        bed.act("v0");
        bed.world.clock.advance(5_300_000);
        let (text, lsn) = match number % 3 {
            0 => {
                let lsn = bed.synch(&format!("s{number}"), None);
                (format_time(bed.pool.synchs().iter().next_back().expect("a synch").time_ns), lsn)
            }
            1 => {
                let name = format!("n{number}");
                let snapshot =
                    wait(&bed.pool, Rc::clone(&bed.pool).create_snapshot(name)).expect("a snapshot");
                (format_time(snapshot.time_ns), snapshot.lsn)
            }
            _ => {
                let before = bed.pool.stats().newest_point_lsn;
                bed.create(&format!("w{number}"));
                let volume = bed.pool.find_volume(&format!("w{number}")).expect("a volume");
                let lsn = bed.found("now").lsn;
                assert!(lsn > before);
                (format_time(volume.created_ns), lsn)
            }
        };
        // Further commands within the same millisecond.
        for _ in 0..2 {
            let id = bed.pool.find_volume("v0").expect("a volume").id;
            let bytes = vec![7; BLOCK_BYTES];
            let request = Request::Write { block: 0, data: &[&bytes], force_unit_access: false };
            run(&bed.pool, id, &request).result.expect("a write");
        }
        bed.world.clock.advance(20_000_000);
        marks.push((text, lsn));
    }
    for (text, lsn) in marks {
        let found = bed.found(&format!("time:{text}"));
        assert_eq!(found.lsn, lsn, "{text}: {found:?}");
        assert!(found.notes.iter().any(|note| note.contains("the time is that of")), "{found:?}");
    }
}

/// What a name means is told, and a refusal repeats what was typed.
#[test]
fn names_are_never_ambiguous_in_silence() {
    let mut bed = Bed::new(730);
    bed.create("v0");
    let mut at = Vec::new();
    for label in ["nightly", "a", "a+3", "nightly", "1"] {
        bed.act("v0");
        at.push(bed.synch(label, None));
    }
    for _ in 0..5 {
        bed.act("v0");
    }
    let twice = bed.found("synch:nightly");
    assert_eq!(twice.lsn, at[3]);
    assert!(twice.notes[0].contains("several synchs") && twice.notes[0].contains("id 1"), "{twice:?}");
    let id = bed.found("synch:1");
    assert!(id.lsn == at[0] && id.notes[0].contains("also the label"), "{id:?}");
    let exact = bed.found("synch:a+3");
    assert!(exact.lsn == at[2] && exact.notes[0].contains("lsn:N+3"), "{exact:?}");
    let offset = bed.found("synch:a+2");
    assert_eq!(offset.lsn, bed.commands[3].lsn, "{offset:?}");
    assert!(offset.notes.iter().any(|note| note.contains("an offset")) && offset.kind == PointKind::Write);
    assert_eq!(bed.found("synch:nightly-1").lsn, bed.commands[2].lsn);
    assert!(bed.refused("synch:nowhere+3").contains("'synch:nowhere+3'"));

    // A synch and a snapshot at one point: each is shown as itself.
    let lsn = bed.synch("both", None);
    for name in ["one", "two"] {
        wait(&bed.pool, Rc::clone(&bed.pool).create_snapshot(name.to_owned())).expect("a snapshot");
    }
    let snapshots = bed.pool.snapshots();
    for snapshot in &snapshots {
        let found = bed.found(&format!("snapshot:{}", snapshot.name));
        assert_eq!(found.kind, PointKind::Snapshot(snapshot.clone()));
        assert_eq!(found.time_ns, snapshot.time_ns);
    }
    assert_eq!(snapshots[0].lsn, lsn);

    // Refusals.
    let error = bed.refused("time:-50000d");
    assert!(error.contains("'time:-50000d'") && error.contains("the earliest is lsn:0"), "{error}");
    let error = bed.refused("lsn:99999999");
    assert!(
        error.contains("the log ends") && error.contains("the nearest point that can be opened is lsn:"),
        "{error}"
    );
    let error = bed.refused("time:2099-01-01T00:00:00Z");
    assert!(error.contains("future") && error.contains("the nearest"), "{error}");

    // A volume that was deleted is named with its last point.
    bed.create("gone");
    bed.act("gone");
    let last = bed.found("now").lsn;
    bed.delete("gone");
    bed.act("v0");
    let error = bed.clone_at("gone", "now", "again").expect_err("it is gone").to_string();
    assert!(error.contains(&format!("it was deleted: its last point is lsn:{last}")), "{error}");
    assert_eq!(bed.clone_at("gone", &format!("lsn:{last}"), "again").expect("its last point"), last);
    let error = bed.clone_at("never", "now", "again2").expect_err("it never was").to_string();
    assert!(error.contains("no volume of that name was found"), "{error}");
    let error = bed.resolve("lsn:1", Some("v0")).expect_err("it was created later").to_string();
    assert!(error.contains("it was created at"), "{error}");
    // A clone says from which point it was asked for, also when it shares a later one.
    bed.clone_at("gone", &format!("lsn:{last}"), "c").expect("a clone");
    let origin = bed.pool.find_volume("c").expect("a clone").origin.expect("an origin");
    assert_eq!((origin.lsn, origin.point), (last, Some(format!("lsn:{last}"))));
    bed.reopen(None);
    assert_eq!(bed.pool.find_volume("c").expect("a clone").origin.map(|origin| origin.lsn), Some(last));
}

/// The points that a refusal names can be opened, and the earliest is the earliest.
#[test]
fn an_expired_point_is_refused_with_those_that_can_be_opened() {
    let mut bed = busy(740, 1400);
    let on_primary =
        bed.pool.segments().iter().filter_map(|segment| segment.sequence).min().expect("a segment");
    assert!(on_primary > 6, "{on_primary}");
    bed.expire_below(on_primary - 3);
    let line = bed.line(&TimeLineRequest::default());
    let earliest = line.earliest.expect("a point").lsn;
    assert!(earliest > 0 && line.gaps.len() == 1 && line.gaps[0].from_lsn == 0, "{line:?}");
    assert!(line.gaps[0].to_lsn <= earliest);
    assert_eq!(bed.clone_at("v0", &format!("lsn:{earliest}"), "c").expect("the earliest"), earliest);
    bed.clone_at("v0", &format!("lsn:{}", earliest - 1), "d").expect_err("the one before it");
    let old = bed.commands[3].lsn;
    let error = bed.refused(&format!("lsn:{old}"));
    assert!(error.contains(&format!("'lsn:{old}'")), "{error}");
    assert!(error.contains(&format!("the earliest is lsn:{earliest}")), "{error}");
    let error = bed.refused("time:-100000d");
    assert!(error.contains(&format!("the earliest is lsn:{earliest}")), "{error}");
    // Commands are counted over what is kept, and no further.
    assert!(bed.refused("write:5").contains("cannot be counted"), "{}", bed.refused("write:5"));
    assert_eq!(bed.found("now-1").kind, PointKind::Write);
    let error = bed.snapshot_at("early", &format!("lsn:{}", earliest - 1)).expect_err("not kept").to_string();
    assert!(error.contains("no longer kept"), "{error}");
    let pinned = bed.snapshot_at("pinned", &format!("lsn:{earliest}")).expect("it is kept");
    assert_eq!(pinned, earliest);
    assert!(bed.snapshot_at("pinned", "now").expect_err("it exists").to_string().contains("exists already"));
    assert_eq!(bed.found("snapshot:pinned").lsn, earliest);
    assert!(
        NamedPoints::snapshots(&bed.pool.lineage()).any(|snapshot| snapshot.lsn == Lsn(earliest)),
        "it is retained"
    );
    bed.act("v0");
    bed.reopen(None);
    assert_eq!(bed.found("snapshot:pinned").lsn, earliest);
}

impl Bed {
    fn snapshot_at(&self, name: &str, text: &str) -> Result<u64, VolumeError> {
        let point: NamedPoint = text.parse().expect(text);
        let snapshot = Rc::clone(&self.pool).create_snapshot_at(name.to_owned(), point);
        wait(&self.pool, snapshot).map(|snapshot| snapshot.lsn)
    }
}

/// A plan counts what the clone holds, and where; it changes nothing.
#[test]
fn a_plan_is_what_a_restore_reads() {
    let bed = busy(750, 1000);
    for at in [20, 500, 900] {
        let lsn = bed.commands[at].lsn;
        let point = format!("lsn:{lsn}");
        let head = bed.pool.stats().newest_point_lsn;
        let named: NamedPoint = point.parse().expect("a point");
        let plan = Rc::clone(&bed.pool).restore_plan("v0".to_owned(), named.clone(), false);
        let plan = wait(&bed.pool, plan).expect("a plan");
        assert_eq!(bed.pool.stats().newest_point_lsn, head, "nothing is written");
        let name = format!("c{at}");
        assert_eq!(bed.clone_at("v0", &point, &name).expect("a clone"), lsn);
        let clone = bed.pool.find_volume(&name).expect("a clone");
        assert_eq!(plan.mapped_bytes, clone.mapped_blocks * BLOCK_BYTES as u64);
        assert_eq!(plan.primary.mapped_bytes + plan.archive.mapped_bytes, plan.mapped_bytes);
        let places: u64 = plan.segments.iter().map(|segment| segment.mapped_bytes).sum();
        assert_eq!(places, plan.mapped_bytes);
        assert!(plan.primary.segments + plan.archive.segments == plan.segments.len() as u64, "{plan:?}");
        assert!(plan.estimate.open_s.is_some() && !plan.estimate.basis.is_empty());
        if at == 20 {
            assert!(plan.archive.mapped_bytes > 0 && plan.archive.entries_bytes > 0, "{plan:?}");
            assert!(plan.estimate.hydrate_s.is_some_and(|seconds| seconds > 0.0), "{plan:?}");
        }
        let quick = Rc::clone(&bed.pool).restore_plan("v0".to_owned(), named, true);
        let quick = wait(&bed.pool, quick).expect("a plan");
        assert!(quick.mapped_bytes == 0 && quick.estimate.open_s.is_none() && !quick.segments.is_empty());
    }
    let now: NamedPoint = "now".parse().expect("a point");
    let plan =
        wait(&bed.pool, Rc::clone(&bed.pool).restore_plan("v0".to_owned(), now, false)).expect("a plan");
    assert!(plan.unchanged && plan.mapped_bytes > 0);
}

/// A synch that was deleted is gone after a restart, after a crash, and after a recovery from the
/// archive; a deletion that was cut off did all or nothing.
#[test]
fn a_deleted_synch_stays_deleted() {
    let mut bed = Bed::new(760);
    bed.create("v0");
    for number in 0..300 {
        bed.act("v0");
        if number % 20 == 0 {
            bed.synch(&format!("s{number}"), None);
        }
    }
    bed.synch("twice", None);
    bed.synch("twice", None);
    bed.archive_all();
    let delete = |bed: &Bed, name: &str, all: bool| {
        let deleted = Rc::clone(&bed.pool).delete_synch(name.to_owned(), all);
        wait(&bed.pool, deleted)
    };
    assert!(delete(&bed, "nobody", false).expect_err("none").to_string().contains("synch:nobody"));
    let error = delete(&bed, "twice", false).expect_err("two").to_string();
    assert!(error.contains("2 synchs have the label"), "{error}");
    assert_eq!(delete(&bed, "twice", true).expect("both").len(), 2);
    // The first one is only in the archive.
    let first = delete(&bed, "s0", false).expect("the first");
    let mut expected = bed.labels();
    assert!(!expected.contains(&"s0".to_owned()) && !expected.contains(&"twice".to_owned()));
    assert!(bed.refused("synch:s0").contains("no synch has that label"));
    assert_ne!(bed.found(&format!("lsn:{}", first[0].lsn)).kind, PointKind::Synch(first[0].clone()));
    assert!(bed.pool.lineage().synchs.iter().all(|synch| synch.lsn != Lsn(first[0].lsn)), "nothing keeps it");
    for crash in [None, Some(Crash::Power), Some(Crash::Process)] {
        bed.reopen(crash);
        assert_eq!(bed.labels(), expected, "{crash:?}");
    }
    // Cut off at every turn: all or nothing, and what was answered stays.
    for turns in 0..12 {
        let name = format!("s{}", 20 * (turns + 1));
        begin(&bed.pool, Rc::clone(&bed.pool).delete_synch(name.clone(), false), turns, || {});
        bed.reopen(Some(if turns % 2 == 0 { Crash::Power } else { Crash::Process }));
        let now = bed.labels();
        let without: Vec<String> = expected.iter().filter(|label| **label != name).cloned().collect();
        assert!(now == expected || now == without, "{turns} turns: {now:?}");
        expected = now;
    }
    assert!(expected.len() < 14, "some were deleted: {expected:?}");
    // From the archive alone.
    bed.act("v0");
    bed.archive_all();
    let uuid = bed.pool.info().uuid;
    wait(&bed.pool, Rc::clone(&bed.pool).close()).expect("a clean close");
    bed.disk = SimDisk::new(257 + 14 * SEGMENT_BLOCKS, true, 761);
    bed.world.recover(uuid, &bed.disk, SEGMENT_BLOCKS).expect("it is recovered");
    bed.pool = bed.world.open(bed.disk.open()).expect("it opens");
    bed.world.attach(&bed.pool, &bed.disk);
    wait(&bed.pool, Rc::clone(&bed.pool).load_archived_synchs(SegmentSeq(0))).expect("synchs");
    assert_eq!(bed.labels(), expected);
}

/// Lists of synchs: by label, by position, by volume.
#[test]
fn synchs_are_listed_by_what_they_are() {
    let mut bed = Bed::new(770);
    bed.create("v0");
    bed.create("v1");
    let mut lsns = Vec::new();
    for (label, volume) in [
        ("nightly-1", None),
        ("a", Some("v0")),
        ("nightly-2", Some("v1")),
        ("b", None),
        ("nightly-3", Some("v0")),
    ] {
        bed.act("v0");
        lsns.push(bed.synch(label, volume));
    }
    let listed = |bed: &Bed, from: u64, limit: usize, filter: SynchFilter| -> Vec<String> {
        let wanted = wait(&bed.pool, Rc::clone(&bed.pool).wanted_synchs(filter)).expect("a filter");
        let table = bed.pool.synchs();
        wanted.of(&table, Lsn(from)).take(limit).map(|synch| synch.label.to_owned()).collect()
    };
    let label = |pattern: &str| SynchFilter { label: Some(pattern.to_owned()), ..SynchFilter::default() };
    assert_eq!(listed(&bed, 0, 10, label("nightly-*")), ["nightly-1", "nightly-2", "nightly-3"]);
    assert_eq!(listed(&bed, 0, 2, label("nightly-*")), ["nightly-1", "nightly-2"]);
    assert_eq!(listed(&bed, lsns[1], 10, label("nightly-?")), ["nightly-2", "nightly-3"]);
    let to = SynchFilter { to: Some(Lsn(lsns[2])), ..SynchFilter::default() };
    assert_eq!(listed(&bed, 0, 10, to), ["nightly-1", "a", "nightly-2"]);
    let of_v0 = SynchFilter { of: Some("v0".to_owned()), ..SynchFilter::default() };
    assert_eq!(listed(&bed, 0, 10, of_v0.clone()), ["nightly-1", "a", "b", "nightly-3"]);
    let request = TimeLineRequest { volume: Some("v0".to_owned()), ..TimeLineRequest::default() };
    let line = bed.line(&request);
    let of_line = line.marks.iter().filter(|mark| mark.kind == MarkKind::Synch).map(|mark| mark.name.clone());
    assert!(of_line.eq(listed(&bed, 0, 10, of_v0.clone())));
    let nobody =
        Rc::clone(&bed.pool).create_synch_of("c".to_owned(), serde_json::Value::Null, Some("v9".to_owned()));
    assert!(matches!(wait(&bed.pool, nobody), Err(VolumeError::NoSuchVolume { .. })));
    // The mark and its volume are found again after a restart.
    bed.reopen(None);
    assert_eq!(listed(&bed, 0, 10, of_v0), ["nightly-1", "a", "b", "nightly-3"]);
}
