//! Writes one object to tape, across as many cartridges as it needs.

use super::super::{Name, longer};
use super::cartridges::{Access, Cartridge, Cartridges};
use super::drive::{DriveError, Library};
use super::entry::{Entry, Part};
use super::error::FileError;
use super::format::{Header, Mark, Trailer};
use super::ledger::Line;
use super::mark::FIRST_FILE;
use super::place::{mount_label, mount_to_append, write_at};
use super::state::Tape;
use crate::log::checksum::running;

/// An object that is being written. It is not valid before [`finish`](Self::finish): the append
/// positions of the cartridges do not change until then.
pub(super) struct FileWriter {
    name: Name,
    tombstone: bool,
    first_file: u64,
    file: u64,
    cartridge: usize,
    // The position of the current part's header.
    object: u64,
    // The position at which the next block must be written.
    position: u64,
    full: bool,
    tried: Vec<usize>,
    // Finished parts, and the positions after them.
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
                Some(current)
                    if self.tried.is_empty() && tape.cartridges[current].access == Access::Writable =>
                {
                    current
                }
                _ => next_cartridge(tape, &self.tried)?,
            };
            self.tried.push(index);
            match mount_to_append(tape, index) {
                Ok(()) => {}
                // The present content is not what this store left there.
                Err(DriveError::Changed | DriveError::NoSuchCartridge) => {
                    let cartridge = &mut tape.cartridges[index];
                    let (store, cartridge_name) = (tape.store, &cartridge.barcode);
                    tracing::error!(%store, cartridge = cartridge_name, "the cartridge is not as it was left; nothing is written to it any more");
                    cartridge.access = Access::ReadOnly;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            if tape.cartridges[index].number.is_none() && !label(tape, index)? {
                continue;
            }
            self.file = tape.next_file;
            tape.next_file = tape.next_file.saturating_add(1);
            let header = Mark::Header(Header {
                file: self.file,
                first_file: self.first_file,
                part: self.ended.len() as u32,
                tombstone: self.tombstone,
                name: self.name.clone(),
            });
            let object = tape.cartridges[index].append;
            let block = header.encode(tape.store);
            tape.cartridges[index].scrap = true;
            match write_at(tape, index, object)?.write_block(&block) {
                Ok(written) if !written.early_warning => {}
                // Full: the file begins on the next cartridge. This header has no filemark, so it
                // is not valid.
                Ok(_) | Err(DriveError::EndOfMedium) => continue,
                Err(error) => return Err(error.into()),
            }
            self.cartridge = index;
            self.object = object;
            self.position = object.saturating_add(1);
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
            match write_at(tape, self.cartridge, self.position)?.write_block(block) {
                Ok(written) => {
                    self.full = written.early_warning;
                    self.position = self.position.saturating_add(1);
                    self.part_bytes = longer(self.part_bytes, block.len());
                    self.object_bytes = longer(self.object_bytes, block.len());
                    self.digest.update(block);
                    return Ok(());
                }
                // A part without data would repeat this forever.
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
        let drive = write_at(tape, self.cartridge, self.position)?;
        drive.write_block(&trailer.encode(store))?;
        drive.write_filemarks(1, false)?;
        let file = self.file;
        let part = Part { cartridge: self.cartridge, object: self.object, file, bytes: self.part_bytes, crc };
        // After the trailer and its filemark.
        self.ended.push((part, self.position.saturating_add(2)));
        Ok(())
    }

    /// Gives up the object: the further cartridges that it used are labelled again and are empty.
    /// On the first cartridge the next file overwrites it. If the drive fails now, only space is
    /// lost.
    pub(super) fn abandon<L: Library>(self, tape: &mut Tape<L>) {
        let parts = self.ended.iter().map(|(part, _)| part.cartridge).chain([self.cartridge]);
        let first = self.ended.first().map_or(self.cartridge, |(part, _)| part.cartridge);
        for index in parts.filter(|&index| index != first) {
            if let Err(error) = label(tape, index) {
                tracing::warn!(cartridge = tape.cartridges[index].barcode, %error, "cannot clear a cartridge");
            }
        }
    }

    /// Ends the object: now it is valid.
    pub(super) fn finish<L: Library>(mut self, tape: &mut Tape<L>) -> Result<Entry, FileError> {
        self.end_part(tape, true)?;
        tape.current = Some(self.cartridge);
        let mut parts = Vec::with_capacity(self.ended.len());
        for (part, end) in self.ended {
            let cartridge = &mut tape.cartridges[part.cartridge];
            cartridge.append = end;
            cartridge.ended_at = end;
            cartridge.last_file = cartridge.last_file.max(Some(part.file));
            cartridge.scrap = false;
            cartridge.count_file(part.bytes);
            parts.push(part);
        }
        Ok(Entry { first_file: self.first_file, len_bytes: self.object_bytes, parts })
    }
}

/// The next cartridge to write to: an empty one of the set, or a blank one, including one that was
/// inserted since the last scan.
fn next_cartridge<L: Library>(tape: &mut Tape<L>, tried: &[usize]) -> Result<usize, FileError> {
    let next = |cartridges: &Cartridges| {
        let untried = cartridges.iter().enumerate().filter(|(index, _)| !tried.contains(index));
        untried
            .filter(|(_, cartridge)| cartridge.access == Access::Writable)
            .filter(|(_, cartridge)| cartridge.number.is_none() || cartridge.append == FIRST_FILE)
            .map(|(index, cartridge)| (cartridge.number.unwrap_or(u64::MAX), index))
            .min()
            .map(|(_, index)| index)
    };
    if let Some(index) = next(&tape.cartridges) {
        return Ok(index);
    }
    for barcode in tape.library.cartridges()? {
        // A cartridge is read before anything is written: only a blank one is used.
        if tape.cartridges.iter().all(|known| known.barcode != barcode) && !tape.foreign.contains(&barcode) {
            tape.cartridges.push(Cartridge::new(barcode));
        }
    }
    next(&tape.cartridges).ok_or_else(|| {
        let damaged = tape.cartridges.iter().find(|cartridge| cartridge.access == Access::ReadOnly);
        damaged.map_or(FileError::NoCartridge, |damaged| FileError::Damaged(damaged.barcode.clone()))
    })
}

/// Labels a cartridge that holds nothing, blank or already in the set; `false` when it is too small
/// for a label.
fn label<L: Library>(tape: &mut Tape<L>, index: usize) -> Result<bool, FileError> {
    let next = tape
        .cartridges
        .iter()
        .filter_map(|cartridge| cartridge.number)
        .max()
        .map_or(0, |number| number.saturating_add(1));
    let number = tape.cartridges[index].number.unwrap_or(next);
    let block = Mark::Label { number }.encode(tape.store);
    let drive = mount_label(tape, index)?;
    match drive.write_block(&block) {
        Ok(written) if !written.early_warning => {}
        Ok(_) | Err(DriveError::EndOfMedium) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    drive.write_filemarks(1, false)?;
    let cartridge: &mut Cartridge = &mut tape.cartridges[index];
    cartridge.number = Some(number);
    cartridge.has_label = true;
    cartridge.append = FIRST_FILE;
    cartridge.ended_at = FIRST_FILE;
    cartridge.scrap = false;
    let line = Line::Cartridge { number, barcode: cartridge.barcode.clone() };
    tape.verified = Some(index);
    tape.ledger.append(&[line]).map_err(DriveError::Io)?;
    Ok(true)
}
