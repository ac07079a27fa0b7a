//! Translates the service's answers and timeouts into error kinds, with a remedy.

use std::cell::RefCell;
use std::error::Error as _;

use object_store::client::{HttpError, HttpErrorKind};

use crate::archive::store::{Reason, StoreErrorKind};

tokio::task_local! {
    /// The last answer in the current call, recorded by the transport: the errors of `object_store`
    /// do not expose it.
    pub(super) static ANSWER: RefCell<Option<Answer>>;
}

/// The connection was never made, so nothing was sent.
pub(super) const UNREACHABLE: StoreErrorKind = StoreErrorKind::Unavailable(Reason::Remote(
    "it cannot be reached: check the endpoint, the network, and its certificate",
));

/// The service knows the caller, and denies access.
pub(super) const ACCESS_DENIED: StoreErrorKind =
    StoreErrorKind::Refused("access is denied: check the credentials and the bucket's policy");
/// The same, for a delete.
pub(super) const DELETE_DENIED: StoreErrorKind = StoreErrorKind::Refused(
    "access is denied: for deleting, the policy of the bucket or of the credentials must allow s3:DeleteObject, and an object that is locked stays until its lock ends",
);

/// The service gives no reason, or one that is not known here.
pub(super) const NOT_TAKEN: StoreErrorKind =
    StoreErrorKind::Refused("the service does not take the request: check region, endpoint and path_style");
/// A delete that is refused for other reasons than access rights.
pub(super) const DELETE_NOT_TAKEN: StoreErrorKind = StoreErrorKind::Refused(
    "the service does not delete it: an object that is locked (object lock, legal hold, WORM) stays until its lock ends",
);
/// Credentials that were valid once. They are renewed outside the appliance.
const EXPIRED: StoreErrorKind = StoreErrorKind::Unavailable(Reason::Remote(
    "the credentials have expired (the session token is not valid any more): get new ones; a credentials file is read again by itself, others need a restart",
));
/// It ends when a clock is corrected: each request is signed anew.
const SKEWED: StoreErrorKind = StoreErrorKind::Unavailable(Reason::Remote(
    "the clocks differ too much (RequestTimeTooSkewed): set this machine's clock, or the service's; it goes on by itself then",
));

/// The status of an answer, its S3 code if it has one, and whether it is a page of a list that
/// reports more pages.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) code: Option<String>,
    pub(super) more: bool,
}

/// Whether the last answer was a page that reports more pages. Must be called within the call.
pub(super) fn says_more() -> bool {
    ANSWER.with(|answer| answer.borrow().as_ref().is_some_and(|answer| answer.more))
}

/// The text of an element of S3's XML, without decoding.
pub(super) fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// The status that an error inside an answer of status 200 would have had.
pub(super) fn status_of(code: &str) -> u16 {
    match code {
        "PreconditionFailed" => 412,
        "SlowDown" | "ServiceUnavailable" | "Busy" => 503,
        "AccessDenied" | "RequestTimeTooSkewed" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" => 403,
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => 400,
        "OperationAborted" | "ConditionalRequestConflict" => 409,
        "RequestTimeout" => 408,
        _ => 500,
    }
}

/// The status that makes `object_store` retry an answer; `None` when it already does so for the
/// answer's own status, or when a retry is useless. A conflict means that another request works on
/// the same object, and that ends. A conflict of a completion is not retried: the upload must be
/// made again.
pub(super) fn retried_as(code: &str, completes: bool) -> Option<u16> {
    match code {
        "OperationAborted" | "ConditionalRequestConflict" if !completes => Some(503),
        "RequestTimeout" => Some(408),
        _ => None,
    }
}

/// The subject of a call, which decides what "404" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    /// An object that may be missing.
    Object,
    /// An object that is being written, or the bucket: only the bucket can be missing.
    Bucket,
}

/// The kind of a failure.
pub(super) fn kind_of(
    error: &object_store::Error,
    answer: Option<&Answer>,
    subject: Subject,
) -> StoreErrorKind {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            // A connection timeout is reported as a request timeout.
            let client = error.source().and_then(|error| error.downcast_ref::<reqwest::Error>());
            return if client.is_some_and(reqwest::Error::is_connect) {
                UNREACHABLE
            } else {
                of_transport(error.kind())
            };
        }
        cause = error.source();
    }
    match answer {
        Some(answer) if !(200..300).contains(&answer.status) => of_answer(answer, subject),
        _ if matches!(error, object_store::Error::InvalidPath { .. }) => StoreErrorKind::Refused(
            "there are keys under the prefix that are not varve's: give it a prefix of its own",
        ),
        _ => StoreErrorKind::Corrupt("its answer is not what was asked for"),
    }
}

fn of_transport(kind: HttpErrorKind) -> StoreErrorKind {
    let text = match kind {
        HttpErrorKind::Connect => return UNREACHABLE,
        HttpErrorKind::Timeout => {
            "no answer in time: check the network and the service; it is tried again by itself"
        }
        _ => "the connection was cut: check the network and the service; trying again may do",
    };
    StoreErrorKind::Unavailable(Reason::Remote(text))
}

/// The kind of an unsuccessful answer.
fn of_answer(answer: &Answer, subject: Subject) -> StoreErrorKind {
    use StoreErrorKind::{Exists, NoSpace, NotFound, OutOfRange, Refused, Unavailable, Unsupported};
    match (answer.code.as_deref().unwrap_or(""), answer.status) {
        ("NoSuchBucket", _) => Refused("no such bucket: make it, or check bucket and endpoint"),
        ("NoSuchUpload", _) => Unavailable(Reason::Remote("the upload was aborted: put the object again")),
        ("InvalidAccessKeyId", _) => Refused(
            "the access key is not known: check access_key_id (AWS_ACCESS_KEY_ID, or the credentials file)",
        ),
        ("SignatureDoesNotMatch", _) => Refused(
            "the signature is wrong: check secret_access_key (AWS_SECRET_ACCESS_KEY, or the credentials file) and region",
        ),
        ("RequestTimeTooSkewed", _) => SKEWED,
        ("RequestTimeout", _) => Unavailable(Reason::Http(408)),
        ("ExpiredToken" | "InvalidToken" | "TokenRefreshRequired", _) => EXPIRED,
        ("AuthorizationHeaderMalformed" | "PermanentRedirect", _) | ("", 300..=399) => {
            Refused("the bucket is elsewhere: check region and endpoint")
        }
        ("QuotaExceeded" | "InsufficientStorage" | "XMinioStorageFull", _) | (_, 507) => NoSpace,
        (_, 401 | 403) => ACCESS_DENIED,
        (_, 404) if subject == Subject::Object => NotFound,
        (_, 404) => Refused("no such bucket: make it, or check bucket and endpoint"),
        (_, 412) => Exists,
        // Another request works on the same object at the same time. A put then checks what exists.
        (_, 409) => Unavailable(Reason::Http(409)),
        (_, 413) => Refused("the service takes no objects of this size: choose another service"),
        (_, 416) => OutOfRange,
        (_, 405 | 501) => Unsupported("the service does not know this request"),
        (_, status @ (408 | 429 | 500..)) => Unavailable(Reason::Http(status)),
        // An answer of status 200 that contains an error reaches this only by its code.
        _ => NOT_TAKEN,
    }
}
