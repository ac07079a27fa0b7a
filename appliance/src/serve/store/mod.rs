//! The store of an archive: parses its place as an operator writes it, and opens it.

mod error;
mod id;
mod open;
mod opened;
mod spec;
mod tape;
mod tape_spec;

pub use error::StoreOpenError;
pub(super) use error::is_away;
pub(super) use id::{ensure_id, read_id};
pub(super) use open::open_reader;
pub use open::{open_store, pools_in};
pub use opened::OpenedStore;
pub use spec::{SpecError, StoreSpec};
pub use tape_spec::TapeSpec;
