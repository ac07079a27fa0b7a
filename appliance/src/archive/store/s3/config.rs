//! Settings of an S3 store, with their bounds, and secrets that are never printed.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::archive::store::{NAME_BYTES_MAX, StoreError, StoreErrorKind};

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: &str) -> Self {
        Secret(text.to_owned())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Settings of an S3 store. Only the bucket has no default.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3Config {
    /// The service, such as `https://s3.example.org:9000`; without it, Amazon's endpoint of the
    /// region.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The bucket, which must exist.
    pub bucket: String,
    /// The prefix of the keys of all objects, followed by a slash; empty for the whole bucket. A
    /// prefix has one owner at a time.
    #[serde(default)]
    pub prefix: String,
    /// The region that requests are signed for.
    #[serde(default = "region")]
    pub region: String,
    /// The access key; without it, all three come from `credentials_file`, or from
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_SESSION_TOKEN`.
    #[serde(default)]
    pub access_key_id: Option<Secret>,
    /// The secret of the access key.
    #[serde(default)]
    pub secret_access_key: Option<Secret>,
    /// The token of a temporary access key.
    #[serde(default)]
    pub session_token: Option<Secret>,
    /// A file with the access key, in the format of `~/.aws/credentials`. It is read again whenever
    /// it changes.
    #[serde(default)]
    pub credentials_file: Option<PathBuf>,
    /// Whether an endpoint without TLS is allowed.
    #[serde(default)]
    pub allow_http: bool,
    /// The bucket is in the path (most services), not in the host name.
    #[serde(default = "path_style")]
    pub path_style: bool,
    /// Certificates (PEM) to trust in addition to the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The timeout of a connection, in milliseconds: 1 to 600,000.
    #[serde(default = "connect_timeout_ms")]
    pub connect_timeout_ms: u64,
    /// The timeout of one request with its answer, in milliseconds: 1 to 3,600,000. A request
    /// transfers up to `buffer_bytes`.
    #[serde(default = "request_timeout_ms")]
    pub request_timeout_ms: u64,
    /// How often a request is retried when the service fails: at most 20.
    #[serde(default = "retries_max")]
    pub retries_max: u32,
    /// The memory of an open put, in bytes: 5 MiB to 1 GiB. A longer object is uploaded in parts of
    /// this size.
    #[serde(default = "buffer_bytes")]
    pub buffer_bytes: usize,
    /// The most bytes that all objects together may take; without it there is no limit.
    #[serde(default)]
    pub capacity_bytes: Option<u64>,
}

impl fmt::Debug for S3Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The label hides an endpoint that contains a password.
        f.debug_struct("S3Config")
            .field("label", &self.label())
            .field("region", &self.region)
            .finish_non_exhaustive()
    }
}

fn region() -> String {
    String::from("us-east-1")
}

fn path_style() -> bool {
    true
}

fn connect_timeout_ms() -> u64 {
    5_000
}

fn request_timeout_ms() -> u64 {
    60_000
}

fn retries_max() -> u32 {
    5
}

fn buffer_bytes() -> usize {
    64 << 20
}

/// The smallest part that S3 accepts, except for the last one.
const PART_BYTES_MIN: usize = 5 << 20;

impl S3Config {
    /// The default settings for a bucket.
    pub fn new(bucket: &str) -> Self {
        S3Config {
            endpoint: None,
            bucket: bucket.to_owned(),
            prefix: String::new(),
            region: region(),
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            credentials_file: None,
            allow_http: false,
            path_style: path_style(),
            ca_file: None,
            connect_timeout_ms: connect_timeout_ms(),
            request_timeout_ms: request_timeout_ms(),
            retries_max: retries_max(),
            buffer_bytes: buffer_bytes(),
            capacity_bytes: None,
        }
    }

    /// The store's label. It holds no secrets: an endpoint that contains a password is refused, and
    /// not printed.
    pub fn label(&self) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or("amazonaws.com");
        let endpoint = if endpoint.contains('@') { "(an endpoint with a password)" } else { endpoint };
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("s3 {}{slash}{} at {endpoint}", self.bucket, self.prefix)
    }

    pub(super) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    /// Checks every setting.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let refused = |text| Err(StoreError::new(&self.label(), "open", StoreErrorKind::Refused(text)));
        if let Some(endpoint) = &self.endpoint {
            let rest = match (endpoint.strip_prefix("https://"), endpoint.strip_prefix("http://")) {
                (Some(rest), _) => rest,
                (None, Some(rest)) if self.allow_http => rest,
                (None, Some(_)) => {
                    return refused("the endpoint has no TLS: use https, or allow_http=true");
                }
                (None, None) => return refused("the endpoint must begin with https:// or http://"),
            };
            if rest.contains('@') {
                return refused(
                    "the endpoint must not hold a user or a password: credentials come from AWS_ACCESS_KEY_ID or credentials=FILE",
                );
            }
            let host = rest.trim_end_matches('/');
            if host.is_empty() || host.contains(['/', '?', '#', ' ']) || !host.is_ascii() {
                return refused("the endpoint must be a host, and a port if need be, with no path");
            }
        }
        let in_bucket = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        if !(3..=255).contains(&self.bucket.len()) || !self.bucket.bytes().all(in_bucket) {
            return refused("bucket must be 3 to 255 letters, digits, '-', '.' and '_'");
        }
        let part_valid =
            |part: &str| !part.is_empty() && !part.starts_with('.') && part.bytes().all(in_bucket);
        // With the longest name a key stays below the limit of 1024 bytes.
        if !self.prefix.is_empty()
            && (self.prefix.len() > 1_000 - NAME_BYTES_MAX || !self.prefix.split('/').all(part_valid))
        {
            return refused(
                "prefix must be letters, digits, '-', '.' and '_' in parts between single slashes, none beginning with a dot",
            );
        }
        if self.region.is_empty() || !self.region.bytes().all(in_bucket) {
            return refused("region must be letters, digits and '-'");
        }
        if !(1..=600_000).contains(&self.connect_timeout_ms) {
            return refused("connect_timeout_ms must be 1 to 600000");
        }
        if !(1..=3_600_000).contains(&self.request_timeout_ms) {
            return refused("request_timeout_ms must be 1 to 3600000");
        }
        if self.retries_max > 20 {
            return refused("retries_max must be at most 20");
        }
        if !(PART_BYTES_MIN..=1 << 30).contains(&self.buffer_bytes) {
            return refused("buffer_bytes must be 5 MiB to 1 GiB");
        }
        Ok(())
    }

    /// The URL of the bucket, without a slash at its end.
    pub(super) fn bucket_url(&self) -> String {
        let (scheme, host) = match &self.endpoint {
            Some(endpoint) => {
                let (scheme, host) = endpoint.split_once("://").unwrap_or(("https", endpoint));
                (scheme, host.trim_end_matches('/').to_owned())
            }
            None => ("https", format!("s3.{}.amazonaws.com", self.region)),
        };
        if self.path_style {
            format!("{scheme}://{host}/{}", self.bucket)
        } else {
            format!("{scheme}://{}.{host}", self.bucket)
        }
    }
}
