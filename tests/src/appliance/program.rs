//! Finds the `varve` program, and builds it once per test process, as users build it.

use super::ApplianceError;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

/// Names a program to test instead of the one that cargo builds: another version, or a build with
/// other options.
const PROGRAM_VARIABLE: &str = "VARVE_PROGRAM";

/// The program, after it is built.
static BUILT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// The `varve` program that tests run: the one that the variable `VARVE_PROGRAM` names, or
/// `release/varve` in the target folder that this test was built into.
/// `cargo build --release -p varve` brings the latter up to date first, once per test process. Test
/// processes that do so at the same time wait for each other, by cargo's own lock. `cargo test`
/// alone would not build the program of another package.
///
/// # Errors
/// [`ApplianceError::Build`] with cargo's output.
pub fn program() -> Result<PathBuf, ApplianceError> {
    if let Some(program) = std::env::var_os(PROGRAM_VARIABLE) {
        return Ok(PathBuf::from(program));
    }
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(program) = &*built {
        return Ok(program.clone());
    }
    let target = target_folder();
    build(&target)?;
    Ok(built.insert(target.join("release/varve")).clone())
}

/// The preloaded library that changes a program's time of day, brought up to date. It works with
/// whichever program is tested.
///
/// # Errors
/// [`ApplianceError::Build`] with cargo's output.
pub(super) fn clock_shim() -> Result<PathBuf, ApplianceError> {
    let target = target_folder();
    cargo_build(&target, &["--package", "varve-clock-shim"])?;
    Ok(target.join("debug/libvarve_clock_shim.so"))
}

fn build(target: &Path) -> Result<(), ApplianceError> {
    cargo_build(target, &["--release", "--package", "varve", "--bin", "varve"])
}

/// How the names of the variables begin that cargo sets for the programs of one package.
const OF_A_PACKAGE: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "LD_LIBRARY_PATH"];

fn cargo_build(target: &Path, what: &[&str]) -> Result<(), ApplianceError> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(&cargo);
    command.arg("build").args(what).args(["--quiet", "--target-dir"]);
    command.arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    // Cargo sets variables for the package of a test. Build scripts that depend on them would run
    // again, and everything that depends on those scripts would be rebuilt, here and in the next
    // build outside.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| OF_A_PACKAGE.iter().any(|start| name.starts_with(start))) {
            command.env_remove(name);
        }
    }
    let output = command.output().map_err(ApplianceError::host("starting", PathBuf::from(&cargo)))?;
    if output.status.success() {
        return Ok(());
    }
    Err(ApplianceError::Build {
        command: format!("{command:?}"),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The target folder that this program was built into. Cargo marks it with a file; a test program
/// runs from a folder deep inside it.
fn target_folder() -> PathBuf {
    let target = std::env::current_exe().ok().and_then(|program| {
        program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").exists()).map(Path::to_path_buf)
    });
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
}

/// Runs the program with arguments, for cases that end by themselves.
///
/// # Panics
/// When the program cannot be built or run.
pub fn run(arguments: &[&str]) -> Output {
    run_in(&[], arguments)
}

/// The same, with more variables in its environment: names and values.
///
/// # Panics
/// When the program cannot be built or run.
pub fn run_in(environment: &[(String, String)], arguments: &[&str]) -> Output {
    let mut command = Command::new(program().expect("the program"));
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    // If one does not end, the test's own time limit shows which.
    command.output().expect("it runs")
}

/// The one line that a refused run prints.
///
/// # Panics
/// When it printed more or less than one line, or its exit code is not 1.
pub fn refusal(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.starts_with("varve: "), "{text}");
    text
}
