//! The real `varve` program as a child process of a test: starts it, calls it, kills it, starts it
//! again.
//!
//! ```no_run
//! use serde_json::json;
//! use varve_tests::appliance::{Appliance, ApplianceConfig};
//! # fn main() -> Result<(), varve_tests::appliance::ApplianceError> {
//! let mut appliance = Appliance::start(&ApplianceConfig::default())?;
//! appliance.rpc("volume_create", json!({"name": "data", "size": "1GiB"}))?;
//! println!("hosts connect to port {}", appliance.port());
//! appliance.kill_9();
//! appliance.restart()?; // the same directory, the same port
//! appliance.stop()?; // by SIGTERM; an exit status other than 0 is an error
//! # Ok(())
//! # }
//! ```
//!
//! Each appliance has its own temporary directory and listens on 127.0.0.1, on a port that the
//! system chooses at the first start. It ends with its [`Appliance`] and never outlives the test:
//! the kernel kills it when the test's process ends for any reason.
//!
//! The program is the optimised build, as users run it: see [`program()`].

mod clock;
mod error;
mod process;
mod program;
pub mod rounds;

pub use clock::WallClock;
pub use error::ApplianceError;
pub use program::{program, refusal, run, run_in};

use process::Process;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use varve::cli::Client;

use crate::faults::Faults;

/// The time limit of a start, for a machine where four interpreted processors compete for two real
/// ones.
const START_LIMIT: Duration = Duration::from_mins(1);

/// The time limit of a stop by SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The time limit of a JSON-RPC call.
const CALL_LIMIT: Duration = Duration::from_mins(1);

/// The start of the last line that `varve serve` prints when hosts can connect.
const READY_LINE: &str = "Ctrl-C stops it";

/// How an appliance is started.
#[derive(Debug, Clone, Default)]
pub struct ApplianceConfig {
    /// More arguments of `varve serve` (`--volume-size`, `512MiB`).
    pub arguments: Vec<String>,
    /// More variables for its environment, besides the test's own: names and values.
    pub environment: Vec<(String, String)>,
    /// Faults to inject into its file system calls; it then has no `io_uring`.
    pub faults: Option<Faults>,
}

impl ApplianceConfig {
    /// A configuration with these arguments.
    pub fn with_arguments(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        ApplianceConfig { arguments, ..ApplianceConfig::default() }
    }
}

/// A varve process. It is killed when this is dropped.
#[derive(Debug)]
pub struct Appliance {
    program: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    faults: Option<Faults>,
    folder: TempDir,
    /// The pool's directory, when it is not in `folder`.
    pool: Option<PathBuf>,
    /// 0 until the first start has printed it.
    port: u16,
    process: Option<Process>,
    starts: u32,
}

impl Appliance {
    /// Starts an appliance with a new pool and waits until hosts can connect.
    ///
    /// # Errors
    /// The program cannot be built or started, or does not report within a minute that hosts can
    /// connect; the error holds its output.
    pub fn start(config: &ApplianceConfig) -> Result<Self, ApplianceError> {
        Self::start_with(config, None)
    }

    /// The same, with the pool in a directory that is kept when this is dropped.
    ///
    /// # Errors
    /// As [`Appliance::start`].
    pub fn start_in(config: &ApplianceConfig, pool: &Path) -> Result<Self, ApplianceError> {
        Self::start_with(config, Some(pool.to_owned()))
    }

    fn start_with(config: &ApplianceConfig, pool: Option<PathBuf>) -> Result<Self, ApplianceError> {
        let program = program()?;
        let folder = tempfile::Builder::new()
            .prefix("varve-appliance-")
            .tempdir()
            .map_err(ApplianceError::host("making a folder in", std::env::temp_dir()))?;
        let ApplianceConfig { arguments, environment, faults } = config.clone();
        let (port, process, starts) = (0, None, 0);
        let mut appliance =
            Appliance { program, arguments, environment, faults, folder, pool, port, process, starts };
        appliance.restart()?;
        Ok(appliance)
    }

    /// Starts the program with the same directory and port; a process that still runs is killed
    /// first. Returns the time until hosts could connect.
    ///
    /// # Errors
    /// As [`Appliance::start`].
    pub fn restart(&mut self) -> Result<Duration, ApplianceError> {
        self.kill_9();
        self.starts += 1;
        let begin = Instant::now();
        let mut arguments = vec!["serve".to_owned(), "--dir".to_owned(), text(&self.pool_folder())];
        arguments.extend(["--listen".to_owned(), format!("127.0.0.1:{}", self.port)]);
        arguments.extend(["--rpc".to_owned(), text(&self.rpc_socket())]);
        arguments.extend(self.arguments.iter().cloned());
        let (said, complained) = (self.said_path(), self.complained_path());
        let started = Process::start(
            &self.program,
            &arguments,
            &self.environment,
            self.faults.as_ref(),
            [&said, &complained],
        )?;
        let process = self.process.insert(started);
        loop {
            // Read after the status, so that it has the last output of a process that has ended.
            let ended = process.status();
            let output = std::fs::read_to_string(&said).unwrap_or_default();
            if output.lines().any(|line| line.starts_with(READY_LINE)) {
                self.port = announced_port(&output).ok_or(ApplianceError::NoAddress { output })?;
                return Ok(begin.elapsed());
            }
            if let Some(status) = ended {
                return Err(ApplianceError::Ended { status, output: output + &self.complaints() });
            }
            if begin.elapsed() > START_LIMIT {
                return Err(ApplianceError::StartTimedOut {
                    after: START_LIMIT,
                    output: output + &self.complaints(),
                });
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills the process at once, as a crash would, and waits until it has ended.
    pub fn kill_9(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Stops the appliance by SIGTERM and returns how long that took. It can be restarted.
    ///
    /// # Errors
    /// [`ApplianceError::Ended`] when it had ended before or ends with a status other than 0,
    /// [`ApplianceError::StopTimedOut`].
    pub fn stop(&mut self) -> Result<Duration, ApplianceError> {
        let Some(process) = self.process.take() else {
            return Err(ApplianceError::Ended { status: "killed".to_owned(), output: String::new() });
        };
        if let Some(status) = process.status() {
            return Err(ApplianceError::Ended { status, output: self.complaints() });
        }
        let begin = Instant::now();
        process.terminate().map_err(ApplianceError::host("sending SIGTERM to", &self.program))?;
        while begin.elapsed() < STOP_LIMIT {
            match process.status() {
                None => std::thread::sleep(Duration::from_millis(5)),
                Some(_) if process.has_succeeded() => return Ok(begin.elapsed()),
                Some(status) => return Err(ApplianceError::Ended { status, output: self.complaints() }),
            }
        }
        Err(ApplianceError::StopTimedOut { after: STOP_LIMIT, output: self.complaints() })
    }

    /// The port of 127.0.0.1 that hosts connect to; the same after each restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the pool.
    pub fn pool_folder(&self) -> PathBuf {
        self.pool.clone().unwrap_or_else(|| self.folder.path().join("pool"))
    }

    /// The JSON-RPC socket.
    pub fn rpc_socket(&self) -> PathBuf {
        self.folder.path().join("rpc.sock")
    }

    /// Makes one JSON-RPC call. `params` is an object, or null for none.
    ///
    /// # Errors
    /// The client's error: the appliance does not answer, or refuses the call.
    pub fn rpc(&self, method: &str, params: Value) -> Result<Value, ApplianceError> {
        let params = match params {
            Value::Object(members) => members,
            Value::Null => serde_json::Map::new(),
            other => return Err(ApplianceError::Parameters { params: other.to_string() }),
        };
        Ok(Client::connect(&self.rpc_socket(), CALL_LIMIT)?.call(method, params)?)
    }

    /// Runs the command line against this appliance, as an operator would, and returns its output.
    ///
    /// # Errors
    /// [`ApplianceError::CommandFailed`] with the output.
    pub fn command(&self, arguments: &[&str]) -> Result<String, ApplianceError> {
        let output =
            self.prepared(arguments).output().map_err(ApplianceError::host("starting", &self.program))?;
        let [printed, complained] =
            [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if output.status.success() {
            return Ok(printed);
        }
        Err(ApplianceError::CommandFailed {
            command: arguments.join(" "),
            status: output.status.to_string(),
            output: printed + &complained,
        })
    }

    /// A command of the command line that succeeds: what it printed.
    ///
    /// # Panics
    /// When it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.command(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// A command of the command line that is refused: what it complained of.
    ///
    /// # Panics
    /// When it succeeds.
    pub fn refused(&self, arguments: &[&str]) -> String {
        self.command(arguments).expect_err("it is refused").to_string()
    }

    /// The newest point of its pool.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn newest_lsn(&self) -> u64 {
        let stats = self.rpc("pool_stats", serde_json::Value::Null).expect("it answers");
        stats["newest_point_lsn"].as_u64().expect("a position")
    }

    /// Begins a command of the command line against this appliance, without its output.
    ///
    /// # Errors
    /// It does not start.
    pub fn begin_command(&self, arguments: &[&str]) -> Result<std::process::Child, ApplianceError> {
        let mut command = self.prepared(arguments);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.spawn().map_err(ApplianceError::host("starting", &self.program))
    }

    fn prepared(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(&self.program);
        command.args(arguments).arg("--rpc").arg(self.rpc_socket()).stdin(std::process::Stdio::null());
        command
    }

    /// The standard error output of all starts so far: warnings and errors, without the lines of
    /// [`Appliance::audit`].
    pub fn complaints(&self) -> String {
        self.journal(|line| !is_audit(line))
    }

    /// The standard output of the last start, for the operator.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.said_path()).unwrap_or_default()
    }

    /// The audit lines of all starts so far: who changed what.
    pub fn audit(&self) -> Vec<String> {
        self.journal(is_audit).lines().map(str::to_owned).collect()
    }

    fn journal(&self, wanted: impl Fn(&str) -> bool) -> String {
        let text = std::fs::read_to_string(self.complained_path()).unwrap_or_default();
        text.split_inclusive('\n').filter(|line| wanted(line)).collect()
    }

    /// The process ID, while the process runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    fn said_path(&self) -> PathBuf {
        self.folder.path().join(format!("start-{}.output", self.starts))
    }

    fn complained_path(&self) -> PathBuf {
        self.folder.path().join("errors")
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.kill_9();
        if std::thread::panicking() {
            eprintln!("what the appliance complained of:\n{}", self.complaints());
        }
    }
}

/// The port in `nvme connect -t tcp -a 127.0.0.1 -s PORT -n ...`.
fn announced_port(output: &str) -> Option<u16> {
    let line = output.lines().find(|line| line.trim_start().starts_with("nvme connect"))?;
    line.split_whitespace().skip_while(|&word| word != "-s").nth(1)?.parse().ok()
}

fn is_audit(line: &str) -> bool {
    line.contains(" INFO audit: ")
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
