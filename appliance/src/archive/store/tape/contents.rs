//! Builds the directory of a set of cartridges: the objects, from the files that a scan has found
//! and from the ledger.

use std::collections::BTreeMap;

use super::super::Name;
use super::cartridges::{Access, Cartridge, Cartridges};
use super::entry::{Entry, Part};
use super::format::{Header, Trailer};
use super::ledger::{KnownCartridge, KnownObject, KnownPart, LedgerContent};
use super::problem::TapeProblem;

/// The result of a scan.
#[derive(Debug, Default)]
pub(super) struct TapeContent {
    pub cartridges: Cartridges,
    /// The cartridge that was written last.
    pub current: Option<usize>,
    pub objects: BTreeMap<Name, Entry>,
    /// The newest tombstone of each name: its file and cartridge.
    pub tombstones: BTreeMap<Name, (u64, u64)>,
    pub next_file: u64,
    pub problems: Vec<TapeProblem>,
}

/// A file that has its trailer.
pub(super) struct File {
    pub cartridge: usize,
    pub object: u64,
    pub header: Header,
    pub trailer: Trailer,
}

/// The files of all cartridges.
pub(super) type Files = Vec<File>;

/// Joins the parts of objects, in the order in which they were written.
pub(super) fn assemble(found: &mut TapeContent, mut files: Files) {
    files.sort_by_key(|file| file.header.file);
    found.next_file = files.last().map_or(0, |file| file.header.file.saturating_add(1));
    let mut pending: Vec<&File> = Vec::new();
    for file in &files {
        if file.header.tombstone {
            found.objects.remove(&file.header.name);
            let number = found.cartridges[file.cartridge].number.unwrap_or(u64::MAX);
            found.tombstones.insert(file.header.name.clone(), (file.header.file, number));
            continue;
        }
        let fits = file.header.part as usize == pending.len()
            && pending.iter().all(|part| {
                let before = &part.header;
                (before.first_file, &before.name) == (file.header.first_file, &file.header.name)
            });
        if !fits {
            pending.clear();
            if file.header.part != 0 {
                continue;
            }
        }
        pending.push(file);
        let len_bytes = pending.iter().map(|part| part.trailer.part_bytes).fold(0, u64::saturating_add);
        if !file.trailer.last || len_bytes != file.trailer.object_bytes {
            continue;
        }
        let parts = pending.drain(..).map(part_of).collect();
        let entry = Entry { first_file: file.header.first_file, len_bytes, parts };
        found.objects.insert(file.header.name.clone(), entry);
    }
    // A finished file is never overwritten, even when its object is incomplete: a cartridge of the
    // set may only be absent.
    found.current = files.last().map(|file| file.cartridge).or_else(|| {
        let cartridges = found.cartridges.iter().enumerate();
        let numbered = cartridges.filter_map(|(index, cartridge)| Some((cartridge.number?, index)));
        numbered.min().map(|(_, index)| index)
    });
}

fn part_of(file: &File) -> Part {
    Part {
        cartridge: file.cartridge,
        object: file.object,
        file: file.header.file,
        bytes: file.trailer.part_bytes,
        crc: file.trailer.data_crc,
    }
}

/// Adds what the ledger has and the cartridges do not show: cartridges that are away, and objects
/// that are on them or were lost at a damaged place.
pub(super) fn merge(found: &mut TapeContent, known: Option<&LedgerContent>) {
    let Some(known) = known else {
        let highest = found.cartridges.iter().filter_map(|cartridge| cartridge.number).max();
        for number in 0..highest.unwrap_or(0) {
            if index_of(found, number).is_none() {
                found.problems.push(TapeProblem::Missing { number });
            }
        }
        return;
    };
    found.next_file = found.next_file.max(known.next_file);
    for (&number, cartridge) in &known.cartridges {
        if index_of(found, number).is_none() {
            let away = Cartridge {
                number: Some(number),
                has_label: true,
                access: Access::Away,
                last_file: cartridge.last_file,
                ..Cartridge::new(cartridge.barcode.clone())
            };
            found.cartridges.push(away);
        }
    }
    let mut away: BTreeMap<usize, u64> = BTreeMap::new();
    let mut lost = Vec::new();
    for (name, (file, word)) in &known.names {
        let on_tape = found.objects.get(name).map(|entry| entry.first_file);
        match word {
            Ok(object) => {
                let deleted = found.tombstones.get(name).is_some_and(|(tombstone, _)| tombstone > file);
                if deleted || on_tape >= Some(*file) {
                    continue;
                }
                let Some(entry) = entry_of(found, object) else { continue };
                let absent =
                    entry.parts.iter().find(|part| found.cartridges[part.cartridge].access == Access::Away);
                match absent {
                    Some(part) => {
                        let objects = away.entry(part.cartridge).or_default();
                        *objects = objects.saturating_add(1);
                    }
                    None => lost.push(name.to_string()),
                }
                found.objects.insert(name.clone(), entry);
            }
            Err(cartridge) => {
                if on_tape < Some(*file) {
                    found.objects.remove(name);
                }
                let newest = found.tombstones.entry(name.clone()).or_insert((*file, *cartridge));
                *newest = (*newest).max((*file, *cartridge));
            }
        }
    }
    for (index, cartridge) in found.cartridges.iter().enumerate() {
        if cartridge.access == Access::Away && cartridge.last_file.is_some() {
            let barcode = cartridge.barcode.clone();
            let number = cartridge.number.unwrap_or_default();
            let objects = away.get(&index).copied().unwrap_or_default();
            found.problems.push(TapeProblem::Away { barcode, number, objects });
        }
    }
    if let Some(first) = lost.first().cloned() {
        found.problems.push(TapeProblem::Lost { objects: lost.len() as u64, first });
    }
}

fn index_of(found: &TapeContent, number: u64) -> Option<usize> {
    found.cartridges.iter().position(|cartridge| cartridge.number == Some(number))
}

fn entry_of(found: &TapeContent, object: &KnownObject) -> Option<Entry> {
    let parts = object.parts.iter().map(|part| {
        let cartridge = index_of(found, part.cartridge)?;
        Some(Part { cartridge, object: part.object, file: part.file, bytes: part.bytes, crc: part.crc })
    });
    let parts = parts.collect::<Option<Vec<_>>>()?;
    Some(Entry { first_file: object.first_file, len_bytes: object.len_bytes, parts })
}

/// An object in the ledger's form; `None` if it is on a cartridge whose number is not known.
pub(super) fn known_of(cartridges: &Cartridges, entry: &Entry) -> Option<KnownObject> {
    let parts = entry.parts.iter().map(|part| {
        let cartridge = cartridges[part.cartridge].number?;
        Some(KnownPart { cartridge, object: part.object, file: part.file, bytes: part.bytes, crc: part.crc })
    });
    let parts = parts.collect::<Option<Vec<_>>>()?;
    Some(KnownObject { first_file: entry.first_file, len_bytes: entry.len_bytes, parts })
}

/// Everything that was found, for a ledger that is rewritten.
pub(super) fn known(found: &TapeContent) -> LedgerContent {
    let mut known = LedgerContent { next_file: found.next_file, ..LedgerContent::default() };
    for cartridge in found.cartridges.iter() {
        if let Some(number) = cartridge.number {
            let barcode = cartridge.barcode.clone();
            known.cartridges.insert(number, KnownCartridge { barcode, last_file: cartridge.last_file });
        }
    }
    for (name, &(file, cartridge)) in &found.tombstones {
        known.names.insert(name.clone(), (file, Err(cartridge)));
    }
    for (name, entry) in &found.objects {
        if let Some(object) = known_of(&found.cartridges, entry) {
            known.names.insert(name.clone(), (entry.first_file, Ok(object)));
        }
    }
    known
}
