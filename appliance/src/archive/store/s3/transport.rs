//! The HTTP client below `object_store`: records each answer for [`fault`](super::fault), and adds
//! the condition to the completion of a multipart upload, which `object_store` omits.

use std::fs;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use object_store::ClientOptions;
use object_store::HeaderValue;
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService};

use super::config::S3Config;
use super::fault::{ANSWER, Answer, element, retried_as, status_of};
use crate::archive::store::{StoreError, StoreErrorKind};

/// The longest code that is read, in bytes.
const CODE_BYTES_MAX: usize = 64;

/// Passes the existing client to `object_store`.
#[derive(Debug, Clone)]
pub(super) struct Connector(HttpClient);

impl Connector {
    /// Sets up TLS and timeouts. While `conditional` is set, multipart uploads are completed with
    /// `If-None-Match: *`.
    pub(super) fn new(config: &S3Config, conditional: Arc<AtomicBool>) -> Result<Self, StoreError> {
        let refused = |text| StoreError::new(&config.label(), "open", StoreErrorKind::Refused(text));
        // Another part of the process may have installed a provider already, which is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .connect_timeout(Duration::from_millis(config.connect_timeout_ms))
            .timeout(config.request_timeout())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .http1_only();
        if let Some(path) = &config.ca_file {
            let pem =
                fs::read(path).map_err(|error| StoreError::io(&config.label(), "open (ca_file)", &error))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|_| refused("ca_file holds no certificates in PEM"))?;
            builder = builder.tls_certs_merge(certificates);
        }
        if config.endpoint.as_deref().is_some_and(|endpoint| endpoint.starts_with("http://")) {
            // No TLS: this works on a machine without certificates.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|_| {
            refused(
                "TLS cannot be set up: install the system's certificates (ca-certificates), or check ca_file",
            )
        })?;
        Ok(Connector(HttpClient::new(Transport { client, conditional })))
    }

    pub(super) fn client(&self) -> &HttpClient {
        &self.0
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

#[derive(Debug)]
struct Transport {
    client: reqwest::Client,
    conditional: Arc<AtomicBool>,
}

impl Transport {
    async fn exchange(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let completes = request.method() == reqwest::Method::POST
            && request.uri().query().is_some_and(|query| query.starts_with("uploadId="));
        if completes && self.conditional.load(Ordering::Relaxed) {
            request.headers_mut().insert("if-none-match", HeaderValue::from_static("*"));
        }
        // An object's bytes do not contain an error; the body of any other answer may.
        let gives_object = request.method() == reqwest::Method::GET
            && request.uri().query().is_none_or(|query| !query.contains("list-type="));
        note(None);
        let response = self.client.call(request).await?;
        let status = response.status().as_u16();
        // A completion sends status 200 early, and its body has the result. Some services, and
        // proxies in front of them, do that for other requests too.
        if response.status().is_success() && gives_object {
            note(Some(Answer { status, code: None, more: false }));
            return Ok(response);
        }
        let (mut parts, body) = response.into_parts();
        let body = body.bytes().await?;
        let text = std::str::from_utf8(&body).unwrap_or_default();
        let more = element(text, "IsTruncated") == Some("true");
        let code = Some(text)
            .filter(|xml| xml.contains("<Error>") || xml.contains("<Error "))
            .and_then(|xml| element(xml, "Code"))
            .filter(|code| code.len() <= CODE_BYTES_MAX)
            .map(str::to_owned);
        let status = match &code {
            Some(code) if parts.status.is_success() => status_of(code),
            _ => status,
        };
        // `object_store` retries by the status alone, and searches few bodies for errors.
        let shown = code.as_deref().and_then(|code| retried_as(code, completes)).unwrap_or(status);
        parts.status = reqwest::StatusCode::from_u16(shown).unwrap_or(parts.status);
        note(Some(Answer { status, code, more }));
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

fn note(answer: Option<Answer>) {
    // Outside a call nothing reads the answer.
    let _ = ANSWER.try_with(|noted| *noted.borrow_mut() = answer);
}

impl HttpService for Transport {
    fn call<'life0, 'async_trait>(
        &'life0 self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(self.exchange(request))
    }
}
