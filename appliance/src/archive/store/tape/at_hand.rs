//! Keeps copies of small objects that must be readable whichever cartridge is away: the records of
//! who owns the archive.
//!
//! A copy of each is stored next to the ledger, so reading it moves no tape. It is also repeated as
//! one of the first files of each new cartridge, so that any set of cartridges shows who owns the
//! objects on it. The newest object of each folder is kept.
//!
//! ```text
//! at-hand-STORE-FOLDER   CRC32C NAME \n the object
//! ```
//!
//! A copy is used only if it matches what was written to the tape, by length and by the checksum of
//! each part.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::super::Name;
use super::entry::Entry;
use crate::log::checksum::{crc32c, running};
use crate::private;

/// The copies, one for each folder.
#[derive(Debug)]
pub(super) struct AtHand {
    directory: PathBuf,
    store: Uuid,
    kept: BTreeMap<String, (Name, Arc<[u8]>)>,
}

impl AtHand {
    /// Reads the copies of a store. A damaged copy is skipped: the tape has the object too.
    pub(super) fn open(directory: &Path, store: Uuid) -> io::Result<Self> {
        let mut kept = BTreeMap::new();
        let entries = match fs::read_dir(directory) {
            Ok(entries) => Some(entries),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let prefix = prefix_of(store);
        for entry in entries.into_iter().flatten() {
            let entry = entry?;
            let file_name = entry.file_name();
            let file_name = file_name.to_string_lossy();
            if !file_name.starts_with(&prefix) || file_name.ends_with(".new") {
                continue;
            }
            if let Some((name, bytes)) = decode(&fs::read(entry.path())?) {
                kept.insert(folder_of(&name).to_owned(), (name, bytes));
            } else {
                tracing::warn!(path = %entry.path().display(), "a copy of an object is damaged");
            }
        }
        Ok(AtHand { directory: directory.to_owned(), store, kept })
    }

    /// Stores a copy of an object; it replaces the earlier copy of the same folder.
    pub(super) fn keep(&mut self, name: &Name, bytes: &[u8]) -> io::Result<()> {
        let folder = folder_of(name).to_owned();
        let path = self.directory.join(prefix_of(self.store) + &folder.replace('/', "_"));
        private::replace(&path, &encode(name, bytes))?;
        self.kept.insert(folder, (name.clone(), bytes.into()));
        Ok(())
    }

    /// The copy of an object, if it matches what was written to the tape.
    pub(super) fn find(&self, name: &Name, entry: &Entry) -> Option<Arc<[u8]>> {
        let (_, bytes) = self.kept.get(folder_of(name)).filter(|(kept, _)| kept == name)?;
        is_content(entry, bytes).then(|| Arc::clone(bytes))
    }

    /// All copies.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Name, &Arc<[u8]>)> {
        self.kept.values().map(|(name, bytes)| (name, bytes))
    }
}

fn prefix_of(store: Uuid) -> String {
    format!("at-hand-{store}-")
}

fn folder_of(name: &Name) -> &str {
    name.as_str().rsplit_once('/').map_or("", |(folder, _)| folder)
}

pub(super) fn encode(name: &Name, bytes: &[u8]) -> Vec<u8> {
    let mut text = format!("{name}\n").into_bytes();
    text.extend_from_slice(bytes);
    text.splice(..0, format!("{:08x} ", crc32c(&text)).into_bytes());
    text
}

pub(super) fn decode(text: &[u8]) -> Option<(Name, Arc<[u8]>)> {
    let (crc, text) = text.split_at_checked(9)?;
    let crc = u32::from_str_radix(std::str::from_utf8(crc).ok()?.trim_end(), 16).ok()?;
    if crc32c(text) != crc {
        return None;
    }
    let mut pieces = text.splitn(2, |&byte| byte == b'\n');
    let (name, bytes) = (pieces.next()?, pieces.next()?);
    Some((Name::new(std::str::from_utf8(name).ok()?).ok()?, bytes.into()))
}

/// Whether the parts on tape contain these bytes.
pub(super) fn is_content(entry: &Entry, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut is_part = |bytes_of_part: u64, crc: u32| {
        let len = usize::try_from(bytes_of_part).ok()?;
        let (part, behind) = rest.split_at_checked(len)?;
        rest = behind;
        let mut digest = running();
        digest.update(part);
        (digest.finalize() as u32 == crc).then_some(())
    };
    entry.len_bytes == bytes.len() as u64
        && entry.parts.iter().all(|part| is_part(part.bytes, part.crc).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_folder_is_kept_and_a_damaged_copy_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Uuid::from_u128(7);
        let name = |text| Name::new(text).unwrap();
        let mut at_hand = AtHand::open(folder.path(), store).unwrap();
        at_hand.keep(&name("v1/a/owner/1"), b"one").unwrap();
        at_hand.keep(&name("v1/a/owner/2"), b"two\n\0").unwrap();
        at_hand.keep(&name("v1/b/owner/1"), b"other").unwrap();
        let found = |at_hand: &AtHand| -> Vec<(String, Vec<u8>)> {
            at_hand.all().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect()
        };
        let all = vec![
            ("v1/a/owner/2".to_owned(), b"two\n\0".to_vec()),
            ("v1/b/owner/1".to_owned(), b"other".to_vec()),
        ];
        assert_eq!(found(&at_hand), all);
        assert_eq!(found(&AtHand::open(folder.path(), store).unwrap()), all);
        assert_eq!(found(&AtHand::open(folder.path(), Uuid::from_u128(8)).unwrap()), []);

        let path = folder.path().join(format!("at-hand-{store}-v1_a_owner"));
        let whole = fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, bytes).unwrap();
            let found = found(&AtHand::open(folder.path(), store).unwrap());
            // The case of a hexadecimal digit has no effect.
            assert!(found == all[1..] || found == all, "bit {bit}: {found:?}");
        }
    }

    #[test]
    fn only_what_the_tape_was_given_is_believed() {
        let folder = tempfile::tempdir().unwrap();
        let name = Name::new("v1/a/owner/1").unwrap();
        let mut at_hand = AtHand::open(folder.path(), Uuid::from_u128(7)).unwrap();
        at_hand.keep(&name, b"onetwo").unwrap();
        let entry = |parts: &[&[u8]]| {
            let part = |bytes: &&[u8]| {
                let mut digest = running();
                digest.update(bytes);
                let crc = digest.finalize() as u32;
                super::super::entry::Part { cartridge: 0, object: 2, file: 0, bytes: bytes.len() as u64, crc }
            };
            let len_bytes = parts.iter().map(|part| part.len() as u64).sum();
            Entry { first_file: 0, len_bytes, parts: parts.iter().map(part).collect() }
        };
        assert!(at_hand.find(&name, &entry(&[b"onetwo"])).is_some());
        assert!(at_hand.find(&name, &entry(&[b"one", b"two"])).is_some());
        for parts in [&[&b"onetwx"[..]][..], &[b"onetw"], &[b"onetwo", b"three"], &[b"onx", b"two"]] {
            assert!(at_hand.find(&name, &entry(parts)).is_none(), "{parts:?}");
        }
        assert!(at_hand.find(&Name::new("v1/a/owner/2").unwrap(), &entry(&[b"onetwo"])).is_none());
    }
}
