//! Configures the client of `object_store` for a bucket.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::{BackoffConfig, RetryConfig};

use super::config::S3Config;
use super::credentials::Credentials;
use super::transport::Connector;
use crate::archive::store::{StoreError, StoreErrorKind};

/// What is needed to make a client.
pub(super) struct Builder {
    pub(super) config: S3Config,
    pub(super) credentials: Arc<Credentials>,
    pub(super) connector: Connector,
}

impl Builder {
    /// Makes a client. Checksums are required by a bucket with object lock for each put; simpler
    /// services may not support them.
    pub(super) fn build(&self, with_checksums: bool) -> Result<AmazonS3, StoreError> {
        let Builder { config, credentials, connector } = self;
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&config.bucket)
            .with_region(&config.region)
            // The URL contains the bucket already, in either style.
            .with_endpoint(config.bucket_url())
            .with_virtual_hosted_style_request(true)
            .with_allow_http(config.allow_http)
            .with_credentials(Arc::<Credentials>::clone(credentials))
            .with_retry(retry(config))
            .with_http_connector(connector.clone())
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_disable_bulk_delete(true);
        if with_checksums {
            builder = builder.with_checksum_algorithm(Checksum::SHA256);
        }
        let refused = StoreErrorKind::Refused("check endpoint, bucket and region");
        builder.build().map_err(|_| StoreError::new(&config.label(), "open", refused))
    }
}

fn retry(config: &S3Config) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: config.retries_max as usize,
        // The signature of a retried request ages: after 15 minutes it is refused.
        retry_timeout: Duration::from_mins(10),
    }
}
