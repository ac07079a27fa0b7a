//! Reads a set of cartridges: their owner, their labels, and with [`Scanner`] the files on them.

use uuid::Uuid;

use super::cartridges::{Access, Cartridge};
use super::contents::{Files, TapeContent, assemble, merge};
use super::drive::{Drive, DriveError, Library};
use super::files::Scanner;
use super::format::Mark;
use super::ledger::LedgerContent;
use super::mark::{Content, FIRST_FILE, read_mark};
use super::problem::TapeProblem;

/// The number of objects at the beginning of a cartridge that are searched for its owner when its
/// label cannot be read.
const OWNER_OBJECTS: u64 = 1024;

/// The owners of the cartridges: for each barcode the UUID of the store on it, `None` when it is
/// blank or holds something else.
///
/// # Errors
/// The library's.
pub fn identify(library: &mut dyn Library) -> Result<Vec<(String, Option<Uuid>)>, DriveError> {
    let mut owners = Vec::new();
    for barcode in library.cartridges()? {
        let drive = library.mount(&barcode)?.drive;
        drive.rewind()?;
        let owner = match read_mark(drive)? {
            Content::Mark(owner, Mark::Label { .. }) => Some(owner),
            Content::EndOfData => None,
            _ => owner_behind(drive)?,
        };
        owners.push((barcode, owner));
    }
    Ok(owners)
}

/// The owner of the first marks after a label that cannot be read.
fn owner_behind(drive: &mut dyn Drive) -> Result<Option<Uuid>, DriveError> {
    for object in 1..OWNER_OBJECTS {
        match drive.locate(object).and_then(|()| read_mark(drive)) {
            Ok(Content::Mark(owner, _)) => return Ok(Some(owner)),
            Ok(Content::EndOfData) | Err(DriveError::NoSuchPosition(_)) => break,
            Ok(_) | Err(DriveError::Medium(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// Reads all cartridges of the store. `known` is what the ledger has about them, if there is one.
pub(super) fn scan(
    library: &mut dyn Library,
    store: Uuid,
    known: Option<&LedgerContent>,
) -> Result<TapeContent, DriveError> {
    let mut found = TapeContent::default();
    let mut files = Files::new();
    for barcode in library.cartridges()? {
        scan_cartridge(library, barcode, store, known, &mut found, &mut files)?;
    }
    assemble(&mut found, files);
    merge(&mut found, known);
    Ok(found)
}

fn scan_cartridge(
    library: &mut dyn Library,
    barcode: String,
    store: Uuid,
    known: Option<&LedgerContent>,
    found: &mut TapeContent,
    files: &mut Files,
) -> Result<(), DriveError> {
    let is_named = library.names_cartridges();
    // The ledger's record of a cartridge with this barcode; a drive without barcodes has none.
    let remembered = known
        .filter(|_| is_named)
        .and_then(|known| known.cartridges.iter().find(|(_, cartridge)| cartridge.barcode == barcode));
    let drive = library.mount(&barcode)?.drive;
    let mut cartridge = Cartridge::new(barcode);
    drive.rewind()?;
    match read_mark(drive)? {
        Content::EndOfData => match remembered {
            Some((&number, known)) if known.last_file.is_some() => {
                cartridge.number = Some(number);
                cartridge.access = Access::ReadOnly;
                let barcode = cartridge.barcode.clone();
                found.problems.push(TapeProblem::CutShort { barcode, object: 0, file: known.last_file });
            }
            _ => cartridge.scrap = drive.tail_bytes() > 0,
        },
        Content::Mark(owner, Mark::Label { number }) if owner == store => {
            if found.cartridges.iter().any(|other| other.number == Some(number)) {
                found.problems.push(TapeProblem::Twin { barcode: cartridge.barcode, number });
                return Ok(());
            }
            let next = read_mark(drive)?;
            let last_file = known.and_then(|known| known.cartridges.get(&number)?.last_file);
            // Without its filemark the label was cut off: the cartridge counts as blank.
            if matches!(next, Content::EndOfData) && last_file.is_none() {
                cartridge.scrap = true;
            } else {
                cartridge.number = Some(number);
                cartridge.has_label = true;
                (cartridge.append, cartridge.ended_at) = (FIRST_FILE, FIRST_FILE);
                let mut scanner = Scanner::new(drive, store, found.cartridges.len(), cartridge);
                if !matches!(next, Content::Filemark) {
                    scanner.damaged = true;
                    let barcode = scanner.cartridge.barcode.clone();
                    found.problems.push(TapeProblem::Unreadable { barcode, object: 1 });
                }
                cartridge = scanner.run(known.is_some(), last_file, files, &mut found.problems)?;
            }
        }
        _ if owner_behind(drive)? == Some(store) => {
            let object = 0;
            found.problems.push(TapeProblem::Unreadable { barcode: cartridge.barcode.clone(), object });
            cartridge.number = remembered.map(|(&number, _)| number);
            let last_file = remembered.and_then(|(_, known)| known.last_file);
            (cartridge.append, cartridge.ended_at) = (1, 1);
            let mut scanner = Scanner::new(drive, store, found.cartridges.len(), cartridge);
            scanner.damaged = true;
            cartridge = scanner.run(known.is_some(), last_file, files, &mut found.problems)?;
        }
        _ => {
            found.problems.push(TapeProblem::Foreign { barcode: cartridge.barcode });
            return Ok(());
        }
    }
    found.cartridges.push(cartridge);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_has_these_places,
        FIRST_FILE => "the first file at position {}",
        OWNER_OBJECTS - 1 => "if the first mark at positions 1 to {} is of this store",
    );
}
