//! Repeats the copies of objects that must be at hand on a cartridge that was begun.

use std::sync::Arc;

use super::super::{Name, StoreError};
use super::at_hand::is_content;
use super::drive::Library;
use super::entry::Entry;
use super::error::FileError;
use super::file::FileWriter;
use super::state::Tape;

/// Repeats the copies on a new cartridge. A copy that cannot be repeated now is repeated after the
/// next object. `known` finds an object of the store, `enter` adds one.
pub(super) fn repeat_at_hand<L: Library>(
    tape: &mut Tape<L>,
    block_bytes: usize,
    known: impl Fn(&Name) -> Option<Entry>,
    mut enter: impl FnMut(&mut Tape<L>, &Name, &Entry) -> Result<(), StoreError>,
) {
    let all: Vec<_> = tape.at_hand.all().map(|(name, bytes)| (name.clone(), Arc::clone(bytes))).collect();
    for (name, bytes) in all {
        let entry = known(&name);
        let is_elsewhere = |entry: &Entry| {
            entry.parts.last().map(|part| part.cartridge) != tape.current && is_content(entry, &bytes)
        };
        if !entry.as_ref().is_some_and(is_elsewhere) {
            continue;
        }
        let repeated = write_again(tape, block_bytes, &name, &bytes).map_err(|error| error.to_string());
        let noted = repeated.and_then(|entry| enter(tape, &name, &entry).map_err(|error| error.to_string()));
        if let Err(error) = noted {
            tape.verified = None;
            tracing::warn!(%name, error, "an object is not repeated on the cartridge that was begun");
        }
    }
}

fn write_again<L: Library>(
    tape: &mut Tape<L>,
    block_bytes: usize,
    name: &Name,
    bytes: &[u8],
) -> Result<Entry, FileError> {
    let mut writer = FileWriter::begin(tape, name, false)?;
    let written = bytes.chunks(block_bytes).try_for_each(|block| writer.write(tape, block));
    match written {
        Ok(()) => writer.finish(tape),
        Err(error) => {
            writer.abandon(tape);
            Err(error)
        }
    }
}
