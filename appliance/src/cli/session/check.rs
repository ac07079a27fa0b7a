//! Runs the check of a search, a shell command, and reads its exit code, as `git bisect run` does.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::volume::Verdict;

/// The exit code that says nothing.
const SKIP: i32 = 125;
/// The highest exit code that is a verdict; a shell gives higher ones for signals.
const VERDICT_MAX: i32 = 127;
/// From this exit code on, apart from [`SKIP`], the shell says that it could not run the command.
const NOT_RUN_FROM: i32 = 126;

/// Why a check gave no verdict.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// The shell could not be started.
    #[error("the check could not be started: {0}")]
    Start(#[from] io::Error),
    /// The first check ended with an exit code that says that there is no such command.
    #[error("the check `{command}` ended with exit code {code}: it seems that it cannot be run")]
    NotRun {
        /// The command.
        command: String,
        /// Its exit code.
        code: i32,
    },
    /// It ended by a signal, or with a code that is no verdict.
    #[error("the check `{command}` gave no verdict: it ended with {status}")]
    NoVerdict {
        /// The command.
        command: String,
        /// How it ended.
        status: String,
    },
}

/// A check to be run.
pub(super) struct Check<'a> {
    /// The shell command.
    pub(super) command: &'a str,
    /// Address and port of the appliance.
    pub(super) address: String,
    /// The clones' subsystems, one for each volume.
    pub(super) nqns: Vec<String>,
    /// The names of the volumes, if it is a group.
    pub(super) group: Option<Vec<String>>,
    /// Where the session stands.
    pub(super) point: String,
    /// The file with the clone's contents; of a group, the folder with those of all.
    pub(super) image: Option<&'a Path>,
    /// Whether no check has run before: then a command that cannot be run is a mistake.
    pub(super) is_first: bool,
}

/// What a check said.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) verdict: Verdict,
    pub(super) exit_code: i32,
    pub(super) seconds: f64,
}

impl Check<'_> {
    /// Runs it. What it prints goes to standard error, because standard output has the result.
    ///
    /// # Errors
    /// It gave no verdict.
    pub(super) fn run(&self) -> Result<Checked, CheckError> {
        let started = Instant::now();
        let mut command = Command::new("sh");
        command
            .args(["-c", self.command])
            .env("VARVE_ADDRESS", &self.address)
            .env("VARVE_POINT", &self.point)
            .stdin(Stdio::null())
            .stdout(Stdio::from(io::stderr()));
        for name in ["VARVE_NQN", "VARVE_IMAGE", "VARVE_VOLUMES", "VARVE_NQNS", "VARVE_IMAGES"] {
            command.env_remove(name);
        }
        let nqns = self.nqns.join(" ");
        let image = if let Some(volumes) = &self.group {
            // No name has a space.
            command.env("VARVE_VOLUMES", volumes.join(" ")).env("VARVE_NQNS", nqns);
            "VARVE_IMAGES"
        } else {
            command.env("VARVE_NQN", nqns);
            "VARVE_IMAGE"
        };
        if let Some(path) = self.image {
            command.env(image, path);
        }
        let status = command.status()?;
        let seconds = started.elapsed().as_secs_f64();
        let verdict = match status.code() {
            Some(0) => Verdict::Good,
            Some(SKIP) => Verdict::Skip,
            Some(code) if self.is_first && (NOT_RUN_FROM..=VERDICT_MAX).contains(&code) => {
                return Err(CheckError::NotRun { command: self.command.to_owned(), code });
            }
            Some(code) if code <= VERDICT_MAX => Verdict::Bad,
            _ => {
                let (command, status) = (self.command.to_owned(), status.to_string());
                return Err(CheckError::NoVerdict { command, status });
            }
        };
        Ok(Checked { verdict, exit_code: status.code().unwrap_or_default(), seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<'a>(command: &'a str, is_first: bool, volumes: &[&str]) -> Check<'a> {
        let group = (!volumes.is_empty()).then(|| volumes.iter().map(ToString::to_string).collect());
        Check {
            command,
            address: "127.0.0.1:4420".to_owned(),
            nqns: (0..volumes.len().max(1)).map(|number| format!("nqn{number}")).collect(),
            group,
            point: "lsn:7".to_owned(),
            image: Some(Path::new("image")),
            is_first,
        }
    }

    fn run(command: &str, is_first: bool) -> Result<Checked, CheckError> {
        check(command, is_first, &[]).run()
    }

    #[test]
    fn exit_codes_are_verdicts_as_git_reads_them() {
        let verdict = |code: i32| run(&format!("exit {code}"), false).expect("a verdict").verdict;
        assert_eq!(verdict(0), Verdict::Good);
        assert_eq!(verdict(125), Verdict::Skip);
        for code in [1, 2, 124, 126, 127] {
            assert_eq!(verdict(code), Verdict::Bad, "{code}");
        }
        for code in [128, 130, 255] {
            let error = run(&format!("exit {code}"), false).expect_err("no verdict").to_string();
            assert!(error.contains(&code.to_string()), "{error}");
        }
        assert!(run("kill -9 $$", false).expect_err("no verdict").to_string().contains("signal"));
        assert!(
            run("no-such-command-at-all", true).expect_err("a mistake").to_string().contains("cannot be run")
        );
    }

    #[test]
    fn it_gets_the_clone_in_its_environment() {
        let test = r#"[ "$VARVE_ADDRESS $VARVE_NQN $VARVE_POINT $VARVE_IMAGE" = "127.0.0.1:4420 nqn0 lsn:7 image" ]"#;
        assert_eq!(run(test, true).expect("a verdict").verdict, Verdict::Good);
    }

    #[test]
    fn it_gets_all_clones_of_a_group() {
        let test = r#"[ "$VARVE_VOLUMES:$VARVE_NQNS:$VARVE_IMAGES:$VARVE_NQN$VARVE_IMAGE" = "a b:nqn0 nqn1:image:" ]"#;
        assert_eq!(check(test, true, &["a", "b"]).run().expect("a verdict").verdict, Verdict::Good);
    }
}
