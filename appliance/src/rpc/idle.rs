//! A reactor that owns no pool yet, as the command plane accesses it.

use std::time::Instant;

use crate::reactor::{Local, ReactorHandle};

/// A reactor that owns no pool.
#[derive(Clone)]
pub struct IdleReactor {
    /// Its name.
    pub name: String,
    /// The core that it is pinned to.
    pub core: usize,
    /// When it started.
    pub started: Instant,
    /// The handle for calls to it.
    pub handle: ReactorHandle<Local>,
}
