//! A store that injects faults: for tests, and for a simulator that observes its caller's reaction.
//!
//! [`FaultyStore`] passes every call on to another store, and injects a [`Fault`] where a rule
//! applies: at the n-th call of a [`Call`], or randomly from a seed. The same seed and the same
//! calls give the same faults. Rules are tried in the order in which they were added; the first one
//! that applies is used.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Capabilities, Name, ObjectStat, Page, Put, Sink, Space, Store, StoreError, StoreErrorKind};

/// A method that is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// [`Store::put_start`].
    PutStart,
    /// [`Sink::write`] of a put.
    Write,
    /// [`Put::commit`].
    Commit,
    /// [`Store::stat`].
    Stat,
    /// [`Store::get_range`], also within [`Store::get`].
    Get,
    /// [`Store::list`].
    List,
    /// [`Store::delete`].
    Delete,
    /// [`Store::sync`].
    Sync,
    /// [`Store::space`].
    Space,
}

const CALLS: usize = Call::Space as usize + 1;

/// A fault. If a fault has no meaning for a call, the call is executed normally.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The call does nothing and fails.
    Error(StoreErrorKind),
    /// The call is executed (of a write, only the first half), and fails: a lost answer.
    ErrorAfter(StoreErrorKind),
    /// One byte of a write or of a get is wrong, without an error.
    WrongByte,
    /// A write loses its second half, a stat the last byte, a list its last object; a get fails as
    /// if the object were cut off.
    Short,
}

/// When a rule applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// At one call, counted from 1 since the store was created.
    Nth(u64),
    /// Randomly, in this many of 1000 calls.
    PerMille(u32),
    /// At every call.
    Always,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    call: Call,
    when: When,
    fault: Fault,
}

struct State {
    random: u64,
    rules: Vec<Rule>,
    calls: [u64; CALLS],
    injected: u64,
}

/// A store that wraps another one and injects faults. See the module's documentation.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    state: Mutex<State>,
}

impl FaultyStore {
    /// Without a rule it behaves like `inner`.
    pub fn new(inner: Arc<dyn Store>, seed: u64) -> Self {
        let state = State { random: seed, rules: Vec::new(), calls: [0; CALLS], injected: 0 };
        FaultyStore { inner, state: Mutex::new(state) }
    }

    /// Adds a rule.
    pub fn add(&self, call: Call, when: When, fault: Fault) {
        self.state().rules.push(Rule { call, when, fault });
    }

    /// Removes all rules.
    pub fn heal(&self) {
        self.state().rules.clear();
    }

    /// The number of calls of a method.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().calls.get(call as usize).copied().unwrap_or_default()
    }

    /// The number of injected faults.
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing can panic while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and returns its fault, with a random number for it.
    fn next(&self, call: Call) -> (Option<Fault>, u64) {
        let mut state = self.state();
        let State { random, rules, calls, injected } = &mut *state;
        let mut count = 0;
        if let Some(calls) = calls.get_mut(call as usize) {
            *calls = calls.saturating_add(1);
            count = *calls;
        }
        let mut fault = None;
        for rule in rules.iter() {
            let applies = rule.call == call
                && match rule.when {
                    When::Nth(nth) => nth == count,
                    When::PerMille(chance) => next_random(random) % 1000 < u64::from(chance),
                    When::Always => true,
                };
            if applies {
                *injected = injected.saturating_add(1);
                fault = Some(rule.fault);
                break;
            }
        }
        let random = if fault.is_some() { next_random(random) } else { 0 };
        (fault, random)
    }

    fn error(&self, operation: &'static str, name: Option<&Name>, kind: StoreErrorKind) -> StoreError {
        let error = StoreError::new(self.inner.label(), operation, kind);
        match name {
            Some(name) => error.of(name),
            None => error,
        }
    }

    /// A call without data: executed, or not, or executed with an error.
    fn call<T>(
        &self,
        call: Call,
        operation: &'static str,
        name: Option<&Name>,
        run: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.next(call).0 {
            Some(Fault::Error(kind)) => Err(self.error(operation, name, kind)),
            Some(Fault::ErrorAfter(kind)) => {
                run()?;
                Err(self.error(operation, name, kind))
            }
            _ => run(),
        }
    }
}

/// `SplitMix64`.
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Changes one byte to another value.
fn change_byte(bytes: &mut [u8], random: u64) {
    if !bytes.is_empty() {
        let index = ((random >> 8) as usize).checked_rem(bytes.len());
        if let Some(byte) = index.and_then(|index| bytes.get_mut(index)) {
            *byte ^= (random as u8).max(1);
        }
    }
}

struct FaultyPut<'a> {
    store: &'a FaultyStore,
    inner: Box<dyn Put + 'a>,
    name: Name,
}

impl Sink for FaultyPut<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let (half, _) = bytes.split_at(bytes.len() / 2);
        match self.store.next(Call::Write) {
            (None, _) => self.inner.write(bytes),
            (Some(Fault::Error(kind)), _) => Err(self.store.error("put", Some(&self.name), kind)),
            (Some(Fault::ErrorAfter(kind)), _) => {
                self.inner.write(half)?;
                Err(self.store.error("put", Some(&self.name), kind))
            }
            (Some(Fault::WrongByte), random) => {
                let mut wrong = bytes.to_vec();
                change_byte(&mut wrong, random);
                self.inner.write(&wrong)
            }
            (Some(Fault::Short), _) => self.inner.write(half),
        }
    }
}

impl<'a> Put for FaultyPut<'a> {
    fn commit(self: Box<Self>) -> Result<ObjectStat, StoreError> {
        let FaultyPut { store, inner, name }: FaultyPut<'a> = *self;
        store.call(Call::Commit, "put", Some(&name), || inner.commit())
    }
}

impl Store for FaultyStore {
    fn label(&self) -> &str {
        self.inner.label()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn put_start<'a>(&'a self, name: &Name, max_bytes: u64) -> Result<Box<dyn Put + 'a>, StoreError> {
        let inner = self.call(Call::PutStart, "put", Some(name), || self.inner.put_start(name, max_bytes))?;
        Ok(Box::new(FaultyPut { store: self, inner, name: name.clone() }))
    }

    fn stat(&self, name: &Name) -> Result<ObjectStat, StoreError> {
        match self.next(Call::Stat).0 {
            Some(Fault::Error(kind) | Fault::ErrorAfter(kind)) => Err(self.error("stat", Some(name), kind)),
            Some(Fault::Short) => {
                let mut stat = self.inner.stat(name)?;
                stat.len_bytes = stat.len_bytes.saturating_sub(1);
                Ok(stat)
            }
            _ => self.inner.stat(name),
        }
    }

    fn get_range(&self, name: &Name, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let (fault, random) = self.next(Call::Get);
        let failed = |kind| Err(self.error("get", Some(name), kind));
        match fault {
            Some(Fault::Error(kind)) => failed(kind),
            Some(Fault::ErrorAfter(kind)) => {
                self.inner.get_range(name, offset, buffer)?;
                failed(kind)
            }
            Some(Fault::Short) => failed(StoreErrorKind::Corrupt("shorter than it was")),
            Some(Fault::WrongByte) => {
                self.inner.get_range(name, offset, buffer)?;
                change_byte(buffer, random);
                Ok(())
            }
            None => self.inner.get_range(name, offset, buffer),
        }
    }

    fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Page, StoreError> {
        match self.next(Call::List).0 {
            Some(Fault::Error(kind) | Fault::ErrorAfter(kind)) => Err(self.error("list", None, kind)),
            Some(Fault::Short) => {
                let mut page = self.inner.list(prefix, after, limit)?;
                page.objects.pop();
                Ok(page)
            }
            _ => self.inner.list(prefix, after, limit),
        }
    }

    fn make_durable(&self, name: &Name) -> Result<(), StoreError> {
        self.call(Call::Sync, "sync", Some(name), || self.inner.make_durable(name))
    }

    fn keep_at_hand(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        self.call(Call::Sync, "keep", Some(name), || self.inner.keep_at_hand(name, bytes))
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        self.call(Call::Delete, "delete", Some(name), || self.inner.delete(name))
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.call(Call::Sync, "sync", None, || self.inner.sync())
    }

    fn space(&self) -> Result<Space, StoreError> {
        self.call(Call::Space, "space", None, || self.inner.space())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{DirectoryOptions, DirectoryStore, Reason};
    use super::*;

    const OFFLINE: StoreErrorKind = StoreErrorKind::Unavailable(Reason::Busy("injected"));

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn put(store: &dyn Store, text: &str) -> Result<ObjectStat, StoreErrorKind> {
        store.put(&name(text), 8, &mut &b"12345678"[..]).map_err(|error| error.kind)
    }

    fn get(store: &dyn Store, text: &str) -> Result<Vec<u8>, StoreErrorKind> {
        let mut bytes = Vec::new();
        store.get(&name(text), &mut bytes).map(|_| bytes).map_err(|error| error.kind)
    }

    #[test]
    fn each_fault_does_what_it_says() {
        let root = tempfile::tempdir().unwrap();
        let inner: Arc<dyn Store> =
            Arc::new(DirectoryStore::open(root.path(), DirectoryOptions::default()).unwrap());
        let store = FaultyStore::new(Arc::clone(&inner), 3);
        store.add(Call::Write, When::Nth(1), Fault::Error(OFFLINE));
        store.add(Call::Write, When::Nth(2), Fault::ErrorAfter(StoreErrorKind::NoSpace));
        store.add(Call::Write, When::Nth(3), Fault::Short);
        store.add(Call::Write, When::Nth(4), Fault::WrongByte);
        assert_eq!(put(&store, "a"), Err(OFFLINE));
        assert_eq!(put(&store, "a"), Err(StoreErrorKind::NoSpace));
        assert_eq!(inner.space().unwrap().used_bytes, 0);
        assert_eq!(put(&store, "a").unwrap().len_bytes, 4);
        put(&store, "b").unwrap();
        let wrong = get(&*inner, "b").unwrap();
        assert_eq!(wrong.iter().zip(b"12345678").filter(|(is, was)| is != was).count(), 1);

        store.add(Call::Commit, When::Nth(3), Fault::Error(OFFLINE));
        store.add(Call::Commit, When::Nth(4), Fault::ErrorAfter(OFFLINE));
        assert_eq!(put(&store, "c"), Err(OFFLINE));
        assert!(inner.stat(&name("c")).is_err());
        assert_eq!(put(&store, "c"), Err(OFFLINE));
        assert_eq!(get(&store, "c").unwrap(), b"12345678");
        assert_eq!(store.injected(), 6);

        store.add(Call::Get, When::Always, Fault::WrongByte);
        assert_ne!(get(&store, "c").unwrap(), b"12345678");
        store.heal();
        store.add(Call::Get, When::Always, Fault::Short);
        store.add(Call::List, When::Always, Fault::Short);
        store.add(Call::Delete, When::Always, Fault::ErrorAfter(OFFLINE));
        store.add(Call::Space, When::Always, Fault::Error(OFFLINE));
        assert!(matches!(get(&store, "c"), Err(StoreErrorKind::Corrupt(_))));
        assert_eq!(store.list("", None, 10).unwrap().objects.len(), 2);
        assert_eq!(store.delete(&name("c")).unwrap_err().kind, OFFLINE);
        assert_eq!(inner.list("", None, 10).unwrap().objects.len(), 2);
        assert_eq!(store.space().unwrap_err().kind, OFFLINE);
        store.heal();
        store.add(Call::Stat, When::Always, Fault::Short);
        assert_eq!(store.stat(&name("a")).unwrap().len_bytes, 3);
        assert_eq!(store.calls(Call::PutStart), 6);
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let root = tempfile::tempdir().unwrap();
        let inner: Arc<dyn Store> =
            Arc::new(DirectoryStore::open(root.path(), DirectoryOptions::default()).unwrap());
        put(&*inner, "a").unwrap();
        let outcomes = |seed| {
            let store = FaultyStore::new(Arc::clone(&inner), seed);
            store.add(Call::Get, When::PerMille(300), Fault::WrongByte);
            store.add(Call::Stat, When::PerMille(100), Fault::Error(OFFLINE));
            (0..200).map(|_| get(&store, "a")).collect::<Vec<_>>()
        };
        assert_eq!(outcomes(1), outcomes(1));
        assert_ne!(outcomes(1), outcomes(2));
        let wrong = outcomes(1).iter().filter(|outcome| **outcome != Ok(b"12345678".to_vec())).count();
        assert!((40..120).contains(&wrong), "{wrong}");
    }
}
