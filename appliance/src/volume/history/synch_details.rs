//! Reads the details of synchs that are too long to stay in memory, from the log or the archive.
//!
//! Details that cannot be read now never fail a list: the reason stands in their place.

use std::ops::Range;
use std::rc::Rc;

use futures_util::{StreamExt, stream};

use super::event::{EventCollector, FoundEvent};
use super::synch_table::SynchDetails;
use crate::log::format::EventKind;
use crate::log::{Lsn, SegmentSeq};
use crate::reactor::yield_now;
use crate::volume::info::SynchInfo;
use crate::volume::pool::Pool;

/// How many details are read at once.
const READS_AT_ONCE: usize = 16;

impl Pool {
    /// The details of synchs at these positions, which rise; for each that cannot be read now, the
    /// reason. Cost: the entries of each segment once, and the blocks of each text.
    pub async fn synch_details(self: Rc<Self>, lsns: Vec<Lsn>) -> Vec<Result<serde_json::Value, String>> {
        self.details_of(&lsns).await
    }

    /// A synch with its details, if they are not in memory and can be read.
    pub(in crate::volume) async fn with_all_details(&self, synch: SynchInfo) -> SynchInfo {
        if synch.details_unread.is_none() {
            return synch;
        }
        match self.details_of(&[Lsn(synch.lsn)]).await.pop() {
            Some(Ok(details)) => SynchInfo { details, details_unread: None, ..synch },
            Some(Err(reason)) => SynchInfo { details_unread: Some(reason), ..synch },
            None => synch,
        }
    }

    async fn details_of(&self, lsns: &[Lsn]) -> Vec<Result<serde_json::Value, String>> {
        // Synchs of a record that is still open must be found too.
        self.close_up_to_now();
        let mut found = Vec::with_capacity(lsns.len());
        let mut rest = lsns;
        while let Some(&first) = rest.first() {
            let sequence = self.log.borrow().geometry().sequence_of(first);
            let end = self.log.borrow().geometry().first_lsn(sequence.next());
            let (here, behind) = rest.split_at(rest.partition_point(|lsn| *lsn < end).max(1));
            rest = behind;
            match self.synch_events(sequence).await {
                Ok(events) => {
                    let reads = here.iter().map(|&lsn| self.details_at(&events, lsn));
                    let mut reads = std::pin::pin!(stream::iter(reads).buffered(READS_AT_ONCE));
                    while let Some(details) = reads.next().await {
                        found.push(details);
                    }
                }
                Err(reason) => found.extend(here.iter().map(|_| Err(reason.clone()))),
            }
            yield_now().await;
        }
        found
    }

    /// At most `limit` synchs of a range of the log, in its order, with their details.
    pub async fn read_synchs(self: Rc<Self>, lsns: Range<Lsn>, limit: usize) -> Vec<SynchInfo> {
        let table = self.synchs();
        let wanted = || table.iter_from(lsns.start).take_while(|synch| synch.lsn < lsns.end).take(limit);
        let elsewhere = wanted().filter(|synch| matches!(synch.details, SynchDetails::Elsewhere { .. }));
        let elsewhere = elsewhere.map(|synch| synch.lsn).collect();
        let mut details = self.synch_details(elsewhere).await.into_iter();
        let infos = wanted().map(|synch| match synch.details {
            SynchDetails::Kept(_) => synch.to_info(),
            SynchDetails::Elsewhere { .. } => {
                synch.with_details(details.next().unwrap_or_else(|| unreachable!("one for each")))
            }
        });
        infos.collect()
    }

    /// The synch events of a segment, newest first.
    async fn synch_events(&self, sequence: SegmentSeq) -> Result<Vec<FoundEvent>, String> {
        let entries = self.entries_of(sequence).await.map_err(|error| error.to_string())?;
        let entries = entries.ok_or_else(|| format!("segment {sequence} is lost"))?;
        let mut events = EventCollector::events(&entries, Lsn::MAX);
        events.retain(|event| event.kind == EventKind::Synch);
        Ok(events)
    }

    async fn details_at(&self, events: &[FoundEvent], lsn: Lsn) -> Result<serde_json::Value, String> {
        let place = events.binary_search_by(|event| lsn.cmp(&event.lsn));
        let event = place.map(|place| &events[place]);
        let event = event.map_err(|_| format!("the entry of the synch at LSN {lsn} cannot be read"))?;
        let text = self.read_event(event).await.map_err(|error| error.to_string())?;
        let synch = text.and_then(|text| SynchInfo::of_text(lsn.0, &text));
        Ok(synch.ok_or_else(|| SynchInfo::damaged(lsn.0, event.time_ns).damage())?.details)
    }
}
