//! Tests one thread of a load with ports and clocks of the tests, and loads of devices and logs
//! from end to end.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use varve::bdev::{self, Bdev, BdevInfo, Completion, MemoryBdev, Operation, Submit};

use super::aim::{Access, Choice, Kind, Pattern};
use super::device::DevicePort;
use super::pace::Pace;
use super::payload::Payload;
use super::port::{Command, Done, Port};
use super::tally::Recorders;
use super::worker::{Clock, Orders, Outcome, Seat, Worker};
use super::{Device, LoadConfig, Target, run};

const MILLISECOND: Duration = Duration::from_millis(1);

/// A clock that each poll of a port advances by a millisecond.
#[derive(Clone, Default)]
struct FakeClock(Rc<Cell<Duration>>);

impl Clock for FakeClock {
    fn now(&self) -> Duration {
        self.0.get()
    }
}

/// Completes everything at the next poll, except while it stalls.
struct FakePort {
    clock: FakeClock,
    stall: std::ops::Range<Duration>,
    waiting: Vec<u32>,
}

impl Port for FakePort {
    fn submit(&mut self, command: Command<'_>) -> Result<bool, crate::error::PerfError> {
        self.waiting.push(command.tag);
        Ok(true)
    }

    fn poll(
        &mut self,
        _spin: Duration,
        done: &mut dyn FnMut(Done<'_>),
    ) -> Result<usize, crate::error::PerfError> {
        self.clock.0.set(self.clock.0.get() + MILLISECOND);
        if self.stall.contains(&self.clock.0.get()) {
            return Ok(0);
        }
        let completed = self.waiting.len();
        for tag in self.waiting.drain(..) {
            done(Done { tag, result: Ok(&[]) });
        }
        Ok(completed)
    }

    fn in_flight(&self) -> usize {
        self.waiting.len()
    }
}

fn orders(payload: &Payload, pattern: Pattern) -> Orders<'_> {
    Orders {
        choice: Choice { pattern, access: Access::Uniform, read_percent: 50, trim_percent: 0 },
        block_bytes: 4096,
        queue_depth: 1,
        duration: Duration::from_secs(10),
        interval: Duration::from_secs(1),
        bytes_max: u64::MAX,
        pace: None,
        seed: 1,
        payload,
        run: None,
    }
}

fn seat<P>(port: P, places: u64) -> Vec<Seat<P>> {
    vec![Seat { port, volume: 0, volume_block_bytes: 4096, part: 0..places, verified: 0..places }]
}

/// A load of ten seconds in which the port stalls for one.
fn with_stall(rate: Option<f64>, stall_s: std::ops::Range<u64>) -> (Outcome, Recorders, u64) {
    let payload = Payload::new(4096, 1.0, 1);
    let clock = FakeClock::default();
    let stall = Duration::from_secs(stall_s.start)..Duration::from_secs(stall_s.end);
    let port = FakePort { clock: clock.clone(), stall, waiting: Vec::new() };
    let pace = rate.map(|rate| Pace::new(rate, 0, 1));
    let orders = Orders { pace, ..orders(&payload, Pattern::RandRead) };
    let mut collector = super::Collector::new(1, 4096);
    let worker = Worker::new(orders, seat(port, 100), clock);
    let outcome = worker.run(|interval| collector.add(interval, |_, _, _| {})).unwrap();
    (outcome, collector.total, collector.slices.len() as u64)
}

#[test]
fn an_open_load_counts_the_time_that_commands_could_not_start() {
    let (outcome, recorders, intervals) = with_stall(Some(100.0), 4..5);
    assert_eq!((outcome.unsent, outcome.failures), (0, 0));
    assert_eq!(intervals, 10);
    let latency = recorders.of(Kind::Read).latency();
    assert_eq!(latency.count, 1000, "all that was meant to start was sent");
    // A tenth of the commands were meant to start during the stall, and waited for half of it on
    // average. After it, each also waited for the commands queued before it.
    assert!(latency.max_us >= 990_000.0 && latency.p99_us > 800_000.0, "{latency:?}");
    assert!(latency.mean_us > 50_000.0, "{latency:?}");
    // The closed load has one slow command of many.
    let (_, recorders, _) = with_stall(None, 4..5);
    let latency = recorders.of(Kind::Read).latency();
    assert!(latency.max_us >= 990_000.0 && latency.p99_us < 2000.0, "{latency:?}");
}

#[test]
fn what_an_open_load_never_sends_is_counted() {
    let (outcome, recorders, _) = with_stall(Some(100.0), 5..3600);
    // One command was sent before the stall and has no answer.
    assert_eq!(outcome.failures, 1);
    assert_eq!(recorders.count() + outcome.failures + outcome.unsent, 1000);
    assert!(outcome.unsent >= 499, "{}", outcome.unsent);
}

/// A device that forgets every n-th write.
struct Forgetful {
    device: MemoryBdev,
    writes: u64,
    forgets: u64,
}

impl Bdev for Forgetful {
    fn info(&self) -> &BdevInfo {
        self.device.info()
    }

    fn submit(&mut self, mut command: bdev::Command) -> Submit {
        if matches!(command.operation, Operation::Write { .. }) {
            self.writes += 1;
            if self.writes.is_multiple_of(self.forgets) {
                command.operation = Operation::Flush;
            }
        }
        self.device.submit(command)
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) -> usize {
        self.device.poll(completions)
    }

    fn in_flight(&self) -> usize {
        self.device.in_flight()
    }

    fn wake_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}

fn verified(pattern: Pattern, forgets: u64) -> Outcome {
    let payload = Payload::new(8192, 2.0, 1);
    let device = Forgetful { device: MemoryBdev::new("memory", 64), writes: 0, forgets };
    let orders = Orders {
        block_bytes: 8192,
        queue_depth: 4,
        bytes_max: 8192 * 2000,
        run: Some(77),
        ..orders(&payload, pattern)
    };
    let port = DevicePort::new(Box::new(device), 4, 8192);
    Worker::new(orders, seat(port, 32), FakeClock::default()).run(|_| {}).unwrap()
}

#[test]
fn verification_passes_what_is_right_and_finds_a_planted_stale_block() {
    let good = verified(Pattern::RandRw, u64::MAX);
    assert_eq!((good.failures, good.violations, good.first_violation), (0, 0, None));
    assert!(good.checked_blocks > 1000);
    let bad = verified(Pattern::RandRw, 100);
    assert!(bad.violations > 0 && bad.first_violation.unwrap().contains("holds write"));
    // Only reading back finds the lost write.
    let bad = verified(Pattern::Write, 2000);
    assert_eq!((bad.violations, bad.checked_blocks), (1, 64));
}

fn short(target: Target, pattern: Pattern) -> LoadConfig {
    LoadConfig {
        duration: Duration::from_mins(1),
        bytes_max: Some(4 << 20),
        queue_depth: 16,
        ..LoadConfig::of(target, pattern)
    }
}

#[test]
fn devices_and_logs_are_loaded_from_end_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let memory = || Device::Memory { len_bytes: 16 << 20 };
    let file = Device::File { path: directory.path().join("device"), create_bytes: Some(16 << 20) };
    for (target, verify) in
        [(Target::Bdev(memory()), true), (Target::Bdev(file), true), (Target::Log(memory()), false)]
    {
        let pattern = if verify { Pattern::RandRw } else { Pattern::RandWrite };
        let threads = if verify { 2 } else { 1 };
        let config = LoadConfig { threads, verify, ..short(target.clone(), pattern) };
        let result = run(&config, |_| {}).unwrap();
        assert!(result.is_good(), "{target:?}: {result:?}");
        assert_eq!(result.operations, 1024, "{target:?}");
        assert_eq!(result.verification.is_some_and(|found| found.checked_blocks > 512), verify, "{target:?}");
    }
    // A log wraps when many times its own size is written.
    let config = LoadConfig {
        bytes_max: Some(100 << 20),
        trim_percent: 10,
        ..short(Target::Log(memory()), Pattern::RandWrite)
    };
    let result = run(&config, |_| {}).unwrap();
    assert!(result.is_good() && result.trim_latency.is_some_and(|trims| trims.count > 1000), "{result:?}");
    assert!(
        run(&short(Target::Log(memory()), Pattern::RandRead), |_| {}).is_err(),
        "nothing is there to read"
    );
}

#[test]
fn devices_are_named_as_text() {
    let parse = str::parse::<Device>;
    assert_eq!(parse("memory:8MiB"), Ok(Device::Memory { len_bytes: 8 << 20 }));
    assert_eq!(parse("file:/a/b"), Ok(Device::File { path: "/a/b".into(), create_bytes: None }));
    let made = Device::File { path: "/a,b".into(), create_bytes: Some(1 << 30) };
    assert_eq!(parse("file:/a,b,1GiB"), Ok(made));
    for bad in ["", "file:", "memory:x", "disk:/a", "file:/a,zz"] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}
