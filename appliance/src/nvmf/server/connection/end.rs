//! The end of a connection: after a violation a termination request, and at last the close.

use std::net::Shutdown;
use std::time::Duration;

use super::{Close, Connection, Fatal, Phase, SHORT_BYTES, Stall};
use crate::nvmf::server::context::Context;
use crate::nvmf::server::controller::End;
use crate::nvmf::wire::pdu::{PduType, TermReq};
use crate::nvmf::wire::pdu_check::append_header;

/// How long a connection that we ended waits for its host to close, so that the termination request
/// is not lost.
const TERMINATION_LINGER: Duration = Duration::from_secs(1);

impl Connection {
    /// Starts the end after a violation: the termination request is sent, then the connection is
    /// closed.
    pub(super) fn terminate(&mut self, context: &Context, fatal: Fatal) {
        context.counters.protocol_errors.add(1);
        if context.may_warn() {
            tracing::warn!(peer = %self.line.peer, reason = %fatal, "protocol error: the connection is ended");
        }
        let (fatal_error, information) = fatal.report();
        let offender = &self.input.bytes[self.input.start..self.input.end];
        // The header of the offending PDU, as far as it has been received (TCP section 3.6.2.5).
        let offender_bytes = offender.len().min(usize::from(PduType::IcReq.header_bytes()));
        let request = TermReq::new(PduType::C2hTermReq, fatal_error, information, offender_bytes);
        self.output.header(|arena| {
            append_header(arena, &request);
            arena.extend_from_slice(&offender[..offender_bytes]);
        });
        self.input.discard();
        self.incoming = None;
        self.stall = Stall::None;
        self.phase = Phase::Terminating { deadline: context.now() + TERMINATION_LINGER };
    }

    /// It has ended: nothing is done for it from now on except [`close`](Self::close), perhaps some
    /// turns later. Nobody may wait behind it until then, and its controller ends now.
    pub(in crate::nvmf::server) fn begin_end(&mut self, context: &Context) {
        self.has_asked = false;
        self.withdraw_unless_asked(context);
        if let Some(queue) = &self.queue
            && queue.is_admin()
        {
            queue.controller.end(End::AdminClosed);
        }
    }

    /// Releases what the connection holds and closes it. Commands in the storage continue, and a
    /// reset of the controller waits for them.
    pub(in crate::nvmf::server) fn close(mut self, context: &Context, why: &Close) {
        let (nqn, queue_id, controller_id) = match &self.queue {
            Some(queue) => (queue.controller.subsystem.nqn.as_str(), queue.id, queue.controller.id),
            None => ("", 0, 0),
        };
        if queue_id == 0 && self.queue.is_some() {
            tracing::info!(peer = %self.line.peer, nqn, controller_id, reason = %why, "controller disconnected");
        } else {
            tracing::debug!(peer = %self.line.peer, nqn, controller_id, queue_id, reason = %why, "connection closed");
        }
        context.release_staging(self.staging_bytes);
        self.staging_bytes = 0;
        self.note_read(context, self.reading_bytes);
        self.give_up_memory(context);
        if self.queue.as_ref().is_some_and(|queue| !queue.is_admin()) {
            context.count_io_queue(false);
        }
        // A last try, so that the host receives its responses. It takes long to send much, and
        // helps nobody when the host takes nothing.
        if self.blocked_since.is_none() {
            let _ = self.output.send(&self.line.socket, SHORT_BYTES);
        }
        let _ = self.line.socket.shutdown(Shutdown::Both);
    }
}
