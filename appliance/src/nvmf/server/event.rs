//! Asynchronous events of one controller (Base section 5.2): the waiting requests, the pending
//! events, and the events that are held back until their log page is read.

use smallvec::SmallVec;

use super::config::ASYNC_EVENT_REQUESTS_MAX;
use crate::nvmf::wire::feature::{AsyncEvent, event_mask};
use crate::nvmf::wire::log_page::{LogPageId, critical_warning};
use crate::nvmf::wire::status::Status;

/// The critical warnings of a failed pool: it accepts no more writes, because of an internal error.
/// A host that has enabled either of them (Asynchronous Event Configuration uses the same bits)
/// gets the event.
pub(super) const FAILED_WARNINGS: u8 = critical_warning::RELIABILITY | critical_warning::READ_ONLY;

/// Notices that a controller can send to its host as asynchronous events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notice {
    /// The namespace was resized.
    NamespaceChanged,
    /// The discovery log page changed.
    DiscoveryChanged,
    /// The SMART log page has a new critical warning.
    HealthCritical,
}

impl Notice {
    const ALL: [Notice; 3] = [Notice::HealthCritical, Notice::NamespaceChanged, Notice::DiscoveryChanged];

    fn bit(self) -> u8 {
        match self {
            Notice::NamespaceChanged => 1,
            Notice::DiscoveryChanged => 2,
            Notice::HealthCritical => 4,
        }
    }

    fn enable_bit(self) -> u32 {
        match self {
            Notice::NamespaceChanged => event_mask::NAMESPACE_ATTRIBUTE,
            Notice::DiscoveryChanged => event_mask::DISCOVERY_CHANGE,
            Notice::HealthCritical => u32::from(FAILED_WARNINGS),
        }
    }

    fn event(self) -> AsyncEvent {
        match self {
            Notice::NamespaceChanged => AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED,
            Notice::DiscoveryChanged => AsyncEvent::DISCOVERY_CHANGED,
            // One event covers everything that makes writes or data unsafe, including a read-only
            // medium.
            Notice::HealthCritical => AsyncEvent::RELIABILITY,
        }
    }
}

/// The events of a controller. At most [`ASYNC_EVENT_REQUESTS_MAX`] requests wait, and each kind of
/// notice is pending at most once.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// Command identifiers of the waiting requests.
    waiting: SmallVec<[u16; ASYNC_EVENT_REQUESTS_MAX]>,
    pending: u8,
    /// Reported, and not reported again until the log page is read.
    masked: u8,
    /// Asynchronous Event Configuration, as the host set it.
    pub(super) enabled: u32,
    /// Namespace 1 is in the changed namespace list.
    changed_namespace: bool,
}

impl Events {
    /// Takes a request.
    pub(super) fn request(&mut self, command_id: u16) -> Result<(), Status> {
        if self.waiting.len() >= ASYNC_EVENT_REQUESTS_MAX {
            return Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED);
        }
        self.waiting.push(command_id);
        Ok(())
    }

    /// Something has happened. It becomes pending if the host has enabled the event and it is not
    /// held back.
    pub(super) fn raise(&mut self, notice: Notice) {
        if notice == Notice::NamespaceChanged {
            self.changed_namespace = true;
        }
        if self.enabled & notice.enable_bit() != 0 && self.masked & notice.bit() == 0 {
            self.pending |= notice.bit();
        }
    }

    /// The next request to complete, and its event.
    pub(super) fn next(&mut self) -> Option<(u16, AsyncEvent)> {
        if self.pending == 0 || self.waiting.is_empty() {
            return None;
        }
        let notice = Notice::ALL.into_iter().find(|notice| self.pending & notice.bit() != 0)?;
        self.pending &= !notice.bit();
        self.masked |= notice.bit();
        Some((self.waiting.remove(0), notice.event()))
    }

    /// Whether namespace 1 is in the changed namespace list.
    pub(super) fn changed_namespace(&self) -> bool {
        self.changed_namespace
    }

    /// A log page was read without "retain asynchronous event".
    pub(super) fn clear(&mut self, page: LogPageId) {
        match page {
            LogPageId::ChangedNamespaces => {
                self.changed_namespace = false;
                self.masked &= !Notice::NamespaceChanged.bit();
            }
            LogPageId::Discovery => self.masked &= !Notice::DiscoveryChanged.bit(),
            LogPageId::Smart => self.masked &= !Notice::HealthCritical.bit(),
            _ => {}
        }
    }

    /// The controller was reset: requests are dropped, and the configuration returns to its
    /// default.
    pub(super) fn reset(&mut self) {
        *self = Events::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_held_back_until_its_page_is_read() {
        let mut events = Events { enabled: event_mask::NAMESPACE_ATTRIBUTE, ..Events::default() };
        events.raise(Notice::NamespaceChanged);
        assert_eq!(events.next(), None);
        for command_id in 0..ASYNC_EVENT_REQUESTS_MAX as u16 {
            events.request(command_id).expect("within the limit");
        }
        assert_eq!(events.request(9), Err(Status::ASYNC_EVENT_LIMIT_EXCEEDED));
        assert_eq!(events.next(), Some((0, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED)));
        events.raise(Notice::NamespaceChanged);
        assert_eq!(events.next(), None);
        assert!(events.changed_namespace());
        events.clear(LogPageId::ChangedNamespaces);
        assert!(!events.changed_namespace());
        events.raise(Notice::NamespaceChanged);
        assert_eq!(events.next(), Some((1, AsyncEvent::NAMESPACE_ATTRIBUTE_CHANGED)));
    }

    #[test]
    fn a_critical_warning_is_told_once_until_its_page_is_read() {
        for bit in [critical_warning::RELIABILITY, critical_warning::READ_ONLY] {
            let mut events = Events { enabled: u32::from(bit), ..Events::default() };
            events.request(1).expect("within the limit");
            events.request(2).expect("within the limit");
            events.raise(Notice::HealthCritical);
            assert_eq!(events.next(), Some((1, AsyncEvent::RELIABILITY)));
            events.raise(Notice::HealthCritical);
            events.clear(LogPageId::ChangedNamespaces);
            assert_eq!(events.next(), None);
            events.clear(LogPageId::Smart);
            assert_eq!(events.next(), None, "it tells nothing new by itself");
            events.raise(Notice::HealthCritical);
            assert_eq!(events.next(), Some((2, AsyncEvent::RELIABILITY)));
        }
        let mut events = Events { enabled: u32::from(critical_warning::TEMPERATURE), ..Events::default() };
        events.request(1).expect("within the limit");
        events.raise(Notice::HealthCritical);
        assert_eq!(events.next(), None);
    }

    #[test]
    fn what_is_not_enabled_is_not_reported_but_listed() {
        let mut events = Events::default();
        events.request(1).expect("within the limit");
        events.raise(Notice::NamespaceChanged);
        events.raise(Notice::DiscoveryChanged);
        assert_eq!(events.next(), None);
        assert!(events.changed_namespace());
    }
}
