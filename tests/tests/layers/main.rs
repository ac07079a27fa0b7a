//! Checks with the imports that the layers of the appliance are in order and that its files form no
//! circles.
//!
//! A file may use files of its own room and of rooms below it, see `docs/ARCHITECTURE.md`. Within a
//! room no two files use each other, directly or through others, so that a reader finds a file to
//! begin with. A necessary circle is listed in [`CIRCLES`], and one of its files gives the reason
//! in a comment.

mod checker;
mod picture;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use picture::{Picture, Uses, circles};

/// The rooms, lowest first. `lib.rs` and `main.rs` are above all.
const ROOMS: &[&str] = &[
    "document",
    "missing",
    "text",
    "histogram",
    "descriptors",
    "audit",
    "private",
    "reactor",
    "dma",
    "bdev",
    "log",
    "archive",
    "increment",
    "volume",
    "nvmf",
    "manage",
    "rpc",
    "options",
    "cli",
    "serve",
    "inspect",
    "fuzzing",
];

/// Necessary circles: their files, and words of the comment that gives the reason.
const CIRCLES: &[(&[&str], &str)] = &[
    (
        &["nvmf/server/controller.rs", "nvmf/server/subsystem.rs"],
        "A subsystem lists its controllers, and each controller keeps its subsystem",
    ),
    (
        &["volume/image/index.rs", "volume/image/index/pieces.rs"],
        "This file adds methods to the struct of `index.rs`, and shares its nodes",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The sources below a folder, by their relative paths.
fn sources(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(folder).expect("it is inside").to_string_lossy().into_owned();
                found.insert(name, std::fs::read_to_string(&path).expect("a readable source"));
            }
        }
    }
    found
}

/// The room of a file.
fn room(file: &str) -> &str {
    file.split('/').next().unwrap_or(file).trim_end_matches(".rs")
}

fn rank(file: &str) -> usize {
    ROOMS.iter().position(|name| *name == room(file)).unwrap_or(ROOMS.len())
}

/// Uses that point to a higher room, as text.
fn upward(uses: &Uses) -> Vec<String> {
    let mut found = Vec::new();
    for (file, used) in uses {
        for (other, path) in used {
            if rank(other) > rank(file) {
                found.push(format!("{file} uses {other} ({path})"));
            }
        }
    }
    found
}

/// A circle as text: its files, and which of them uses which.
fn describe(circle: &std::collections::BTreeSet<String>, uses: &Uses) -> String {
    let mut text = String::new();
    for file in circle {
        for (other, path) in uses[file].iter().filter(|(other, _)| circle.contains(*other)) {
            text = format!("{text}\n  {file} -> {other} ({path})");
        }
    }
    text
}

fn appliance() -> (BTreeMap<String, String>, Uses) {
    let files = sources(&root().join("appliance/src"));
    let picture = Picture::draw(&files).expect("the sources are Rust");
    let count = picture.files().count();
    assert!(count > 250, "{count} files");
    let uses = picture.uses();
    let arrows: usize = uses.values().map(BTreeMap::len).sum();
    assert!(arrows > 1000, "{arrows} arrows");
    (files, uses)
}

#[test]
fn no_layer_uses_a_higher_one() {
    let (files, uses) = appliance();
    for file in files.keys().filter(|file| !["lib.rs", "main.rs"].contains(&file.as_str())) {
        assert!(rank(file) < ROOMS.len(), "{file} is in a room that has no place in the order");
    }
    let wrong = upward(&uses);
    assert!(wrong.is_empty(), "{} uses point upward:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn the_document_shows_the_layers_in_this_order() {
    let document = std::fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the document");
    let picture = document.split("```").nth(1).expect("a picture of the layers");
    let shown: Vec<&str> =
        picture.lines().skip(1).filter_map(|line| line.split_whitespace().next()).collect();
    let expected: Vec<&&str> = ROOMS.iter().rev().filter(|room| shown.contains(room)).collect();
    assert_eq!(shown.iter().collect::<Vec<_>>(), expected, "the picture and the test differ");
    let folders = ROOMS.iter().filter(|room| root().join("appliance/src").join(room).is_dir());
    for folder in folders {
        assert!(shown.contains(folder), "the document does not show {folder}");
    }
}

#[test]
fn files_of_a_room_form_no_circles_but_those_that_say_why() {
    let (files, uses) = appliance();
    let mut known = Vec::new();
    let mut wrong = Vec::new();
    for circle in circles(&uses) {
        let listed = CIRCLES.iter().position(|(names, _)| circle.iter().eq(names.iter()));
        match listed {
            Some(at) => known.push(at),
            None => wrong.push(format!("{} files:{}", circle.len(), describe(&circle, &uses))),
        }
    }
    assert!(wrong.is_empty(), "{} circles:\n{}", wrong.len(), wrong.join("\n"));
    for (at, (names, reason)) in CIRCLES.iter().enumerate() {
        assert!(known.contains(&at), "{names:?} is no circle any more: take it off the list");
        let says = |name: &&&str| comments(&files[**name]).contains(reason);
        assert!(names.iter().any(|name| says(&name)), "no file of {names:?} says: {reason}");
    }
}

/// The comments of a source as running text.
fn comments(text: &str) -> String {
    let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix("//"));
    let words = lines.flat_map(|line| line.trim_start_matches(['/', '!']).split_whitespace());
    words.collect::<Vec<_>>().join(" ")
}
