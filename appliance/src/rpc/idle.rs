//! A reactor that has nothing to do yet, as the command plane reaches it.

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
    /// How to reach it.
    pub handle: ReactorHandle<Local>,
}
