//! The methods, one file per noun.

mod archive;
mod bdev;
mod framework;
mod nvmf;
mod pool;
mod restore;
mod snapshot;
mod synch;
mod volume;

use super::method::Method;

/// Every method of the appliance.
pub(super) fn all() -> Vec<Method> {
    [
        framework::methods(),
        pool::methods(),
        volume::methods(),
        synch::methods(),
        snapshot::methods(),
        restore::methods(),
        archive::methods(),
        bdev::methods(),
        nvmf::methods(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
