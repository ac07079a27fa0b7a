//! How long the requests of a volume take: a histogram for each volume for which the operator
//! enables one.
//!
//! A request is measured from its submission to its completion, whether it succeeds or not. A
//! request that found the pool busy is measured from its first try, because its host waits from
//! then on. A request that is refused at once for its parameters is not measured.
//!
//! **Costs.** Disabled: one branch for each request. Enabled: one clock reading when a request is
//! submitted, one for all writes that are acknowledged together (for reads, one for each), and one
//! increment of a bucket. A histogram takes 58 KiB of memory while it is enabled.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::log::Clock;
use crate::volume::request::{Request, Sink, VolumeId};

/// Kinds of requests, with the names of SPDK's kinds of I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// Reads.
    Read,
    /// Writes.
    Write,
    /// Trims.
    Unmap,
    /// Writes of zeroes.
    WriteZeroes,
    /// Flushes.
    Flush,
}

impl From<&Request<'_>> for RequestKind {
    fn from(request: &Request<'_>) -> Self {
        match request {
            Request::Read { .. } => RequestKind::Read,
            Request::Write { .. } | Request::WriteReceived { .. } => RequestKind::Write,
            Request::WriteZeroes { .. } => RequestKind::WriteZeroes,
            Request::Trim { .. } => RequestKind::Unmap,
            Request::Flush => RequestKind::Flush,
        }
    }
}

/// The start of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::volume) struct Began {
    volume: VolumeId,
    /// 0: it is not measured.
    at_ns: u64,
}

impl Began {
    fn is_measured(self) -> bool {
        self.at_ns != 0
    }
}

/// An enabled histogram.
struct Watch {
    volume: VolumeId,
    histogram: Histogram,
    /// The measured kind; `None`: all.
    operation: Option<RequestKind>,
    /// When it was enabled.
    since_ns: u64,
}

/// The histograms of a pool's volumes.
pub(in crate::volume) struct Latencies {
    clock: Rc<dyn Clock>,
    /// By the slots of volumes, up to the last enabled one: empty if none is enabled.
    watches: Vec<Option<Box<Watch>>>,
}

impl Latencies {
    pub(super) fn new(clock: Rc<dyn Clock>) -> Self {
        Latencies { clock, watches: Vec::new() }
    }

    /// The clock of spans, never 0.
    pub(super) fn now_ns(&self) -> u64 {
        // 0 means "not measured".
        self.clock.monotonic_ns().max(1)
    }

    pub(super) fn is_on(&self, volume: VolumeId) -> bool {
        self.watch(volume).is_some()
    }

    /// Notes that a request is about to start.
    pub(super) fn begin(&self, volume: VolumeId, request: &Request<'_>, sink: &Sink) -> Began {
        let at_ns = self.watch(volume).map_or(0, |watch| self.begin_watched(watch, request, sink));
        Began { volume, at_ns }
    }

    fn begin_watched(&self, watch: &Watch, request: &Request<'_>, sink: &Sink) -> u64 {
        if watch.operation.is_some_and(|operation| operation != RequestKind::from(request)) {
            return 0;
        }
        match sink.busy_since_ns.get() {
            0 => self.now_ns(),
            // Do not count the time before the measurement was enabled.
            busy_since_ns => busy_since_ns.max(watch.since_ns),
        }
    }

    /// Notes whether a started request was accepted, or found the pool busy: if so, the next
    /// request of its client is measured from here. Clients submit in order.
    pub(super) fn note_taken(began: Began, taken: bool, sink: &Sink) {
        if began.is_measured() {
            sink.busy_since_ns.set(if taken { 0 } else { began.at_ns });
        }
    }

    /// Notes the end of a request. `end_ns` caches the time for other requests that end at the same
    /// moment.
    pub(super) fn end(&mut self, began: Began, end_ns: &mut Option<u64>) {
        if !began.is_measured() {
            return;
        }
        let now_ns = *end_ns.get_or_insert_with(|| self.now_ns());
        let watch = self.watches.get_mut(began.volume.slot()).and_then(Option::as_mut);
        if let Some(watch) = watch.filter(|watch| watch.volume == began.volume) {
            watch.histogram.record(now_ns.saturating_sub(began.at_ns));
        }
    }

    #[inline]
    fn watch(&self, volume: VolumeId) -> Option<&Watch> {
        self.watches.get(volume.slot())?.as_deref().filter(|watch| watch.volume == volume)
    }

    /// The histogram of a volume, if it is enabled.
    pub(super) fn histogram(&self, volume: VolumeId) -> Option<&Histogram> {
        Some(&self.watch(volume)?.histogram)
    }

    pub(super) fn enable(&mut self, volume: VolumeId, operation: Option<RequestKind>) {
        let place = volume.slot();
        if self.watch(volume).is_some_and(|watch| watch.operation == operation) {
            return;
        }
        let watch = Watch { volume, histogram: Histogram::default(), operation, since_ns: self.now_ns() };
        if self.watches.len() <= place {
            self.watches.resize_with(place + 1, || None);
        }
        self.watches[place] = Some(Box::new(watch));
    }

    pub(in crate::volume) fn disable(&mut self, volume: VolumeId) {
        if let Some(watch) = self.watches.get_mut(volume.slot()) {
            *watch = None;
        }
        while self.watches.pop_if(|watch| watch.is_none()).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[derive(Default)]
    struct FakeClock {
        now_ns: Cell<u64>,
        looks: Cell<u64>,
    }

    impl Clock for FakeClock {
        fn wall_ns(&self) -> u64 {
            unreachable!("spans are not wall-clock time")
        }

        fn monotonic_ns(&self) -> u64 {
            self.looks.set(self.looks.get() + 1);
            self.now_ns.get()
        }
    }

    const VOLUME: VolumeId = VolumeId(3);
    const READ: Request<'static> = Request::Read { block: 0, len_blocks: 1 };

    fn recorded(latencies: &Latencies) -> Vec<(u64, u64)> {
        let watch = latencies.watches[VOLUME.slot()].as_ref().expect("it is on");
        watch.histogram.buckets().map(|bucket| (bucket.first, bucket.count)).collect()
    }

    #[test]
    fn what_is_off_costs_no_clock() {
        let clock = Rc::new(FakeClock::default());
        let mut latencies = Latencies::new(Rc::<FakeClock>::clone(&clock));
        let sink = Sink::new();
        let began = latencies.begin(VOLUME, &READ, &sink);
        Latencies::note_taken(began, false, &sink);
        latencies.end(began, &mut None);
        assert_eq!((clock.looks.get(), sink.busy_since_ns.get()), (0, 0));
        latencies.enable(VolumeId(1), None);
        let looks = clock.looks.get();
        latencies.end(latencies.begin(VOLUME, &READ, &sink), &mut None);
        assert_eq!(clock.looks.get(), looks, "another volume's costs none either");
        latencies.disable(VolumeId(1));
        assert!(latencies.watches.is_empty());
    }

    #[test]
    fn a_wait_for_room_counts() {
        let clock = Rc::new(FakeClock::default());
        let mut latencies = Latencies::new(Rc::<FakeClock>::clone(&clock));
        let sink = Sink::new();
        clock.now_ns.set(1000);
        latencies.enable(VOLUME, None);
        for now_ns in [1100, 1150, 1180] {
            clock.now_ns.set(now_ns);
            let began = latencies.begin(VOLUME, &READ, &sink);
            assert_eq!(began.at_ns, 1100);
            Latencies::note_taken(began, now_ns == 1180, &sink);
            if now_ns == 1180 {
                clock.now_ns.set(1200);
                latencies.end(began, &mut None);
            }
        }
        assert_eq!(recorded(&latencies), [(100, 1)]);
        let began = latencies.begin(VOLUME, &READ, &sink);
        assert_eq!(began.at_ns, 1200, "the next one has not waited");
        // A wait that began before the measurement counts from its start.
        sink.busy_since_ns.set(10);
        assert_eq!(latencies.begin(VOLUME, &READ, &sink).at_ns, 1000);
    }

    #[test]
    fn a_kind_can_be_chosen_and_ends_share_a_look() {
        let clock = Rc::new(FakeClock::default());
        let mut latencies = Latencies::new(Rc::<FakeClock>::clone(&clock));
        let sink = Sink::new();
        latencies.enable(VOLUME, Some(RequestKind::Flush));
        let began = [latencies.begin(VOLUME, &READ, &sink), latencies.begin(VOLUME, &Request::Flush, &sink)];
        clock.now_ns.set(51);
        let (mut end_ns, looks) = (None, clock.looks.get());
        for began in [began[0], began[1], began[1]] {
            latencies.end(began, &mut end_ns);
        }
        assert_eq!((recorded(&latencies), clock.looks.get()), (vec![(50, 2)], looks + 1));
        latencies.enable(VOLUME, Some(RequestKind::Flush));
        assert_eq!(recorded(&latencies).len(), 1, "it goes on");
        latencies.enable(VOLUME, None);
        assert_eq!(recorded(&latencies).len(), 0, "it begins anew");
    }
}
