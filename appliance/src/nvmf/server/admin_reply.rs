//! The reply to an admin command.

use crate::nvmf::wire::status::Status;

/// The reply to an admin command.
#[derive(Debug)]
pub(super) enum AdminReply {
    /// A completion without data.
    Done(Status, u64),
    /// Success, with data for the host.
    Data(Vec<u8>),
    /// A completion follows later.
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
