//! Compares ways in which a reactor can drive a socket: the basis for the choice between plain
//! sockets and `io_uring`.
//!
//! Two threads exchange messages of the sizes of `NVMe`/TCP over loopback ([`tcp`]), each pinned to
//! a core and polling. The requesting side is always the same, on a plain socket; the answering
//! side is driven in one of the ways ([`Way`]). The ways take turns within each round, and each
//! round starts with another way, so that other work on the machine affects all of them. The median
//! of the rounds counts.
//!
//! Not covered: many connections, for which a ring's single system call counts for more. A target's
//! work on what it receives: data must be copied out of buffers that the kernel chooses if it is
//! needed in one piece, and sends without a copy must keep their memory until the kernel releases
//! it. Over loopback the kernel copies such sends after all; the result shows how many. A kernel
//! thread that submits (SQPOLL) would need a core of its own.

mod answers;
mod plain;
mod provided;
mod ring;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::TcpStream;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use varve::nvmf::server::set_busy_poll;

use plain::Readiness;
use ring::Uses;
pub use ring::ZeroCopy;

use crate::cleaning::median;
use crate::error::PerfError;
use crate::floor::FloorResult;
use crate::floor::tcp::{self, Shape};
use crate::machine::Machine;

/// The smallest send without a copy, in bytes: below this, the bookkeeping costs more than the
/// copy.
const ZERO_COPY_BYTES_LEAST: usize = 16 << 10;
/// How long the kernel busy-polls a device for a socket, in microseconds.
const BUSY_POLL_US: u16 = 50;
/// Bytes of a command, and commands in flight.
const COMMANDS: [(usize, usize); 3] = [(4 << 10, 1), (4 << 10, 32), (128 << 10, 8)];

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Length of each step; there are about 30 in a round.
    #[arg(long, default_value_t = 1.0, value_parser = crate::seconds, value_name = "S")]
    pub seconds: f64,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
}

/// A way to drive a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The target's way: polls an epoll each turn, receives, and sends everything that waits with
    /// one call.
    Epoll,
    /// The same, with busy polling of the device set on the socket.
    BusyPoll,
    /// Receives and sends without polling an epoll.
    Trying,
    /// One receive and one send at a time through `io_uring`.
    Ring,
    /// The same with one multishot receive, into buffers that the kernel chooses.
    Multishot,
    /// One receive at a time, and sends of 16 KiB and more without a copy, from registered memory.
    ZeroCopy,
}

impl Way {
    /// All ways; the one that the others are compared with comes first.
    pub const ALL: [Way; 6] =
        [Way::Epoll, Way::BusyPoll, Way::Trying, Way::Ring, Way::Multishot, Way::ZeroCopy];

    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Way::Epoll => "epoll, recv, sendmsg: the target's",
            Way::BusyPoll => "the same with SO_BUSY_POLL",
            Way::Trying => "recv, sendmsg, without epoll",
            Way::Ring => "io_uring recv, sendmsg",
            Way::Multishot => "io_uring multishot recv, buffer ring",
            Way::ZeroCopy => "io_uring recv, SEND_ZC from 16 KiB on",
        }
    }

    /// Whether it differs from the other ways for this shape and depth.
    fn applies(self, shape: Shape, depth: usize) -> bool {
        self != Way::ZeroCopy || shape.response_bytes * depth >= ZERO_COPY_BYTES_LEAST
    }

    fn serve(self, stream: TcpStream, shape: Shape) -> std::io::Result<Option<ZeroCopy>> {
        match self {
            Way::Ring | Way::Multishot | Way::ZeroCopy => {
                let uses = Uses { multishot: self == Way::Multishot, zero_copy: self == Way::ZeroCopy };
                let zero_copy = ring::serve(stream, shape, uses)?;
                Ok(uses.zero_copy.then_some(zero_copy))
            }
            Way::Epoll => plain::serve(stream, shape, Readiness::Epoll).map(|()| None),
            Way::Trying => plain::serve(stream, shape, Readiness::Trying).map(|()| None),
            Way::BusyPoll => {
                set_busy_poll(&stream, BUSY_POLL_US)?;
                plain::serve(stream, shape, Readiness::Epoll).map(|()| None)
            }
        }
    }
}

/// The result of one way with one kind of command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The command, in words.
    pub command: String,
    /// The way.
    pub way: Way,
    /// The round with the median rate.
    pub result: FloorResult,
    /// The median over the rounds of its operations per second divided by those of [`Way::Epoll`].
    pub ratio: f64,
    /// The least and the greatest of these ratios.
    pub spread: (f64, f64),
    /// How many sends without a copy there were in all rounds, and how many the kernel copied.
    pub zero_copy: Option<ZeroCopy>,
}

/// The whole result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of varve.
    pub version: String,
    /// The machine.
    pub machine: Machine,
    /// Each way with each kind of command.
    pub ways: Vec<Row>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

/// Measures every way; `on_step` is called at the start of each step with its name.
///
/// # Errors
/// The system refuses plain sockets or threads. Whatever else the kernel refuses is listed in
/// `missing`.
pub fn run(options: &Options, mut on_step: impl FnMut(&str)) -> Result<Report, PerfError> {
    let step = Duration::from_secs_f64(options.seconds);
    let (mut ways, mut missing) = (Vec::new(), BTreeMap::new());
    for (bytes, depth) in COMMANDS {
        for shape in [Shape::write(bytes), Shape::read(bytes)] {
            let command = format!("{} KiB {} QD{depth}", bytes >> 10, shape.name);
            let mut results: BTreeMap<Way, Results> = BTreeMap::new();
            for round in 1..=options.rounds {
                // The first way changes with each round, because the first one is affected by the
                // pause before it.
                let mut order = Way::ALL;
                order.rotate_left(round as usize % Way::ALL.len());
                for way in order {
                    if !way.applies(shape, depth) || missing.contains_key(&way) {
                        continue;
                    }
                    on_step(&format!("{command}, {}, round {round}", way.name()));
                    match tcp::exchange(shape, depth, step, move |stream| way.serve(stream, shape)) {
                        Ok((result, zero_copy)) => results.entry(way).or_default().add(result, zero_copy),
                        Err(error) if way == Way::Epoll => return Err(error),
                        Err(error) => {
                            missing.insert(way, error.to_string());
                        }
                    }
                }
            }
            let base: Vec<f64> = results.get(&Way::Epoll).into_iter().flat_map(Results::iops).collect();
            ways.extend(results.into_iter().map(|(way, results)| results.row(&command, way, &base)));
        }
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        machine: Machine::here(),
        ways,
        missing: missing.into_iter().map(|(way, why)| format!("{}: {why}", way.name())).collect(),
    })
}

/// The rounds of one way.
#[derive(Default)]
struct Results {
    rounds: Vec<FloorResult>,
    zero_copy: Option<ZeroCopy>,
}

impl Results {
    fn add(&mut self, result: FloorResult, zero_copy: Option<ZeroCopy>) {
        self.rounds.push(result);
        if let Some(more) = zero_copy {
            let all = self.zero_copy.get_or_insert_default();
            all.sends += more.sends;
            all.copied += more.copied;
        }
    }

    fn iops(&self) -> impl Iterator<Item = f64> + '_ {
        self.rounds.iter().map(|round| round.iops)
    }

    /// `base` holds the rounds that it is compared with, and is not empty.
    fn row(mut self, command: &str, way: Way, base: &[f64]) -> Row {
        let ratios: Vec<f64> =
            self.iops().zip(base).map(|(iops, base)| iops / base.max(f64::MIN_POSITIVE)).collect();
        let ends = ratios
            .iter()
            .fold((f64::MAX, f64::MIN), |(least, most), &ratio| (least.min(ratio), most.max(ratio)));
        self.rounds.sort_by(|one, other| one.iops.total_cmp(&other.iops));
        let result = self.rounds.swap_remove(self.rounds.len() / 2);
        Row {
            command: command.to_owned(),
            way,
            result,
            ratio: median(ratios.into_iter()),
            spread: ends,
            zero_copy: self.zero_copy,
        }
    }
}

/// The result as a table.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    let mut before = "";
    for row in &report.ways {
        // Writing to a string does not fail.
        if row.command != before {
            let _ = writeln!(
                text,
                "{:<40}{:>10}{:>10}{:>12}{:>10}{:>8}  spread",
                row.command, "mean us", "p50 us", "a second", "MiB/s", "ratio"
            );
            before = &row.command;
        }
        let (result, spread) = (&row.result, row.spread);
        let _ = write!(
            text,
            "  {:<38}{:>10.2}{:>10.2}{:>12.0}{:>10.1}{:>8.3}  {:.3} to {:.3}",
            row.way.name(),
            result.latency.mean_us,
            result.latency.p50_us,
            result.iops,
            result.mib_per_second,
            row.ratio,
            spread.0,
            spread.1
        );
        if let Some(zero_copy) = row.zero_copy {
            let _ = write!(text, "; the kernel copied {} of {} sends", zero_copy.copied, zero_copy.sends);
        }
        text.push('\n');
    }
    for missing in &report.missing {
        let _ = writeln!(text, "not measured: {missing}");
    }
    text
}

/// Adds to an error what the kernel refused.
fn refused(what: &'static str) -> impl FnOnce(std::io::Error) -> std::io::Error {
    move |error| std::io::Error::new(error.kind(), format!("{what}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(20);

    /// Every answer arrives in full with every way, or the kernel's error names what it refuses.
    #[test]
    fn each_way_answers_every_request() {
        for way in Way::ALL {
            for (shape, depth) in [
                (Shape::write(4096), 1),
                (Shape::read(4096), 32),
                (Shape::write(128 << 10), 8),
                (Shape::read(128 << 10), 8),
            ] {
                // The exchange ends only when every request has its answer.
                match tcp::exchange(shape, depth, STEP, move |stream| way.serve(stream, shape)) {
                    Ok((result, zero_copy)) => {
                        assert!(result.latency.count >= depth as u64, "{way:?} {shape:?}");
                        let sends = zero_copy.map(|zero_copy| zero_copy.sends);
                        let expected = way == Way::ZeroCopy && shape.name == "read";
                        if shape.payload_bytes > ZERO_COPY_BYTES_LEAST {
                            assert_eq!(sends.is_some_and(|sends| sends > 0), expected, "{way:?} {shape:?}");
                        }
                        assert!(zero_copy.is_none_or(|all| all.copied <= all.sends));
                    }
                    Err(error) => {
                        let plain = [Way::Epoll, Way::Trying].contains(&way);
                        assert!(!plain && error.to_string().contains("answer messages"), "{way:?}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_report_compares_with_the_targets_way_and_names_what_is_missing() {
        let report = run(&Options { seconds: 0.002, rounds: 3 }, |_| {}).unwrap();
        let commands: std::collections::BTreeSet<_> =
            report.ways.iter().map(|row| row.command.as_str()).collect();
        assert_eq!(commands.len(), 6);
        for row in &report.ways {
            assert!(row.spread.0 <= row.ratio && row.ratio <= row.spread.1, "{row:?}");
            assert!(row.way != Way::Epoll || row.spread == (1.0, 1.0), "{row:?}");
        }
        let text = table(&report);
        for way in Way::ALL {
            assert!(text.contains(way.name()), "{}: measured or missing\n{text}", way.name());
        }
        assert!(!report.ways.iter().any(|row| row.way == Way::ZeroCopy && row.command.contains("write")));
    }
}
