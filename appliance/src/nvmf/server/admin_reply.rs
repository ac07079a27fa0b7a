//! How an admin command is answered.

use crate::nvmf::wire::status::Status;

/// How a command is answered.
#[derive(Debug)]
pub(super) enum AdminReply {
    /// A completion alone.
    Done(Status, u64),
    /// Success, with data for the host.
    Data(Vec<u8>),
    /// Later, by an event.
    Waiting,
}

impl AdminReply {
    /// Success with a result.
    pub(super) fn done(result: u64) -> Self {
        AdminReply::Done(Status::SUCCESS, result)
    }
}

impl From<Result<AdminReply, Status>> for AdminReply {
    fn from(result: Result<AdminReply, Status>) -> Self {
        // A host that repeats a refused admin command gets the same answer.
        result.unwrap_or_else(|status| AdminReply::Done(status.do_not_retry(), 0))
    }
}
