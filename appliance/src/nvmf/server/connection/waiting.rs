//! Decides whether a command that waits for the storage or for memory must end, by the connection's
//! patience.

use super::Connection;
use crate::nvmf::server::context::Context;

impl Connection {
    /// The storage was busy when it got a command. Returns whether the command must end now.
    pub(super) fn has_waited_too_long(&mut self, context: &Context) -> bool {
        let is_over = self.has_waited_too_long_for_memory(context);
        if is_over && let Some(volume) = self.volume() {
            context.storage.note_ended_busy(volume);
        }
        is_over
    }

    /// There was no memory for a command's data. Returns whether the command must end now.
    pub(super) fn has_waited_too_long_for_memory(&mut self, context: &Context) -> bool {
        let is_over = self.patience.is_over(context.now(), context.config.busy_timeout);
        context.counters.commands_ended_busy.add(u64::from(is_over));
        is_over
    }
}
