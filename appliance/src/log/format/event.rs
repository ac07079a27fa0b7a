//! Events: texts that the pool stores in the log. A synch event says that an application was
//! consistent (R25); a catalog event holds the pool's small state as a whole, a change event holds
//! a difference of it.
//!
//! The text of an event is stored in whole data blocks, each with its own entry, and twice: copy 0
//! and copy 1, one after the other, so that one damaged block loses nothing. An event is in one
//! record, or in several that follow each other directly.

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum EventKind {
    /// The pool's small state, as JSON.
    Catalog = 1,
    /// A synch event, as JSON.
    Synch = 2,
    /// A change of the pool's small state, as JSON; since format 2.
    Change = 3,
}

/// What the block-number field of an event's entry holds:
///
/// | bits | field |
/// |---|---|
/// | 48 to 63 | kind: 1 catalog, 2 synch, 3 change |
/// | 32 to 47 | copy: 0 or 1 |
/// | 0 to 31 | chunk: which block of the text |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventHead {
    /// The kind; `None` for one that this build does not know.
    pub kind: Option<EventKind>,
    /// Which copy.
    pub copy: u16,
    /// Which block of the text.
    pub chunk: u32,
}

impl EventHead {
    /// How many times each text is written.
    pub const COPIES: u16 = 2;

    /// The field's value.
    pub fn encode(kind: EventKind, copy: u16, chunk: u32) -> u64 {
        u64::from(kind as u16) << 48 | u64::from(copy) << 32 | u64::from(chunk)
    }

    /// Reads the field.
    pub fn decode(value: u64) -> Self {
        let kind = match value >> 48 {
            1 => Some(EventKind::Catalog),
            2 => Some(EventKind::Synch),
            3 => Some(EventKind::Change),
            _ => None,
        };
        EventHead { kind, copy: (value >> 32) as u16, chunk: value as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_this_head() {
        let kinds = [EventKind::Catalog, EventKind::Synch, EventKind::Change];
        let named = kinds.map(|kind| format!("{} {}", kind as u16, format!("{kind:?}").to_lowercase()));
        crate::document::check_says(&format!("| 48 to 63 | kind: {} (version 2 only) |", named.join(", ")));
        crate::document::check_says("| 32 to 47 | copy: 0 or 1 |");
        crate::document::check_says("| 0 to 31 | chunk: which block of the text, from 0 |");
        for kind in kinds {
            let value = EventHead::encode(kind, 1, 7);
            assert_eq!((value >> 48, value >> 32 & 0xffff, value as u32), (kind as u64, 1, 7));
            assert_eq!(EventHead::decode(value), EventHead { kind: Some(kind), copy: 1, chunk: 7 });
        }
        assert_eq!(EventHead::COPIES, 2, "copy: 0 or 1");
        let known = (0..=u64::from(u16::MAX)).filter(|kind| EventHead::decode(kind << 48).kind.is_some());
        assert_eq!(known.count(), kinds.len(), "a kind has no place in the document");
    }
}
