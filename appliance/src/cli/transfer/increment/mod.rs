//! `varve diff --export` and `varve diff --apply`: the changes of a volume between two points, in a
//! file.
//!
//! The ranges come from the appliance over JSON-RPC, the data over NVMe/TCP as for `volume export`:
//! an export reads a read-only clone of the second point, which is deleted again. So the data has
//! one way out, with its checks, its limits and its fairness to other hosts.
//!
//! **An apply** reads the whole file and checks it before the first write; it checks that the
//! volume is as the first point was. Two synchs mark it: `increment-begin` before the first write,
//! and `increment` behind the last. If it ends between them, the volume holds a part of the
//! changes: the same command goes on, because every block has one last content, and the first synch
//! is the state to go back to.
//!
//! | file | job |
//! |---|---|
//! | `export` | writes a file from a clone of the second point |
//! | `in_order` | brings data that was read into the order of blocks |
//! | `apply` | puts a file onto a volume |
//! | `standing` | whether a volume stands where a file begins |

mod apply;
mod export;
mod in_order;
mod standing;

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use super::error::TransferError;
use super::failed;
use crate::increment::{Description, Header, IncrementError, IncrementReader};
use crate::volume::index::RangeSet;

pub(in crate::cli) use apply::apply;
pub(in crate::cli) use export::export;

fn broken(path: &Path) -> impl Fn(IncrementError) -> TransferError {
    move |source| TransferError::Increment { path: path.to_owned(), source }
}

/// A digest as text.
fn hex(digest: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*digest).to_hex().to_string()
}

/// An increment that was read to its end, with every check.
struct Checked {
    header: Header,
    description: Description,
    digest: [u8; 32],
    /// The blocks that it changes.
    blocks: RangeSet,
}

fn check_file(path: &Path) -> Result<Checked, TransferError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let mut reader = IncrementReader::open(BufReader::new(file)).map_err(broken(path))?;
    let mut blocks = RangeSet::default();
    while let Some(chunk) = reader.next_chunk().map_err(broken(path))? {
        for entry in chunk.entries {
            blocks.insert(entry.block, entry.block + entry.blocks);
        }
    }
    let digest = reader.digest().unwrap_or_default();
    Ok(Checked { header: *reader.header(), description: reader.description().clone(), digest, blocks })
}
