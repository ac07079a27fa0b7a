//! A host that connects while a change is being prepared is seen: every change that replaces what a
//! host sees asks for hosts again in the turn in which it is made, and changes nothing if there is
//! one.

use std::cell::Cell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use varve::volume::{HostGuard, NamedPoint, OpenSession, Point, Pool, StepTo, Verdict, VolumeError};
use varve_tests::sim::past::Past;
use varve_tests::sim::world::{turn_alone, wait};

/// An operation of the pool.
type Operation<T> = Pin<Box<dyn Future<Output = Result<T, VolumeError>>>>;

const SESSION: &str = "search";
/// The most turns of an operation.
const TURNS_MAX: usize = 100_000;

fn text(name: &str) -> String {
    name.to_owned()
}

fn lsn_point(lsn: u64) -> NamedPoint {
    Point::Lsn(lsn).into()
}

/// Runs an operation while a host connects just before it is asked for the `from`th time, counted
/// from 0. What is done was asked for in the same turn.
fn run<T>(
    pool: &Rc<Pool>,
    from: usize,
    make: &dyn Fn(Rc<Pool>, HostGuard) -> Operation<T>,
) -> Result<T, VolumeError> {
    let (asks, turn, asked) = (Cell::new(0), Rc::new(Cell::new(0)), Rc::new(Cell::new(None)));
    let (turn_now, asked_now) = (Rc::clone(&turn), Rc::clone(&asked));
    let guard = HostGuard::new(move |_| {
        asked_now.set(Some(turn_now.get()));
        asks.set(asks.get() + 1);
        if asks.get() > from { vec![text("late")] } else { Vec::new() }
    });
    let before = pool.stats().newest_change_lsn;
    let mut future = pin!(make(Rc::clone(pool), guard));
    let mut context = Context::from_waker(Waker::noop());
    let mut changed = None;
    for now in 0..TURNS_MAX {
        turn.set(now);
        let polled = future.as_mut().poll(&mut context);
        if changed.is_none() && pool.stats().newest_change_lsn != before {
            changed = Some(now);
        }
        if let Poll::Ready(result) = polled {
            assert!(result.is_err() || changed == asked.get(), "{changed:?}, asked in {asked:?}");
            return result;
        }
        turn_alone(pool);
    }
    panic!("it does not end");
}

/// What operators see of volumes, sessions and snapshots.
fn seen(pool: &Rc<Pool>) -> String {
    let mut volumes: Vec<String> = Vec::new();
    for volume in pool.volumes() {
        volumes.push(format!("{} {:?} {} {:?}", volume.name, volume.id, volume.size_bytes, volume.parent));
    }
    format!(
        "{volumes:?} {:?} {:?} {}",
        pool.sessions(None).expect("sessions"),
        pool.snapshots(),
        pool.stats().newest_change_lsn
    )
}

/// An operation is refused whenever the host connects before the change, and changes nothing then;
/// and it is done if none does. Returns how often it asks.
fn is_guarded<T>(past: &Past, what: &str, make: impl Fn(Rc<Pool>, HostGuard) -> Operation<T>) -> usize {
    for from in 0.. {
        let before = seen(&past.pool);
        match run(&past.pool, from, &make) {
            Ok(_) => {
                assert_ne!(seen(&past.pool), before, "{what}");
                return from;
            }
            Err(VolumeError::InUse { hosts, .. }) => assert_eq!(hosts, ["late"], "{what}"),
            Err(error) => panic!("{what}: {error}"),
        }
        assert_eq!(seen(&past.pool), before, "{what}: refused when asked for the time {from}");
    }
    unreachable!("it is done at last");
}

fn open(past: &Past, moment: usize) {
    let at = lsn_point(past.lsn(moment));
    let request = OpenSession { volume: text("data"), at, name: text(SESSION), read_only: false };
    wait(&past.pool, Rc::clone(&past.pool).open_session(request)).expect("opened");
}

#[test]
fn a_host_that_connects_meanwhile_is_seen_at_the_change() {
    let mut past = Past::new(71, 12, 64);
    past.step(900);
    past.idle(100);
    open(&past, 600);
    let to = past.lsn(100);
    let asks = is_guarded(&past, "step", |pool, guard| {
        Box::pin(pool.step_session(text(SESSION), StepTo::Point(lsn_point(to)), false, guard))
    });
    assert_eq!(asks, 2, "at the beginning, and at the change");
    past.check(SESSION, 100);
    for (verdict, moment) in [(Verdict::Good, 100), (Verdict::Bad, 600)] {
        let at = Some(lsn_point(past.lsn(moment)));
        wait(&past.pool, Rc::clone(&past.pool).judge_session(text(SESSION), verdict, at)).expect("judged");
    }
    let asks =
        is_guarded(&past, "bisect", |pool, guard| Box::pin(pool.bisect_session(text(SESSION), false, guard)));
    assert_eq!(asks, 2);
    let asks = is_guarded(&past, "roll back of a session", |pool, guard| {
        Box::pin(pool.roll_back_session(text(SESSION), false, false, guard))
    });
    assert!(asks >= 4, "for the volume and for the clone, twice");
    open(&past, 300);
    is_guarded(&past, "abort", |pool, guard| Box::pin(pool.abort_session(text(SESSION), guard)));
    open(&past, 300);
    let asks = is_guarded(&past, "keep", |pool, guard| {
        Box::pin(pool.keep_session(text(SESSION), text("clone"), guard))
    });
    assert_eq!(asks, 2);
    past.check("clone", 300);
    let asks = is_guarded(&past, "roll back", |pool, guard| {
        Box::pin(pool.roll_back_members(text("data"), lsn_point(to), false, guard))
    });
    assert_eq!(asks, 2);
    past.check("data", 100);
    let asks = is_guarded(&past, "reset", |pool, guard| {
        Box::pin(pool.reset_clone(text("clone"), Some(lsn_point(to)), guard))
    });
    assert_eq!(asks, 2);
    past.check("clone", 100);
    let asks = is_guarded(&past, "promote", |pool, guard| Box::pin(pool.promote_clone(text("clone"), guard)));
    assert_eq!(asks, 3, "for the clone at the beginning, for both at the change");
    let asks = is_guarded(&past, "rename", |pool, guard| {
        Box::pin(pool.rename_volume(text("clone"), text("other"), guard))
    });
    assert_eq!(asks, 2);
    is_guarded(&past, "delete", |pool, guard| Box::pin(pool.delete_unused_volume(text("other"), guard)));
}
