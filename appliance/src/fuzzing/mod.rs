//! One entry point for each parser of bytes that this process did not write itself, or may find
//! damaged.
//!
//! [`TARGETS`] names them. Two runs use them: the crate in `fuzz/` with libFuzzer, for as long as
//! one likes, and the tests of this module, for some seconds: they start from valid encodings
//! ([`Target::seeds`]) and change them.
//!
//! An entry point never panics on input. It asserts what must hold of everything that the parser
//! accepts, above all that what was read, written again, reads the same. Where a checksum protects
//! a structure, the entry point also corrects the checksum of what it got and reads that: a change
//! would otherwise never get past it, and a hostile writer corrects it too.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a fuzz target fails by panic"
)]

mod log;
mod rpc;
mod texts;
mod wire;

#[cfg(test)]
mod bounded;

/// A parser's entry point.
pub struct Target {
    /// Its name, which is also that of its file in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Valid encodings to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Parses bytes, and asserts what must hold of them. Whether the parser accepted them.
    pub run: fn(&[u8]) -> bool,
}

/// All entry points.
pub const TARGETS: &[Target] = &[
    Target { name: "pdu", seeds: wire::pdu_seeds, run: wire::pdu },
    Target { name: "command", seeds: wire::command_seeds, run: wire::command },
    Target { name: "connect_data", seeds: wire::connect_data_seeds, run: wire::connect_data },
    Target { name: "identify", seeds: wire::identify_seeds, run: wire::identify },
    Target { name: "json_rpc", seeds: rpc::json_rpc_seeds, run: rpc::json_rpc },
    Target { name: "superblock", seeds: log::superblock_seeds, run: log::superblock },
    Target { name: "segment_header", seeds: log::segment_header_seeds, run: log::segment_header },
    Target { name: "record", seeds: log::record_seeds, run: log::record },
    Target { name: "trailer", seeds: log::trailer_seeds, run: log::trailer },
    Target { name: "catalog", seeds: crate::volume::fuzz::catalog_seeds, run: crate::volume::fuzz::catalog },
    Target { name: "change", seeds: crate::volume::fuzz::change_seeds, run: crate::volume::fuzz::change },
    Target { name: "synch", seeds: texts::synch_seeds, run: texts::synch },
    Target {
        name: "object",
        seeds: crate::archive::object::fuzz::object_seeds,
        run: crate::archive::object::fuzz::object,
    },
    Target {
        name: "increment",
        seeds: crate::increment::fuzz::increment_seeds,
        run: crate::increment::fuzz::increment,
    },
    Target {
        name: "anchor",
        seeds: crate::archive::anchor::fuzz::anchor_seeds,
        run: crate::archive::anchor::fuzz::anchor,
    },
    Target {
        name: "anchor_name",
        seeds: crate::archive::anchor::fuzz::anchor_name_seeds,
        run: crate::archive::anchor::fuzz::anchor_name,
    },
    Target { name: "object_name", seeds: texts::object_name_seeds, run: texts::object_name },
    Target {
        name: "archive_device",
        seeds: crate::archive::store::fuzz_device::block_seeds,
        run: crate::archive::store::fuzz_device::block,
    },
    Target {
        name: "tape",
        seeds: crate::archive::store::tape::fuzz::mark_seeds,
        run: crate::archive::store::tape::fuzz::mark,
    },
    Target {
        name: "tape_ledger",
        seeds: crate::archive::store::tape::fuzz::ledger_seeds,
        run: crate::archive::store::tape::fuzz::ledger,
    },
    Target { name: "owner", seeds: texts::owner_seeds, run: texts::owner },
    Target { name: "retention", seeds: texts::retention_seeds, run: texts::retention },
    Target { name: "point", seeds: texts::point_seeds, run: texts::point },
    Target { name: "size", seeds: texts::size_seeds, run: texts::size },
];

/// Runs the entry point of a name.
///
/// # Panics
/// When there is none of that name, and when the entry point finds a fault.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    let target = target.unwrap_or_else(|| panic!("no fuzz target is named {name}"));
    (target.run)(data);
}
