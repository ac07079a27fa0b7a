//! `varve top`: what a running appliance does, as a live picture or as one that is printed.
//!
//! [`sample`] asks the appliance, by calls that anybody can make; [`figures`] makes rates of two samples; [`draw`] paints them; [`live`] does so again and again.

mod draw;
mod figures;
mod live;
mod sample;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write};

use self::draw::Picture;
use self::figures::Figures;
use self::sample::{Sample, SampleError};
use super::args::TopOptions;
use super::client::{Client, ClientError};
use crate::options::CommandError;

/// Watches the appliance that `connect` reaches, or prints one picture of it.
///
/// # Errors
/// The appliance does not answer, or not as this version understands it; the terminal's. The live view begins only when there is an answer.
pub(super) fn top(
    connect: impl Fn() -> Result<Client, ClientError>,
    options: &TopOptions,
    json: bool,
    output: &mut dyn Write,
) -> Result<(), CommandError> {
    let mut client = Some(connect()?);
    let mut look = || {
        let mut connected = match client.take() {
            Some(client) => client,
            None => connect()?,
        };
        let sample = Sample::take(&mut |method, params| connected.call(method, params))?;
        // After a failure the next look has a connection of its own: what comes late on the old one must not be taken for an answer.
        client = Some(connected);
        Ok::<_, SampleError>(sample)
    };
    let first = look()?;
    if !options.once && !json && std::io::stdout().is_terminal() {
        return Ok(live::watch(look, first, options.interval)?);
    }
    std::thread::sleep(options.interval);
    let figures = Figures::new(Some(&first), &look()?);
    let text = if json {
        format!("{}\n", serde_json::to_string_pretty(&figures)?)
    } else {
        Picture { figures: &figures, skipped_volumes: 0, footer: String::new() }.text()
    };
    super::output::print(output, &text)
}
