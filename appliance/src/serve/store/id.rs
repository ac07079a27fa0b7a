//! The identity of a store: an object that says which archive it is, independently of its place's
//! name and mount point.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::archive::store::{Name, Store, StoreError, StoreErrorKind, read_front};

/// The object's name. It cannot be the name of a segment's object: those are below `v1/`.
pub(in crate::serve) const ID_OBJECT: &str = "varve-archive-id";
/// A longer object of that name is not an identity.
const ID_BYTES_MAX: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Id {
    archive: Uuid,
}

fn name() -> Name {
    Name::new(ID_OBJECT).unwrap_or_else(|_| unreachable!("a constant name is valid"))
}

/// The identity of a store; `None` if it has none, or one that cannot be understood. Blocks.
///
/// # Errors
/// The store's.
pub(in crate::serve) fn read_id(store: &dyn Store) -> Result<Option<Uuid>, StoreError> {
    match read_front(store, &name(), ID_BYTES_MAX) {
        Ok(text) => Ok(serde_json::from_slice::<Id>(&text).ok().map(|id| id.archive)),
        Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Assigns an identity to a store that has none; returns its identity. Blocks.
///
/// # Errors
/// The store's; `Exists` if there is an identity that cannot be understood.
pub(in crate::serve) fn ensure_id(store: &dyn Store) -> Result<Uuid, StoreError> {
    if let Some(id) = read_id(store)? {
        return Ok(id);
    }
    let archive = Uuid::new_v4();
    let text = serde_json::to_vec(&Id { archive }).unwrap_or_else(|_| unreachable!("a UUID is plain data"));
    store.put(&name(), text.len() as u64, &mut &text[..])?;
    Ok(archive)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::open_store;

    crate::document::numbers!(
        the_document_has_this_bound,
        ID_BYTES_MAX => "identity of the archive, at most {} bytes",
    );

    #[test]
    fn the_document_names_the_object() {
        crate::document::check_says(&format!("| `{ID_OBJECT}` | `{{\"archive\":UUID}}`"));
    }

    #[test]
    fn every_local_kind_keeps_its_identity() {
        let folder = tempfile::tempdir().expect("a folder");
        for kind in ["dir:{}/a", "device:{}/b,size=8MiB", "tape:{}/c,cartridges=2,size=16MiB"] {
            let spec = kind.replace("{}", &folder.path().display().to_string()).parse().expect("a place");
            let opened = open_store(&spec).expect("it is made");
            assert_eq!(read_id(&*opened.store).expect("it can be asked"), None);
            let id = ensure_id(&*opened.store).expect("it is given one");
            assert_eq!(ensure_id(&*opened.store).expect("it has one"), id);
            drop(opened);
            let opened = open_store(&spec).expect("it is found again");
            assert_eq!(read_id(&*opened.store).expect("it can be asked"), Some(id));
            assert!(crate::serve::pools_in(&*opened.store).expect("a list").is_empty());
        }
    }
}
