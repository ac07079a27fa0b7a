//! One command of a session at a time.

use std::rc::Rc;

use super::state::Standing;
use crate::volume::error::VolumeError;
use crate::volume::pool::Pool;

/// A session during one command, which ends when this is dropped, however it ends.
pub(in crate::volume) struct Held {
    pool: Rc<Pool>,
    name: String,
    /// Its state, if it is known.
    pub(in crate::volume) standing: Option<Standing>,
}

impl Held {
    /// Begins a command of a session.
    ///
    /// # Errors
    /// Another one is under way.
    pub(in crate::volume) fn new(pool: &Rc<Pool>, name: &str) -> Result<Self, VolumeError> {
        let standing = pool.state.borrow_mut().sessions.take(name)?;
        Ok(Held { pool: Rc::clone(pool), name: name.to_owned(), standing })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It is borrowed only if the reactor panics in the middle of a turn.
        if let Ok(mut state) = self.pool.state.try_borrow_mut() {
            state.sessions.give_back(&self.name, self.standing.take());
        }
    }
}
