//! Images and the volumes that show them: what is where in the log.
//!
//! | file | job |
//! |---|---|
//! | `volume` | one volume while the pool is open: its index and the counters that belong to it |
//! | `volumes` | the table of all volumes |
//! | `trouble` | why a volume cannot use what it inherited |

pub(in crate::volume) mod trouble;
pub(in crate::volume) mod volume;
pub(in crate::volume) mod volumes;
