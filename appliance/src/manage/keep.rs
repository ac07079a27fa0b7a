//! The retention rules and the file that stores them, as the text that an operator writes.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::archive::retention::{KeepError, KeepRules};
use crate::private;

/// Why the rules could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum KeepFileError {
    /// The operating system refused.
    #[error("the rules of retention in {} cannot be {operation}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        operation: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The content of the file is not a valid set of rules.
    #[error("{}: {source}; mend the file, or remove it to keep everything", path.display())]
    Rules {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: KeepError,
    },
}

/// The current rules. The file is changed first, so a restart never finds older rules.
pub(super) struct Keep {
    file: PathBuf,
    rules: Mutex<KeepRules>,
}

impl Keep {
    /// Reads the rules. Without a file there are no rules, and everything is kept.
    pub(super) fn open(file: &Path) -> Result<Self, KeepFileError> {
        let read = std::fs::read_to_string(file).and_then(|text| private::tighten(file).map(|_| text));
        let rules = match read {
            Ok(text) => KeepRules::parse(&text)
                .map_err(|source| KeepFileError::Rules { path: file.to_owned(), source })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => KeepRules::default(),
            Err(source) => {
                return Err(KeepFileError::Io { path: file.to_owned(), operation: "read", source });
            }
        };
        Ok(Keep { file: file.to_owned(), rules: Mutex::new(rules) })
    }

    pub(super) fn get(&self) -> KeepRules {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, rules: KeepRules) -> Result<(), KeepFileError> {
        let mut held = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        private::replace(&self.file, format!("{}\n", String::from(rules.clone())).as_bytes())
            .map_err(|source| KeepFileError::Io { path: self.file.clone(), operation: "written", source })?;
        *held = rules;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_outlive_a_restart_and_are_not_guessed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("archive-keep");
        let keep = Keep::open(&file).expect("no file keeps everything");
        assert!(keep.get().keep_everything());
        let rules = KeepRules::parse("every-write 48h; synch 30d").expect("rules");
        keep.set(rules.clone()).expect("written");
        assert_eq!(Keep::open(&file).expect("found again").get(), rules);
        keep.set(KeepRules::default()).expect("written");
        assert!(Keep::open(&file).expect("found again").get().keep_everything());
        std::fs::write(&file, "synch tomorrow").expect("written");
        let text = Keep::open(&file).map(|_| ()).expect_err("no rules").to_string();
        assert!(text.contains("archive-keep") && text.contains("remove it"), "{text}");
    }

    #[test]
    fn rules_that_cannot_be_written_change_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let keep = Keep::open(&folder.path().join("gone/archive-keep")).expect("no file");
        let text = keep.set(KeepRules::parse("synch 1d").expect("rules")).expect_err("no folder").to_string();
        assert!(text.contains("cannot be written"), "{text}");
        assert!(keep.get().keep_everything());
    }
}
