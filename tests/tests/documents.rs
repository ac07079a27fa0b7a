//! The documents are true as far as a machine can check. Every file and every test that
//! `docs/FAILURES.md` and `docs/REQUIREMENTS.md` name exists, every path that any document names
//! exists, every requirement has one row, and every question names places in the code that prove
//! its answer. Every problem that the code reports is in `docs/OPERATIONS.md`.
//!
//! Unit tests next to the code compare the tables of `docs/FORMAT.md` with it
//! (`appliance/src/document.rs`).

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

/// Whether a source has a test function of that name that runs.
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

/// Files, each with the functions and types that a document names in parentheses after it.
fn named_items(document: &str) -> Vec<(&str, &str)> {
    let pieces: Vec<&str> = document.split('`').collect();
    let mut items = Vec::new();
    for at in (1..pieces.len())
        .step_by(2)
        .filter(|&at| Path::new(pieces[at]).extension().is_some_and(|extension| extension == "rs"))
    {
        let mut next = at + 1;
        while next + 1 < pieces.len() && pieces[next] == if next == at + 1 { " (" } else { ", " } {
            items.push((pieces[at], pieces[next + 1]));
            next += 2;
        }
    }
    items
}

/// Whether a source declares a function, type or constant of that name.
fn declares(source: &str, name: &str) -> bool {
    ["fn", "struct", "enum", "trait", "const", "type"].iter().any(|kind| {
        let declaration = format!("{kind} {name}");
        source.match_indices(&declaration).any(|(at, _)| {
            let next = source[at + declaration.len()..].chars().next();
            next.is_none_or(|next| !next.is_alphanumeric() && next != '_')
        })
    })
}

#[test]
fn every_item_that_a_requirement_names_is_in_its_file() {
    let document = read("docs/REQUIREMENTS.md");
    let items = named_items(&document);
    assert!(items.len() > 150, "{} items are named", items.len());
    for (file, item) in items {
        assert!(declares(&source_of(file), item), "{file} declares no {item}");
    }
    assert_eq!(
        named_items("`a.rs` (`B`, `c`), `d.rs` | `e.rs` (`F`)"),
        [("a.rs", "B"), ("a.rs", "c"), ("e.rs", "F")]
    );
    assert!(declares("pub fn a<T>() {}", "a") && !declares("fn ab() {} // a", "a"));
}

/// Paths in backticks that begin with a folder of the repository.
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
        "serve/",
        "rpc/",
        "cli/",
        "bdev/",
        "manage/",
        "inspect/",
    ];
    let paths = words.filter(|word| folders.iter().any(|folder| word.starts_with(folder)));
    paths.filter(|path| !path.contains(['*', '{', '<', '$'])).map(str::to_owned).collect()
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut checked = 0;
    for document in [
        "docs/ARCHITECTURE.md",
        "docs/GOING_BACK.md",
        "docs/FORMAT.md",
        "docs/OPERATIONS.md",
        "docs/REQUIREMENTS.md",
        "docs/FAILURES.md",
        "docs/QUESTIONS.md",
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

/// Every test of injected faults is in the document, so that nobody searches for a behaviour in
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

/// A source file that a document names from the root or from `appliance/src`.
fn source_of(path: &str) -> String {
    let places = [root().join(path), root().join("appliance/src").join(path)];
    let place = places.iter().find(|place| place.exists());
    let place = place.unwrap_or_else(|| panic!("{path} does not exist"));
    std::fs::read_to_string(place).expect("UTF-8")
}

/// The error in a question, which is its heading and the text up to the next one.
fn fault_of_question(question: &str, architecture: &str) -> Option<String> {
    let named = question.split_once("In ARCHITECTURE.md: \"").and_then(|(_, rest)| rest.split_once("\"."));
    let Some((section, places)) = named else { return Some("it names no section".to_owned()) };
    if !architecture.contains(&format!("\n## {section}\n")) {
        return Some(format!("ARCHITECTURE.md has no section {section:?}"));
    }
    let mut proofs = 0;
    for row in places.lines().filter(|line| line.starts_with("| `")) {
        let place = row.split('`').nth(1).and_then(|place| place.split_once(": "));
        let Some((file, function)) = place else { return Some(format!("no file and function: {row}")) };
        if !declares(&source_of(file), function) {
            return Some(format!("{file} has no function {function}"));
        }
        proofs += 1;
    }
    (proofs < 3).then(|| format!("{proofs} places prove the answer"))
}

#[test]
fn every_question_has_a_section_and_proof_in_the_code() {
    let (document, architecture) = (read("docs/QUESTIONS.md"), read("docs/ARCHITECTURE.md"));
    let questions: Vec<&str> = document.split("\n## ").skip(1).collect();
    assert!(questions.len() >= 5, "{} questions", questions.len());
    for question in &questions {
        let heading = question.lines().next().unwrap_or_default();
        assert!(heading.ends_with('?'), "{heading}");
        assert_eq!(fault_of_question(question, &architecture), None, "{heading}");
    }
    assert!(questions[0].contains("while the archive is away and the pool is nearly full?"));
    // Errors that the test must find.
    for (from, to) in [
        ("turn.rs: relieve`", "turn.rs: relive`"),
        ("\"When the archive is away or behind\"", "\"When it is away\""),
        ("In ARCHITECTURE.md: ", ""),
    ] {
        let changed = questions[0].replacen(from, to, 1);
        assert_ne!(changed, questions[0]);
        assert!(fault_of_question(&changed, &architecture).is_some(), "{from} became {to}");
    }
}

/// Text in a line that records a problem, or that begins a function that makes a problem's text.
const REPORTS: [&str; 15] = [
    "note_problem(",
    "problems.push(",
    "problems.extend(",
    "let problem = ",
    "_problem(",
    " problem(",
    "problems.note(",
    "problems.note_gap(",
    "problems.add(",
    "let fault = ",
    "record_gap(",
    "fn damage(",
    "fn describe(",
    "fn tell_failure(",
    "const REFUSED",
];

/// The fixed words of each problem that a source reports: the first piece of 16 letters or more
/// without a placeholder ([`fixed_words`]). They come from the literals of statements that record a
/// problem, and of functions that make the text of one.
fn problems_of(source: &str) -> Vec<String> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let is_report =
        |line: &str| REPORTS.iter().any(|call| line.contains(call)) && !line.trim_start().starts_with("//");
    let lines: Vec<&str> = source.lines().collect();
    let mut texts = Vec::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_report(line)) {
        // The statement, or the body of the function, ends at the line with the same indentation.
        let indent = line.len() - line.trim_start().len();
        let mut end = at + 1;
        while lines.get(end).is_some_and(|next| {
            let next_indent = next.len() - next.trim_start().len();
            !line.trim_end().ends_with(';') && (next.trim().is_empty() || next_indent > indent)
        }) {
            end += 1;
        }
        let statement = lines[at..end].join("\n").replace("\\\n", "\n");
        texts.extend(statement.split('"').skip(1).step_by(2).map(fixed_words));
    }
    texts.retain(|text| text.len() >= 16 && text.contains(' '));
    texts
}

/// The first piece of a format string between placeholders that has 16 letters or more; at most 40
/// letters of it.
fn fixed_words(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let pieces = text.split(['{', '}']).step_by(2).map(str::trim);
    let piece = pieces.into_iter().find(|piece| piece.len() >= 16).unwrap_or_default();
    let end = piece.char_indices().nth(40).map_or(piece.len(), |(end, _)| end);
    piece[..end].to_owned()
}

fn sources_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            files.extend(sources_below(&entry));
        } else if entry.extension().is_some_and(|name| name == "rs") {
            files.push(entry);
        }
    }
    files
}

#[test]
fn every_problem_that_the_code_reports_has_its_remedy() {
    let document = read("docs/OPERATIONS.md").split_whitespace().collect::<Vec<_>>().join(" ");
    let (mut problems, mut missing) = (0, Vec::new());
    for layer in ["volume", "serve", "log"] {
        for file in sources_below(&root().join("appliance/src").join(layer)) {
            let source = std::fs::read_to_string(&file).expect("UTF-8");
            for text in problems_of(&source) {
                problems += 1;
                if !document.contains(&text) {
                    missing.push(format!("{}: {text:?}", file.display()));
                }
            }
        }
    }
    assert!(problems > 40, "{problems} problems were found in the code");
    assert!(missing.is_empty(), "docs/OPERATIONS.md does not have:\n{}", missing.join("\n"));
}

#[test]
fn the_problems_of_a_source_are_found() {
    let source = r#"
        state.note_problem(format!("segment {sequence}: the records of it are {count} times too many"));
        self.problems.push(format!(
            "the device {name} has been away for a long time, which nobody would have expected of it"
        ));
        let other = "a text that is no problem at all";
    }

    fn room_problem(&self) -> Option<String> {
        let text = "there is no room left";
        Some(text.to_owned())
    }
    "#;
    let expected =
        [": the records of it are", "has been away for a long time, which nob", "there is no room left"];
    assert_eq!(problems_of(source), expected);
}
