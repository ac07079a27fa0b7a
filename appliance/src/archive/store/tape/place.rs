//! Positions the drive on a cartridge, with the checks that are required before a read or a write.

use super::cartridges::Access;
use super::drive::{Drive, DriveError, Library};
use super::format::Mark;
use super::mark::{Content, FIRST_FILE, go_to, read_mark};
use super::state::Tape;

/// Mounts a cartridge, and reads its label when another one may be in its place.
fn mount<L: Library>(tape: &mut Tape<L>, index: usize) -> Result<&mut dyn Drive, DriveError> {
    let cartridge = &tape.cartridges[index];
    let mounted = tape.library.mount(&cartridge.barcode)?;
    if mounted.is_new {
        tape.verified = None;
    }
    // A cartridge with a damaged label has no number to compare; each of its files is checked when
    // it is read.
    if tape.verified != Some(index) && cartridge.has_label {
        mounted.drive.locate(0)?;
        match read_mark(mounted.drive)? {
            Content::Mark(owner, Mark::Label { number })
                if owner == tape.store && Some(number) == cartridge.number => {}
            _ => return Err(DriveError::NoSuchCartridge),
        }
    }
    tape.verified = Some(index);
    Ok(mounted.drive)
}

/// The drive at a position to read from.
pub(super) fn mount_at<L: Library>(
    tape: &mut Tape<L>,
    index: usize,
    object: u64,
) -> Result<&mut dyn Drive, DriveError> {
    let drive = mount(tape, index)?;
    go_to(drive, object)?;
    Ok(drive)
}

/// Checks that a cartridge is still the same one, that it ends where it ended before, and that only
/// uncommitted data follows.
///
/// # Errors
/// [`DriveError::Changed`], or the drive's.
pub(super) fn mount_to_append<L: Library>(tape: &mut Tape<L>, index: usize) -> Result<(), DriveError> {
    look_before_append(tape, index).map_err(|error| match error {
        DriveError::NoSuchPosition(_) | DriveError::Medium(_) => DriveError::Changed,
        error => error,
    })
}

fn look_before_append<L: Library>(tape: &mut Tape<L>, index: usize) -> Result<(), DriveError> {
    let cartridge = tape.cartridges[index].clone();
    let store = tape.store;
    let drive = mount(tape, index)?;
    if !drive.damage().is_empty() {
        return Err(DriveError::Changed);
    }
    let mut object = 0;
    if cartridge.number.is_some() {
        // The last mark before the position of the next file: a label or a trailer.
        let mark = cartridge.ended_at.saturating_sub(2);
        go_to(drive, mark)?;
        let is_last = match read_mark(drive)? {
            Content::Mark(owner, Mark::Trailer(trailer)) => {
                owner == store && Some(trailer.file) == cartridge.last_file
            }
            Content::Mark(owner, Mark::Label { number }) => {
                owner == store && Some(number) == cartridge.number && cartridge.ended_at == FIRST_FILE
            }
            _ => false,
        };
        if !is_last {
            return Err(DriveError::Changed);
        }
        object = cartridge.ended_at.saturating_sub(1);
        while object < cartridge.append {
            if !matches!(read_mark(drive)?, Content::Filemark) {
                return Err(DriveError::Changed);
            }
            object = object.saturating_add(1);
        }
    } else {
        drive.rewind()?;
    }
    let is_end = match read_mark(drive)? {
        Content::EndOfData => drive.tail_bytes() == 0 || cartridge.scrap,
        Content::Mark(owner, Mark::Header(header)) => {
            cartridge.scrap && owner == store && cartridge.last_file.is_none_or(|last| header.file > last)
        }
        Content::Mark(owner, Mark::Label { .. }) => {
            cartridge.scrap && owner == store && cartridge.number.is_none()
        }
        // An incomplete header, with the filemark of a driver whose process died.
        Content::Filemark | Content::Other | Content::Unreadable => cartridge.scrap,
        Content::Mark(..) => false,
    };
    if !is_end {
        return Err(DriveError::Changed);
    }
    drive.allow_writes(object);
    go_to(drive, object)
}

/// The drive with a cartridge that [`mount_to_append`] has checked, at a position where a write
/// continues.
pub(super) fn write_at<L: Library>(
    tape: &mut Tape<L>,
    index: usize,
    object: u64,
) -> Result<&mut dyn Drive, DriveError> {
    let cartridge = &tape.cartridges[index];
    if object < cartridge.append || cartridge.access != Access::Writable {
        return Err(DriveError::Protected(object));
    }
    let mounted = tape.library.mount(&cartridge.barcode)?;
    if mounted.is_new || tape.verified != Some(index) {
        tape.verified = None;
        return Err(DriveError::Changed);
    }
    go_to(mounted.drive, object)?;
    Ok(mounted.drive)
}

/// The drive at the position of the label of a cartridge that holds nothing: a blank one, or one
/// with data only of a put that was given up.
pub(super) fn mount_label<L: Library>(
    tape: &mut Tape<L>,
    index: usize,
) -> Result<&mut dyn Drive, DriveError> {
    let cartridge = &tape.cartridges[index];
    let is_empty =
        cartridge.number.is_none() || (cartridge.append == FIRST_FILE && cartridge.last_file.is_none());
    if !is_empty || cartridge.access != Access::Writable {
        return Err(DriveError::Protected(0));
    }
    let drive = mount(tape, index)?;
    drive.allow_writes(0);
    go_to(drive, 0)?;
    Ok(drive)
}
