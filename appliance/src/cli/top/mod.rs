//! `varve top`: what a running appliance does, as a live view or as one printed picture.
//!
//! [`sample`] asks the appliance with public calls; [`figures`] computes rates from two samples,
//! and [`history`] keeps them; [`draw`] paints them in [`section`]s; [`live`] repeats this.

mod draw;
mod figures;
mod history;
mod live;
mod sample;
mod section;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal, Write};

use self::draw::{Picture, SHEET_WIDTH};
use self::figures::Figures;
use self::history::History;
use self::sample::{Sample, SampleError};
use super::args::TopOptions;
use super::client::{Client, ClientError};
use crate::options::CommandError;
use crate::text::table::terminal_columns;

/// Watches the appliance that `connect` reaches, or prints one picture of it.
///
/// # Errors
/// The appliance does not answer, or its answer has a shape that this version does not know; the
/// terminal's. The live view begins only after the first answer.
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
        // After a failure the next sample uses a new connection: a late answer on the old one must
        // not be taken for the answer to another call.
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
        let (history, footer) = (History::default(), String::new());
        let columns = terminal_columns().and_then(|columns| u16::try_from(columns).ok());
        Picture { figures: &figures, history: &history, help: false, skipped_volumes: 0, footer }
            .text(columns.unwrap_or(SHEET_WIDTH))
    };
    super::output::print(output, &text)
}
