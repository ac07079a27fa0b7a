//! The start of every test here: an appliance, and a guest that can reach it.

use serde_json::json;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use varve_tests::appliance::{Appliance, ApplianceConfig, ApplianceError};
use varve_tests::guest::{Guest, GuestConfig, GuestError};

/// The result of a test here.
pub(crate) type TestResult = Result<(), Box<dyn std::error::Error>>;

/// A limit for commands that do little.
pub(crate) const SHORT: Duration = Duration::from_secs(30);

/// A limit for commands that move data.
pub(crate) const LONG: Duration = Duration::from_mins(4);

/// Texts that make a line on the guest's console relevant.
const CONCERNS: [&str; 9] = [
    "nvme",
    "I/O error",
    "EXT4-fs",
    "blk_update",
    "blocked for more",
    "WARNING:",
    "BUG:",
    "Call Trace",
    "Oops",
];

/// One guest at a time.
static TURN: Mutex<()> = Mutex::new(());

/// An appliance and a guest.
pub(crate) struct Bed {
    pub(crate) appliance: Appliance,
    pub(crate) guest: Guest,
    begin: Instant,
    _turn: MutexGuard<'static, ()>,
}

impl Bed {
    /// Starts both: the appliance with these further arguments of `varve serve`, the guest with
    /// this many processors.
    pub(crate) fn start(serve: &[&str], processors: u32) -> Result<Self, Box<dyn std::error::Error>> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = Instant::now();
        let appliance = Appliance::start(&ApplianceConfig::with_arguments(serve))?;
        let guest = Guest::boot(&GuestConfig { processors, ..GuestConfig::default() })?;
        let bed = Bed { appliance, guest, begin, _turn: turn };
        bed.note("appliance and guest run");
        Ok(bed)
    }

    /// Prints the test's progress.
    pub(crate) fn note(&self, text: &str) {
        println!("[{:6.1} s] {text}", self.begin.elapsed().as_secs_f64());
    }

    /// Connects the guest to a volume and returns its block device. The guest tries to reconnect a
    /// lost controller every second, for ten minutes.
    pub(crate) fn connect(&self, volume: &str, options: &[&str]) -> Result<String, GuestError> {
        let mut all = vec!["--reconnect-delay=1", "--ctrl-loss-tmo=600"];
        all.extend_from_slice(options);
        self.guest.nvme_connect(&nqn(volume), self.appliance.port(), &all)
    }

    /// Runs a command in the guest that must succeed.
    pub(crate) fn run(&self, command: &str) -> Result<String, GuestError> {
        self.guest.run_ok(command, LONG)
    }

    /// Runs a command in the guest that must succeed and prints its output.
    pub(crate) fn show(&self, command: &str) -> Result<String, GuestError> {
        let output = self.run(command)?;
        println!("# {command}\n{}", output.trim_end());
        Ok(output)
    }

    /// A number in the output of `varve volume list --json` for a volume, such as `/mapped_blocks`.
    pub(crate) fn volume_number(&self, volume: &str, pointer: &str) -> Result<u64, ApplianceError> {
        let answer = self.appliance.rpc("volume_list", json!({"name": volume}))?;
        let number = answer.pointer(&format!("/0{pointer}")).and_then(serde_json::Value::as_u64);
        Ok(number.unwrap_or_else(|| panic!("no number {pointer} in {answer}")))
    }

    /// The relevant lines on the guest's console, warnings and worse, that contain none of the
    /// `expected` texts. Prints all relevant lines.
    pub(crate) fn kernel_complaints(&self, expected: &[&str]) -> Vec<String> {
        let console = self.guest.console();
        let lines = console.lines().filter(|line| CONCERNS.iter().any(|text| line.contains(text)));
        let (provoked, others): (Vec<_>, Vec<_>) =
            lines.partition(|line| expected.iter().any(|text| line.contains(text)));
        for line in &provoked {
            println!("kernel (provoked): {}", line.trim_end());
        }
        for line in &others {
            println!("kernel: {}", line.trim_end());
        }
        others.into_iter().map(str::to_owned).collect()
    }

    /// Ends the test: checks that the guest's console has no unexpected lines, and that the
    /// appliance stops well.
    pub(crate) fn finish(mut self, expected: &[&str]) -> TestResult {
        let complaints = self.kernel_complaints(expected);
        assert!(complaints.is_empty(), "the guest's kernel complains: {complaints:#?}");
        let took = self.appliance.stop()?;
        self.note(&format!("the appliance stopped in {took:?}"));
        let said = self.appliance.complaints();
        if !said.is_empty() {
            println!("the appliance said:\n{said}");
        }
        Ok(())
    }
}

/// The NQN of a volume.
pub(crate) fn nqn(volume: &str) -> String {
    varve::nvmf::nqn::of_volume(volume)
}

/// Waits until `is_met`.
pub(crate) fn wait_until<Error>(
    what: &str,
    limit: Duration,
    mut is_met: impl FnMut() -> Result<bool, Error>,
) -> Result<Duration, Error> {
    let begin = Instant::now();
    while !is_met()? {
        assert!(begin.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(begin.elapsed())
}
