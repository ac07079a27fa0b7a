//! Reads the marks on a cartridge, and moves to them. A place that cannot be read is a result here,
//! not an error: the caller knows what it means there.

use uuid::Uuid;

use super::drive::{Drive, DriveError, Read};
use super::format::{MAGIC, MARK_BYTES, Mark};

/// The position of a cartridge's first file: after the label and its filemark.
pub(super) const FIRST_FILE: u64 = 2;

/// What stands at a position.
pub(super) enum Content {
    Mark(Uuid, Mark),
    Filemark,
    EndOfData,
    Other,
    Unreadable,
}

/// Reads the next block as a mark.
pub(super) fn read_mark(drive: &mut dyn Drive) -> Result<Content, DriveError> {
    let mut block = [0; MARK_BYTES];
    match drive.read_block(&mut block) {
        Ok(Read::Block(MARK_BYTES)) => {
            // A damaged mark is not a block of data.
            let other = if block.starts_with(&MAGIC) { Content::Unreadable } else { Content::Other };
            Ok(Mark::decode(&block).map_or(other, |(owner, mark)| Content::Mark(owner, mark)))
        }
        Ok(Read::Block(_)) | Err(DriveError::BlockTooLarge(_)) => Ok(Content::Other),
        Err(DriveError::Medium(_)) => Ok(Content::Unreadable),
        Ok(Read::Filemark) => Ok(Content::Filemark),
        Ok(Read::EndOfData) => Ok(Content::EndOfData),
        Err(error) => Err(error),
    }
}

/// Moves only when the tape is at another position.
pub(super) fn go_to(drive: &mut dyn Drive, object: u64) -> Result<(), DriveError> {
    if drive.position()?.object != object {
        drive.locate(object)?;
        // A write destroys everything after it, so the position is checked again.
        if drive.position()?.object != object {
            return Err(DriveError::NoSuchPosition(object));
        }
    }
    Ok(())
}
