//! The methods, one file per noun.

mod archive;
mod bdev;
mod block;
mod clones;
mod framework;
mod group;
mod nvmf;
mod point;
mod pool;
mod restore;
mod session;
mod snapshot;
mod synch;
mod volume;

use super::app::App;
use super::method::{Method, Registry};
use crate::reactor::ReactorHandle;

/// All methods of the appliance.
fn all() -> Vec<Method> {
    [
        framework::methods(),
        pool::methods(),
        volume::methods(),
        synch::methods(),
        snapshot::methods(),
        point::methods(),
        restore::methods(),
        clones::methods(),
        group::methods(),
        archive::methods(),
        session::methods(),
        bdev::methods(),
        block::methods(),
        nvmf::methods(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

impl Registry {
    /// All methods of the appliance, on the reactor that owns its pool.
    pub fn new(handle: ReactorHandle<App>) -> Self {
        Self::with_methods(handle, all())
    }
}
