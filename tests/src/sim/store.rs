//! A store in memory, and the simulated disk as the archivist reads it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use varve::archive::object::{Decompressor, ObjectError, ObjectReader};
use varve::archive::service::{BlockSource, SourceError};
use varve::archive::store::{
    Capabilities, Name, ObjectStat, PAGE_OBJECTS_MAX, Page, Put, Sink, Space, Store, StoreError,
    StoreErrorKind,
};
use varve::dma::BLOCK_BYTES;

use super::disk::SimDisk;

/// A store in memory. It follows every rule of stores, but keeps nothing after the program ends.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<Name, Arc<Vec<u8>>>>,
}

impl MemoryStore {
    fn objects(&self) -> MutexGuard<'_, BTreeMap<Name, Arc<Vec<u8>>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &Name, operation: &'static str) -> Result<Arc<Vec<u8>>, StoreError> {
        let found = self.objects().get(name).cloned();
        found.ok_or_else(|| StoreError::new(self.label(), operation, StoreErrorKind::NotFound).of(name))
    }

    /// An independent store with the same objects.
    #[must_use]
    pub fn fork(&self) -> MemoryStore {
        MemoryStore { objects: Mutex::new(self.objects().clone()) }
    }

    /// The bytes of an object.
    pub fn bytes(&self, name: &Name) -> Option<Vec<u8>> {
        self.objects().get(name).map(|bytes| bytes.to_vec())
    }

    /// Sets the bytes of an object, or removes it, as only a damaged or hostile store does.
    pub fn set_bytes(&self, name: &Name, bytes: Option<Vec<u8>>) {
        match bytes {
            Some(bytes) => self.objects().insert(name.clone(), Arc::new(bytes)),
            None => self.objects().remove(name),
        };
    }

    /// The names of all objects, in order.
    pub fn names(&self) -> Vec<Name> {
        self.objects().keys().cloned().collect()
    }

    /// Whether an object exists and is not what it was when it was made.
    ///
    /// # Panics
    /// When there is no memory for a decompressor.
    pub fn is_damaged(&self, name: &Name) -> bool {
        let Ok(object) = self.find(name, "get") else { return false };
        let mut codec = Decompressor::new().expect("memory for a decompressor");
        let read = ObjectReader::open(&object[..]).and_then(|reader| reader.verify(&mut codec, |_| {}));
        read.is_err()
    }

    /// The total size of all objects in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.objects().values().map(|object| object.len() as u64).sum()
    }
}

struct MemoryPut<'a> {
    store: &'a MemoryStore,
    name: Name,
    bytes: Vec<u8>,
}

impl Sink for MemoryPut<'_> {
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

impl Put for MemoryPut<'_> {
    fn commit(self: Box<Self>) -> Result<ObjectStat, StoreError> {
        let mut objects = self.store.objects();
        if objects.contains_key(&self.name) {
            return Err(StoreError::new(self.store.label(), "commit", StoreErrorKind::Exists).of(&self.name));
        }
        let len_bytes = self.bytes.len() as u64;
        objects.insert(self.name.clone(), Arc::new(self.bytes));
        Ok(ObjectStat { name: self.name, len_bytes })
    }
}

impl Store for MemoryStore {
    fn label(&self) -> &'static str {
        "memory"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: "memory",
            random_access: true,
            conditional_put: true,
            rename: false,
            sequential_only: false,
            reclaims_space: true,
            object_bytes_max: None,
        }
    }

    fn put_start<'a>(&'a self, name: &Name, _max_bytes: u64) -> Result<Box<dyn Put + 'a>, StoreError> {
        if self.objects().contains_key(name) {
            return Err(StoreError::new(self.label(), "put", StoreErrorKind::Exists).of(name));
        }
        Ok(Box::new(MemoryPut { store: self, name: name.clone(), bytes: Vec::new() }))
    }

    fn stat(&self, name: &Name) -> Result<ObjectStat, StoreError> {
        let len_bytes = self.find(name, "stat")?.len() as u64;
        Ok(ObjectStat { name: name.clone(), len_bytes })
    }

    fn get_range(&self, name: &Name, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let object = self.find(name, "get")?;
        let range = usize::try_from(offset).ok().and_then(|start| object.get(start..)?.get(..buffer.len()));
        let range =
            range.ok_or_else(|| StoreError::new(self.label(), "get", StoreErrorKind::OutOfRange).of(name))?;
        buffer.copy_from_slice(range);
        Ok(())
    }

    fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Page, StoreError> {
        let limit = limit.min(PAGE_OBJECTS_MAX);
        let objects = self.objects();
        let mut found: Vec<ObjectStat> = objects
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(prefix) && after.is_none_or(|after| *name > after))
            .take(limit + 1)
            .map(|(name, object)| ObjectStat { name: name.clone(), len_bytes: object.len() as u64 })
            .collect();
        let more = found.len() > limit;
        found.truncate(limit);
        Ok(Page { objects: found, more })
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let gone = self.objects().remove(name);
        gone.map(|_| ())
            .ok_or_else(|| StoreError::new(self.label(), "delete", StoreErrorKind::NotFound).of(name))
    }

    fn sync(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn space(&self) -> Result<Space, StoreError> {
        Ok(Space { total_bytes: None, used_bytes: self.len_bytes() })
    }
}

/// How many times a block is tried before it counts as lost: more often than a transient fault
/// lasts, as in the product's archivist.
const TRIES: u32 = 9;

/// The disk as the archivist reads it. It returns what a device would return: everything written,
/// flushed or not.
pub struct DiskSource {
    disk: SimDisk,
    lost: Vec<u64>,
}

impl DiskSource {
    /// A source over a disk.
    pub fn new(disk: SimDisk) -> Self {
        DiskSource { disk, lost: Vec::new() }
    }
}

impl BlockSource for DiskSource {
    fn read(
        &mut self,
        block: u64,
        len_blocks: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), ObjectError>,
    ) -> Result<(), SourceError> {
        self.lost.clear();
        for start in (block..block + len_blocks).step_by(64) {
            let count = 64.min(block + len_blocks - start);
            let mut bytes = vec![0; count as usize * BLOCK_BYTES];
            for (at, chunk) in (start..).zip(bytes.chunks_exact_mut(BLOCK_BYTES)) {
                if !(0..TRIES).any(|_| self.disk.read_now(at, chunk)) {
                    chunk.fill(0xbd);
                    self.lost.push(at - block);
                }
            }
            take(&bytes)?;
        }
        if len_blocks > 0 && self.lost.len() as u64 == len_blocks {
            self.lost.clear();
            return Err(SourceError::Device(format!("block {block} of the simulated disk: a fault")));
        }
        Ok(())
    }

    fn lost(&self) -> &[u64] {
        &self.lost
    }
}
