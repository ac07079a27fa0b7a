//! The past of a pool: what points there are.
//!
//! | file | job |
//! |---|---|
//! | `synchs` | the list of all synchs |
//! | `events` | what became of volumes, for the target |

pub(in crate::volume) mod events;
pub(in crate::volume) mod synchs;
