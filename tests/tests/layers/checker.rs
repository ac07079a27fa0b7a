//! Tests the checker itself on small sources: what counts as a use and what does not, and that it
//! finds uses of higher layers and circles.

use std::collections::{BTreeMap, BTreeSet};

use super::picture::{Picture, circles};
use super::{comments, rank, upward};

type Uses = super::Uses;

fn draw(files: &[(&str, &str)]) -> Uses {
    let files: BTreeMap<String, String> =
        files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Picture::draw(&files).expect("it is Rust").uses()
}

/// The files that `file` uses.
fn used<'a>(uses: &'a Uses, file: &str) -> Vec<&'a str> {
    uses[file].keys().map(String::as_str).collect()
}

fn circle(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn every_way_to_name_another_file_is_a_use() {
    for text in [
        "use crate::log::Lsn;",
        "use crate::{dma, log::{self, Lsn}};",
        "use crate::log::Lsn as Position;",
        "use super::super::log::Lsn;",
        "fn f() { use crate::log::Lsn; }",
        "fn f() -> u64 { crate::log::Lsn(1).0 }",
        "struct S { at: Option<crate::log::Lsn> }",
        "impl From<crate::log::Lsn> for u64 { fn from(_: crate::log::Lsn) -> u64 { 1 } }",
        "use crate::log; fn f(_: log::Lsn) {}",
        "fn f() { assert_eq!(1, g(crate::log::Lsn(1))); }",
        "mod inner { use crate::log::Lsn; }",
        "mod inner { use super::super::super::log::Lsn; }",
        "pub use crate::log::Lsn; fn f(_: Lsn) {}",
        "#[cfg(not(test))] use crate::log::Lsn;",
    ] {
        let files = [
            ("lib.rs", "mod dma; mod log;"),
            ("dma/mod.rs", "mod pool;"),
            ("dma/pool.rs", text),
            ("log/mod.rs", "pub struct Lsn(pub u64);"),
        ];
        let uses = draw(&files);
        assert_eq!(used(&uses, "dma/pool.rs"), ["log/mod.rs"], "{text}");
        assert_eq!(upward(&uses).len(), 1, "{text}");
    }
}

#[test]
fn tests_documentation_and_visibility_are_no_uses() {
    for text in [
        "/// See [`crate::log::Lsn`].\nfn f() {}",
        "//! See crate::log::Lsn.",
        "pub(in crate::log) fn f() {}",
        "#[cfg(test)] mod tests { use crate::log::Lsn; }",
        "#[cfg(test)] use crate::log::Lsn;",
        "#[cfg(any(test, feature = \"conformance\"))] fn f(_: crate::log::Lsn) {}",
        "struct S; impl S { #[cfg(test)] fn f(_: crate::log::Lsn) {} }",
        "use std::log::Lsn; use log::Other;",
        "pub use crate::log::Lsn;",
    ] {
        let files = [
            ("lib.rs", "mod dma; mod log;"),
            ("dma/mod.rs", "mod pool;"),
            ("dma/pool.rs", text),
            ("log/mod.rs", "pub struct Lsn(pub u64);"),
        ];
        assert!(used(&draw(&files), "dma/pool.rs").is_empty(), "{text}");
    }
    let uses = draw(&[
        ("dma/mod.rs", "#[cfg(test)] mod model; mod pool;"),
        ("dma/model.rs", "use crate::log::Lsn;"),
        ("dma/model/more.rs", "use crate::log::Lsn;"),
        ("dma/tests/mod.rs", "use crate::log::Lsn;"),
        ("dma/tests.rs", "use crate::log::Lsn;"),
        ("dma/pool.rs", ""),
    ]);
    assert_eq!(uses.keys().collect::<Vec<_>>(), ["dma/mod.rs", "dma/pool.rs"]);
}

#[test]
fn a_path_is_followed_to_the_file_that_defines_what_it_names() {
    let uses = draw(&[
        ("lib.rs", "mod bdev; mod dma;"),
        ("dma/mod.rs", "mod pool; mod types; pub use pool::Pool; pub use types::*;"),
        ("dma/pool.rs", "use super::Block; pub struct Pool;"),
        ("dma/types.rs", "pub struct Block;"),
        ("bdev/mod.rs", "use crate::dma::{self, Pool}; fn f(_: dma::Block, _: dma::pool::Pool) {}"),
    ]);
    assert_eq!(used(&uses, "bdev/mod.rs"), ["dma/pool.rs", "dma/types.rs"]);
    assert_eq!(used(&uses, "dma/pool.rs"), ["dma/types.rs"]);
    assert!(used(&uses, "dma/mod.rs").is_empty(), "it only publishes");
    assert!(circles(&uses).is_empty() && upward(&uses).is_empty());
}

#[test]
fn downward_and_sideways_is_right_and_upward_is_wrong() {
    let uses = draw(&[
        ("lib.rs", "mod cli; mod log; mod serve; mod text;"),
        ("text.rs", "pub struct Size;"),
        ("log/mod.rs", "mod a; use crate::text::Size;"),
        ("log/a.rs", "use crate::serve::Budget;"),
        ("serve/mod.rs", "use crate::cli::Options; pub struct Budget;"),
        ("cli/mod.rs", "pub struct Options;"),
    ]);
    assert_eq!(upward(&uses), ["log/a.rs uses serve/mod.rs (crate::serve::Budget)"]);
    assert!(rank("text/units.rs") < rank("histogram.rs") && rank("log/a.rs") < rank("volume/b/c.rs"));
}

#[test]
fn circles_are_found_also_over_others_and_between_parent_and_child() {
    let uses = draw(&[
        ("log/mod.rs", "mod a; mod b; mod c; mod d; use d::Deep; pub struct Shared(Deep);"),
        ("log/a.rs", "use super::b::B; pub struct A(B);"),
        ("log/b.rs", "use super::c::C; pub struct B(C);"),
        ("log/c.rs", "use super::a::A; pub struct C(Box<A>);"),
        ("log/d.rs", "use super::Shared; pub struct Deep(Box<Shared>);"),
    ]);
    let expected = [circle(&["log/a.rs", "log/b.rs", "log/c.rs"]), circle(&["log/d.rs", "log/mod.rs"])];
    assert_eq!(circles(&uses), BTreeSet::from(expected));
}

#[test]
fn a_file_uses_what_it_publishes_only_if_it_names_it() {
    let files = |text| {
        draw(&[("dma/mod.rs", text), ("dma/pool.rs", "use super::BYTES; pub struct Pool([u8; BYTES]);")])
    };
    let text = "mod pool; pub use pool::Pool; pub const BYTES: usize = 1;";
    assert!(circles(&files(text)).is_empty());
    let text = "mod pool; pub use pool::Pool; pub const BYTES: usize = 1; fn f(_: Pool) {}";
    assert_eq!(circles(&files(text)).len(), 1);
}

#[test]
fn comments_are_read_as_running_text() {
    assert_eq!(comments("//! one\n//! two\nfn f() {}\n    /// three\n// four"), "one two three four");
}
