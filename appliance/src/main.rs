//! The `varve` binary: the command line, with `serve`, `inspect` and `pool recover` connected to
//! it.

use std::io::IsTerminal;
use std::process::ExitCode;

use tracing_subscriber::EnvFilter;
use varve::cli::LocalCommands;
use varve::options::{CommandError, InspectOptions, RecoverOptions, ServeOptions};

struct Commands;

impl LocalCommands for Commands {
    fn serve(&self, options: ServeOptions) -> Result<(), CommandError> {
        varve::serve::serve(&options)
    }

    fn inspect(&self, options: InspectOptions) -> Result<(), CommandError> {
        varve::inspect::run(&options)
    }

    fn recover(&self, options: RecoverOptions) -> Result<(), CommandError> {
        varve::serve::recover(&options)
    }
}

fn main() -> ExitCode {
    // Quiet by default: warnings, errors and the audit lines. VARVE_LOG=varve=debug shows more.
    let filter = EnvFilter::try_from_env("VARVE_LOG").unwrap_or_else(|_| EnvFilter::new("warn,audit=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    varve::cli::run(std::env::args_os(), &Commands)
}
