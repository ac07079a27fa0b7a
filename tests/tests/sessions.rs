//! Sessions: exact at every write, both ways; a search finds the write; what a session needs is
//! kept; a crash leaves a session and its clone at one position; wrong uses are refused.

use std::rc::Rc;
use std::sync::Arc;

use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, StoreErrorKind};
use varve::dma::BLOCK_BYTES;
use varve::log::Lsn;
use varve::volume::{
    HostGuard, NamedPoint, OpenSession, Point, Request, SessionInfo, StepInfo, StepTo, Verdict, VolumeError,
    VolumeInfo,
};
use varve_tests::sim::disk::Crash;
use varve_tests::sim::expiry::expire_all;
use varve_tests::sim::past::Past;
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::world::{begin, run, turn_alone, wait};

/// A point by its position.
fn lsn_point(lsn: u64) -> NamedPoint {
    Point::Lsn(lsn).into()
}

const NAME: &str = "search";

fn try_open(past: &Past, moment: usize) -> Result<SessionInfo, VolumeError> {
    let request = OpenSession {
        volume: "data".to_owned(),
        at: lsn_point(past.lsn(moment)),
        name: NAME.to_owned(),
        read_only: false,
    };
    wait(&past.pool, Rc::clone(&past.pool).open_session(request)).map(|(session, _)| session)
}

fn open(past: &Past, moment: usize) -> SessionInfo {
    try_open(past, moment).expect("opened")
}

fn try_step(past: &Past, to: StepTo, discard: bool) -> Result<StepInfo, VolumeError> {
    wait(&past.pool, Rc::clone(&past.pool).step_session(NAME.to_owned(), to, discard, HostGuard::none()))
}

fn step(past: &Past, to: StepTo) -> StepInfo {
    try_step(past, to, false).unwrap_or_else(|error| panic!("seed {}: {error}", past.seed))
}

fn to_moment(past: &Past, moment: usize) -> StepInfo {
    step(past, StepTo::Point(lsn_point(past.lsn(moment))))
}

fn judge(past: &Past, verdict: Verdict, at: Option<u64>) -> Result<SessionInfo, VolumeError> {
    let at = at.map(lsn_point);
    wait(&past.pool, Rc::clone(&past.pool).judge_session(NAME.to_owned(), verdict, at))
}

fn keep(past: &Past, name: &str) -> Result<Vec<VolumeInfo>, VolumeError> {
    wait(&past.pool, Rc::clone(&past.pool).keep_session(NAME.to_owned(), name.to_owned(), HostGuard::none()))
}

fn write_clone(past: &Past, block: u64) {
    let id = past.pool.find_volume(NAME).expect("the clone").id;
    let data = vec![0xaa; BLOCK_BYTES];
    let request = Request::Write { block, data: &[&data], force_unit_access: true };
    assert_eq!(run(&past.pool, id, &request).result, Ok(()));
}

/// 10,000 commands, and a walk over each of them back and forth again: after every step the whole
/// volume is compared, and after every 50th also with a scan.
#[test]
fn every_write_of_ten_thousand_is_exact_in_both_directions() {
    let mut past = Past::new(1, 12, 64);
    past.step(10_000);
    past.idle(2000);
    let last = past.len() - 1;
    let commands: Vec<usize> = (0..past.len()).filter(|&moment| past.is_command(moment)).collect();
    open(&past, last);
    past.check(NAME, last);
    let mut rebuilt = 0;
    let back: Vec<(i64, usize)> = commands.iter().rev().skip(1).map(|&moment| (-1, moment)).collect();
    let forth: Vec<(i64, usize)> = commands.iter().skip(1).map(|&moment| (1, moment)).collect();
    for (done, (count, moment)) in back.into_iter().chain(forth).enumerate() {
        let stepped = step(&past, StepTo::Commands(count));
        assert_eq!(stepped.session.at.lsn, past.lsn(moment), "step {done}");
        rebuilt += stepped.cost.ranges_rebuilt;
        past.check(NAME, moment);
        if done % 50 == 0 {
            let positions = vec![Lsn(stepped.from_lsn), Lsn(past.lsn(moment))];
            let check = wait(&past.pool, Rc::clone(&past.pool).check_walk("data".to_owned(), positions));
            let check = check.expect("compared");
            assert!(check.differing.is_empty(), "step {done}: {check:?}");
        }
    }
    assert!(rebuilt > 100, "{rebuilt} ranges were rebuilt");
    past.check("data", last);
    let sessions = past.pool.sessions(Some(NAME)).expect("it exists");
    assert_eq!(sessions[0].oldest_lsn, past.lsn(commands[0]));
}

/// Random steps over long and short ways, with restarts between.
#[test]
fn random_steps_are_exact_across_restarts() {
    for seed in 10..14 {
        let mut past = Past::new(seed, 12, 96);
        past.step(3000);
        open(&past, 1500);
        for round in 0..60 {
            let moment = past.rng.below(past.len() as u64) as usize;
            let stepped = to_moment(&past, moment);
            assert_eq!(stepped.session.at.lsn, past.lsn(moment));
            past.check(NAME, moment);
            match round % 12 {
                3 => past.crash(Crash::Power),
                7 => past.crash(Crash::Process),
                // The source goes on meanwhile.
                9 => past.step(40),
                _ => {}
            }
            past.check(NAME, moment);
        }
        past.check("data", past.len() - 1);
    }
}

/// Whether a file of blocks with checksums is whole: the fault is a block of a stamp of its own.
fn is_good(past: &mut Past, moment: usize, fault: u64) -> bool {
    !past.stamps(moment).contains(&fault)
}

/// A search among 20,000 commands needs at most 15 looks, and names the write and its block.
#[test]
fn a_search_finds_the_write_among_twenty_thousand() {
    let mut past = Past::new(21, 12, 64);
    let before = 13_371;
    for _ in 0..before {
        let block = 1 + past.rng.below(63);
        past.write(block, 1);
    }
    // Block 0 is written once, and from then on the file is damaged.
    past.write(0, 1);
    let culprit = past.len() - 1;
    let fault = past.stamps(culprit)[0];
    for _ in 0..20_000 - before {
        let block = 1 + past.rng.below(63);
        past.write(block, 1);
    }
    let (first, last) = (0, past.len() - 1);
    open(&past, last);
    judge(&past, Verdict::Bad, None).expect("judged");
    judge(&past, Verdict::Good, Some(past.lsn(first))).expect("judged");
    let mut looks = 0;
    let found = loop {
        let info =
            wait(&past.pool, Rc::clone(&past.pool).bisect_session(NAME.to_owned(), false, HostGuard::none()));
        let info = info.expect("bisected");
        let Some(step) = info.step else { break info };
        looks += 1;
        let at = step.session.at.lsn;
        let moment = (0..past.len()).find(|&moment| past.lsn(moment) == at).expect("the end of a command");
        past.check(NAME, moment);
        let verdict = if is_good(&mut past, moment, fault) { Verdict::Good } else { Verdict::Bad };
        judge(&past, verdict, None).expect("judged");
    };
    let command = found.found.expect("found");
    assert_eq!((command.at.lsn, command.blocks), (past.lsn(culprit), vec![(0, 1)]));
    assert_eq!(found.last_good.lsn, past.lsn(culprit - 1));
    assert!(looks <= 15, "{looks} looks");
}

/// Skipped positions are passed over; if nothing else is left, that is said. A good position behind
/// the first bad one is reported.
#[test]
fn skips_and_contradictions_are_told() {
    let mut past = Past::new(31, 12, 64);
    for block in 0..9 {
        past.write(block, 1);
    }
    open(&past, 9);
    judge(&past, Verdict::Good, Some(past.lsn(1))).expect("judged");
    judge(&past, Verdict::Bad, Some(past.lsn(7))).expect("judged");
    judge(&past, Verdict::Good, Some(past.lsn(9))).expect("judged");
    let mut seen = Vec::new();
    let info = loop {
        let info =
            wait(&past.pool, Rc::clone(&past.pool).bisect_session(NAME.to_owned(), false, HostGuard::none()));
        let info = info.expect("bisected");
        assert_eq!(info.good_behind_bad, [past.lsn(9)]);
        let Some(step) = info.step else { break info };
        seen.push(step.session.at.lsn);
        judge(&past, Verdict::Skip, None).expect("judged");
    };
    seen.sort_unstable();
    let between: Vec<u64> = (2..7).map(|moment| past.lsn(moment)).collect();
    assert_eq!(seen, between, "each position once");
    assert!(info.found.is_none() && info.skipped == between && info.commands == 6);
}

/// What a session needs is kept by expiry, whatever the rules are, and goes when it ends.
#[test]
fn expiry_keeps_what_a_session_may_go_back_to() {
    let mut past = Past::new(41, 12, 64);
    past.step(3000);
    past.idle(3000);
    let (oldest, newest) = (200, past.len() - 1);
    open(&past, oldest);
    to_moment(&past, newest);
    past.step(200);
    past.idle(3000);
    let before = expire(&past);
    for moment in [oldest, newest, 1000, oldest] {
        to_moment(&past, moment);
        past.check(NAME, moment);
    }
    wait(&past.pool, Rc::clone(&past.pool).abort_session(NAME.to_owned(), HostGuard::none()))
        .expect("aborted");
    assert!(expire(&past) > before + 10, "what the session kept goes with it");
    assert!(matches!(try_open(&past, 1000), Err(VolumeError::NoSuchPoint { .. })));
}

/// Deletes what no rule keeps, long after. Returns how many segments went.
fn expire(past: &Past) -> u64 {
    let store = past.world.store.as_ref().expect("an archive");
    let now_ns = past.world.clock.now_ns() + 1_000_000_000_000;
    expire_all(&past.pool, store, "every-write 1s", now_ns)
}

/// Wherever a crash comes, a session and its clone are both there or both not, at one position, and
/// verdicts are whole.
#[test]
fn a_crash_leaves_a_session_and_its_clone_at_one_position() {
    let (mut moved, mut ended) = (0, 0);
    for turns in (0..40).map(|turns| turns * 3) {
        let mut past = Past::new(100 + turns, 12, 64);
        past.step(600);
        // A power cut takes what was not flushed, which is none of this test's business.
        let data = past.pool.find_volume("data").expect("it exists").id;
        assert_eq!(run(&past.pool, data, &Request::Flush).result, Ok(()));
        let crash = if turns % 2 == 0 { Crash::Power } else { Crash::Process };
        let (pool, name) = (Rc::clone(&past.pool), || NAME.to_owned());
        let (first, second) = (300, 80);
        let at = lsn_point(past.lsn(first));
        let request = OpenSession { volume: "data".to_owned(), at, name: name(), read_only: false };
        begin(&pool, Rc::clone(&pool).open_session(request), turns, || ());
        drop(pool);
        past.crash(crash);
        let is_there = !past.pool.sessions(None).expect("listed").is_empty();
        assert_eq!(past.pool.find_volume(NAME).is_some(), is_there, "turns {turns}");
        if !is_there {
            open(&past, first);
        }
        past.check(NAME, first);
        let pool = Rc::clone(&past.pool);
        let to = StepTo::Point(lsn_point(past.lsn(second)));
        begin(&pool, Rc::clone(&pool).step_session(name(), to, false, HostGuard::none()), turns, || ());
        drop(pool);
        past.crash(crash);
        let session = past.pool.sessions(Some(NAME)).expect("it exists").remove(0);
        let stands_at = if session.at.lsn == past.lsn(first) { first } else { second };
        assert_eq!(session.at.lsn, past.lsn(stands_at), "turns {turns}");
        moved += usize::from(stands_at == second);
        past.check(NAME, stands_at);
        let pool = Rc::clone(&past.pool);
        begin(&pool, Rc::clone(&pool).judge_session(name(), Verdict::Bad, None), turns, || ());
        drop(pool);
        past.crash(crash);
        to_moment(&past, 500);
        past.check(NAME, 500);
        let pool = Rc::clone(&past.pool);
        if turns % 3 == 0 {
            begin(&pool, Rc::clone(&pool).keep_session(name(), name(), HostGuard::none()), turns, || ());
        } else {
            begin(&pool, Rc::clone(&pool).abort_session(name(), HostGuard::none()), turns, || ());
        }
        drop(pool);
        past.crash(crash);
        let is_there = past.pool.sessions(Some(NAME)).is_ok();
        let has_clone = past.pool.find_volume(NAME).is_some();
        assert!(has_clone || !is_there, "turns {turns}: a session has its clone");
        if has_clone {
            past.check(NAME, 500);
        }
        ended += usize::from(!is_there);
        past.check("data", past.len() - 1);
    }
    assert!(moved > 5 && moved < 40 && ended > 5, "{moved} moved, {ended} ended");
}

/// What hosts wrote to a clone is discarded only if that is said; a clone that is kept has it, also
/// after a restart, and needs nothing that only the session kept.
#[test]
fn writes_to_a_clone_are_kept_or_discarded_as_it_is_said() {
    let mut past = Past::new(51, 12, 64);
    past.step(2500);
    past.idle(2000);
    open(&past, 2000);
    to_moment(&past, 1200);
    write_clone(&past, 5);
    let refused = try_step(&past, StepTo::Commands(1), false).expect_err("it is written");
    assert!(refused.to_string().contains("--discard-writes"), "{refused}");
    let stepped = try_step(&past, StepTo::Commands(-3), true).expect("discarded");
    assert!(
        stepped.changed[0].ranges.iter().any(|&(block, len)| (block..block + len).contains(&5)),
        "{stepped:?}"
    );
    let moment =
        (0..past.len()).find(|&moment| past.lsn(moment) == stepped.session.at.lsn).expect("a moment");
    past.check(NAME, moment);
    past.crash(Crash::Power);
    past.check(NAME, moment);
    // Back over a long way, so that mappings stand at newer copies; then the clone is kept.
    to_moment(&past, 2400);
    to_moment(&past, 2300);
    keep(&past, "kept").expect("kept");
    assert!(past.pool.sessions(None).expect("listed").is_empty());
    past.check("kept", 2300);
    past.idle(2000);
    expire(&past);
    past.check("kept", 2300);
    past.crash(Crash::Process);
    past.check("kept", 2300);
    past.check("data", past.len() - 1);
}

/// Wrong uses are refused with what to do, and change nothing.
#[test]
fn wrong_uses_are_refused() {
    let mut past = Past::new(61, 12, 64);
    for block in 0..5 {
        past.write(block, 1);
    }
    let says = |error: VolumeError, text: &str| assert!(error.to_string().contains(text), "{error}");
    says(try_step(&past, StepTo::Commands(1), false).expect_err("no session"), "restore status");
    open(&past, 3);
    let lsn = past.pool.stats().newest_change_lsn;
    says(try_open(&past, 3).expect_err("it exists"), "exists already");
    says(try_step(&past, StepTo::Commands(3), false).expect_err("too far"), "only 2 are kept there");
    says(try_step(&past, StepTo::Commands(-4), false).expect_err("too far"), "only 3 are kept there");
    let future = StepTo::Point(lsn_point(1 << 40));
    says(try_step(&past, future, false).expect_err("the future"), "the log ends at");
    let nobody = StepTo::Point(lsn_point(1));
    assert!(try_step(&past, nobody, false).is_err(), "the volume did not exist");
    let bisect =
        || wait(&past.pool, Rc::clone(&past.pool).bisect_session(NAME.to_owned(), false, HostGuard::none()));
    says(bisect().expect_err("no verdicts"), "known to be bad");
    assert_eq!(past.pool.stats().newest_change_lsn, lsn, "nothing has changed");
    judge(&past, Verdict::Bad, None).expect("judged");
    says(bisect().expect_err("no good one"), "known to be good");
    let session = past.pool.sessions(Some(NAME)).expect("it exists").remove(0);
    assert_eq!(session.at.lsn, past.lsn(3));
    past.check(NAME, 3);
    // Back over all commands is the empty volume; and forth again.
    step(&past, StepTo::Commands(-3));
    past.check(NAME, 0);
    step(&past, StepTo::Commands(5));
    past.check(NAME, 5);
    // A session ends with its clone.
    wait(&past.pool, Rc::clone(&past.pool).delete_volume(NAME.to_owned())).expect("deleted");
    assert!(past.pool.sessions(None).expect("listed").is_empty());
    turn_alone(&past.pool);
}

/// A step whose entries the archive does not give, or gives damaged, is refused: the session stands
/// where it stood, its clone shows what it showed, and the same step is made once the archive
/// works.
#[test]
fn a_step_that_cannot_be_read_changes_nothing() {
    let down = Fault::Error(StoreErrorKind::Unavailable(Reason::Busy("a fault")));
    let mut refused = 0;
    for (seed, fault) in [(71, down), (72, Fault::WrongByte), (73, Fault::Short)] {
        let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), seed));
        let mut past = Past::with_store(seed, 12, 64, Arc::<FaultyStore>::clone(&store));
        past.step(6000);
        past.idle(4000);
        let (near, last) = (1500, past.len() - 1);
        open(&past, near);
        past.check(NAME, near);
        let lsn = past.pool.stats().newest_change_lsn;
        for moment in [near - 400, near + 400, 20, near + 1000] {
            store.add(Call::Get, When::Always, fault);
            let stepped = try_step(&past, StepTo::Point(lsn_point(past.lsn(moment))), false);
            store.heal();
            let session = past.pool.sessions(Some(NAME)).expect("it exists").remove(0);
            match stepped {
                // What it needed was known already.
                Ok(stepped) => {
                    assert_eq!(stepped.session.at.lsn, past.lsn(moment));
                    past.check(NAME, moment);
                    to_moment(&past, near);
                }
                Err(error) => {
                    refused += 1;
                    let is_of_archive =
                        matches!(error, VolumeError::Archive { .. } | VolumeError::ArchiveAway { .. });
                    let is_told = is_of_archive || error.to_string().contains("cannot be read");
                    assert!(is_told, "{fault:?}: {error}");
                    assert_eq!(session.at.lsn, past.lsn(near), "{fault:?}");
                    past.check(NAME, near);
                }
            }
        }
        assert!(past.pool.stats().newest_change_lsn >= lsn);
        for moment in [near - 400, near + 400, 20, last] {
            to_moment(&past, moment);
            past.check(NAME, moment);
        }
        past.check("data", last);
    }
    assert!(refused >= 6, "{refused} steps were refused");
}

/// Sessions and clones that were never written leave nothing in the catalog, however many there
/// were. A roll-back leaves a record, as long as its points are kept and never more than a bound.
#[test]
fn a_thousand_sessions_leave_nothing_behind() {
    let mut past = Past::new(81, 12, 64);
    past.step(600);
    let records = |past: &Past| past.pool.lineage().births.len();
    assert_eq!(records(&past), 0);
    for round in 0..1000 {
        let moment = past.rng.below(past.len() as u64) as usize;
        if round % 3 == 0 {
            let clone = Rc::clone(&past.pool).clone_volume(
                "data".to_owned(),
                lsn_point(past.lsn(moment)),
                NAME.to_owned(),
                round % 2 == 0,
            );
            wait(&past.pool, clone).expect("a clone");
            wait(&past.pool, Rc::clone(&past.pool).delete_volume(NAME.to_owned())).expect("deleted");
        } else {
            open(&past, moment);
            let other = past.rng.below(past.len() as u64) as usize;
            to_moment(&past, other);
            wait(&past.pool, Rc::clone(&past.pool).abort_session(NAME.to_owned(), HostGuard::none()))
                .expect("aborted");
        }
        if round % 100 == 99 {
            assert_eq!(records(&past), 0, "round {round}");
            assert_eq!(past.pool.volumes().len(), 1);
            past.crash(if round % 200 == 99 { Crash::Power } else { Crash::Process });
            assert_eq!(records(&past), 0, "round {round}, after a crash");
        }
    }
    // What a roll-back left is found at the points of that time, so it is kept as long as they are.
    for round in 0..1100 {
        let moment = past.rng.below(600) as usize;
        let back = Rc::clone(&past.pool).roll_back("data".to_owned(), lsn_point(past.lsn(moment)), false);
        let info = wait(&past.pool, back).expect("rolled back");
        let hydrate = Rc::clone(&past.pool).hydrate(info.done.volume.id);
        wait(&past.pool, hydrate);
        wait(&past.pool, Rc::clone(&past.pool).delete_snapshot(info.before.name)).expect("deleted");
        if round == 40 {
            assert!(records(&past) >= 20, "{} records", records(&past));
        }
        past.idle(20);
    }
    let most = records(&past);
    assert!(most <= GONE_IMAGES_MAX + 2, "{most} records");
    past.idle(4000);
    expire(&past);
    let left = records(&past);
    println!("{most} records after 1,100 roll-backs, {left} after their points had expired");
    assert!(left < most / 4, "{left} of {most} records are left");
}

/// The bound that the documentation of the format states.
const GONE_IMAGES_MAX: usize = 1024;

/// A session on a volume that was rolled back and then deleted counts the commands of all its
/// images, in both directions.
#[test]
fn commands_of_a_deleted_volume_are_counted_over_its_roll_backs() {
    let mut past = Past::new(91, 12, 64);
    past.step(300);
    let back = Rc::clone(&past.pool).roll_back("data".to_owned(), lsn_point(past.lsn(100)), false);
    wait(&past.pool, back).expect("rolled back");
    let first = past.pool.stats().newest_point_lsn;
    let id = past.pool.find_volume("data").expect("there").id;
    let mut ends = Vec::new();
    for block in 0..5 {
        let data = vec![block as u8 + 1; BLOCK_BYTES];
        let request = Request::Write { block, data: &[&data], force_unit_access: true };
        assert_eq!(run(&past.pool, id, &request).result, Ok(()));
        ends.push(past.pool.stats().newest_point_lsn);
    }
    assert!(ends[0] > first);
    let last = past.command(commands_of(&past) - 1);
    open(&past, last);
    wait(&past.pool, Rc::clone(&past.pool).delete_volume("data".to_owned())).expect("deleted");
    for round in 0..2 {
        let stepped = step(&past, StepTo::Commands(3));
        assert_eq!(stepped.session.at.lsn, ends[2], "round {round}");
        let stepped = step(&past, StepTo::Commands(-3));
        assert_eq!(stepped.session.at.lsn, past.lsn(last), "round {round}");
        past.check(NAME, last);
    }
    assert!(try_step(&past, StepTo::Commands(6), false).is_err(), "there were five");
}

fn commands_of(past: &Past) -> usize {
    (0..past.len()).filter(|&moment| past.is_command(moment)).count()
}
