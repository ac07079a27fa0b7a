//! Rebuilds the directory of a set of cartridges from their labels, headers and trailers.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::super::Name;
use super::drive::{Drive, DriveError, Library, Read};
use super::format::{Header, MARK_BYTES, Mark, Trailer};

/// What was found wrong with a cartridge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapeProblem {
    /// It holds something else, and is left alone.
    Foreign {
        /// The cartridge.
        barcode: String,
    },
    /// A file on it cannot be read; what it held is missing.
    Unreadable {
        /// The cartridge.
        barcode: String,
        /// Where the file begins.
        object: u64,
    },
}

/// A cartridge of the set.
#[derive(Debug, Clone)]
pub(super) struct Cartridge {
    pub barcode: String,
    /// Its number in the set; `None` while it is blank.
    pub number: Option<u64>,
    /// Where the next file goes.
    pub append: u64,
    /// Bytes of the files before that place.
    pub used_bytes: u64,
}

/// Where a part of an object is.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub cartridge: usize,
    /// Where its header is.
    pub object: u64,
    pub bytes: u64,
    pub crc: u32,
}

/// An object on tape.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub first_file: u64,
    pub len_bytes: u64,
    pub parts: Vec<Part>,
}

impl Entry {
    /// Names the object among all that are on the cartridges: where it begins.
    pub(super) fn place(&self) -> Place {
        self.parts.first().map_or((usize::MAX, self.first_file), |part| (part.cartridge, part.object))
    }
}

/// A cartridge, and the position of a file's header on it.
pub(super) type Place = (usize, u64);

/// What a scan finds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub cartridges: Vec<Cartridge>,
    /// The cartridge that was written to last.
    pub current: Option<usize>,
    pub objects: BTreeMap<Name, Entry>,
    pub next_file: u64,
    pub problems: Vec<TapeProblem>,
}

/// A file that has its trailer.
struct File {
    cartridge: usize,
    object: u64,
    header: Header,
    trailer: Trailer,
}

/// Bytes that a file takes beside its data.
pub(super) const FILE_OVERHEAD_BYTES: u64 = 2 * MARK_BYTES as u64;

/// Whose cartridges these are: for each barcode the UUID of the store on it, `None` when it is blank or holds something else.
///
/// # Errors
/// The library's.
pub fn identify(library: &mut dyn Library) -> Result<Vec<(String, Option<Uuid>)>, DriveError> {
    let mut owners = Vec::new();
    for barcode in library.cartridges()? {
        let drive = library.mount(&barcode)?;
        drive.rewind()?;
        let owner = match read_mark(drive)? {
            Content::Mark(owner, Mark::Label { .. }) => Some(owner),
            _ => None,
        };
        owners.push((barcode, owner));
    }
    Ok(owners)
}

enum Content {
    Mark(Uuid, Mark),
    Filemark,
    EndOfData,
    Other,
    Unreadable,
}

/// Reads the next block as a mark.
fn read_mark(drive: &mut dyn Drive) -> Result<Content, DriveError> {
    let mut block = [0; MARK_BYTES];
    match drive.read_block(&mut block) {
        Ok(Read::Block(MARK_BYTES)) => {
            Ok(Mark::decode(&block).map_or(Content::Other, |(owner, mark)| Content::Mark(owner, mark)))
        }
        Ok(Read::Block(_)) | Err(DriveError::BlockTooLarge(_)) => Ok(Content::Other),
        Err(DriveError::Medium(_)) => Ok(Content::Unreadable),
        Ok(Read::Filemark) => Ok(Content::Filemark),
        Ok(Read::EndOfData) => Ok(Content::EndOfData),
        Err(error) => Err(error),
    }
}

/// Reads all cartridges of the store.
pub(super) fn scan(library: &mut dyn Library, store: Uuid) -> Result<Found, DriveError> {
    let mut found = Found::default();
    let mut files = Vec::new();
    for barcode in library.cartridges()? {
        let drive = library.mount(&barcode)?;
        drive.rewind()?;
        let mut cartridge = Cartridge { barcode, number: None, append: 0, used_bytes: 0 };
        match read_mark(drive)? {
            Content::EndOfData => {}
            Content::Mark(owner, Mark::Label { number }) if owner == store => {
                // Without its filemark the label was cut off: the cartridge is blank still.
                if matches!(read_mark(drive)?, Content::Filemark) {
                    cartridge.number = Some(number);
                    cartridge.append = 2;
                    let index = found.cartridges.len();
                    scan_files(drive, store, index, &mut cartridge, &mut files, &mut found.problems)?;
                }
            }
            _ => {
                found.problems.push(TapeProblem::Foreign { barcode: cartridge.barcode });
                continue;
            }
        }
        found.cartridges.push(cartridge);
    }
    assemble(&mut found, files);
    Ok(found)
}

fn scan_files(
    drive: &mut dyn Drive,
    store: Uuid,
    index: usize,
    cartridge: &mut Cartridge,
    files: &mut Vec<File>,
    problems: &mut Vec<TapeProblem>,
) -> Result<(), DriveError> {
    loop {
        let object = cartridge.append;
        drive.locate(object)?;
        let head = read_mark(drive)?;
        if matches!(head, Content::EndOfData) {
            return Ok(());
        }
        if matches!(head, Content::Filemark) {
            cartridge.append += 1;
            continue;
        }
        if drive.space_filemarks(1)? == 0 {
            // The end of the file is missing: it was being written. The next file goes here.
            return Ok(());
        }
        cartridge.append = drive.position()?.object;
        drive.locate(cartridge.append - 2)?;
        let end = read_mark(drive)?;
        match (head, end) {
            (
                Content::Mark(head_owner, Mark::Header(header)),
                Content::Mark(end_owner, Mark::Trailer(trailer)),
            ) if head_owner == store
                && end_owner == store
                && (header.file, header.first_file, header.part)
                    == (trailer.file, trailer.first_file, trailer.part) =>
            {
                cartridge.used_bytes += trailer.part_bytes + FILE_OVERHEAD_BYTES;
                files.push(File { cartridge: index, object, header, trailer });
            }
            (
                Content::Mark(head_owner, Mark::Header(_)),
                Content::Other | Content::Mark(_, Mark::Header(_)),
            ) if head_owner == store && is_last(drive, cartridge.append)? => {
                // Its trailer was never written; the filemark is that of a driver that lost its process. The next file goes here.
                cartridge.append = object;
                return Ok(());
            }
            _ => problems.push(TapeProblem::Unreadable { barcode: cartridge.barcode.clone(), object }),
        }
    }
}

/// Whether nothing stands on the tape from a place on.
fn is_last(drive: &mut dyn Drive, object: u64) -> Result<bool, DriveError> {
    drive.locate(object)?;
    Ok(matches!(read_mark(drive)?, Content::EndOfData))
}

/// Puts the parts of objects together, in the order in which they were written.
fn assemble(found: &mut Found, mut files: Vec<File>) {
    files.sort_by_key(|file| file.header.file);
    found.next_file = files.last().map_or(0, |file| file.header.file + 1);
    let mut pending: Vec<usize> = Vec::new();
    for (index, file) in files.iter().enumerate() {
        if file.header.tombstone {
            found.objects.remove(&file.header.name);
            continue;
        }
        let fits = file.header.part as usize == pending.len()
            && pending.iter().all(|&part: &usize| {
                let before = &files[part].header;
                (before.first_file, &before.name) == (file.header.first_file, &file.header.name)
            });
        if !fits {
            pending.clear();
            if file.header.part != 0 {
                continue;
            }
        }
        pending.push(index);
        let len_bytes: u64 = pending.iter().map(|&part| files[part].trailer.part_bytes).sum();
        if !file.trailer.last || len_bytes != file.trailer.object_bytes {
            continue;
        }
        let parts = pending
            .drain(..)
            .map(|part| {
                let File { cartridge, object, trailer, .. } = &files[part];
                Part {
                    cartridge: *cartridge,
                    object: *object,
                    bytes: trailer.part_bytes,
                    crc: trailer.data_crc,
                }
            })
            .collect();
        let entry = Entry { first_file: file.header.first_file, len_bytes, parts };
        found.objects.insert(file.header.name.clone(), entry);
    }
    // A file that has its end is never written over, even when its object is incomplete: a cartridge of the set may only be absent.
    found.current = files.last().map(|file| file.cartridge).or_else(|| {
        (0..found.cartridges.len())
            .filter(|&index| found.cartridges[index].number.is_some())
            .min_by_key(|&index| found.cartridges[index].number)
    });
}
