//! The error log of one controller (log page 01h): a ring of its last failures.

use std::collections::VecDeque;

use zerocopy::little_endian::{U16, U32, U64};

use super::config::ERROR_LOG_ENTRIES;
use crate::nvmf::wire::discovery::TransportType;
use crate::nvmf::wire::log_page::ErrorInformation;
use crate::nvmf::wire::status::Status;

/// A failed command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failure {
    pub(super) queue_id: u16,
    pub(super) command_id: u16,
    pub(super) status: Status,
    pub(super) nsid: u32,
    pub(super) lba: u64,
}

/// The last [`ERROR_LOG_ENTRIES`] failures, and the total number of failures.
#[derive(Debug, Default)]
pub(super) struct ErrorLog {
    entries: VecDeque<ErrorInformation>,
    count: u64,
}

impl ErrorLog {
    pub(super) fn record(&mut self, failure: &Failure) {
        self.count += 1;
        if self.entries.len() == ERROR_LOG_ENTRIES {
            self.entries.pop_back();
        }
        let transport_error = failure.status.code_only() == Status::TRANSIENT_TRANSPORT_ERROR;
        self.entries.push_front(ErrorInformation {
            error_count: U64::new(self.count),
            sq_id: U16::new(failure.queue_id),
            command_id: U16::new(failure.command_id),
            status: U16::new(failure.status.to_field()),
            parameter_location: U16::new(0xFFFF),
            lba: U64::new(failure.lba),
            nsid: U32::new(failure.nsid),
            // TRTYPE names the transport only for errors that the transport caused.
            transport_type: if transport_error { TransportType::Tcp.into() } else { 0 },
            ..ErrorInformation::default()
        });
    }

    /// Failures since the controller was created.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The entries, newest first.
    pub(super) fn entries(&self) -> impl Iterator<Item = &ErrorInformation> {
        self.entries.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_come_first_and_the_ring_is_bounded() {
        let mut log = ErrorLog::default();
        for command_id in 0..100 {
            log.record(&Failure { queue_id: 1, command_id, status: Status::INVALID_FIELD, nsid: 1, lba: 0 });
        }
        assert_eq!(log.count(), 100);
        assert_eq!(log.entries().count(), ERROR_LOG_ENTRIES);
        let newest = log.entries().next().expect("there are entries");
        assert_eq!((newest.error_count.get(), newest.command_id.get()), (100, 99));
    }
}
