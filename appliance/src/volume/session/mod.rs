//! Sessions: clones that an operator moves along the log, step by step, until the right point is
//! found.
//!
//! **States.** A session is opened at a point, with a clone that hosts can use. It stands at one
//! position. Steps move it; verdicts say what was found where it stood, and bisecting moves it to
//! the middle of what is left. It ends when it is committed (the volume is rolled back to where it
//! stands, or the clone is kept), aborted, or when its clone is deleted.
//!
//! **A step** moves the state of the source along the log ([`super::history::walk`]) and sets the
//! clone to it ([`super::image::rebase`]), together with the session's position, in one change of
//! the catalog. So after a crash the session and its clone stand at the same position: the old one
//! or the new one.
//!
//! **Retention.** Everything between the oldest and the newest position at which a session stood is
//! kept in the archive while it exists ([`super::image::lineage`]). So a session can always go back
//! to where it was, and mappings that point to newer copies of the same content stay valid. When
//! the clone is kept, those are replaced by what a scan gives, because nothing else keeps them.
//!
//! | file | job |
//! |---|---|
//! | `state` | what is known of sessions while the pool is open |
//! | `held` | one command of a session at a time |
//! | `info` | what operators see |
//! | `changed` | the blocks that a step changed, as a short list |
//! | `open` | opens, aborts and lists |
//! | `step` | moves |
//! | `bisect` | verdicts, and the middle between them |
//! | `commit` | rolls back, or keeps the clone |

mod bisect;
mod changed;
mod commit;
mod held;
pub(in crate::volume) mod info;
pub(in crate::volume) mod open;
pub(in crate::volume) mod state;
mod step;
