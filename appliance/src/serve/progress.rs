//! A progress bar for a start that takes longer than one second, if standard error is a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A start shorter than this shows no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// The progress of a start: nothing at first, then a bar on standard error if that is a terminal.
pub(super) struct StartProgress {
    began: Instant,
    bar: Option<ProgressBar>,
}

impl StartProgress {
    pub(super) fn new() -> Self {
        StartProgress { began: Instant::now(), bar: None }
    }

    /// Shows how many objects were listed.
    pub(super) fn listed(&mut self, objects: u64) {
        self.show(|bar| bar.set_message(format!("listing the archive: {objects} objects")));
    }

    /// Shows how many objects of `total` were read.
    pub(super) fn read(&mut self, objects: u64, total: u64) {
        self.show(|bar| {
            bar.set_style(ProgressStyle::default_bar());
            bar.set_length(total);
            bar.set_position(objects);
            bar.set_message("reading the archive's synchs");
        });
    }

    /// Removes the bar.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn show(&mut self, change: impl FnOnce(&ProgressBar)) {
        if self.bar.is_none() && self.began.elapsed() > PATIENCE && std::io::stderr().is_terminal() {
            self.bar = Some(ProgressBar::new_spinner());
        }
        if let Some(bar) = &self.bar {
            change(bar);
            bar.tick();
        }
    }
}
