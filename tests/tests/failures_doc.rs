//! `docs/FAILURES.md` is true: every test that it names is there.

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
    let document = std::fs::read_to_string(root().join("docs/FAILURES.md")).expect("the document");
    let tests = named_tests(&document);
    assert!(tests.len() > 20, "{} tests are named", tests.len());
    for (file, function) in tests {
        let source =
            std::fs::read_to_string(root().join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(has_test(&source, &function), "{file} has no test {function}");
    }
}

#[test]
fn every_row_is_whole() {
    let document = std::fs::read_to_string(root().join("docs/FAILURES.md")).expect("the document");
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
    let document = std::fs::read_to_string(root().join("docs/FAILURES.md")).expect("the document");
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
