//! Writes one object to tape, over as many cartridges as it needs.

use super::super::{Name, StoreErrorKind};
use super::drive::{Drive, DriveError, Library};
use super::format::{Header, Mark, Trailer};
use super::scan::{Cartridge, Entry, FILE_OVERHEAD_BYTES, Part};
use super::store::Tape;
use crate::log::checksum::running;

/// Why it failed: the drive, or no cartridge is left.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error("no cartridge has room")]
    NoCartridge,
}

impl FileError {
    /// The kind for the store's caller; `None` for the operating system's failures.
    pub(super) fn kind(&self) -> Option<StoreErrorKind> {
        match self {
            FileError::NoCartridge => Some(StoreErrorKind::NoSpace),
            FileError::Drive(error) => super::store::drive_kind(error),
        }
    }
}

/// An object that is being written. Nothing of it counts before [`finish`](Self::finish): the places where the cartridges are
/// appended to do not change until then.
pub(super) struct FileWriter {
    name: Name,
    tombstone: bool,
    first_file: u64,
    file: u64,
    cartridge: usize,
    // Where the current part's header is.
    object: u64,
    // Where the tape must stand for the next block.
    position: u64,
    full: bool,
    tried: Vec<usize>,
    // Parts that have ended, and where.
    ended: Vec<(Part, u64)>,
    part_bytes: u64,
    object_bytes: u64,
    digest: crc_fast::Digest,
}

impl FileWriter {
    /// Writes the header of an object or a tombstone.
    pub(super) fn begin<L: Library>(
        tape: &mut Tape<L>,
        name: &Name,
        tombstone: bool,
    ) -> Result<Self, FileError> {
        let mut writer = FileWriter {
            name: name.clone(),
            tombstone,
            first_file: tape.next_file,
            file: 0,
            cartridge: 0,
            object: 0,
            position: 0,
            full: false,
            tried: Vec::new(),
            ended: Vec::new(),
            part_bytes: 0,
            object_bytes: 0,
            digest: running(),
        };
        writer.begin_part(tape)?;
        Ok(writer)
    }

    fn begin_part<L: Library>(&mut self, tape: &mut Tape<L>) -> Result<(), FileError> {
        loop {
            let index = match tape.current {
                Some(current) if self.tried.is_empty() => current,
                _ => next_cartridge(&tape.cartridges, &self.tried).ok_or(FileError::NoCartridge)?,
            };
            self.tried.push(index);
            if tape.cartridges[index].number.is_none() && !label(tape, index)? {
                continue;
            }
            self.file = tape.next_file;
            tape.next_file += 1;
            let header = Mark::Header(Header {
                file: self.file,
                first_file: self.first_file,
                part: self.ended.len() as u32,
                tombstone: self.tombstone,
                name: self.name.clone(),
            });
            let object = tape.cartridges[index].append;
            let block = header.encode(tape.store);
            match mount_at(tape, index, object)?.write_block(&block) {
                Ok(written) if !written.early_warning => {}
                // Full: the file begins on the next one. This header has no filemark, so it counts for nothing.
                Ok(_) | Err(DriveError::EndOfMedium) => continue,
                Err(error) => return Err(error.into()),
            }
            self.cartridge = index;
            self.object = object;
            self.position = object + 1;
            self.full = false;
            self.part_bytes = 0;
            self.digest = running();
            return Ok(());
        }
    }

    /// Writes a block of data.
    pub(super) fn write<L: Library>(&mut self, tape: &mut Tape<L>, block: &[u8]) -> Result<(), FileError> {
        loop {
            if self.full {
                self.end_part(tape, false)?;
                self.begin_part(tape)?;
            }
            match mount_at(tape, self.cartridge, self.position)?.write_block(block) {
                Ok(written) => {
                    self.full = written.early_warning;
                    self.position += 1;
                    self.part_bytes += block.len() as u64;
                    self.object_bytes += block.len() as u64;
                    self.digest.update(block);
                    return Ok(());
                }
                // A part without any data would go round for ever.
                Err(DriveError::EndOfMedium) if self.part_bytes > 0 => self.full = true,
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn end_part<L: Library>(&mut self, tape: &mut Tape<L>, last: bool) -> Result<(), FileError> {
        let crc = self.digest.finalize() as u32;
        let trailer = Mark::Trailer(Trailer {
            file: self.file,
            first_file: self.first_file,
            part: self.ended.len() as u32,
            last,
            part_bytes: self.part_bytes,
            object_bytes: self.object_bytes,
            data_crc: crc,
        });
        let store = tape.store;
        let drive = mount_at(tape, self.cartridge, self.position)?;
        drive.write_block(&trailer.encode(store))?;
        drive.write_filemarks(1, false)?;
        let part = Part { cartridge: self.cartridge, object: self.object, bytes: self.part_bytes, crc };
        self.ended.push((part, self.position + 2));
        Ok(())
    }

    /// Gives the object up: the cartridges on which it went on are empty again. On the first one it is written over by the next file. A drive
    /// that fails now costs space and nothing else.
    pub(super) fn abandon<L: Library>(self, tape: &mut Tape<L>) {
        let parts = self.ended.iter().map(|(part, _)| part.cartridge).chain([self.cartridge]);
        let first = self.ended.first().map_or(self.cartridge, |(part, _)| part.cartridge);
        for index in parts.filter(|&index| index != first) {
            if let Err(error) = label(tape, index) {
                tracing::warn!(cartridge = tape.cartridges[index].barcode, %error, "cannot clear a cartridge");
            }
        }
    }

    /// Ends the object: now it counts.
    pub(super) fn finish<L: Library>(mut self, tape: &mut Tape<L>) -> Result<Entry, FileError> {
        self.end_part(tape, true)?;
        tape.current = Some(self.cartridge);
        let mut parts = Vec::with_capacity(self.ended.len());
        for (part, end) in self.ended {
            let cartridge = &mut tape.cartridges[part.cartridge];
            cartridge.append = end;
            cartridge.used_bytes += part.bytes + FILE_OVERHEAD_BYTES;
            parts.push(part);
        }
        Ok(Entry { first_file: self.first_file, len_bytes: self.object_bytes, parts })
    }
}

/// The next cartridge to write to: one of the set that holds nothing yet, or a blank one.
fn next_cartridge(cartridges: &[Cartridge], tried: &[usize]) -> Option<usize> {
    (0..cartridges.len())
        .filter(|index| !tried.contains(index))
        .filter(|&index| cartridges[index].number.is_none() || cartridges[index].append == FIRST_FILE)
        .min_by_key(|&index| (cartridges[index].number.unwrap_or(u64::MAX), index))
}

/// Where the first file of a cartridge begins: behind the label and its filemark.
const FIRST_FILE: u64 = 2;

/// Labels a cartridge that holds nothing, blank or of the set already; `false` when it is too small for anything.
fn label<L: Library>(tape: &mut Tape<L>, index: usize) -> Result<bool, FileError> {
    let next =
        tape.cartridges.iter().filter_map(|cartridge| cartridge.number).max().map_or(0, |number| number + 1);
    let number = tape.cartridges[index].number.unwrap_or(next);
    let block = Mark::Label { number }.encode(tape.store);
    let drive = mount_at(tape, index, 0)?;
    match drive.write_block(&block) {
        Ok(written) if !written.early_warning => {}
        Ok(_) | Err(DriveError::EndOfMedium) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    drive.write_filemarks(1, false)?;
    let cartridge: &mut Cartridge = &mut tape.cartridges[index];
    cartridge.number = Some(number);
    cartridge.append = FIRST_FILE;
    Ok(true)
}

/// The drive with a cartridge in it, at a position; it moves only when it stands elsewhere.
pub(super) fn mount_at<L: Library>(
    tape: &mut Tape<L>,
    index: usize,
    object: u64,
) -> Result<&mut dyn Drive, DriveError> {
    let drive = tape.library.mount(&tape.cartridges[index].barcode)?;
    if drive.position()?.object != object {
        drive.locate(object)?;
        // A write destroys what lies behind it: be sure of the place.
        if drive.position()?.object != object {
            return Err(DriveError::NoSuchPosition(object));
        }
    }
    Ok(drive)
}
