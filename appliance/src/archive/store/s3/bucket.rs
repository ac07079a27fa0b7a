//! Reads a bucket's own settings that matter to an archive: versioning and object lock.

use std::time::Duration;

use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody};

use super::fault::element;
use super::signer::Signer;
use crate::archive::store::LockEnd;

/// The number of tries to read the bucket's settings when the service fails.
const ASKS_MAX: u32 = 3;
/// The pause before the next try.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// The settings as the service reports them; empty where it reports none.
#[derive(Debug, Default)]
pub(super) struct Settings {
    versioning: String,
    lock: String,
}

impl Signer {
    /// The service's answer to a query about the bucket; `None` when it gives none.
    pub(super) async fn ask(&self, query: &str) -> Option<String> {
        self.ask_at(&format!("{}?{query}", self.bucket_url)).await
    }

    async fn ask_at(&self, url: &str) -> Option<String> {
        for _ in 1..ASKS_MAX {
            match self.ask_once(url).await {
                Ok(answer) => return answer,
                Err(()) => tokio::time::sleep(ASK_AGAIN).await,
            }
        }
        self.ask_once(url).await.ok().flatten()
    }

    /// `Err`: a later try may succeed.
    async fn ask_once(&self, url: &str) -> Result<Option<String>, ()> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        let Ok(uri) = url.parse() else { return Ok(None) };
        *request.uri_mut() = uri;
        let credential = self.credentials.now();
        let authorizer = AwsAuthorizer::new(&credential, "s3", &self.region);
        if authorizer.try_authorize(&mut request, None).is_err() {
            return Ok(None);
        }
        let Ok(response) = self.client.execute(request).await else { return Ok(None) };
        let status = response.status();
        if status.is_server_error() || status.as_u16() == 429 {
            return Err(());
        }
        if !status.is_success() {
            return Ok(None);
        }
        let Ok(body) = response.into_body().bytes().await else { return Ok(None) };
        Ok(String::from_utf8(body.to_vec()).ok())
    }

    /// The end of an object's lock, if it has one and the service reports it.
    pub(super) async fn lock_end(&self, key: &str) -> Option<LockEnd> {
        let retention = self.ask_at(&format!("{}/{key}?retention=", self.bucket_url)).await?;
        element(&retention, "RetainUntilDate").and_then(LockEnd::parse)
    }

    /// Reads the bucket's settings.
    pub(super) async fn settings(&self) -> Settings {
        Settings {
            versioning: self.ask("versioning=").await.unwrap_or_default(),
            lock: self.ask("object-lock=").await.unwrap_or_default(),
        }
    }
}

impl Settings {
    /// Whether objects can be locked, so that each put must have a checksum.
    pub(super) fn has_lock(&self) -> bool {
        element(&self.lock, "ObjectLockEnabled") == Some("Enabled")
    }

    /// What the operator must know, with the remedy.
    pub(super) fn notes(&self, label: &str) -> Vec<String> {
        let mut notes = Vec::new();
        if self.has_lock() {
            let rule = self.default_retention();
            notes.push(format!(
                "{label}: the bucket has object lock ({rule}): deletes are refused until a lock ends, or only hide the object; what expires takes its space until then; keep no default retention that is longer than the archive's own rules, and set a lifecycle rule that removes versions that are not current"
            ));
        }
        match element(&self.versioning, "Status") {
            Some("Enabled") => notes.push(format!(
                "{label}: the bucket keeps versions: what expires is only hidden, and takes its space until a lifecycle rule of the bucket removes versions that are not current: set one"
            )),
            Some("Suspended") => notes.push(format!(
                "{label}: the bucket kept versions once: old ones take space until a lifecycle rule of the bucket removes versions that are not current: set one"
            )),
            _ => {}
        }
        notes
    }

    /// What the bucket locks by default, in words.
    fn default_retention(&self) -> String {
        let mode = element(&self.lock, "Mode");
        let days = element(&self.lock, "Days").map(|days| format!("{days} days"));
        let time = days.or_else(|| element(&self.lock, "Years").map(|years| format!("{years} years")));
        match (mode, time) {
            (Some(mode), Some(time)) => format!("every new object for {time}, mode {mode}"),
            _ => String::from("objects on which somebody puts a lock"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_buckets_are_explained() {
        let versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let lock = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let settings = |versioning: &str, lock: &str| Settings {
            versioning: versioning.to_owned(),
            lock: lock.to_owned(),
        };
        let notes = settings(versioning, lock).notes("s3 b");
        assert!(notes[0].contains("30 days, mode COMPLIANCE") && notes[1].contains("lifecycle"), "{notes:?}");
        assert!(settings("<VersioningConfiguration/>", "").notes("s3 b").is_empty());
        let by_hand = lock.replace("<Days>30</Days>", "");
        assert!(settings("", &by_hand).notes("s3 b")[0].contains("somebody puts a lock"));
    }
}
