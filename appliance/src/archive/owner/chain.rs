//! Finds the generation in force, and makes the next one.

use uuid::Uuid;

use super::record::{Generation, RecordDamage};
use crate::archive::store::{Name, PAGE_OBJECTS_MAX, Store, StoreError, StoreErrorKind, read_front};

/// A longer object with a generation's name is not a generation.
const RECORD_BYTES_MAX: usize = 64 << 20;
/// The number of older generations that are kept in addition to the one in force.
const KEPT: u64 = 2;

/// Why the owner of an archive cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The record of the owner is damaged.
    #[error("{store}: {name}, which says who owns the archive, cannot be understood: {damage}")]
    Damaged {
        /// The store's label.
        store: String,
        /// The object.
        name: Name,
        /// The defect.
        damage: RecordDamage,
    },
}

/// The generations of a pool's archive in a store.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// The generation in force; `None`: the archive has no owner yet.
    pub newest: Option<Generation>,
    /// The highest existing number.
    pub number: u64,
    /// The generations that are newer than `newest` and cannot be decoded.
    pub damaged: Vec<(Name, RecordDamage)>,
}

impl Chain {
    /// The generation in force, if it is certain that there is no newer one.
    ///
    /// # Errors
    /// [`ChainError::Damaged`].
    pub fn certain(&self, store: &dyn Store) -> Result<Option<&Generation>, ChainError> {
        match self.damaged.first() {
            None => Ok(self.newest.as_ref()),
            Some((name, damage)) => Err(ChainError::Damaged {
                store: store.label().to_owned(),
                name: name.clone(),
                damage: damage.clone(),
            }),
        }
    }
}

/// Finds the generation in force. Blocks.
///
/// # Errors
/// The store's: then nothing is known.
pub fn read_chain(store: &dyn Store, pool: Uuid) -> Result<Chain, StoreError> {
    let mut numbers = numbers(store, pool)?;
    let mut chain = Chain { number: numbers.last().copied().unwrap_or(0), ..Chain::default() };
    while let Some(number) = numbers.pop() {
        let name = Generation::name_of(pool, number);
        let damage = match read_front(store, &name, RECORD_BYTES_MAX) {
            Ok(text) => match Generation::decode(&text, pool, number) {
                Ok(generation) => {
                    chain.newest = Some(generation);
                    break;
                }
                Err(damage) => damage,
            },
            Err(StoreError { kind: StoreErrorKind::Corrupt(_), .. }) => RecordDamage::Checksum,
            // It was removed after the list: there is a newer one.
            Err(StoreError { kind: StoreErrorKind::NotFound, .. }) if chain.number == number => {
                return read_chain(store, pool);
            }
            Err(StoreError { kind: StoreErrorKind::NotFound, .. }) => continue,
            Err(error) => return Err(error),
        };
        tracing::error!(store = store.label(), %name, %damage, "what says who owns the archive is damaged");
        chain.damaged.push((name, damage));
    }
    Ok(chain)
}

/// The numbers of a pool's generations, in order.
fn numbers(store: &dyn Store, pool: Uuid) -> Result<Vec<u64>, StoreError> {
    let prefix = Generation::prefix(pool);
    let mut numbers = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(&prefix, after.as_ref(), PAGE_OBJECTS_MAX)?;
        numbers.extend(page.objects.iter().filter_map(|object| Generation::number_of(pool, &object.name)));
        match page.objects.into_iter().next_back() {
            Some(last) if page.more => after = Some(last.name),
            _ => return Ok(numbers),
        }
    }
}

/// Whether there is a generation after `number`.
pub(super) fn is_overtaken(store: &dyn Store, pool: Uuid, number: u64) -> Result<bool, StoreError> {
    let after = Generation::name_of(pool, number);
    let page = store.list(&Generation::prefix(pool), Some(&after), 1)?;
    Ok(!page.objects.is_empty())
}

/// Makes a generation. `false`: another owner made this one, or a later one.
///
/// A retry after an error must be for the same generation: the first try may have succeeded.
pub(super) fn make(store: &dyn Store, generation: &Generation) -> Result<bool, StoreError> {
    let (name, text) = (generation.name(), generation.encode());
    // This check also covers stores that do not refuse to overwrite.
    let put = match store.stat(&name) {
        Ok(_) => Err(StoreErrorKind::Exists),
        Err(error) if error.kind == StoreErrorKind::NotFound => {
            match store.put(&name, text.len() as u64, &mut &text[..]) {
                Ok(_) => Ok(()),
                Err(error) if error.kind == StoreErrorKind::Exists => Err(error.kind),
                Err(error) => return Err(error),
            }
        }
        Err(error) => return Err(error),
    };
    if put.is_err() && !is_same(store, &name, &text)? {
        return Ok(false);
    }
    store.keep_at_hand(&name, &text)?;
    // The number may have been free because its generation is outdated; or an earlier try has
    // stored it, and others have been made since.
    let numbers = numbers(store, generation.pool)?;
    if numbers.last().is_some_and(|&newest| newest > generation.number) {
        drop(store.delete(&name));
        return Ok(false);
    }
    remove_outdated(store, generation, &numbers);
    Ok(true)
}

/// Whether the object of that name was stored by an earlier try.
fn is_same(store: &dyn Store, name: &Name, text: &[u8]) -> Result<bool, StoreError> {
    let is_same = read_front(store, name, RECORD_BYTES_MAX)? == text;
    if is_same {
        store.make_durable(name)?;
    }
    Ok(is_same)
}

/// Removes generations that are not needed. One that remains does no harm.
fn remove_outdated(store: &dyn Store, generation: &Generation, numbers: &[u64]) {
    if !store.capabilities().reclaims_space {
        return;
    }
    for &number in numbers.iter().filter(|&number| number + KEPT < generation.number) {
        drop(store.delete(&Generation::name_of(generation.pool, number)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::document::numbers!(
        the_document_says_which_are_kept,
        KEPT + 1 => "a number at least {} less than the new one are deleted",
    );
}
