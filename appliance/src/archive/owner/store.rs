//! A store with ownership checks: only the owner can put or delete objects of the pool.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::chain::{is_overtaken, make};
use super::record::Generation;
use crate::archive::store::{
    Capabilities, Check, Name, ObjectStat, Page, Put, Sink, Space, Store, StoreError, StoreErrorKind,
};

/// The most names that are announced at once, and the most earlier undeleted names that are
/// announced again with them: a generation stays below 1 MiB.
const TOMBSTONES_MAX: usize = 2000;
/// After this many objects in a row that a store refuses to delete, no more are tried.
const REFUSED_MAX: u32 = 50;

/// The rights of a user of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// No pool has claimed it yet.
    Unclaimed,
    /// It does not own the archive and only reads, for this reason.
    Reader(&'static str),
    /// Its generation could not be made yet.
    Pending,
    /// It owns the archive as far as it knows.
    Owner,
    /// Another owner has it now.
    Overtaken,
}

/// A store with the owner's rights. See the [module's documentation](super).
///
/// Invariant: while the standing is `Owner`, `generation` was made, and was the newest at the last
/// check. While it is `Pending`, `generation` or `next` is set. `next` may already have been made:
/// nothing else is made before it. The names in `undeleted` are in the tombstones of `generation`,
/// or of `next`.
pub struct OwnedStore {
    inner: Arc<dyn Store>,
    state: Mutex<State>,
}

struct State {
    standing: Standing,
    generation: Option<Generation>,
    next: Option<Generation>,
    /// Names that were announced and are not known to be gone.
    undeleted: BTreeSet<String>,
}

impl OwnedStore {
    /// A store that no pool has claimed yet: objects of pools are only read.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        let standing = Standing::Unclaimed;
        let state = State { standing, generation: None, next: None, undeleted: BTreeSet::new() };
        OwnedStore { inner, state: Mutex::new(state) }
    }

    /// Makes the caller the owner with `generation`, which is not stored yet. It is stored at the
    /// latest before anything is put or deleted. [`finish_deletes`](Self::finish_deletes) deletes
    /// the objects that it lists as tombstones.
    pub fn claim(&self, generation: Generation) {
        let mut state = self.lock();
        state.undeleted = generation.tombstones.iter().cloned().collect();
        state.standing = Standing::Pending;
        state.next = Some(generation);
    }

    /// From now on the store is only read, for this reason.
    pub fn read_only(&self, why: &'static str) {
        self.lock().standing = Standing::Reader(why);
    }

    /// The underlying store.
    pub fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The present rights.
    pub fn standing(&self) -> Standing {
        self.lock().standing
    }

    /// The generation in force, as far as is known.
    pub fn generation(&self) -> Option<Generation> {
        self.lock().generation.clone()
    }

    /// Stores the generation if that is still to be done, and checks for a newer one. Blocks.
    ///
    /// # Errors
    /// `Overtaken`, `Refused` when this only reads, or the store's.
    pub fn ensure_owner(&self, operation: &'static str) -> Result<(), StoreError> {
        self.ensure(&mut self.lock(), operation)
    }

    fn ensure(&self, state: &mut State, operation: &'static str) -> Result<(), StoreError> {
        let refused = |why| Err(StoreError::new(self.label(), operation, StoreErrorKind::Refused(why)));
        match (state.standing, &state.generation) {
            (Standing::Unclaimed, _) => refused("no pool has claimed this archive yet"),
            (Standing::Reader(why), _) => refused(why),
            (Standing::Overtaken, _) => Err(self.overtaken(operation)),
            (Standing::Pending | Standing::Owner, _) if state.next.is_some() => {
                self.make_next(state, operation)
            }
            (Standing::Pending | Standing::Owner, Some(generation)) => {
                if is_overtaken(&*self.inner, generation.pool, generation.number)? {
                    state.standing = Standing::Overtaken;
                    return Err(self.overtaken(operation));
                }
                Ok(())
            }
            (Standing::Pending | Standing::Owner, None) => {
                unreachable!("an owner has a generation, made or to be made")
            }
        }
    }

    fn make_next(&self, state: &mut State, operation: &'static str) -> Result<(), StoreError> {
        let Some(next) = &state.next else { return Ok(()) };
        if !make(&*self.inner, next)? {
            state.standing = Standing::Overtaken;
            return Err(self.overtaken(operation));
        }
        state.generation = state.next.take();
        state.standing = Standing::Owner;
        Ok(())
    }

    fn overtaken(&self, operation: &'static str) -> StoreError {
        StoreError::new(self.label(), operation, StoreErrorKind::Overtaken)
    }

    /// Sets the retention rules that a recovery restores; they are in the store when this returns.
    ///
    /// # Errors
    /// As [`ensure_owner`](Self::ensure_owner).
    pub fn set_rules(&self, rules: &str) -> Result<(), StoreError> {
        let mut state = self.lock();
        self.ensure(&mut state, "set the rules of")?;
        let Some(generation) = &state.generation else { return Ok(()) };
        if generation.rules.as_deref() == Some(rules) {
            return Ok(());
        }
        state.next = Some(Generation {
            rules: Some(rules.to_owned()),
            ..generation.with_tombstones(&state.undeleted)
        });
        self.make_next(&mut state, "set the rules of")
    }

    /// Deletes the announced objects that still exist, including those that an earlier owner
    /// announced. Names that cannot be deleted now stay announced. A refused delete does not stop
    /// the others. But after 50 refusals in a row the rest is left to the next start, so that a
    /// start does not take forever.
    pub fn finish_deletes(&self) {
        let names: Vec<String> = self.lock().undeleted.iter().cloned().collect();
        let (mut refused, mut in_a_row) = (0, 0);
        for name in names.iter().filter_map(|name| Name::new(name).ok()) {
            let Err(error) = self.delete(&name) else {
                in_a_row = 0;
                continue;
            };
            let is_refused = error.is_refusal();
            if error.kind != StoreErrorKind::NotFound && (refused == 0 || !is_refused) {
                tracing::warn!(%error, "an object that is not needed any more is still there");
            }
            match error.kind {
                StoreErrorKind::NotFound => {}
                _ if is_refused && in_a_row < REFUSED_MAX => {
                    (refused, in_a_row) = (refused + 1, in_a_row + 1);
                }
                _ => break,
            }
        }
        if refused > 1 {
            tracing::warn!(store = self.label(), refused, "so many objects could not be deleted");
        }
    }

    /// Whether the name belongs to an object of a pool's log, or of an anchor.
    fn is_of_pool(name: &Name) -> bool {
        let name = name.as_str();
        name.starts_with("v1/") && (name.contains("/seg/") || name.contains("/anc/"))
    }
}

impl Store for OwnedStore {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn put_start<'a>(&'a self, name: &Name, max_bytes: u64) -> Result<Box<dyn Put + 'a>, StoreError> {
        if Self::is_of_pool(name) {
            self.ensure_owner("put").map_err(|error| error.of(name))?;
        }
        self.inner.put_start(name, max_bytes)
    }

    fn stat(&self, name: &Name) -> Result<ObjectStat, StoreError> {
        self.inner.stat(name)
    }

    fn get_range(&self, name: &Name, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.inner.get_range(name, offset, buffer)
    }

    fn get(&self, name: &Name, sink: &mut dyn Sink) -> Result<u64, StoreError> {
        self.inner.get(name, sink)
    }

    fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Page, StoreError> {
        self.inner.list(prefix, after, limit)
    }

    fn make_durable(&self, name: &Name) -> Result<(), StoreError> {
        // The caller relies on the object from now on, as if it had stored it itself.
        if Self::is_of_pool(name) {
            self.ensure_owner("keep").map_err(|error| error.of(name))?;
        }
        self.inner.make_durable(name)
    }

    fn announce_deletes(&self, names: &[Name]) -> Result<(), StoreError> {
        let mut state = self.lock();
        for names in names.chunks(TOMBSTONES_MAX) {
            self.ensure(&mut state, "delete")?;
            if names.iter().all(|name| state.undeleted.contains(name.as_str())) {
                continue;
            }
            // A name that is dropped here is announced again before its next delete.
            while state.undeleted.len() > TOMBSTONES_MAX {
                state.undeleted.pop_first();
            }
            state.undeleted.extend(names.iter().map(|name| name.as_str().to_owned()));
            state.next =
                state.generation.as_ref().map(|generation| generation.with_tombstones(&state.undeleted));
            self.make_next(&mut state, "delete")?;
        }
        Ok(())
    }

    fn keep_at_hand(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        self.inner.keep_at_hand(name, bytes)
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        if !Self::is_of_pool(name) {
            return self.inner.delete(name);
        }
        let is_announced = {
            let state = self.lock();
            let is_in_force = state.standing == Standing::Owner && state.next.is_none();
            is_in_force && state.undeleted.contains(name.as_str())
        };
        if !is_announced {
            self.announce_deletes(std::slice::from_ref(name)).map_err(|error| error.of(name))?;
        }
        let deleted = self.inner.delete(name);
        if deleted.as_ref().err().is_none_or(|error| error.kind == StoreErrorKind::NotFound) {
            self.lock().undeleted.remove(name.as_str());
        }
        deleted
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.inner.sync()
    }

    fn distrust(&self, check: Check) {
        self.inner.distrust(check);
    }

    fn space(&self) -> Result<Space, StoreError> {
        self.inner.space()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_this_bound,
        TOMBSTONES_MAX => "At most {} names are announced at once",
    );
}
