//! The store of an archive that has not been reached since the start: every call returns
//! `Unavailable`. It is used until the store itself can be opened.

use super::{Capabilities, Name, ObjectStat, Page, Put, Reason, Space, Store, StoreError, StoreErrorKind};

/// A store that could not be opened yet.
#[derive(Debug)]
pub struct AwayStore {
    label: String,
}

impl AwayStore {
    /// Makes one with the label of the missing store.
    pub fn new(label: impl Into<String>) -> Self {
        AwayStore { label: label.into() }
    }

    fn away(&self, operation: &'static str) -> StoreError {
        StoreError::new(&self.label, operation, StoreErrorKind::Unavailable(Reason::NotReached))
    }
}

impl Store for AwayStore {
    fn label(&self) -> &str {
        &self.label
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: "away",
            random_access: false,
            conditional_put: false,
            rename: false,
            sequential_only: false,
            reclaims_space: false,
            object_bytes_max: None,
        }
    }

    fn put_start<'a>(&'a self, name: &Name, _: u64) -> Result<Box<dyn Put + 'a>, StoreError> {
        Err(self.away("put").of(name))
    }

    fn stat(&self, name: &Name) -> Result<ObjectStat, StoreError> {
        Err(self.away("stat").of(name))
    }

    fn get_range(&self, name: &Name, _: u64, _: &mut [u8]) -> Result<(), StoreError> {
        Err(self.away("get").of(name))
    }

    fn list(&self, _: &str, _: Option<&Name>, _: usize) -> Result<Page, StoreError> {
        Err(self.away("list"))
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        Err(self.away("delete").of(name))
    }

    fn sync(&self) -> Result<(), StoreError> {
        Err(self.away("sync"))
    }

    fn space(&self) -> Result<Space, StoreError> {
        Err(self.away("space"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_gives_nothing_and_says_that_it_may_later() {
        let store = AwayStore::new("directory /a");
        let name = Name::new("x").expect("a name");
        let errors = [
            store.put(&name, 1, &mut &b"x"[..]).map(drop),
            store.stat(&name).map(drop),
            store.get_range(&name, 0, &mut [0]),
            store.list("", None, 1).map(drop),
            store.delete(&name),
            store.make_durable(&name),
            store.sync(),
            store.space().map(drop),
        ];
        for error in errors {
            let error = error.expect_err("nothing is there");
            assert!(error.is_retryable() && error.to_string().contains("directory /a"), "{error}");
        }
    }
}
