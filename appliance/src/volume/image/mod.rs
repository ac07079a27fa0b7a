//! Images and the volumes that show them: what is where in the log.
//!
//! | file | job |
//! |---|---|
//! | `index` | the map from block numbers to positions |
//! | `image_ids` | the numbers of images, of which there are not many |
//! | `volume` | one volume while the pool is open: its index and the counters that belong to it |
//! | `volumes` | the table of all volumes |
//! | `trouble` | why a volume cannot use what it inherited |
//! | `hydrate` | what an image inherited becomes its own |
//! | `lineage` | which images descend from which, for retention |

mod hydrate;
pub(in crate::volume) mod image_ids;
pub mod index;
pub(in crate::volume) mod lineage;
pub(in crate::volume) mod trouble;
pub(in crate::volume) mod volume;
pub(in crate::volume) mod volumes;
