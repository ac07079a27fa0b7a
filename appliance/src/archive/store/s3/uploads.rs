//! Aborts multipart uploads that a crash has left: a list of objects does not show them, but their
//! parts take space until they are aborted.
//!
//! `object_store` does not list uploads, so the request is made and signed here. At most
//! [`ROUNDS_MAX`] lists of [`UPLOADS_MAX`] uploads are read.

use object_store::multipart::MultipartStore;

use super::S3Store;
use super::fault::{Subject, element};
use super::signer::Signer;
use crate::archive::store::{Name, StoreErrorKind};

const ROUNDS_MAX: usize = 100;
const UPLOADS_MAX: usize = 1000;

impl Signer {
    /// The service's list of uploads with a key prefix; `None` when it gives none.
    async fn list(&self, key_prefix: &str) -> Option<String> {
        // In a prefix only slashes need an escape.
        let prefix = key_prefix.replace('/', "%2F");
        self.ask(&format!("max-uploads={UPLOADS_MAX}&prefix={prefix}&uploads=")).await
    }
}

/// The uploads in a list: keys and ids.
fn uploads(xml: &str) -> Vec<(String, String)> {
    let plain = |text: &str| {
        text.replace("&quot;", "\"")
            .replace("&apos;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    };
    xml.split("<Upload>")
        .skip(1)
        .filter_map(|upload| Some((plain(element(upload, "Key")?), plain(element(upload, "UploadId")?))))
        .take(UPLOADS_MAX)
        .collect()
}

impl S3Store {
    /// Aborts every upload of this store's objects; returns how many. A service that does not list
    /// uploads keeps them: it needs a lifecycle rule for their age.
    pub(super) fn abort_leftovers(&self) -> u64 {
        let mut aborted = 0_u64;
        for _ in 0..ROUNDS_MAX {
            let Some(xml) = self.handle.block_on(self.signer.list(&self.key_prefix)) else { break };
            let before = aborted;
            for (key, id) in uploads(&xml) {
                let name = key.strip_prefix(&self.key_prefix).and_then(|text| Name::new(text).ok());
                let Some(name) = name else { continue };
                let path = self.path(&name);
                let result = self.run(Subject::Bucket, self.s3.abort_multipart(&path, &id));
                aborted = aborted.saturating_add(u64::from(result.is_ok()));
                if matches!(result, Err(StoreErrorKind::Unavailable(_))) {
                    return aborted;
                }
            }
            if aborted == before || !xml.contains("<IsTruncated>true<") {
                break;
            }
        }
        aborted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_read_from_any_text() {
        let xml = "<ListMultipartUploadsResult><Upload><Key>p/a</Key><UploadId>x&amp;y=</UploadId></Upload>\
                   <Upload><UploadId>2</UploadId><Key>p/b</Key></Upload><Upload><Key>cut";
        let expected = [("p/a", "x&y="), ("p/b", "2")].map(|(key, id)| (key.to_owned(), id.to_owned()));
        assert_eq!(uploads(xml), expected);
        assert!(uploads("").is_empty() && uploads("<Upload></Upload><Key>").is_empty());
    }
}
