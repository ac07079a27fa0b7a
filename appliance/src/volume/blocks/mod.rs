//! Single blocks in the history: what happened to them, who wrote what they hold, what differs
//! between two points, and how old contents are written again.
//!
//! | file | job |
//! |---|---|
//! | `info` | the data that the management plane reports |
//! | `named` | the volume that an operator means, at a point |
//! | `diff` | the net difference of a volume between two points |
//! | `differences` | the last difference, so that its pages are not computed again |
//! | `images_then` | which image a volume had, going back in time |
//! | `history` | the history of a block or of a range, newest first |
//! | `who` | the command that wrote what a block holds at a point |
//! | `version` | one change of a block, from its entry |
//! | `restore` | writes the old contents of a range again, as ordinary writes |
//! | `restores` | the state of the last restore |

pub(in crate::volume) mod diff;
pub(in crate::volume) mod differences;
pub(in crate::volume) mod history;
mod images_then;
pub(in crate::volume) mod info;
mod named;
pub(in crate::volume) mod restore;
pub(in crate::volume) mod restores;
mod version;
mod who;
