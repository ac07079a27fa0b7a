//! `scripts/count-instructions` finds what it counts by the names of functions: they must be there,
//! each as a function of its own.

use std::path::Path;

#[test]
fn what_the_script_counts_by_name_is_in_the_program() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/count-instructions");
    let script = std::fs::read_to_string(script).unwrap();
    let names: Vec<&str> = script
        .split("counted=")
        .skip(1)
        .filter_map(|rest| rest.split(|letter: char| !letter.is_alphanumeric() && letter != '_').next())
        .collect();
    assert_eq!(names.len(), 2, "the appliance alone, and all: {names:?}");
    let program = std::fs::read(env!("CARGO_BIN_EXE_varve-perf")).unwrap();
    for name in names {
        let found = program.windows(name.len()).any(|bytes| bytes == name.as_bytes());
        assert!(found, "the script counts {name}, and varve-perf has no such function");
    }
}
