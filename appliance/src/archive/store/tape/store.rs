//! The tape store: objects as files on a set of cartridges.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use uuid::Uuid;

use super::super::error::Reason;
use super::super::{
    Capabilities, Name, ObjectStat, Page, Put, Sink, Space, Store, StoreError, StoreErrorKind, check_range,
    longer, page, split_for,
};
use super::at_hand::AtHand;
use super::cartridges::Access;
use super::contents::{known, known_of};
use super::drive::{Drive, DriveError, Library, Read};
use super::entry::Entry;
use super::error::{drive_error, file_error};
use super::file::FileWriter;
use super::format::{MARK_BYTES, Mark};
use super::ledger::{self, Ledger, Line};
use super::place::mount_at;
use super::problem::TapeProblem;
use super::repeat::repeat_at_hand;
use super::scan::scan;
use super::stage::{self, Stage};
use super::state::Tape;
use crate::archive::object::RangedRead;

/// The settings of a tape store.
#[derive(Debug, Clone)]
pub struct TapeOptions {
    /// Bytes of a data block: 512 up to what the drive can write; 256 KiB is usual. Objects with
    /// other block sizes can be read as well.
    pub block_bytes: usize,
    /// The directory where objects are staged for reading. It belongs to the store alone; staged
    /// files in it are removed at open.
    pub cache: PathBuf,
    /// The most bytes of staged objects, and so also the size of the largest object.
    pub cache_bytes: u64,
    /// The directory where the store records what it has written to which cartridge. It should last
    /// as long as the cartridges: without it, a cartridge that lost its end cannot be distinguished
    /// from one on which a write was cut off.
    pub ledger: PathBuf,
}

/// A store on tape. One put at a time; while it is open, an object that is not staged cannot be
/// read (`Unavailable`).
pub struct TapeStore<L: Library> {
    label: String,
    options: TapeOptions,
    tape: Mutex<Tape<L>>,
    objects: Mutex<BTreeMap<Name, Entry>>,
    problems: Vec<TapeProblem>,
}

impl<L: Library> TapeStore<L> {
    /// Opens the cartridges of `library` that belong to `store` or are blank, and reads every
    /// label, header and trailer. Cartridges with other contents are never written to.
    ///
    /// # Errors
    /// `Unsupported` for a block size that the drive cannot write, or the drive's.
    pub fn open(mut library: L, store: Uuid, options: TapeOptions, label: &str) -> Result<Self, StoreError> {
        let failed = |error: DriveError| drive_error(label, "open", &error);
        let written = |error: io::Error| StoreError::io(label, "open (its ledger)", &error);
        let remembered = ledger::read(&options.ledger, store).map_err(written)?;
        let found = scan(&mut library, store, remembered.as_ref()).map_err(failed)?;
        let ledger = Ledger::create(&options.ledger, store, &known(&found)).map_err(written)?;
        let at_hand = AtHand::open(&options.ledger, store).map_err(written)?;
        let foreign = found.problems.iter().filter_map(|problem| match problem {
            TapeProblem::Foreign { barcode } | TapeProblem::Twin { barcode, .. } => Some(barcode.clone()),
            _ => None,
        });
        let foreign = foreign.collect();
        if let Some(cartridge) = found.cartridges.iter().find(|there| there.access != Access::Away) {
            let drive = library.mount(&cartridge.barcode).map_err(failed)?.drive;
            if !(MARK_BYTES..=drive.block_bytes_max()).contains(&options.block_bytes) {
                let kind = StoreErrorKind::Unsupported("the drive has no blocks of this size");
                return Err(StoreError::new(label, "open", kind));
            }
        }
        let stage = Stage::open(&options.cache, options.cache_bytes)
            .map_err(|error| StoreError::io(label, "open", &error))?;
        let tape = Tape {
            library,
            store,
            cartridges: found.cartridges,
            current: found.current,
            next_file: found.next_file,
            verified: None,
            foreign,
            ledger,
            at_hand,
            stage,
            writing: false,
            block: Vec::new(),
        };
        Ok(TapeStore {
            label: label.to_owned(),
            options,
            tape: Mutex::new(tape),
            objects: Mutex::new(found.objects),
            problems: found.problems,
        })
    }

    /// The problems that the open found.
    pub fn problems(&self) -> &[TapeProblem] {
        &self.problems
    }

    /// The barcodes of the cartridges that hold an object, in reading order.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn cartridges_of(&self, name: &Name) -> Result<Vec<String>, StoreError> {
        let entry = self.entry("stat", name)?;
        let tape = self.tape();
        Ok(entry.parts.iter().map(|part| tape.cartridges[part.cartridge].barcode.clone()).collect())
    }

    /// Adds an object that was written. It is on the tape in any case; the put succeeds only when
    /// the ledger has it.
    fn enter(&self, tape: &mut Tape<L>, name: &Name, entry: &Entry) -> Result<(), StoreError> {
        self.objects().insert(name.clone(), entry.clone());
        self.note(tape, name, entry)
    }

    /// Repeats the objects that must be at hand on a cartridge that was begun.
    fn repeat_at_hand(&self, tape: &mut Tape<L>) {
        let known = |name: &Name| self.known(name);
        let enter = |tape: &mut Tape<L>, name: &Name, entry: &Entry| self.enter(tape, name, entry);
        repeat_at_hand(tape, self.options.block_bytes, known, enter);
    }

    /// Records an object in the ledger.
    fn note(&self, tape: &mut Tape<L>, name: &Name, entry: &Entry) -> Result<(), StoreError> {
        let Some(object) = known_of(&tape.cartridges, entry) else { return Ok(()) };
        let (first_file, len_bytes, parts) = (object.first_file, object.len_bytes, object.parts);
        let line = Line::Object { name: name.to_string(), first_file, len_bytes, parts };
        let written = tape.ledger.append(&[line]);
        written.map_err(|error| StoreError::io(&self.label, "put (its ledger)", &error).of(name))
    }

    fn tape(&self) -> MutexGuard<'_, Tape<L>> {
        self.tape.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Name, Entry>> {
        self.objects.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn error(&self, operation: &'static str, kind: StoreErrorKind, name: &Name) -> StoreError {
        StoreError::new(&self.label, operation, kind).of(name)
    }

    /// An object, if it exists.
    fn known(&self, name: &Name) -> Option<Entry> {
        self.objects().get(name).cloned()
    }

    fn entry(&self, operation: &'static str, name: &Name) -> Result<Entry, StoreError> {
        self.known(name).ok_or_else(|| self.error(operation, StoreErrorKind::NotFound, name))
    }

    /// The tape, for an operation that moves it.
    fn idle_tape(&self, operation: &'static str, name: &Name) -> Result<MutexGuard<'_, Tape<L>>, StoreError> {
        let tape = self.tape();
        if tape.writing {
            let busy = Reason::Busy("the drive is writing an object");
            return Err(self.error(operation, StoreErrorKind::Unavailable(busy), name));
        }
        Ok(tape)
    }

    /// The staged file of an object; copies it from tape if it is not staged.
    fn staged(&self, name: &Name, entry: &Entry) -> Result<Arc<File>, StoreError> {
        {
            let mut tape = self.tape();
            if let Some(file) = tape.stage.find(entry.place()) {
                return Ok(file);
            }
        }
        let mut tape = self.idle_tape("get", name)?;
        // Another reader may have staged it meanwhile.
        if let Some(file) = tape.stage.find(entry.place()) {
            return Ok(file);
        }
        if entry.len_bytes > tape.stage.bound_bytes() {
            let kind = StoreErrorKind::Unsupported("it is larger than the cache for reading");
            return Err(self.error("get", kind, name));
        }
        let failed = |error: io::Error| StoreError::io(&self.label, "get (staging)", &error).of(name);
        let file = tape.stage.create(entry.place(), entry.len_bytes).map_err(failed)?;
        match self.copy(&mut tape, name, entry, &file) {
            Ok(()) => Ok(tape.stage.insert(entry.place(), entry.len_bytes, file)),
            Err(error) => {
                tape.verified = None;
                tape.stage.remove(entry.place());
                Err(error)
            }
        }
    }

    /// Copies an object from tape to a file, and checks it.
    fn copy(&self, tape: &mut Tape<L>, name: &Name, entry: &Entry, file: &File) -> Result<(), StoreError> {
        let corrupt = |what| self.error("get", StoreErrorKind::Corrupt(what), name);
        let mut block = std::mem::take(&mut tape.block);
        let mut offset = 0_u64;
        for (number, part) in entry.parts.iter().enumerate() {
            let store = tape.store;
            let place = format!("{}, cartridge {}", self.label, tape.cartridges[part.cartridge].barcode);
            let failed = |error: DriveError| drive_error(&place, "get", &error).of(name);
            let drive = mount_at(tape, part.cartridge, part.object).map_err(failed)?;
            block.resize(drive.block_bytes_max(), 0);
            let head = match drive.read_block(&mut block).map_err(failed)? {
                Read::Block(len) => block.get(..len).and_then(Mark::decode),
                Read::Filemark | Read::EndOfData => None,
            };
            let expected = match head {
                Some((owner, Mark::Header(header))) => {
                    owner == store
                        && header.name == *name
                        && (header.first_file, header.part as usize) == (entry.first_file, number)
                }
                _ => false,
            };
            if !expected {
                return Err(corrupt("another file is in its place"));
            }
            let mut digest = crate::log::checksum::running();
            let mut left = part.bytes;
            while left > 0 {
                let Read::Block(len) = drive.read_block(&mut block).map_err(failed)? else {
                    return Err(corrupt("shorter than it was"));
                };
                left = left.checked_sub(len as u64).ok_or_else(|| corrupt("longer than it was"))?;
                let data = block.get(..len).unwrap_or_default();
                digest.update(data);
                file.write_all_at(data, offset)
                    .map_err(|error| StoreError::io(&self.label, "get (staging)", &error).of(name))?;
                offset = offset.saturating_add(len as u64);
            }
            if digest.finalize() as u32 != part.crc {
                return Err(corrupt("checksum mismatch"));
            }
        }
        tape.block = block;
        Ok(())
    }
}

struct TapePut<'a, L: Library> {
    store: &'a TapeStore<L>,
    name: Name,
    // `None` after the commit.
    writer: Option<FileWriter>,
    block: Vec<u8>,
    len_bytes: u64,
    max_bytes: u64,
}

impl<L: Library> TapePut<'_, L> {
    fn write_block(&mut self, block: &[u8]) -> Result<(), StoreError> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let written = writer.write(&mut self.store.tape(), block);
        written.map_err(|error| file_error(&self.store.label, "put", &error).of(&self.name))
    }
}

impl<L: Library> Sink for TapePut<'_, L> {
    fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        let len_bytes = longer(self.len_bytes, bytes.len());
        if len_bytes > self.max_bytes {
            return Err(self.store.error("put", StoreErrorKind::OutOfRange, &self.name));
        }
        self.len_bytes = len_bytes;
        let block_bytes = self.store.options.block_bytes;
        while !bytes.is_empty() {
            let (now, rest) = split_for(bytes, block_bytes, self.block.len());
            bytes = rest;
            self.block.extend_from_slice(now);
            if self.block.len() == block_bytes {
                let mut block = std::mem::take(&mut self.block);
                self.write_block(&block)?;
                block.clear();
                self.block = block;
            }
        }
        Ok(())
    }
}

impl<L: Library> Put for TapePut<'_, L> {
    fn commit(mut self: Box<Self>) -> Result<ObjectStat, StoreError> {
        let block = std::mem::take(&mut self.block);
        if !block.is_empty() {
            self.write_block(&block)?;
        }
        let stat = ObjectStat { name: self.name.clone(), len_bytes: self.len_bytes };
        if let Some(writer) = self.writer.take() {
            let mut tape = self.store.tape();
            // After a failure the object has no end, so it does not exist.
            let finished = writer.finish(&mut tape);
            tape.writing = false;
            let entry = match finished {
                Ok(entry) => entry,
                Err(error) => {
                    tape.verified = None;
                    return Err(file_error(&self.store.label, "put", &error).of(&self.name));
                }
            };
            self.store.enter(&mut tape, &self.name, &entry)?;
            self.store.repeat_at_hand(&mut tape);
        }
        Ok(stat)
    }
}

impl<L: Library> Drop for TapePut<'_, L> {
    fn drop(&mut self) {
        // The next file overwrites the unfinished one.
        if let Some(writer) = self.writer.take() {
            let mut tape = self.store.tape();
            writer.abandon(&mut tape);
            tape.writing = false;
            tape.verified = None;
        }
    }
}

impl<L: Library> Store for TapeStore<L> {
    fn label(&self) -> &str {
        &self.label
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: "tape",
            random_access: false,
            conditional_put: true,
            rename: false,
            sequential_only: true,
            reclaims_space: false,
            object_bytes_max: Some(self.options.cache_bytes),
        }
    }

    fn put_start<'a>(&'a self, name: &Name, max_bytes: u64) -> Result<Box<dyn Put + 'a>, StoreError> {
        let mut tape = self.idle_tape("put", name)?;
        if self.objects().contains_key(name) {
            return Err(self.error("put", StoreErrorKind::Exists, name));
        }
        if max_bytes > self.options.cache_bytes {
            let kind = StoreErrorKind::Unsupported("it would be larger than the cache for reading");
            return Err(self.error("put", kind, name));
        }
        let writer = FileWriter::begin(&mut tape, name, false)
            .map_err(|error| file_error(&self.label, "put", &error).of(name))?;
        tape.writing = true;
        let name = name.clone();
        Ok(Box::new(TapePut {
            store: self,
            name,
            writer: Some(writer),
            block: Vec::new(),
            len_bytes: 0,
            max_bytes,
        }))
    }

    fn stat(&self, name: &Name) -> Result<ObjectStat, StoreError> {
        let entry = self.entry("stat", name)?;
        Ok(ObjectStat { name: name.clone(), len_bytes: entry.len_bytes })
    }

    fn get_range(&self, name: &Name, offset: u64, buffer: &mut [u8]) -> Result<(), StoreError> {
        let entry = self.entry("get", name)?;
        let stat = ObjectStat { name: name.clone(), len_bytes: entry.len_bytes };
        check_range(&stat, &self.label, offset, buffer.len())?;
        if buffer.is_empty() {
            return Ok(());
        }
        if let Some(bytes) = self.tape().at_hand.find(name, &entry) {
            return bytes.read_at(offset, buffer);
        }
        let file = self.staged(name, &entry)?;
        stage::read(&file, offset, buffer)
            .map_err(|error| StoreError::io(&self.label, "get (staged)", &error).of(name))
    }

    fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Page, StoreError> {
        use std::ops::Bound;
        let start = match after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.as_str()),
            _ => Bound::Included(prefix),
        };
        let objects = self.objects();
        let objects = objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(name, _)| name.as_str().starts_with(prefix))
            .map(|(name, entry)| ObjectStat { name: name.clone(), len_bytes: entry.len_bytes });
        Ok(page(objects, limit))
    }

    fn delete(&self, name: &Name) -> Result<(), StoreError> {
        let mut tape = self.idle_tape("delete", name)?;
        let entry = self.entry("delete", name)?;
        let written = FileWriter::begin(&mut tape, name, true).and_then(|writer| writer.finish(&mut tape));
        let tombstone = written.map_err(|error| {
            tape.verified = None;
            file_error(&self.label, "delete", &error).of(name)
        })?;
        self.objects().remove(name);
        tape.stage.remove(entry.place());
        let cartridge = tombstone.parts.first().and_then(|part| tape.cartridges[part.cartridge].number);
        let line = Line::Tombstone {
            name: name.to_string(),
            file: tombstone.first_file,
            cartridge: cartridge.unwrap_or(u64::MAX),
        };
        let written = tape.ledger.append(&[line]);
        written.map_err(|error| StoreError::io(&self.label, "delete (its ledger)", &error).of(name))
    }

    fn make_durable(&self, name: &Name) -> Result<(), StoreError> {
        let mut tape = self.idle_tape("sync", name)?;
        let entry = self.entry("sync", name)?;
        for part in &entry.parts {
            let flushed = mount_at(&mut tape, part.cartridge, part.object).and_then(Drive::flush);
            flushed.map_err(|error| drive_error(&self.label, "sync", &error).of(name))?;
        }
        self.note(&mut tape, name, &entry)
    }

    fn keep_at_hand(&self, name: &Name, bytes: &[u8]) -> Result<(), StoreError> {
        let kept = self.tape().at_hand.keep(name, bytes);
        kept.map_err(|error| StoreError::io(&self.label, "keep (beside its ledger)", &error).of(name))
    }

    fn sync(&self) -> Result<(), StoreError> {
        // Each filemark was written synchronously.
        Ok(())
    }

    fn space(&self) -> Result<Space, StoreError> {
        let used_bytes = self.tape().cartridges.iter().map(|cartridge| cartridge.used_bytes).sum();
        Ok(Space { total_bytes: None, used_bytes })
    }
}
