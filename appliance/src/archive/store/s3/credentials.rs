//! Finds the access key, and notices a new one: before each request the file's time and length are
//! compared, and the file is read again if they have changed.
//!
//! | source | when | a new key |
//! |---|---|---|
//! | the settings' `access_key_id` | it is set | needs a restart |
//! | `AWS_ACCESS_KEY_ID` and the like | they are set and no file is named in the settings | needs a restart: nobody can change a process's environment |
//! | the settings' `credentials_file`, or `AWS_SHARED_CREDENTIALS_FILE` | otherwise | is used by the next request |
//!
//! A file has the format of `~/.aws/credentials`; the section is `AWS_PROFILE`, or `default`. If a
//! file cannot be read or is incomplete, the previous key stays in use. Other providers (of
//! instances, of containers) write such a file with their vendors' tools.

use std::fs;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use object_store::CredentialProvider;
use object_store::aws::AwsCredential;

use super::config::{S3Config, Secret};
use crate::archive::store::{StoreError, StoreErrorKind};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// An access key with its secret, and a token if it is a temporary one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) id: Secret,
    pub(super) secret: Secret,
    pub(super) token: Option<Secret>,
}

impl Key {
    /// The values are sent in headers.
    fn is_visible(&self) -> bool {
        let visible = |secret: &Secret| {
            !secret.reveal().is_empty() && secret.reveal().bytes().all(|byte| byte.is_ascii_graphic())
        };
        visible(&self.id) && visible(&self.secret) && self.token.as_ref().is_none_or(visible)
    }

    fn credential(&self) -> Arc<AwsCredential> {
        Arc::new(AwsCredential {
            key_id: self.id.reveal().to_owned(),
            secret_key: self.secret.reveal().to_owned(),
            token: self.token.as_ref().map(|token| token.reveal().to_owned()),
        })
    }
}

struct Watched {
    path: PathBuf,
    profile: String,
    /// Time of change and length when it was last read.
    seen: Option<(SystemTime, u64)>,
}

struct State {
    credential: Arc<AwsCredential>,
    file: Option<Watched>,
    /// The last complaint about an unusable file: each complaint is logged once.
    complaint: Option<&'static str>,
}

/// Provides the current key.
pub(super) struct Credentials(Mutex<State>);

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(credentials)")
    }
}

impl Credentials {
    /// Finds the key in the settings or in `environment`.
    pub(super) fn find(
        config: &S3Config,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, StoreError> {
        let refused = |text| StoreError::new(&config.label(), "open", StoreErrorKind::Refused(text));
        let from = |variable| environment(variable).filter(|text: &String| !text.is_empty());
        let secret = |variable| from(variable).map(|text| Secret::new(&text));
        let mut file = None;
        let key = if config.access_key_id.is_some() {
            key(config.access_key_id.clone(), config.secret_access_key.clone(), config.session_token.clone())
        } else if config.credentials_file.is_none() && from("AWS_ACCESS_KEY_ID").is_some() {
            let (id, secret_key) = (secret("AWS_ACCESS_KEY_ID"), secret("AWS_SECRET_ACCESS_KEY"));
            key(id, secret_key, secret("AWS_SESSION_TOKEN"))
        } else if let Some(path) =
            config.credentials_file.clone().or_else(|| from("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from))
        {
            let profile = from("AWS_PROFILE").unwrap_or_else(|| String::from("default"));
            let mut watched = Watched { path, profile, seen: None };
            let key =
                watched.changed().map_err(|text| refused(text.unwrap_or("the credentials file is empty")))?;
            file = Some(watched);
            Some(key)
        } else {
            None
        };
        let key = key.ok_or_else(|| {
            refused("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file with credentials=FILE or AWS_SHARED_CREDENTIALS_FILE")
        })?;
        if !key.is_visible() {
            return Err(refused(
                "the credentials have bytes that no access key has: check for spaces and line ends",
            ));
        }
        Ok(Credentials(Mutex::new(State { credential: key.credential(), file, complaint: None })))
    }

    /// The key for the next request.
    pub(super) fn now(&self) -> Arc<AwsCredential> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        if let Some(file) = &mut state.file {
            match file.changed() {
                Ok(key) => {
                    state.credential = key.credential();
                    state.complaint = None;
                }
                Err(Some(reason)) if state.complaint != Some(reason) => {
                    tracing::warn!(file = %file.path.display(), reason, "the credentials in use stay");
                    state.complaint = Some(reason);
                }
                Err(_) => {}
            }
        }
        Arc::clone(&state.credential)
    }
}

fn key(id: Option<Secret>, secret: Option<Secret>, token: Option<Secret>) -> Option<Key> {
    Some(Key { id: id?, secret: secret?, token })
}

impl Watched {
    /// The key in the file if the file has changed since the last call that returned one. Otherwise
    /// the error has the reason, if the file is unusable, or `None`.
    fn changed(&mut self) -> Result<Key, Option<&'static str>> {
        let unreadable = Some("the credentials file cannot be read: check credentials_file");
        let metadata = fs::metadata(&self.path).map_err(|_| unreadable)?;
        let now = (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len());
        if self.seen == Some(now) {
            return Err(None);
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(Some("the credentials file is too large to be one"));
        }
        let text = fs::read_to_string(&self.path).map_err(|_| unreadable)?;
        let missing = Some("the credentials file has no whole key in the section: check AWS_PROFILE");
        let key = parse(&text, &self.profile).filter(Key::is_visible).ok_or(missing)?;
        // Only a file with a usable key is not read again.
        self.seen = Some(now);
        Ok(key)
    }
}

/// The key of a section.
fn parse(text: &str, profile: &str) -> Option<Key> {
    let mut inside = false;
    let mut values = [None, None, None];
    let names = ["aws_access_key_id", "aws_secret_access_key", "aws_session_token"];
    for line in text.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            inside = section.trim() == profile;
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            let value_of = names.iter().position(|known| *known == name.trim());
            if let Some(found) = value_of.and_then(|index| values.get_mut(index)) {
                *found = Some(Secret::new(value.trim()));
            }
        }
    }
    let [id, secret, token] = values;
    key(id, secret, token)
}

impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    fn get_credential<'life0, 'async_trait>(
        &'life0 self,
    ) -> Pin<Box<dyn Future<Output = object_store::Result<Arc<AwsCredential>>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async { Ok(self.now()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_of_a_file_is_a_key() {
        let text = "# x\n[other]\naws_access_key_id = O\naws_secret_access_key=P\n\n[default]\n aws_access_key_id=A\naws_secret_access_key = B=\naws_session_token = C\nregion = x\n";
        let secret = |text| Secret::new(text);
        let expected = Key { id: secret("A"), secret: secret("B="), token: Some(secret("C")) };
        assert_eq!(parse(text, "default"), Some(expected));
        assert_eq!(parse(text, "other"), Some(Key { id: secret("O"), secret: secret("P"), token: None }));
        assert_eq!(parse(text, "third"), None);
        assert_eq!(parse("[default]\naws_access_key_id=A", "default"), None);
    }
}
