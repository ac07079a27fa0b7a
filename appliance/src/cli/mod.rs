//! The command line: `varve serve`, `varve inspect` and `varve pool recover`, which do their own
//! work, and a thin client of the JSON-RPC plane for everything else.
//!
//! `archive seal`, `expire` and `verify` and `volume hydrate` start long jobs and watch them; `top`
//! and `point list` call repeatedly; `block restore` is watched too, and `diff` fetches pages;
//! `volume import` and `export`, `diff --export` and `--apply`, and `restore bisect --check` also
//! connect as a host. Every other command makes one call and shows its result: as tables for
//! people, or with `--json` exactly as received. An error is one line on standard error, with exit
//! code 1; the exit code is 2 if the command line itself is wrong.

mod archive;
mod archive_args;
#[expect(clippy::doc_markdown, reason = "help texts, which a terminal shows as they are")]
mod args;
mod block_args;
mod block_request;
mod blocks;
mod cells;
mod client;
mod clone_args;
mod clone_render;
mod clone_request;
mod configure;
mod group_args;
mod group_render;
mod group_request;
mod listener;
mod output;
mod point;
mod point_args;
mod points;
mod render;
mod render_archive;
mod render_block;
mod render_latency;
mod render_point;
mod render_pool;
mod render_session;
mod request;
mod session;
#[expect(clippy::doc_markdown, reason = "help texts, which a terminal shows as they are")]
mod session_args;
mod session_request;
mod spdk_args;
mod top;
mod transfer;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

pub use client::{Client, ClientError, DEFAULT_ANSWER_TIMEOUT};

use self::archive_args::ArchiveCommand;
use self::args::{CallCommand, Cli, Command, PoolCommand, RestoreCommand, VolumeCommand};
use self::block_args::{BlockCommand, DiffArgs};
use self::output::{one_line, print};
use self::point_args::PointCommand;
use self::session_args::SessionCommand;
use self::spdk_args::NvmfCommand;
use crate::options::{
    CommandError, DEFAULT_SOCKET, InspectOptions, RecoverOptions, SYSTEM_SOCKET, ServeOptions,
};

/// The commands that do more than call the appliance; the binary supplies them.
pub trait LocalCommands {
    /// Serves until it is asked to stop.
    ///
    /// # Errors
    /// Why the appliance could not start or stopped early.
    fn serve(&self, options: ServeOptions) -> Result<(), CommandError>;

    /// Prints what is in the file of a pool's device, without an appliance.
    ///
    /// # Errors
    /// Why it could not be read.
    fn inspect(&self, options: InspectOptions) -> Result<(), CommandError>;

    /// Makes a lost pool's primary again, from its archive.
    ///
    /// # Errors
    /// Why it could not be made.
    fn recover(&self, options: RecoverOptions) -> Result<(), CommandError>;
}

/// Runs the command line given by `arguments` (the program's name first).
pub fn run(arguments: impl IntoIterator<Item = OsString>, local: &dyn LocalCommands) -> ExitCode {
    let mut output = std::io::stdout();
    if output.is_terminal()
        && let Ok((columns, _)) = ratatui::crossterm::terminal::size()
        && columns > 0
    {
        crate::text::table::fit_to(usize::from(columns));
    }
    // Not locked: long-running commands print from other threads too.
    ExitCode::from(run_with(arguments, local, &mut output, &mut std::io::stderr()))
}

/// Like [`run`], but with the given writers; returns the exit code. Help and usage errors still go
/// to the terminal.
pub fn run_with(
    arguments: impl IntoIterator<Item = OsString>,
    local: &dyn LocalCommands,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are reported as errors too. If the terminal is gone, nothing can be
            // printed.
            let _ = error.print();
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    match carry_out(cli, local, output) {
        Ok(()) => 0,
        Err(error) => {
            // If standard error is gone as well, only the exit code reports the failure.
            let _ = writeln!(errors, "varve: {}", one_line(&*error));
            1
        }
    }
}

fn carry_out(cli: Cli, local: &dyn LocalCommands, output: &mut dyn Write) -> Result<(), CommandError> {
    let Cli { rpc, json, timeout_s, command } = cli;
    match command {
        Command::Serve(options) => local.serve(ServeOptions { rpc, ..options }),
        Command::Inspect(options) => local.inspect(InspectOptions { json, ..options }),
        Command::Top(options) => top::top(|| connect(rpc.clone(), timeout_s), &options, json, output),
        Command::Config(command) => {
            configure::configure(&mut connect(rpc, timeout_s)?, &command, json, output)
        }
        Command::Call(CallCommand::Pool(PoolCommand::Recover(options))) => {
            local.recover(RecoverOptions { json, ..options })
        }
        Command::Call(command) => call(&mut connect(rpc, timeout_s)?, command, json, output),
    }
}

/// Carries out a command that calls a running appliance.
fn call(
    client: &mut Client,
    command: CallCommand,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    match command {
        CallCommand::Volume(VolumeCommand::Hydrate { name }) => archive::hydrate(client, &name, json, output),
        CallCommand::Volume(VolumeCommand::Import(options)) => {
            transfer::import(client, &options, json, output)
        }
        CallCommand::Volume(VolumeCommand::Export(options)) => {
            transfer::export(client, &options, json, output)
        }
        CallCommand::Restore(RestoreCommand::Session(SessionCommand::Bisect(options))) => {
            session::bisect(client, &options, json, output)
        }
        CallCommand::Block(BlockCommand::Restore { volume, blocks, at, force }) => {
            let what = (&*volume, &blocks, &*at, force);
            blocks::restore(client, what, json, output)
        }
        CallCommand::Diff(args) => match &*args {
            DiffArgs { export: Some(file), .. } => {
                transfer::increment::export(client, &args, file, json, output)
            }
            DiffArgs { apply: Some(file), .. } => {
                transfer::increment::apply(client, &args, file, json, output)
            }
            _ => blocks::diff(client, &args, json, output),
        },
        CallCommand::Nvmf(NvmfCommand::SubsystemAddListener(args)) if args.address.port() == 0 && !json => {
            listener::add_on_any_port(client, args, output)
        }
        CallCommand::Point(PointCommand::List(options)) => points::list(client, &options, json, output),
        CallCommand::Archive(ArchiveCommand::Seal) => archive::seal(client, json, output),
        CallCommand::Archive(ArchiveCommand::Expire { dry_run: false, clock_is_right, all }) => {
            archive::expire(client, clock_is_right, all, json, output)
        }
        CallCommand::Archive(ArchiveCommand::Verify { from, to }) => {
            archive::verify(client, from, to, json, output)
        }
        command => {
            let request = request::MethodCall::from(command);
            let result = client.call(&request.method, request.params)?;
            let text = if json { format!("{result:#}\n") } else { render::render(request.view, &result) };
            print(output, &text)
        }
    }
}

/// Connects to the given socket, or to the first default one that exists.
fn connect(rpc: Option<PathBuf>, timeout_s: u64) -> Result<Client, ClientError> {
    let path = rpc.unwrap_or_else(|| first_socket(&[DEFAULT_SOCKET, SYSTEM_SOCKET].map(Path::new)));
    Client::connect(&path, std::time::Duration::from_secs(timeout_s))
}

/// The first of these that exists; if none does, the first, so that the error names it.
fn first_socket(defaults: &[&Path]) -> PathBuf {
    let there = defaults.iter().find(|path| path.exists());
    there.or(defaults.first()).map_or_else(PathBuf::new, |path| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_socket_that_is_there_is_used() {
        let folder = tempfile::tempdir().expect("a folder");
        let [near, system] = ["near", "system"].map(|name| folder.path().join(name));
        let first = || first_socket(&[&near, &system]);
        assert_eq!(first(), near, "an error names the nearest");
        std::fs::write(&system, b"").expect("written");
        assert_eq!(first(), system);
        std::fs::write(&near, b"").expect("written");
        assert_eq!(first(), near);
    }
}
