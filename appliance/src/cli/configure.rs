//! `varve config save` and `varve config load`.

use std::io::Write;

use super::args::ConfigCommand;
use super::client::Client;
use crate::options::CommandError;
use crate::rpc::config;

pub(super) fn configure(
    client: &mut Client,
    command: &ConfigCommand,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    match command {
        ConfigCommand::Save => {
            let saved = config::save(|method, params| client.call(method, params))?;
            super::output::print(output, &format!("{saved:#}\n"))
        }
        ConfigCommand::Load { file } => {
            let text =
                config::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
            let applied = config::apply(&text, |method, params| client.call(method, params))?;
            super::output::print(
                output,
                &if json { format!("{applied}\n") } else { format!("{applied} calls were made\n") },
            )
        }
    }
}
