//! Boots a guest and runs each argument as a shell command in it:
//! `cargo run -p varve-tests --example guest -- 'uname -a' dmesg`.

use std::process::ExitCode;
use std::time::Duration;
use varve_tests::guest::{Guest, GuestConfig, GuestError};

/// The time limit of one command.
const COMMAND_LIMIT: Duration = Duration::from_mins(10);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), GuestError> {
    let guest = Guest::boot(&GuestConfig::default())?;
    eprintln!("booted in {:?}", guest.boot_time());
    for command in std::env::args().skip(1) {
        let output = guest.run(&command, COMMAND_LIMIT)?;
        print!("{}", output.text());
        eprintln!("[status {}] {command}", output.status);
    }
    Ok(())
}
