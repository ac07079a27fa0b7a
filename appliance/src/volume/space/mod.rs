//! The space of the primary device: who has been promised how much of it, and how it is freed.
//!
//! | file | job |
//! |---|---|
//! | `capacity` | what a pool can hold, and the accounts of thin volumes and of deleted data |
//! | `room` | whether there is room for more |
//! | `cleaner` | copy-forward, which empties the oldest segments |
//! | `copies` | blocks that are copied within the log |
//! | `reshaping` | a change of the pool's geometry in progress |
//! | `working_set` | the operations of the management plane on the pool's geometry |
//! | `scrub` | reads the primary device back |
//! | `scrubbed` | the findings of the scrub |

pub(in crate::volume) mod capacity;
pub(in crate::volume) mod cleaner;
pub(in crate::volume) mod copies;
pub(in crate::volume) mod reshaping;
mod room;
pub(in crate::volume) mod scrub;
pub(in crate::volume) mod scrubbed;
pub(in crate::volume) mod working_set;
