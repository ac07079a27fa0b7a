//! What a request of our own needs, which `object_store` does not make.

use std::sync::Arc;

use object_store::client::HttpClient;

use super::credentials::Credentials;

/// What a request of our own needs.
pub(super) struct Signer {
    pub(super) client: HttpClient,
    pub(super) credentials: Arc<Credentials>,
    pub(super) region: String,
    pub(super) bucket_url: String,
}
