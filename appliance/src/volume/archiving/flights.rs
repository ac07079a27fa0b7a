//! The objects that are being archived: what the archive's threads read, compress, upload and
//! verify now.
//!
//! **Invariant:** an object is in the table from the request of its job to the job's reply. There
//! are never more than [`JOBS_MAX`].

use std::collections::HashMap;

use crate::archive::object::ObjectId;
use crate::log::SegmentSeq;
use crate::log::reader::LsnRange;

/// The maximum number of jobs in progress.
const JOBS_MAX: usize = 2;

/// An object that is being archived.
pub(super) struct Flight {
    pub(super) id: ObjectId,
    /// The ranges that the object does not have.
    pub(super) holes: Vec<LsnRange>,
}

/// The jobs in progress, by their tokens. See the module's documentation.
#[derive(Default)]
pub(super) struct Flights {
    jobs: HashMap<u64, Flight>,
}

impl Flights {
    /// Whether another job may start.
    pub(super) fn has_room(&self) -> bool {
        self.jobs.len() < JOBS_MAX
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether a segment is being archived, as a whole or in part.
    pub(super) fn holds(&self, sequence: SegmentSeq) -> bool {
        self.jobs.values().any(|flight| flight.id.sequence == sequence)
    }

    /// Whether a segment is being archived as a whole.
    pub(super) fn holds_whole(&self, sequence: SegmentSeq) -> bool {
        self.jobs.values().any(|flight| flight.id.sequence == sequence && flight.id.whole)
    }

    /// Notes that a job was requested.
    pub(super) fn begin(&mut self, token: u64, flight: Flight) {
        assert!(self.has_room(), "a job starts when there is room for it");
        self.jobs.insert(token, flight);
    }

    /// Notes that a job has its reply.
    pub(super) fn end(&mut self, token: u64) -> Option<Flight> {
        self.jobs.remove(&token)
    }
}
