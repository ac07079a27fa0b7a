//! The space of the primary device: who has been promised what of it.
//!
//! | file | job |
//! |---|---|
//! | `capacity` | what a pool can hold, and the accounts of thin volumes and of what is deleted |
//! | `reshaping` | a change of the pool's shape that is under way |
//! | `scrubbed` | what reading the primary device back has found |
//! | `room` | whether there is room for more |

pub(in crate::volume) mod capacity;
pub(in crate::volume) mod reshaping;
mod room;
pub(in crate::volume) mod scrubbed;
