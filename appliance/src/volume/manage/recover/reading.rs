//! Reads objects of the archive for a recovery, and decides what an object that cannot be read
//! means.
//!
//! **Invariant:** an object that the store fails to return is either the end of the recovery, or is
//! in the list of [`Unreadable`], and is asked for once more before anything is written.

use crate::archive::object::ObjectId;
use crate::archive::service::{ArchiveError, ArchiveReply, ArchiveRequest, ArchiveService};
use crate::log::Lsn;
use crate::log::reader::{LsnRange, SegmentEntries};
use crate::reactor::yield_now;
use crate::volume::error::VolumeError;

/// How many times a request is repeated if the store may succeed later.
const TRIES_MAX: u32 = 20;
/// The advice about an object that the store fails to return.
pub const WAY_WITHOUT_UNREADABLE: &str =
    "If that does not end, --leave-out-unreadable recovers without what cannot be read";

/// The front of an object.
pub(super) struct Front {
    /// The time of its last record.
    pub(super) last_time_ns: u64,
    /// Ranges that the object does not have.
    pub(super) holes: Vec<LsnRange>,
}

/// An object whose entries are unreadable.
pub(super) struct Damaged {
    pub(super) range: LsnRange,
    pub(super) reason: String,
}

/// Objects that the store fails to return, however often it is asked.
pub(super) struct Unreadable {
    /// Whether they count as damaged; otherwise they end the recovery.
    counts_as_damaged: bool,
    ids: Vec<ObjectId>,
}

impl Unreadable {
    /// `counts_as_damaged`: otherwise such an object ends the recovery.
    pub(super) fn new(counts_as_damaged: bool) -> Self {
        Unreadable { counts_as_damaged, ids: Vec::new() }
    }

    /// Asks for all of them once more. So data that is left out permanently was unavailable twice,
    /// with the whole recovery in between.
    ///
    /// # Errors
    /// One of them can be read now.
    pub(super) async fn check_again(&self, service: &mut dyn ArchiveService) -> Result<(), VolumeError> {
        for &id in &self.ids {
            let reply = ask(service, 1, &|| ArchiveRequest::Entries { token: 0, id }).await;
            if let Ok(ArchiveReply::Entries { result: Ok(_), .. }) = reply {
                let store = service.store().label();
                let name = id.name().map_or_else(|error| error.to_string(), |name| name.to_string());
                return Err(VolumeError::Archive {
                    reason: format!(
                        "{store} gives {name} after all, which it did not before; nothing was made, run it again"
                    ),
                });
            }
        }
        Ok(())
    }

    /// Handles one such object.
    fn note(&mut self, id: ObjectId, reason: String) -> Result<String, VolumeError> {
        if !self.counts_as_damaged {
            return Err(VolumeError::Archive {
                reason: format!("{reason} ({TRIES_MAX} tries). {WAY_WITHOUT_UNREADABLE}"),
            });
        }
        self.ids.push(id);
        Ok(reason)
    }
}

/// The first object in a list whose entries are damaged.
pub(super) async fn first_damage(
    service: &mut dyn ArchiveService,
    ids: impl Iterator<Item = ObjectId>,
    unreadable: &mut Unreadable,
) -> Result<Option<Damaged>, VolumeError> {
    for id in ids {
        if let Err(reason) = entries(service, id, unreadable).await? {
            return Ok(Some(Damaged { range: range_of(&id), reason }));
        }
    }
    Ok(None)
}

/// The range of an object.
pub(super) fn range_of(id: &ObjectId) -> LsnRange {
    LsnRange { start: id.from_lsn, end: id.to_lsn }
}

/// Whether one of the ranges covers another one.
pub(super) fn covers(ranges: &[LsnRange], range: &LsnRange) -> bool {
    ranges.iter().any(|known| known.start <= range.start && known.end >= range.end)
}

/// Reads an object's entries: returns its front, or why they are unreadable.
pub(super) async fn entries(
    service: &mut dyn ArchiveService,
    id: ObjectId,
    unreadable: &mut Unreadable,
) -> Result<Result<Front, String>, VolumeError> {
    match ask(service, TRIES_MAX, &|| ArchiveRequest::Entries { token: 0, id }).await {
        Ok(ArchiveReply::Entries { result: Ok(entries), .. }) => {
            let records = SegmentEntries::new(entries.units.clone());
            let last_ns = records.records().next_back().map_or(0, |(line, _)| line.time_ns());
            Ok(Ok(Front {
                last_time_ns: last_ns.max(entries.header.opened_ns),
                holes: entries.holes.clone(),
            }))
        }
        Ok(ArchiveReply::Entries { result: Err(error), .. }) => Ok(Err(error.to_string())),
        Ok(_) => unreachable!("a reply is of its request's kind"),
        Err(reason) => unreadable.note(id, reason).map(Err),
    }
}

/// The same for the object with which a recovery ends. Its entries are at its beginning, so its end
/// must be checked too; otherwise it may be cut off, and its blocks would be unreadable.
pub(super) async fn entries_and_end(
    service: &mut dyn ArchiveService,
    id: ObjectId,
    unreadable: &mut Unreadable,
) -> Result<Result<Front, String>, VolumeError> {
    let front = entries(service, id, unreadable).await?;
    if front.is_err() {
        return Ok(front);
    }
    let lsn = Lsn(id.to_lsn.0 - 1);
    match ask(service, TRIES_MAX, &|| ArchiveRequest::Blocks { token: 0, id, lsn }).await {
        Ok(ArchiveReply::Blocks { result: Err(error), .. }) => Ok(Err(error.to_string())),
        Ok(_) => Ok(front),
        Err(reason) => unreadable.note(id, reason).map(Err),
    }
}

/// Requests a part of an object, and repeats the request while the store may succeed later, with
/// `tries_max` tries at most. The error is the store's reason after the last try.
async fn ask(
    service: &mut dyn ArchiveService,
    tries_max: u32,
    make: &dyn Fn() -> ArchiveRequest,
) -> Result<ArchiveReply, String> {
    let mut request = Some(make());
    let mut tries = 1;
    let mut replies = Vec::new();
    loop {
        if let Some(taken) = request.take() {
            request = service.submit(taken).err();
        }
        service.poll(&mut replies);
        if let Some(reply) = replies.pop() {
            let (ArchiveReply::Entries { result: Err(error), .. }
            | ArchiveReply::Blocks { result: Err(error), .. }) = &reply
            else {
                return Ok(reply);
            };
            match error {
                ArchiveError::Store { retry: true, .. } if tries < tries_max => {
                    tries += 1;
                    request = Some(make());
                }
                ArchiveError::Store { retry: true, store, reason } => {
                    return Err(format!("{store}: {reason}"));
                }
                _ => return Ok(reply),
            }
            continue;
        }
        yield_now().await;
    }
}
