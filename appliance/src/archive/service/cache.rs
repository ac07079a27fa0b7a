//! Caches of data that was read from the archive, bounded by bytes: the least recently used value
//! is evicted first.
//!
//! Objects never change, so no cached value is ever out of date. A deleted object only takes space
//! until it is evicted or [`forgotten`](EntriesCache::forget). `get` and `insert` take constant
//! time: a map, and a linked list through the node indices. A value larger than the whole bound is
//! not cached. Weights include the overhead of a node.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{ObjectBlocks, ObjectEntries};
use crate::archive::object::{FRAME_BYTES_DEFAULT, FRAME_BYTES_MAX, FRAME_BYTES_MIN, ObjectId, ObjectTable};
use crate::dma::BLOCK_BYTES;
use crate::log::Lsn;
use crate::log::format::TrailerUnit;

/// The overhead of a node in bytes, without its value: the node, its place in the map, the
/// allocations' headers.
const NODE_BYTES: usize = 256;

/// The content of a cache, and how it was used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Values held.
    pub values: usize,
    /// Bytes held.
    pub used_bytes: usize,
    /// The bound.
    pub budget_bytes: usize,
    /// Lookups that found something.
    pub hits: u64,
    /// Lookups that found nothing.
    pub misses: u64,
}

/// Marks the end of the list.
const NONE: u32 = u32::MAX;

struct Node<K, V> {
    key: K,
    value: V,
    weight_bytes: usize,
    /// Towards the most recently used.
    newer: u32,
    /// Towards the least recently used.
    older: u32,
}

/// A least-recently-used cache, bounded by weight.
struct Lru<K, V> {
    map: HashMap<K, u32>,
    /// Free nodes are `None`, and their indices are in `free`.
    nodes: Vec<Option<Node<K, V>>>,
    free: Vec<u32>,
    newest: u32,
    oldest: u32,
    stats: CacheStats,
}

impl<K: Copy + Eq + Hash, V: Clone> Lru<K, V> {
    fn new(budget_bytes: usize) -> Self {
        Lru {
            map: HashMap::new(),
            nodes: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            stats: CacheStats { budget_bytes, ..CacheStats::default() },
        }
    }

    fn node(&mut self, index: u32) -> Option<&mut Node<K, V>> {
        self.nodes.get_mut(index as usize)?.as_mut()
    }

    /// Returns a value and makes it the most recently used one.
    fn touch(&mut self, key: &K) -> Option<V> {
        let index = *self.map.get(key)?;
        self.unlink(index);
        self.link(index);
        self.node(index).map(|node| node.value.clone())
    }

    /// Returns a value without changing the order.
    fn peek(&self, key: &K) -> Option<&V> {
        let index = *self.map.get(key)?;
        self.nodes[index as usize].as_ref().map(|node| &node.value)
    }

    fn insert(&mut self, key: K, value: V, value_bytes: usize) {
        self.remove(&key);
        let weight_bytes = value_bytes.saturating_add(NODE_BYTES);
        if weight_bytes > self.stats.budget_bytes {
            return;
        }
        while self.stats.used_bytes > self.stats.budget_bytes - weight_bytes {
            let Some(oldest) = self.node(self.oldest).map(|node| node.key) else { break };
            self.remove(&oldest);
        }
        let node = Node { key, value, weight_bytes, newer: NONE, older: NONE };
        let index = self.free.pop().unwrap_or_else(|| {
            self.nodes.push(None);
            self.nodes.len() as u32 - 1
        });
        self.nodes[index as usize] = Some(node);
        self.map.insert(key, index);
        self.link(index);
        self.stats.used_bytes += weight_bytes;
        self.stats.values += 1;
    }

    fn remove(&mut self, key: &K) {
        let Some(index) = self.map.remove(key) else { return };
        self.unlink(index);
        if let Some(node) = self.nodes[index as usize].take() {
            self.stats.used_bytes -= node.weight_bytes;
            self.stats.values -= 1;
            self.free.push(index);
        }
    }

    fn clear(&mut self) {
        *self = Lru { stats: CacheStats { values: 0, used_bytes: 0, ..self.stats }, ..Lru::new(0) };
    }

    /// Makes a node the newest.
    fn link(&mut self, index: u32) {
        let newest = std::mem::replace(&mut self.newest, index);
        if let Some(node) = self.node(index) {
            (node.newer, node.older) = (NONE, newest);
        }
        match self.node(newest) {
            Some(node) => node.newer = index,
            None => self.oldest = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Some((newer, older)) = self.node(index).map(|node| (node.newer, node.older)) else { return };
        match self.node(newer) {
            Some(node) => node.older = older,
            None => self.newest = older,
        }
        match self.node(older) {
            Some(node) => node.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn note(&mut self, found: bool) {
        if found {
            self.stats.hits += 1;
        } else {
            self.stats.misses += 1;
        }
    }
}

/// A cache of the entries of objects.
pub struct EntriesCache(Lru<ObjectId, Arc<ObjectEntries>>);

impl EntriesCache {
    /// An empty cache that holds at most `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Self {
        EntriesCache(Lru::new(budget_bytes))
    }

    /// The entries of an object.
    pub fn get(&mut self, id: &ObjectId) -> Option<Arc<ObjectEntries>> {
        let found = self.0.touch(id);
        self.0.note(found.is_some());
        found
    }

    /// Stores the entries under the object that their header names.
    pub fn insert(&mut self, entries: Arc<ObjectEntries>) {
        let bytes = entries.units.len() * size_of::<TrailerUnit>();
        self.0.insert(entries.header.id, entries, bytes);
    }

    /// Removes the entries of an object.
    pub fn forget(&mut self, id: &ObjectId) {
        self.0.remove(id);
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Its content and use.
    pub fn stats(&self) -> CacheStats {
        self.0.stats
    }
}

/// A cache of frames of objects.
///
/// A frame is stored under its object and its first position. A lookup does not know the object's
/// frame size, so it tries the first position that each frame size of the format would give: at
/// most five, the default size first.
pub struct BlocksCache(Lru<(ObjectId, Lsn), Arc<ObjectBlocks>>);

impl BlocksCache {
    /// An empty cache that holds at most `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Self {
        BlocksCache(Lru::new(budget_bytes))
    }

    /// The frame of an object that contains the block at `lsn`.
    pub fn get(&mut self, id: &ObjectId, lsn: Lsn) -> Option<Arc<ObjectBlocks>> {
        let found = self.find(id, lsn).and_then(|key| self.0.touch(&key));
        self.0.note(found.is_some());
        found
    }

    fn find(&self, id: &ObjectId, lsn: Lsn) -> Option<(ObjectId, Lsn)> {
        let offset = lsn.0.checked_sub(id.from_lsn.0)?;
        frame_sizes().find_map(|frame_blocks| {
            let first_lsn = id.from_lsn.plus(offset - offset % frame_blocks);
            let len_blocks = (self.0.peek(&(*id, first_lsn))?.bytes.len() / BLOCK_BYTES) as u64;
            (lsn.0 - first_lsn.0 < len_blocks).then_some((*id, first_lsn))
        })
    }

    /// Stores a frame of an object. A frame that cannot belong to it is not stored, because no
    /// lookup would find it.
    pub fn insert(&mut self, id: ObjectId, blocks: Arc<ObjectBlocks>) {
        let first_lsn = blocks.first_lsn;
        let frame_blocks_min = u64::from(FRAME_BYTES_MIN) / BLOCK_BYTES as u64;
        let offset = first_lsn.0.checked_sub(id.from_lsn.0);
        if first_lsn < id.to_lsn && offset.is_some_and(|offset| offset.is_multiple_of(frame_blocks_min)) {
            let bytes = blocks.bytes.len();
            self.0.insert((id, first_lsn), blocks, bytes);
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Its content and use.
    pub fn stats(&self) -> CacheStats {
        self.0.stats
    }
}

/// Seek tables of objects, shared by the reader threads: with its table cached, reading a block of
/// an object takes one call of the store instead of three.
///
/// An object may be deleted and stored again under its name with other bytes. So a reader that
/// finds damage with a cached table [removes](Self::forget) the table and reads the object itself.
pub struct TablesCache(Mutex<Lru<ObjectId, Arc<ObjectTable>>>);

/// The default budget for seek tables, in bytes: enough for about 1200 segments of 64 MiB.
pub const TABLES_CACHE_BYTES_DEFAULT: usize = 8 << 20;

impl TablesCache {
    /// An empty cache that holds at most `budget_bytes`.
    pub fn new(budget_bytes: usize) -> Self {
        TablesCache(Mutex::new(Lru::new(budget_bytes)))
    }

    /// The table of an object.
    pub fn get(&self, id: &ObjectId) -> Option<Arc<ObjectTable>> {
        let mut tables = self.lock();
        let found = tables.touch(id);
        tables.note(found.is_some());
        found
    }

    /// Stores the table under the object that its tail names.
    pub fn insert(&self, table: Arc<ObjectTable>) {
        let bytes = size_of_val(table.frames());
        self.lock().insert(table.tail().id, table, bytes);
    }

    /// Removes the table of an object.
    pub fn forget(&self, id: &ObjectId) {
        self.lock().remove(id);
    }

    /// Its content and use.
    pub fn stats(&self) -> CacheStats {
        self.lock().stats
    }

    /// A panic while the lock was held leaves at worst one table too many or too few.
    fn lock(&self) -> MutexGuard<'_, Lru<ObjectId, Arc<ObjectTable>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for TablesCache {
    fn default() -> Self {
        TablesCache::new(TABLES_CACHE_BYTES_DEFAULT)
    }
}

/// The frame sizes of the format, in blocks; the default one first.
fn frame_sizes() -> impl Iterator<Item = u64> {
    let others = (FRAME_BYTES_MIN.ilog2()..=FRAME_BYTES_MAX.ilog2())
        .map(|exponent| 1 << exponent)
        .filter(|&bytes| bytes != FRAME_BYTES_DEFAULT);
    std::iter::once(FRAME_BYTES_DEFAULT).chain(others).map(|bytes: u32| u64::from(bytes) / BLOCK_BYTES as u64)
}
