//! Tests of the reactor: turns, tasks, timers, mail, sleeping and waking.

use std::cell::Cell;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::*;

/// Long enough to distinguish a missing wake-up from a slow machine.
const NEVER: Duration = Duration::from_mins(1);

fn reactor(spin: Duration) -> Reactor<()> {
    let config = ReactorConfig { idle: IdlePolicy::Adaptive { spin }, ..ReactorConfig::default() };
    Reactor::new(config).expect("a reactor")
}

/// A poller that counts its polls.
fn count_polls(reactor: &Reactor<()>) -> Rc<Cell<u32>> {
    let polls = Rc::new(Cell::new(0));
    let counted = Rc::clone(&polls);
    reactor.local().add_poller(move || {
        counted.set(counted.get() + 1);
        0
    });
    polls
}

#[test]
fn pollers_run_once_a_turn_in_their_order_until_removed() {
    let mut reactor = reactor(NEVER);
    let trace = Rc::new(std::cell::RefCell::new(Vec::new()));
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let trace = Rc::clone(&trace);
        ids.push(reactor.local().add_poller(move || {
            trace.borrow_mut().push(name);
            0
        }));
    }
    reactor.turn(&());
    assert!(trace.borrow().is_empty(), "a poller is polled from the turn after the one that added it");
    reactor.turn(&());
    reactor.local().remove_poller(ids[1]);
    reactor.turn(&());
    reactor.turn(&());
    assert_eq!(trace.borrow().concat(), "abcabcac");
}

/// A task makes work for a poller that is not polled in the same turn: another turn comes before
/// any sleep, however long the first one took. On a slow machine an appliance did not start: the
/// reactor slept although a read had not been submitted.
#[test]
fn what_a_turn_makes_to_do_is_done_before_a_sleep() {
    let mut reactor = reactor(Duration::ZERO);
    let local = reactor.local();
    let (asked, waker) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None::<std::task::Waker>)));
    let (seen, woken) = (Rc::clone(&asked), Rc::clone(&waker));
    local.add_poller(move || match woken.take().filter(|_| seen.get()) {
        Some(waker) => {
            seen.set(false);
            waker.wake();
            1
        }
        None => 0,
    });
    // Nothing else would wake it. After a minute the test fails instead of hanging.
    let limit = local.clone();
    drop(local.spawn(async move { limit.sleep(NEVER).await }));
    let started = Instant::now();
    for _ in 0..3 {
        let (asked, waker) = (Rc::clone(&asked), Rc::clone(&waker));
        let mut polled = false;
        reactor.run_until(
            &(),
            std::future::poll_fn(move |context| {
                if std::mem::replace(&mut polled, true) && !asked.get() {
                    return std::task::Poll::Ready(());
                }
                asked.set(true);
                waker.set(Some(context.waker().clone()));
                std::task::Poll::Pending
            }),
        );
    }
    assert!(started.elapsed() < NEVER, "it slept over what was to be done");
}

#[test]
fn tasks_wait_for_timers_and_for_each_other() {
    let mut reactor = reactor(Duration::ZERO);
    let local = reactor.local();
    let started = Instant::now();
    let sleeper = local.clone();
    let sum = reactor.run_until(&(), async move {
        let inner = sleeper.clone();
        let first = sleeper.spawn(async move {
            inner.sleep(Duration::from_millis(20)).await;
            40
        });
        yield_now().await;
        first.await.expect("the task runs to its end") + 2
    });
    assert_eq!(sum, 42);
    assert!(started.elapsed() >= Duration::from_millis(20));
    assert_eq!(local.stats().tasks, 0);
    assert!(local.stats().sleeps > 0, "it slept while it waited");
}

#[test]
fn a_flood_of_tasks_does_not_starve_the_pollers() {
    let mut reactor = reactor(NEVER);
    let polls = count_polls(&reactor);
    reactor.local().spawn(async {
        loop {
            yield_now().await;
        }
    });
    for _ in 0..10 {
        reactor.turn(&());
    }
    assert_eq!(polls.get(), 9);
}

/// Messages that take long leave the pollers their turns in between.
#[test]
fn a_flood_of_long_calls_does_not_starve_the_pollers() {
    let mut reactor = reactor(NEVER);
    let polls = count_polls(&reactor);
    reactor.turn(&());
    let handle = reactor.handle();
    let (done, all) = (std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0)), 10);
    for _ in 0..all {
        let done = std::sync::Arc::clone(&done);
        let sent = handle.send(move |()| {
            std::thread::sleep(Duration::from_millis(2));
            done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
        assert_eq!(sent, Ok(()));
    }
    let mut turns = 0;
    while done.load(std::sync::atomic::Ordering::Relaxed) < all {
        reactor.turn(&());
        turns += 1;
    }
    assert_eq!((turns, polls.get()), (all, all), "one long call in each turn");
}

#[test]
fn dropping_a_reactor_ends_its_tasks_and_tells_who_waits() {
    let reactor = reactor(NEVER);
    let handle = reactor.local().spawn(std::future::pending::<()>());
    drop(reactor);
    assert!(handle.is_done());
    assert_eq!(super::block_on(handle, || ()), Err(JoinError));
}

#[test]
fn how_often_a_future_is_polled_between_two_calls_does_not_depend_on_time() {
    let calls_of = |pause: Duration| {
        let future = async move {
            for _ in 0..100 {
                std::thread::sleep(pause);
                super::yield_now().await;
            }
        };
        let mut calls = 0;
        super::block_on(future, || calls += 1);
        calls
    };
    // With a pause that is longer than tasks may take in a turn of a reactor.
    assert_eq!(calls_of(Duration::from_millis(1)), calls_of(Duration::ZERO));
}

#[test]
fn mail_wakes_a_sleeping_reactor_and_answers() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let mut reactor: Reactor<Cell<u32>> = Reactor::new(ReactorConfig {
            idle: IdlePolicy::Adaptive { spin: Duration::ZERO },
            ..ReactorConfig::default()
        })
        .expect("a reactor");
        sender.send(reactor.handle()).expect("the test waits");
        let state = Cell::new(0);
        reactor.run(&state);
        (state.get(), reactor.local().stats())
    });
    let handle = receiver.recv().expect("the reactor starts");
    for expected in 1..=100 {
        let answer = handle.call(NEVER, |state: &Cell<u32>, reply| {
            state.set(state.get() + 1);
            reply.send(state.get());
        });
        assert_eq!(answer, Ok(expected));
        if expected % 10 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    assert_eq!(handle.call(NEVER, |_, reply: mail::Reply<()>| drop(reply)), Err(CallError::Stopped));
    let late = handle.call(Duration::from_millis(5), |_, reply: mail::Reply<()>| std::mem::forget(reply));
    assert_eq!(late, Err(CallError::TimedOut { timeout_ms: 5 }));
    handle.stop();
    let (count, stats) = thread.join().expect("the reactor ends");
    assert_eq!(count, 100);
    assert!(stats.sleeps > 0);
    assert_eq!(handle.send(|_| ()), Err(CallError::Stopped));
}

#[test]
fn a_wish_for_a_turn_wakes_a_sleeping_reactor_and_is_not_lost_on_one_that_goes_to_sleep() {
    let mut reactor = reactor(Duration::ZERO);
    let handle = reactor.handle();
    let seen = Rc::new(Cell::new(0));
    let made = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
    let (poller_seen, poller_made) = (Rc::clone(&seen), std::sync::Arc::clone(&made));
    reactor.local().add_poller(move || {
        poller_seen.set(poller_made.load(std::sync::atomic::Ordering::SeqCst));
        0
    });
    // The poller counts from the turn after the next one.
    handle.wake();
    reactor.turn(&());
    let thread = std::thread::spawn(move || {
        for _ in 0..1000 {
            made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            handle.wake();
        }
    });
    // Sleeps for ever if the last request is lost.
    while seen.get() < 1000 {
        reactor.turn(&());
    }
    thread.join().expect("it ends");
}

#[test]
fn a_full_mailbox_refuses() {
    let reactor = reactor(NEVER);
    let handle = reactor.handle();
    for _ in 0..mail::MAIL_BOUND {
        assert_eq!(handle.send(|()| ()), Ok(()));
    }
    assert_eq!(handle.send(|()| ()), Err(CallError::Full));
}

#[test]
fn a_descriptor_ends_the_sleep_and_its_flags_are_taken_once() {
    let mut reactor = reactor(Duration::ZERO);
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    let source = reactor.local().register(ours.as_fd(), Interest::Read).expect("registered");
    assert!(!source.take_readable());
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        (&theirs).write_all(b"x").expect("written");
        theirs
    });
    while !source.take_readable() {
        reactor.turn(&());
    }
    assert!(!source.take_readable() && !source.take_writable());
    source.set_interest(Interest::ReadWrite).expect("changed");
    reactor.turn(&());
    assert!(
        source.take_writable() && source.take_readable(),
        "level-triggered: still readable, and writable now"
    );
    drop(writer.join().expect("the writer ends"));
    drop(source);
    reactor.local().spawn(async {});
    reactor.turn(&());
}

#[test]
fn long_turns_are_counted() {
    let config = ReactorConfig { turn_limit: Duration::from_millis(5), ..ReactorConfig::default() };
    let mut reactor: Reactor<()> = Reactor::new(config).expect("a reactor");
    reactor.local().spawn(async { std::thread::sleep(Duration::from_millis(10)) });
    reactor.turn(&());
    assert_eq!(reactor.local().stats().long_turns, 1);
}
