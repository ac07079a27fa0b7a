//! Programs and files of this machine: finds programs, runs build steps, and copies files with the
//! context in the errors.

use super::GuestError;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where Debian keeps programs. An ordinary user's `PATH` lacks the `sbin` half.
const PROGRAM_FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"];

/// The full path of a program.
///
/// # Errors
/// [`GuestError::MissingProgram`], which names the script that installs it.
pub(super) fn find_program(program: &str) -> Result<PathBuf, GuestError> {
    let search_path = std::env::var_os("PATH").unwrap_or_default();
    PROGRAM_FOLDERS
        .iter()
        .map(PathBuf::from)
        .chain(std::env::split_paths(&search_path))
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
        .ok_or_else(|| GuestError::MissingProgram { program: program.to_owned() })
}

/// A command for a program found by [`find_program`], without standard input.
///
/// # Errors
/// As [`find_program`].
pub(super) fn command(program: &str) -> Result<Command, GuestError> {
    let mut command = Command::new(find_program(program)?);
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    Ok(command)
}

/// Runs a build step to its end and returns its standard output.
///
/// # Errors
/// [`GuestError::BuildStep`] with all its output when it fails, [`GuestError::Host`] when it does
/// not start.
pub(super) fn run_step(command: &mut Command) -> Result<String, GuestError> {
    let output = command.output().map_err(GuestError::host("starting", command.get_program()))?;
    if !output.status.success() {
        return Err(GuestError::BuildStep {
            command: format!("{command:?}"),
            status: output.status,
            output: [output.stderr, output.stdout]
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .concat(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Copies a file, follows symbolic links, and makes the parent folders of the new file.
///
/// # Errors
/// [`GuestError::Host`].
pub(super) fn copy_file(from: &Path, to: &Path) -> Result<(), GuestError> {
    if let Some(folder) = to.parent() {
        make_folder(folder)?;
    }
    std::fs::copy(from, to).map_err(GuestError::host("copying", from))?;
    Ok(())
}

/// Makes a folder and its parents.
///
/// # Errors
/// [`GuestError::Host`].
pub(super) fn make_folder(path: &Path) -> Result<(), GuestError> {
    std::fs::create_dir_all(path).map_err(GuestError::host("making folder", path))
}

/// Writes the whole content of a small file.
///
/// # Errors
/// [`GuestError::Host`].
pub(super) fn write_file(path: &Path, content: impl AsRef<[u8]>) -> Result<(), GuestError> {
    std::fs::write(path, content).map_err(GuestError::host("writing", path))
}

/// Makes a symbolic link.
///
/// # Errors
/// [`GuestError::Host`].
pub(super) fn make_link(target: &str, link: &Path) -> Result<(), GuestError> {
    std::os::unix::fs::symlink(target, link).map_err(GuestError::host("linking", link))
}

/// Removes a folder with everything in it, if it exists.
///
/// # Errors
/// [`GuestError::Host`].
pub(super) fn remove_folder(path: &Path) -> Result<(), GuestError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(GuestError::host("removing folder", path)(error))
        }
        _ => Ok(()),
    }
}

/// The last `limit_bytes` of a text that may be long. If it is cut, it starts at a whole line where
/// there is one.
pub(super) fn tail(bytes: &[u8], limit_bytes: usize) -> String {
    if bytes.len() <= limit_bytes {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let cut = &bytes[bytes.len() - limit_bytes..];
    let start = cut.iter().position(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
    format!("[...]\n{}", String::from_utf8_lossy(&cut[start..]))
}
