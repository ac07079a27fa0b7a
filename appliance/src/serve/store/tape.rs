//! Opens the store on tape: a library of cartridge files, or a drive.
//!
//! Objects are staged in a directory for reading. For cartridge files that is the library's own
//! directory. For a drive it is the directory that the operator names, or else one below the
//! system's directory for temporary files that belongs to this user alone. A ledger beside them
//! records which objects are on which cartridge: in the library's directory, or in a drive's
//! staging directory. So name a staging directory that lasts for a drive.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::error::StoreOpenError;
use super::opened::{OpenedStore, make_directory};
use super::tape_spec::TapeSpec;
use crate::archive::store::tape::{
    EmulatedLibrary, Library, StDevice, StLibrary, TapeOptions, TapeProblem, TapeStore, identify, remembered,
};

/// Bytes of a data block.
const BLOCK_BYTES: usize = 256 << 10;
/// How many bytes before its end a cartridge gives the early warning: room to finish an object.
const EARLY_WARNING_BYTES: u64 = 1 << 20;
/// Bytes of staged objects. The largest segment has the same size.
const STAGE_BYTES: u64 = 1 << 30;
/// The name of the staging directory in a library's directory.
const STAGE_NAME: &str = "stage";
/// Cartridges of a new library by default.
const CARTRIDGES_DEFAULT: u32 = 4;
/// Bytes of a cartridge by default.
const CARTRIDGE_BYTES_DEFAULT: u64 = 2 << 30;

/// Opens the tapes; creates a library that does not exist.
pub(super) fn open(spec: &TapeSpec) -> Result<OpenedStore, StoreOpenError> {
    let path = &spec.path;
    let refuse = |reason: &str| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, reason);
        Err(StoreOpenError::Io { path: path.clone(), source })
    };
    match StDevice::at(path) {
        StDevice::Rewinding => {
            refuse("this device rewinds the tape by itself; take the one that does not, /dev/nst0")
        }
        StDevice::Drive if spec.cartridges.is_some() || spec.cartridge_bytes.is_some() => {
            refuse("a drive has the cartridge that is in it: leave cartridges= and size= out")
        }
        StDevice::Drive => open_drive(spec),
        // Devices are below /dev, directories of cartridges are not. Creating one there would only
        // hide that the driver is not loaded.
        StDevice::None if path.starts_with("/dev") && !path.is_dir() => {
            refuse("it is no tape drive; is the module st loaded, and the drive connected?")
        }
        StDevice::None => open_library(spec),
    }
}

fn open_drive(spec: &TapeSpec) -> Result<OpenedStore, StoreOpenError> {
    let path = &spec.path;
    let failed = |source| StoreOpenError::Io { path: path.clone(), source };
    let library = StLibrary::open(path).map_err(failed)?;
    let label = format!("tape drive {}", path.display());
    let stage = match &spec.stage {
        Some(stage) => stage.clone(),
        None => own_stage(path)?,
    };
    let store = open_store(library, path, &label, stage.clone(), stage)?;
    if store.problems().iter().any(|problem| matches!(problem, TapeProblem::Foreign { .. })) {
        return Err(StoreOpenError::Foreign { path: path.clone() });
    }
    Ok(opened(store, &label))
}

/// A staging directory for a drive that only this user can access. Others may write to its parent,
/// so this checks that none of them created it.
fn own_stage(device: &Path) -> Result<PathBuf, StoreOpenError> {
    let name = device.file_name().unwrap_or_default().to_string_lossy();
    let stage = std::env::temp_dir().join(format!("varve-stage-{name}"));
    make_directory(&stage)?;
    let failed = |source| StoreOpenError::Io { path: stage.clone(), source };
    let metadata = std::fs::symlink_metadata(&stage).map_err(failed)?;
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw();
    if metadata.is_dir() && is_own && metadata.permissions().mode().trailing_zeros() >= 6 {
        return Ok(stage);
    }
    let reason = "others can look into it: name a directory with ,stage=DIRECTORY";
    Err(failed(std::io::Error::new(std::io::ErrorKind::PermissionDenied, reason)))
}

fn open_library(spec: &TapeSpec) -> Result<OpenedStore, StoreOpenError> {
    let path = &spec.path;
    let failed = |source| StoreOpenError::Io { path: path.clone(), source };
    let label = format!("tape library {}", path.display());
    make_directory(path)?;
    crate::private::tighten_own(path, is_of_library).map_err(failed)?;
    let cartridge_bytes = spec.cartridge_bytes.unwrap_or(CARTRIDGE_BYTES_DEFAULT);
    let mut library = EmulatedLibrary::new(path, cartridge_bytes, EARLY_WARNING_BYTES);
    let found =
        library.cartridges().map_err(|source| StoreOpenError::Drive { path: path.clone(), source })?;
    // If all known cartridges are away, they may come back, so no blank ones are created; the
    // operator can add some.
    let is_new = remembered(path).map_err(failed)?.is_empty();
    if found.is_empty() && is_new {
        for number in 1..=spec.cartridges.unwrap_or(CARTRIDGES_DEFAULT) {
            library.add_blank(&format!("VARVE{number:03}")).map_err(failed)?;
        }
    }
    let stage = spec.stage.clone().unwrap_or_else(|| path.join(STAGE_NAME));
    Ok(opened(open_store(library, path, &label, stage, path.clone())?, &label))
}

/// Whether a file or directory of this name in a library's directory is varve's own.
fn is_of_library(name: &str) -> bool {
    let is_cartridge = Path::new(name).extension().is_some_and(|extension| extension == "tap");
    let is_record = name.starts_with("ledger-") || name.starts_with("at-hand-");
    is_cartridge || is_record || name == STAGE_NAME
}

/// Opens the cartridges of the one store that they belong to; if all are blank, of the store that
/// the ledger remembers, or else of a new one.
fn open_store<L: Library>(
    mut library: L,
    path: &Path,
    label: &str,
    stage: PathBuf,
    ledger: PathBuf,
) -> Result<TapeStore<L>, StoreOpenError> {
    let found =
        identify(&mut library).map_err(|source| StoreOpenError::Drive { path: path.to_owned(), source })?;
    let mut owners: Vec<Uuid> = found.into_iter().filter_map(|(_, owner)| owner).collect();
    owners.sort();
    owners.dedup();
    if owners.is_empty() {
        owners = remembered(&ledger).map_err(|source| StoreOpenError::Io { path: ledger.clone(), source })?;
    }
    let owner = match *owners {
        [] => Uuid::new_v4(),
        [owner] => owner,
        _ => return Err(StoreOpenError::Mixed { path: path.to_owned(), stores: owners.len() }),
    };
    let options = TapeOptions { block_bytes: BLOCK_BYTES, cache: stage, cache_bytes: STAGE_BYTES, ledger };
    Ok(TapeStore::open(library, owner, options, label)?)
}

fn opened<L: Library + 'static>(store: TapeStore<L>, label: &str) -> OpenedStore {
    let notes = store.problems().iter().map(|problem| format!("{label}: {problem}")).collect();
    OpenedStore { store: Arc::new(store), notes }
}

#[cfg(test)]
mod tests {
    use crate::serve::open_store;

    crate::document::numbers!(
        the_document_has_this_size,
        super::BLOCK_BYTES => "Data blocks have {KiB} KiB",
    );

    #[test]
    fn a_device_that_is_no_tape_drive_is_refused_and_no_directory_is_made() {
        for path in ["/dev/varve-test-no-drive", "/dev/null"] {
            let spec = format!("tape:{path}").parse().expect("a place");
            let text = open_store(&spec).map(|_| ()).expect_err("no drive").to_string();
            assert!(text.contains(path) && text.contains("no tape drive"), "{text}");
        }
        assert!(!std::path::Path::new("/dev/varve-test-no-drive").exists());
    }
}
