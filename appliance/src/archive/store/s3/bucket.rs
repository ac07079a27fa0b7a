//! What a bucket's own settings mean for an archive in it: versions and locks.

use object_store::aws::AwsAuthorizer;
use object_store::client::{HttpRequest, HttpRequestBody};

use super::S3Store;
use super::fault::element;
use super::uploads::Signer;

impl Signer {
    /// The service's answer to a question about the bucket; `None` when it does not say.
    pub(super) async fn ask(&self, query: &str) -> Option<String> {
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.uri_mut() = format!("{}?{query}", self.bucket_url).parse().ok()?;
        let credential = self.credentials.now();
        AwsAuthorizer::new(&credential, "s3", &self.region).try_authorize(&mut request, None).ok()?;
        let response = self.client.execute(request).await.ok()?;
        if !response.status().is_success() {
            return None;
        }
        let body = response.into_body().bytes().await.ok()?;
        String::from_utf8(body.to_vec()).ok()
    }
}

impl S3Store {
    /// What the operator must know of the bucket: asked when it is attached. A service that does not answer has nothing to say.
    pub fn notes(&self) -> Vec<String> {
        let ask = |query| self.handle.block_on(self.signer.ask(query));
        let versioning = ask("versioning=").unwrap_or_default();
        let lock = ask("object-lock=").unwrap_or_default();
        notes_of(&self.label, &versioning, &lock)
    }
}

fn notes_of(label: &str, versioning: &str, lock: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if element(lock, "ObjectLockEnabled") == Some("Enabled") {
        let rule = match (element(lock, "Mode"), element(lock, "Days").or_else(|| element(lock, "Years"))) {
            (Some(mode), Some(time)) => {
                let unit = if lock.contains("<Days>") { "days" } else { "years" };
                format!("every new object for {time} {unit}, mode {mode}")
            }
            _ => String::from("objects on which somebody puts a lock"),
        };
        notes.push(format!(
            "{label}: the bucket has object lock ({rule}): what expires is hidden by a delete marker and takes its space until the lock ends; retention cannot free it before"
        ));
    }
    match element(versioning, "Status") {
        Some("Enabled") => notes.push(format!(
            "{label}: the bucket keeps versions: what expires is only hidden, and takes its space until a lifecycle rule of the bucket removes versions that are not current"
        )),
        Some("Suspended") => notes.push(format!(
            "{label}: the bucket kept versions once: old ones take space until a lifecycle rule of the bucket removes them"
        )),
        _ => {}
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_buckets_are_explained() {
        let versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
        let lock = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
        let notes = notes_of("s3 b", versioning, lock);
        assert!(notes[0].contains("30 days, mode COMPLIANCE") && notes[1].contains("lifecycle"), "{notes:?}");
        assert!(notes_of("s3 b", "<VersioningConfiguration/>", "").is_empty());
    }
}
