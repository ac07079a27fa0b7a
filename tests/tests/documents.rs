//! The documents are true as far as a machine can tell: every file and every test that
//! `docs/FAILURES.md` and `docs/REQUIREMENTS.md` name exists, every path that any document names
//! exists, and every requirement has one row.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A test that the document names: a file of the repository, and a function in it.
fn named_tests(document: &str) -> Vec<(String, String)> {
    let quoted = document.split('`').skip(1).step_by(2);
    let tests = quoted.filter_map(|text| text.split_once("::"));
    tests.map(|(file, function)| (file.to_owned(), function.to_owned())).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Whether a source has a test function of that name that is run.
fn has_test(source: &str, function: &str) -> bool {
    let mut attributes = Vec::new();
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[") {
            attributes.push(line);
        } else if line.starts_with(&format!("fn {function}(")) {
            return attributes.contains(&"#[test]")
                && !attributes.iter().any(|line| line.starts_with("#[ignore"));
        } else if !line.starts_with("//") {
            attributes.clear();
        }
    }
    false
}

#[test]
fn every_test_that_the_failure_model_names_is_there() {
    let document = read("docs/FAILURES.md");
    check_named_tests(&document, 20);
}

fn check_named_tests(document: &str, at_least: usize) {
    let tests = named_tests(document);
    assert!(tests.len() > at_least, "{} tests are named", tests.len());
    for (file, function) in tests {
        let source = read(&file);
        assert!(has_test(&source, &function), "{file} has no test {function}");
    }
}

#[test]
fn every_requirement_has_one_row_and_its_files_and_tests_exist() {
    let document = read("docs/REQUIREMENTS.md");
    check_named_tests(&document, 100);
    let rows = document.lines().filter_map(|line| line.strip_prefix("| R")?.split_once(" | "));
    let (mut numbers, mut states) = (Vec::new(), [0; 3]);
    for (number, rest) in rows {
        let Ok(number) = number.parse::<u32>() else { continue };
        numbers.push(number);
        let cells: Vec<&str> = rest.trim_end_matches('|').split(" | ").map(str::trim).collect();
        let [_, state, code, test] = cells[..] else { panic!("R{number} has {} cells", cells.len() + 1) };
        let state = ["done", "partly", "open"].iter().position(|known| state.starts_with(known));
        let state = state.unwrap_or_else(|| panic!("R{number} has no known state"));
        states[state] += 1;
        assert!(state != 0 || (code != "none" && test.contains("::")), "R{number} is done without proof");
    }
    assert_eq!(numbers, (1..=222).collect::<Vec<u32>>(), "each number once, in order");
    for (state, count) in ["done", "partly", "open"].iter().zip(states) {
        assert!(document.contains(&format!("| {state} | {count} |")), "{count} are {state}");
    }
}

/// Paths that stand in quotes and begin with a folder of the repository.
fn named_paths(document: &str) -> BTreeSet<String> {
    let quoted = document.split('`').skip(1).step_by(2);
    let words = quoted.filter_map(|text| text.split([' ', ':', '#']).next());
    let folders = [
        "appliance/",
        "tests/",
        "perf/",
        "docs/",
        "scripts/",
        "conf/",
        "log/",
        "volume/",
        "archive/",
        "nvmf/",
    ];
    let paths = words.filter(|word| folders.iter().any(|folder| word.starts_with(folder)));
    paths.filter(|path| !path.contains(['*', '{', '<', '$'])).map(str::to_owned).collect()
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut checked = 0;
    for document in [
        "docs/ARCHITECTURE.md",
        "docs/FORMAT.md",
        "docs/OPERATIONS.md",
        "docs/REQUIREMENTS.md",
        "docs/FAILURES.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "README.md",
    ] {
        let text = read(document);
        for path in named_paths(&text) {
            let places = [root().join(&path), root().join("appliance/src").join(&path)];
            assert!(
                places.iter().any(|place| place.exists()),
                "{document} names {path}, which does not exist"
            );
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked} paths are named");
}

#[test]
fn every_row_is_whole() {
    let document = read("docs/FAILURES.md");
    let mut rows = 0;
    for line in document.lines().filter(|line| line.starts_with('|')) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "fault, hosts, appliance, operator, test: {line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "an empty cell: {line}");
        rows += 1;
    }
    assert!(rows > 15, "{rows} rows");
}

/// Every test of injected faults stands in the document, so that nobody looks for a behaviour in
/// vain.
#[test]
fn every_injected_fault_has_its_row() {
    let document = read("docs/FAILURES.md");
    let folder = root().join("tests/tests");
    let mut tests = 0;
    for entry in std::fs::read_dir(&folder).expect("the tests") {
        let name = entry.expect("a file").file_name().to_string_lossy().into_owned();
        if !name.starts_with("faults_") {
            continue;
        }
        let source = std::fs::read_to_string(folder.join(&name)).expect("readable");
        let functions = source.lines().filter_map(|line| line.strip_prefix("fn ")?.split('(').next());
        for function in functions.filter(|function| has_test(&source, function)) {
            let test = format!("`tests/tests/{name}::{function}`");
            assert!(document.contains(&test), "{test} is in no row");
            tests += 1;
        }
    }
    assert!(tests > 20, "{tests} tests of faults");
}
