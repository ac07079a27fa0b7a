//! The errors of stores.

use std::{fmt, io};

use super::Name;

/// An error: the operation, the store, the object, and the kind.
#[derive(Debug, thiserror::Error)]
#[error("{operation} of {}{store}: {kind}", in_words(object))]
pub struct StoreError {
    /// The store's label.
    pub store: String,
    /// `put`, `get`, `list`, `delete`, and so on.
    pub operation: &'static str,
    /// The object's name; empty for the store itself.
    pub object: String,
    /// The kind of the error.
    pub kind: StoreErrorKind,
}

/// The object as text before the store's label; empty for the store itself.
fn in_words(object: &str) -> String {
    if object.is_empty() { String::new() } else { format!("{object} in ") }
}

/// The kinds of errors that need different reactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreErrorKind {
    /// The object does not exist.
    #[error("not found")]
    NotFound,
    /// The object exists already.
    #[error("exists already")]
    Exists,
    /// The store is full.
    #[error("no space left")]
    NoSpace,
    /// It may work later: try again.
    #[error("not available: {0}")]
    Unavailable(Reason),
    /// The stored bytes are not those that were put.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// This kind of store does not support it.
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// Beyond the object's end, or more than a put announced.
    #[error("out of range")]
    OutOfRange,
    /// Another owner has the archive now.
    #[error(
        "another appliance has taken over this archive, by a recovery or a fork; nothing is put or deleted here any more"
    )]
    Overtaken,
    /// It will not work until an operator changes a setting; the text says which.
    #[error("refused: {0}")]
    Refused(&'static str),
    /// The object cannot be deleted before this time.
    #[error("refused: it is locked until {0}, and can be deleted from then on")]
    Locked(LockEnd),
}

/// The end of a lock, in UTC, as the service reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockEnd([u8; LOCK_END_BYTES]);

/// The length of `2026-12-29T00:00:00`.
const LOCK_END_BYTES: usize = 19;

impl LockEnd {
    /// Parses a time such as `2026-12-29T00:00:00.000Z`.
    pub fn parse(text: &str) -> Option<Self> {
        let is_time = text.ends_with('Z')
            && text.bytes().take(LOCK_END_BYTES).all(|byte| byte.is_ascii_digit() || b"-T:".contains(&byte));
        let time = text.as_bytes().first_chunk().filter(|_| is_time)?;
        Some(LockEnd(*time))
    }
}

impl fmt::Display for LockEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}Z", String::from_utf8_lossy(&self.0))
    }
}

/// Why a store is not available.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The operating system's error number.
    #[error("{}", io::Error::from_raw_os_error(*.0))]
    Os(i32),
    /// An error of the standard library.
    #[error("{0}")]
    Io(io::ErrorKind),
    /// The store is occupied.
    #[error("{0}")]
    Busy(&'static str),
    /// The medium with the object is away, and may come back: a cartridge that is not in the
    /// library.
    #[error("its cartridge is not in the library: put it back in")]
    Away,
    /// It has not been opened since the start.
    #[error("it has not been reached since the start; `varve archive status` says why")]
    NotReached,
    /// A remote store cannot be reached, or does not answer; the text says what to check.
    #[error("{0}")]
    Remote(&'static str),
    /// A remote store answers that it cannot serve the request now; its HTTP status.
    #[error("it answers with HTTP status {0}; try again later")]
    Http(u16),
}

impl StoreError {
    /// An error of `kind`; [`of`](Self::of) adds the object.
    pub fn new(store: &str, operation: &'static str, kind: StoreErrorKind) -> Self {
        StoreError { store: store.to_owned(), operation, object: String::new(), kind }
    }

    /// The same, for an object.
    #[must_use]
    pub fn of(mut self, name: &Name) -> Self {
        name.as_str().clone_into(&mut self.object);
        self
    }

    /// A range that does not exist.
    pub fn out_of_range(store: &str, operation: &'static str) -> Self {
        StoreError::new(store, operation, StoreErrorKind::OutOfRange)
    }

    /// An error of the operating system, translated to its kind.
    pub fn io(store: &str, operation: &'static str, error: &io::Error) -> Self {
        use io::ErrorKind as K;
        let kind = match error.kind() {
            K::NotFound => StoreErrorKind::NotFound,
            K::AlreadyExists => StoreErrorKind::Exists,
            K::StorageFull | K::QuotaExceeded | K::FileTooLarge => StoreErrorKind::NoSpace,
            K::UnexpectedEof => StoreErrorKind::Corrupt("shorter than it was"),
            K::Unsupported => StoreErrorKind::Unsupported("the operating system refuses it"),
            kind => StoreErrorKind::Unavailable(error.raw_os_error().map_or(Reason::Io(kind), Reason::Os)),
        };
        StoreError::new(store, operation, kind)
    }

    /// Whether the store works, but refuses this request.
    pub fn is_refusal(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Refused(_) | StoreErrorKind::Locked(_))
    }

    /// Whether the same call may succeed later, without an operator's action.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unavailable(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_object_if_there_is_one() {
        let error = StoreError::new("directory a", "open", StoreErrorKind::NotFound);
        assert_eq!(error.to_string(), "open of directory a: not found");
        let error = StoreError { operation: "get", object: "v1/x".to_owned(), ..error };
        assert_eq!(error.to_string(), "get of v1/x in directory a: not found");
    }
}
