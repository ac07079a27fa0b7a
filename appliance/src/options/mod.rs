//! The options of the commands that do their own work: `varve serve`, `varve inspect` and `varve
//! pool recover`.
//!
//! The command line parses them, and `serve` and `inspect` carry them out. Neither depends on the
//! other.

mod budgets;
mod defaults;
mod inspect;
#[expect(clippy::doc_markdown, reason = "help texts, which a terminal shows as they are")]
mod recover;
mod serve;

use std::error::Error;

pub use budgets::{AHEAD_MEMORY_BYTES, DMA_BUDGET_BYTES, HOST_MEMORY_BYTES, HOST_MEMORY_BYTES_MIN};
pub use defaults::{DEFAULT_DIR, DEFAULT_SOCKET, EXPIRE_SECONDS_DEFAULT, SYSTEM_SOCKET};
pub use inspect::InspectOptions;
pub use recover::RecoverOptions;
pub use serve::{BackPressureChoice, IoEngineChoice, ServeOptions, VerifyChoice};

/// Why a command that does its own work failed; its text is shown on one line.
pub type CommandError = Box<dyn Error + Send + Sync>;
