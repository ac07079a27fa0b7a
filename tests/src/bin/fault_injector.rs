//! Runs a program under faults that a file lists, to try by hand what the tests of faults do. The
//! file is read again when it changes; each injected fault is printed on standard error.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime};

use clap::Parser;
use varve_tests::faults::{Event, Faults, parse_rules};

/// Runs a program and injects faults into its file system calls.
#[derive(Debug, Parser)]
struct Options {
    /// The rules, one on each line: `read pool.varve eio bytes=4096..8192 times=2`.
    #[arg(long, value_name = "FILE")]
    rules: PathBuf,

    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

/// How often rules and events are checked.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let options = Options::parse();
    let faults = Faults::new()?;
    let mut read_at = None;
    follow(&options.rules, &mut read_at, &faults);
    // It must not outlive its supervisor: nobody would answer its calls.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).args(&options.program);
    let mut child = faults.spawn(&mut command)?;
    let mut said = 0;
    let status = loop {
        let ended = child.try_wait()?;
        let events = faults.events();
        for event in &events[said..] {
            say(event);
        }
        said = events.len();
        if let Some(status) = ended {
            break status;
        }
        follow(&options.rules, &mut read_at, &faults);
        std::thread::sleep(LOOK_INTERVAL);
    };
    eprintln!("fault_injector: {status}; {} calls were watched, {said} faults noted", faults.calls());
    Ok(ExitCode::from(status.code().map_or(255, |code| code as u8)))
}

/// Reads the rules again when their file has changed; rules that cannot be parsed change nothing.
fn follow(file: &Path, read_at: &mut Option<SystemTime>, faults: &Faults) {
    let changed = std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok();
    if changed == *read_at {
        return;
    }
    *read_at = changed;
    let text = std::fs::read_to_string(file).unwrap_or_default();
    match parse_rules(&text) {
        Ok(rules) => {
            eprintln!("fault_injector: {} rules", rules.len());
            faults.clear();
            for rule in rules {
                faults.add(rule);
            }
        }
        Err(error) => eprintln!("fault_injector: {}: {error}; the rules stay as they were", file.display()),
    }
}

fn say(event: &Event) {
    let Event { at, operation, path, range, .. } = event;
    eprintln!("fault_injector: {:.3} s: {operation:?} of {path} {range:?}", at.as_secs_f64());
}
