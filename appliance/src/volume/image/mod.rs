//! Images and the volumes that show them: which block is where in the log.
//!
//! | file | job |
//! |---|---|
//! | `index` | the map from block numbers to positions |
//! | `census` | how many blocks of an index are in each segment |
//! | `free` | frees an index in pieces |
//! | `image_ids` | the ids of images, whose number is limited |
//! | `volume` | one volume while the pool is open: its index and the counters that belong to it |
//! | `volumes` | the table of all volumes |
//! | `rebase` | sets a volume to another state of the past |
//! | `trouble` | why a volume cannot use what it inherited |
//! | `hydrate` | copies everything that an image inherited into entries of its own |
//! | `lineage` | which images descend from which, for retention |

pub(in crate::volume) mod census;
pub(in crate::volume) mod free;
mod hydrate;
pub(in crate::volume) mod image_ids;
pub mod index;
pub(in crate::volume) mod lineage;
pub(in crate::volume) mod rebase;
pub(in crate::volume) mod trouble;
pub(in crate::volume) mod volume;
pub(in crate::volume) mod volumes;
