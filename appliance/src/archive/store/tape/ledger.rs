//! Records what the tape store has written, in a file next to the tapes: which cartridges there
//! are, where each ends, and what is on them.
//!
//! The cartridges describe themselves, and the store can be opened from them alone. The ledger
//! distinguishes a cartridge that lost its end from one on which a write was cut off, and an object
//! that is away with its cartridge from one that never existed. It is never ahead of the tape, and
//! never older than what a commit has reported: its line is made stable after the object's filemark
//! and before the commit returns.
//!
//! The file has lines `CRC32C JSON`; a damaged or incomplete line is skipped. For each name the
//! line with the highest file number is valid. Each open rewrites the ledger without outdated
//! lines.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::Name;
use crate::log::checksum::crc32c;
use crate::private;

const VERSION: u32 = 1;

/// A part of an object, by the number of its cartridge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownPart {
    pub cartridge: u64,
    pub object: u64,
    pub file: u64,
    pub bytes: u64,
    pub crc: u32,
}

/// A line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    Ledger {
        version: u32,
        store: Uuid,
    },
    Cartridge {
        number: u64,
        barcode: String,
    },
    Object {
        name: String,
        first_file: u64,
        len_bytes: u64,
        parts: Vec<KnownPart>,
    },
    Tombstone {
        name: String,
        file: u64,
        cartridge: u64,
    },
    /// The highest number of a finished file on a cartridge.
    End {
        cartridge: u64,
        file: u64,
    },
}

/// An object, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KnownObject {
    pub first_file: u64,
    pub len_bytes: u64,
    pub parts: Vec<KnownPart>,
}

/// What is known of a cartridge.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KnownCartridge {
    pub barcode: String,
    /// The last finished file on it; `None` while there is none.
    pub last_file: Option<u64>,
}

/// The content of all lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LedgerContent {
    pub cartridges: BTreeMap<u64, KnownCartridge>,
    /// The newest line for each name: its file number, with the object, or with `Err` and the
    /// cartridge of the tombstone.
    pub names: BTreeMap<Name, (u64, Result<KnownObject, u64>)>,
    /// Higher than the number of every file.
    pub next_file: u64,
}

impl LedgerContent {
    pub(super) fn take(&mut self, line: Line) {
        match line {
            Line::Ledger { .. } => {}
            Line::Cartridge { number, barcode } => {
                self.cartridges.entry(number).or_default().barcode = barcode;
            }
            Line::End { cartridge, file } => self.ended(cartridge, file),
            Line::Object { name, first_file, len_bytes, parts } => {
                for part in &parts {
                    self.ended(part.cartridge, part.file);
                }
                self.name(&name, first_file, Ok(KnownObject { first_file, len_bytes, parts }));
            }
            Line::Tombstone { name, file, cartridge } => {
                self.ended(cartridge, file);
                self.name(&name, file, Err(cartridge));
            }
        }
    }

    fn ended(&mut self, cartridge: u64, file: u64) {
        self.next_file = self.next_file.max(file.saturating_add(1));
        let known = self.cartridges.entry(cartridge).or_default();
        known.last_file = known.last_file.max(Some(file));
    }

    fn name(&mut self, name: &str, file: u64, word: Result<KnownObject, u64>) {
        let Ok(name) = Name::new(name) else { return };
        let newest = self.names.get(&name).is_none_or(|(known, _)| *known <= file);
        if newest {
            self.names.insert(name, (file, word));
        }
    }
}

/// The file, open for more lines.
#[derive(Debug)]
pub(super) struct Ledger {
    path: PathBuf,
    file: File,
    // The end of the file is unknown: it is cut to its known length before the next write.
    broken: bool,
    len_bytes: u64,
}

pub(super) fn encode(line: &Line) -> io::Result<String> {
    let json = serde_json::to_string(line).map_err(io::Error::other)?;
    Ok(format!("{:08x} {json}\n", crc32c(json.as_bytes())))
}

pub(super) fn decode(text: &[u8]) -> Option<Line> {
    let text = std::str::from_utf8(text).ok()?;
    let (crc, json) = text.split_once(' ')?;
    (u32::from_str_radix(crc, 16).ok()? == crc32c(json.as_bytes()))
        .then(|| serde_json::from_str(json).ok())?
}

/// The stores that have a ledger in a directory.
pub(super) fn owners(directory: &Path) -> io::Result<Vec<Uuid>> {
    let mut owners = Vec::new();
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(owners),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix("ledger-"));
        owners.extend(owner.and_then(|text| Uuid::try_parse(text).ok()));
    }
    owners.sort();
    Ok(owners)
}

fn path_of(directory: &Path, store: Uuid) -> PathBuf {
    directory.join(format!("ledger-{store}"))
}

/// Reads a ledger; `None` when this store has none.
pub(super) fn read(directory: &Path, store: Uuid) -> io::Result<Option<LedgerContent>> {
    let text = match fs::read(path_of(directory, store)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut lines = text.split(|&byte| byte == b'\n').filter_map(decode);
    if lines.next() != Some(Line::Ledger { version: VERSION, store }) {
        return Ok(None);
    }
    let mut known = LedgerContent::default();
    lines.for_each(|line| known.take(line));
    Ok(Some(known))
}

impl Ledger {
    /// Writes a new ledger.
    pub(super) fn create(directory: &Path, store: Uuid, known: &LedgerContent) -> io::Result<Self> {
        private::create_dir_all(directory)?;
        let path = path_of(directory, store);
        let mut text = encode(&Line::Ledger { version: VERSION, store })?;
        for (&number, cartridge) in &known.cartridges {
            text += &encode(&Line::Cartridge { number, barcode: cartridge.barcode.clone() })?;
            if let Some(file) = cartridge.last_file {
                text += &encode(&Line::End { cartridge: number, file })?;
            }
        }
        for (name, (file, word)) in &known.names {
            let name = name.to_string();
            text += &encode(&match word.clone() {
                Ok(KnownObject { first_file, len_bytes, parts }) => {
                    Line::Object { name, first_file, len_bytes, parts }
                }
                Err(cartridge) => Line::Tombstone { name, file: *file, cartridge },
            })?;
        }
        let file = private::replace(&path, text.as_bytes())?;
        Ok(Ledger { path, file, broken: false, len_bytes: text.len() as u64 })
    }

    /// Adds lines and makes them stable.
    pub(super) fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        if self.broken {
            self.file = File::options().append(true).open(&self.path)?;
            self.file.set_len(self.len_bytes)?;
            self.broken = false;
        }
        let mut text = String::new();
        for line in lines {
            text += &encode(line)?;
        }
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        self.broken = written.is_err();
        written?;
        self.len_bytes = self.len_bytes.saturating_add(text.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_this_version,
        VERSION => "| tape ledger | `\"version\"` in its first line | {} |",
        VERSION => "`{\"ledger\":{\"version\":{},\"store\":UUID}}`",
    );

    #[test]
    fn a_ledger_is_read_as_it_was_written_and_passes_over_what_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let store = Uuid::from_u128(5);
        assert_eq!(read(folder.path(), store).unwrap(), None);
        let mut ledger = Ledger::create(folder.path(), store, &LedgerContent::default()).unwrap();
        let part = |file| KnownPart { cartridge: 3, object: 2, file, bytes: 10, crc: 7 };
        let object = |name: &str, file| Line::Object {
            name: name.into(),
            first_file: file,
            len_bytes: 10,
            parts: vec![part(file)],
        };
        let lines = [
            Line::Cartridge { number: 3, barcode: "C".into() },
            object("a", 1),
            object("b", 2),
            Line::Tombstone { name: "a".into(), file: 4, cartridge: 3 },
        ];
        for line in &lines {
            ledger.append(std::slice::from_ref(line)).unwrap();
        }
        let known = read(folder.path(), store).unwrap().unwrap();
        assert_eq!(known.cartridges[&3], KnownCartridge { barcode: "C".into(), last_file: Some(4) });
        assert_eq!(known.next_file, 5);
        let name = |text| Name::new(text).unwrap();
        assert_eq!(known.names[&name("a")], (4, Err(3)));
        assert!(known.names[&name("b")].1.as_ref().is_ok_and(|object| object.parts == [part(2)]));
        // A rewritten ledger has the same content; a damaged line loses only its own content.
        Ledger::create(folder.path(), store, &known).unwrap();
        assert_eq!(read(folder.path(), store).unwrap().unwrap(), known);
        assert_eq!(owners(folder.path()).unwrap(), [store]);
        let path = path_of(folder.path(), store);
        let text = fs::read_to_string(&path).unwrap().replace("\"b\"", "\"x\"") + "1234";
        fs::write(&path, text).unwrap();
        let known = read(folder.path(), store).unwrap().unwrap();
        assert_eq!(known.names.keys().map(Name::as_str).collect::<Vec<_>>(), ["a"]);
        assert_eq!(read(folder.path(), Uuid::from_u128(6)).unwrap(), None);
    }
}
