//! Signs requests that `object_store` does not offer.

use std::sync::Arc;

use object_store::client::HttpClient;

use super::credentials::Credentials;

/// What is needed to sign and send such a request.
pub(super) struct Signer {
    pub(super) client: HttpClient,
    pub(super) credentials: Arc<Credentials>,
    pub(super) region: String,
    pub(super) bucket_url: String,
}
