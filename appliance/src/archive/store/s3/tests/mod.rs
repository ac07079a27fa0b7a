//! Tests of the S3 store against a complete server, and against one that injects faults.

mod answers;
mod proxied;
mod real;
mod server;
mod settings;

use uuid::Uuid;

use super::*;
use crate::archive::store::conformance::{self, Fixture};
use crate::archive::store::{CheckOutcome, Reason, probe};
use server::{Fault, Server};
use varve_s3_server::{ACCESS_KEY, SECRET_KEY};

fn config(url: &str) -> S3Config {
    S3Config {
        endpoint: Some(url.to_owned()),
        access_key_id: Some(Secret::new(ACCESS_KEY)),
        secret_access_key: Some(Secret::new(SECRET_KEY)),
        allow_http: true,
        ..S3Config::new("bucket")
    }
}

/// No retries, and short timeouts.
fn impatient(server: &Server) -> S3Config {
    S3Config { retries_max: 0, prefix: "p".into(), ..config(&server.url()) }
}

fn open(server: &Server) -> S3Store {
    S3Store::open(impatient(server)).unwrap()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn content(len: usize) -> Vec<u8> {
    (0..len as u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn put(store: &dyn Store, text: &str, bytes: &[u8]) -> Result<ObjectStat, StoreError> {
    store.put(&name(text), bytes.len() as u64, &mut &bytes[..])
}

fn get(store: &dyn Store, text: &str) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    store.get(&name(text), &mut bytes).map(|_| bytes)
}

fn kind<T>(result: Result<T, StoreError>) -> StoreErrorKind {
    result.err().expect("must fail").kind
}

struct SmallParts(Server);

impl Fixture for SmallParts {
    type Opened = S3Store;

    fn open(&self) -> S3Store {
        S3Store::open(S3Config { buffer_bytes: 5 << 20, ..impatient(&self.0) }).unwrap()
    }

    fn open_small(&self) -> S3Store {
        let small = S3Config { prefix: "small".into(), capacity_bytes: Some(1 << 20), ..impatient(&self.0) };
        S3Store::open(small).unwrap()
    }
}

#[test]
fn it_conforms_with_uploads_in_parts() {
    conformance::run(&SmallParts(Server::start()));
}

#[test]
fn the_probe_finds_out_who_ignores_conditions_and_the_store_then_looks_first() {
    let server = Server::start();
    server.fail("PUT ", Fault::NoConditions, usize::MAX);
    let store = open(&server);
    assert!(store.capabilities().conditional_put, "as far as it knows");
    let report = probe(&store, Uuid::from_u128(1));
    assert!(matches!(report.outcome(Check::RefusesOverwrite), Some(CheckOutcome::Lied)));
    assert!(!report.passed() && !report.capabilities.conditional_put);
    let others = report.checks.iter().filter(|(check, _)| *check != Check::RefusesOverwrite);
    assert!(others.clone().all(|(_, outcome)| matches!(outcome, CheckOutcome::Passed)), "{report:?}");
    assert_eq!(others.count(), 6);
    assert!(!store.capabilities().conditional_put, "the store knows now");
    put(&store, "once", b"first").unwrap();
    assert_eq!(kind(put(&store, "once", b"second")), StoreErrorKind::Exists);
    assert_eq!(get(&store, "once").unwrap(), b"first");
}

#[test]
fn a_service_that_says_it_has_no_conditions_is_used_without() {
    let server = Server::start();
    server.fail("PUT ", Fault::Answer(501, "NotImplemented"), 1);
    let store = open(&server);
    put(&store, "once", b"first").unwrap();
    assert!(!store.capabilities().conditional_put);
    assert_eq!(kind(put(&store, "once", b"second")), StoreErrorKind::Exists);
}

#[test]
fn answers_become_errors_that_say_what_to_do() {
    use StoreErrorKind as K;
    let server = Server::start();
    let store = open(&server);
    put(&store, "there", &content(10_000)).unwrap();
    let is =
        |found: StoreErrorKind, text: &str| assert!(found.to_string().contains(text), "{found} / {text}");
    for (status, code, text) in [
        (403, "InvalidAccessKeyId", "check access_key_id"),
        (403, "SignatureDoesNotMatch", "check secret_access_key"),
        (403, "AccessDenied", "access is denied"),
        (301, "PermanentRedirect", "check region"),
        (404, "NoSuchBucket", "no such bucket"),
        (400, "Whatever", "the service does not"),
    ] {
        for request in ["PUT ", "GET ", "DELETE "] {
            server.fail(request, Fault::Answer(status, code), 1);
        }
        for error in [
            put(&store, "new", b"x").unwrap_err(),
            store.get_range(&name("there"), 0, &mut [0]).unwrap_err(),
            store.delete(&name("there")).unwrap_err(),
        ] {
            assert!(matches!(error.kind, K::Refused(_)) && !error.is_retryable(), "{error}");
            is(error.kind, text);
        }
    }
    for (status, code, expected) in [
        (500, "InternalError", K::Unavailable(Reason::Http(500))),
        (503, "SlowDown", K::Unavailable(Reason::Http(503))),
        (429, "", K::Unavailable(Reason::Http(429))),
        (507, "InsufficientStorage", K::NoSpace),
        (403, "QuotaExceeded", K::NoSpace),
    ] {
        for request in ["PUT ", "GET ", "DELETE "] {
            server.fail(request, Fault::Answer(status, code), 1);
        }
        assert_eq!(kind(put(&store, "new", b"x")), expected);
        assert_eq!(kind(store.list("", None, 1)), expected);
        assert_eq!(kind(store.delete(&name("there"))), expected);
    }
    // Errors that end without the appliance's action are retried, and their message explains them.
    for (status, code, text) in [
        (403, "RequestTimeTooSkewed", "set this machine's clock"),
        (400, "ExpiredToken", "session token"),
        (400, "RequestTimeout", "408"),
    ] {
        for request in ["PUT ", "GET ", "DELETE "] {
            server.fail(request, Fault::Answer(status, code), 1);
        }
        for error in [
            put(&store, "new", b"x").unwrap_err(),
            store.get_range(&name("there"), 0, &mut [0]).unwrap_err(),
            store.delete(&name("there")).unwrap_err(),
        ] {
            assert!(error.is_retryable(), "{error}");
            is(error.kind, text);
        }
    }
    // An answer to a HEAD has no code, only a status.
    server.fail("HEAD ", Fault::Answer(403, ""), 1);
    assert!(matches!(kind(store.stat(&name("there"))), K::Refused(_)));
    assert_eq!(server.keys(), ["p/there"]);
    assert_eq!(get(&store, "there").unwrap(), content(10_000));
}

#[test]
fn a_service_that_is_not_there_or_does_not_answer_is_not_waited_for() {
    let server = Server::start();
    let url = server.url();
    put(&open(&server), "there", &content(1000)).unwrap();
    let hasty = S3Config { request_timeout_ms: 200, ..impatient(&server) };
    // On a busy machine its first request may time out as well.
    let store = std::iter::repeat_with(|| S3Store::open(hasty.clone())).find_map(Result::ok).unwrap();
    let stalled = |found: StoreErrorKind| {
        assert!(found.to_string().contains("check the network"), "{found}");
        assert!(matches!(found, StoreErrorKind::Unavailable(_)));
    };
    for request in ["PUT ", "GET ", "HEAD ", "DELETE "] {
        server.fail(request, Fault::Stall, usize::MAX);
    }
    stalled(kind(put(&store, "new", b"x")));
    stalled(kind(store.stat(&name("there"))));
    stalled(kind(store.get_range(&name("there"), 0, &mut [0])));
    stalled(kind(store.list("", None, 1)));
    server.heal();
    server.fail("DELETE ", Fault::Stall, 1);
    stalled(kind(store.delete(&name("there"))));
    assert_eq!(server.keys(), ["p/there"]);
    drop(server);
    let gone = store.stat(&name("there")).unwrap_err();
    assert!(gone.is_retryable());
    let error = S3Store::open(S3Config { retries_max: 0, ..config(&url) }).unwrap_err();
    assert!(error.to_string().contains("check the endpoint"), "{error}");
    assert_eq!(error.operation, "open");
}

#[test]
fn a_service_without_tls_is_not_spoken_to_in_the_clear() {
    let server = Server::start();
    let url = server.url().replace("http://", "https://");
    let error =
        S3Store::open(S3Config { endpoint: Some(url), connect_timeout_ms: 500, ..impatient(&server) })
            .unwrap_err();
    // The server waits for the end of a line, which a handshake does not have. A machine without
    // certificates cannot even begin one.
    let text = error.to_string();
    assert!(text.contains("its certificate") || text.contains("ca-certificates"), "{text}");
    let missing = S3Config { ca_file: Some("/nonexistent/ca.pem".into()), ..impatient(&server) };
    assert_eq!(S3Store::open(missing).unwrap_err().kind, StoreErrorKind::NotFound);
    assert!(server.requests().iter().all(|request| !request.contains("bucket")));
}

#[test]
fn a_service_that_is_unwell_is_asked_again_a_bounded_number_of_times() {
    let server = Server::start();
    let store = S3Store::open(S3Config { retries_max: 2, ..config(&server.url()) }).unwrap();
    server.fail("PUT ", Fault::Answer(503, "SlowDown"), 2);
    put(&store, "a", b"1").unwrap();
    server.requests();
    server.fail("PUT ", Fault::Answer(500, "InternalError"), usize::MAX);
    assert_eq!(kind(put(&store, "b", b"1")), StoreErrorKind::Unavailable(Reason::Http(500)));
    assert_eq!(server.requests().iter().filter(|request| request.starts_with("PUT ")).count(), 3);
}

#[test]
fn a_put_that_was_done_without_an_answer_is_committed() {
    let server = Server::start();
    let store = S3Store::open(S3Config { retries_max: 1, ..impatient(&server) }).unwrap();
    // Executed, an error, retried: "exists already", and it is this put's own.
    server.fail("PUT ", Fault::DoneBut(500), 1);
    put(&store, "a", b"one").unwrap();
    server.fail("PUT ", Fault::DoneAndCut, 1);
    put(&store, "b", b"two").unwrap();
    assert_eq!((get(&store, "a").unwrap(), get(&store, "b").unwrap()), (b"one".to_vec(), b"two".to_vec()));
    // Another put's object, whatever happens to the request.
    for fault in [Fault::Answer(500, "InternalError"), Fault::CutEarly, Fault::Answer(409, "Conflict")] {
        server.fail("PUT ", fault, 2);
        assert_eq!(kind(put(&store, "a", b"one")), StoreErrorKind::Exists, "{fault:?}");
    }
    // A conflict without an object: the other put may have failed.
    server.fail("PUT ", Fault::Answer(409, "ConditionalRequestConflict"), 1);
    assert!(put(&store, "c", b"x").unwrap_err().is_retryable());
    server.fail("PUT ", Fault::CutEarly, usize::MAX);
    assert!(put(&store, "e", &content(3 << 20)).unwrap_err().is_retryable());
    assert_eq!(
        kind(store.stat(&name("e"))),
        StoreErrorKind::NotFound,
        "a put that was cut off leaves nothing"
    );
}

#[test]
fn bytes_that_are_wrong_or_missing_are_never_given_as_good() {
    let server = Server::start();
    let store = open(&server);
    let bytes = content(100_000);
    put(&store, "a", &bytes).unwrap();
    server.fail("GET ", Fault::WrongBytes, 1);
    assert!(matches!(kind(get(&store, "a")), StoreErrorKind::Corrupt(_)));
    server.fail("GET ", Fault::HalfBody, 2);
    assert!(get(&store, "a").unwrap_err().is_retryable());
    assert!(store.get_range(&name("a"), 5, &mut vec![0; 50_000]).unwrap_err().is_retryable());
    server.fail("GET ", Fault::NoRanges, 1);
    assert!(matches!(kind(store.get_range(&name("a"), 5, &mut [0; 500])), StoreErrorKind::Corrupt(_)));
    assert_eq!(get(&store, "a").unwrap(), bytes);
    // Half of the answer, with one retry: the rest is fetched.
    let patient = S3Store::open(S3Config { retries_max: 1, ..impatient(&server) }).unwrap();
    server.fail("GET ", Fault::HalfBody, 1);
    assert_eq!(get(&patient, "a").unwrap(), bytes);
}

#[test]
fn lists_that_lie_are_found_out() {
    let server = Server::start();
    let store = open(&server);
    for index in 0..10 {
        put(&store, &format!("l/{index}"), b"").unwrap();
    }
    server.fail("GET ", Fault::Disorder, 1);
    assert!(matches!(kind(store.list("l/", None, 100)), StoreErrorKind::Corrupt(_)));
    server.fail("GET ", Fault::Endless, usize::MAX);
    assert!(matches!(kind(store.list("l/", None, 100)), StoreErrorKind::Corrupt(_)));
    server.heal();
    server.fail("GET ", Fault::HalfBody, 1);
    assert!(store.list("l/", None, 100).unwrap_err().is_retryable());
    // Keys that are not valid names are skipped; a key that `object_store` cannot parse is an
    // error.
    server.put("p/UPPER", b"x");
    server.put("other/a", b"x");
    assert_eq!(store.list("", None, 100).unwrap().objects.len(), 10);
    server.put("p/l//5", b"x");
    assert!(matches!(kind(store.list("", None, 100)), StoreErrorKind::Refused(_)));
}

#[test]
fn uploads_in_parts_fail_whole_and_leave_nothing() {
    let server = Server::start();
    let small_parts = || S3Store::open(S3Config { buffer_bytes: 5 << 20, ..impatient(&server) }).unwrap();
    let store = small_parts();
    let bytes = content(11 << 20);
    // A part fails: the put cannot be continued.
    server.fail("PUT ", Fault::Answer(503, "SlowDown"), 1);
    let mut broken = store.put_start(&name("a"), 11 << 20).unwrap();
    assert!(broken.write(&bytes).unwrap_err().is_retryable());
    assert!(broken.write(b"").is_err());
    assert_eq!(kind(broken.commit()), StoreErrorKind::Unavailable(Reason::Http(503)));
    assert_eq!((server.uploads(), server.keys().len()), (0, 0));
    // A completion that fails, by its status or inside an answer of status 200, or is never
    // answered.
    for fault in [
        Fault::Answer(200, "InternalError"),
        Fault::Answer(500, "InternalError"),
        Fault::Answer(404, "NoSuchUpload"),
        Fault::CutEarly,
    ] {
        server.fail("POST /bucket/p/a?uploadId=", fault, 1);
        assert!(put(&store, "a", &bytes).unwrap_err().is_retryable(), "{fault:?}");
        assert_eq!((server.uploads(), server.keys().len()), (0, 0), "{fault:?}");
    }
    // Executed without an answer: it is this put's own.
    server.fail("POST /bucket/p/a?uploadId=", Fault::DoneAndCut, 1);
    put(&store, "a", &bytes).unwrap();
    assert!(get(&store, "a").unwrap() == bytes);
    // Another put was faster, between the check and the completion: the condition refuses.
    server.fail("HEAD ", Fault::Answer(404, ""), 1);
    assert_eq!(kind(put(&store, "a", &bytes[1..])), StoreErrorKind::Exists);
    // If the completion has no condition, the check refuses.
    server.fail("POST ", Fault::NoConditions, usize::MAX);
    assert_eq!(kind(put(&store, "a", &bytes[1..])), StoreErrorKind::Exists);
    assert!(get(&store, "a").unwrap() == bytes);
    assert_eq!(server.uploads(), 0);
    // A process that died: the next one aborts its upload, and no others.
    let mut dead = store.put_start(&name("dead"), 11 << 20).unwrap();
    dead.write(&bytes).unwrap();
    std::mem::forget(dead);
    let other = S3Store::open(S3Config { prefix: "other".into(), ..impatient(&server) }).unwrap();
    assert_eq!(server.uploads(), 1);
    drop((store, other));
    small_parts();
    assert_eq!(server.uploads(), 0);
    assert_eq!(server.keys(), ["p/a"]);
}

#[test]
fn settings_are_checked_and_secrets_never_shown() {
    let refused = |text: &str, hint: &str| {
        let config: S3Config = serde_json::from_str(text).unwrap();
        let shown = format!("{config:?}");
        let error = S3Store::open_in(config, &|_| None).unwrap_err();
        assert!(matches!(error.kind, StoreErrorKind::Refused(_)), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
        for hidden in ["hunter2", "AKIA", "t0ken"] {
            assert!(!format!("{shown} {error} {error:?}").contains(hidden), "{shown} {error:?}");
        }
    };
    refused(r#"{"bucket": "abc"}"#, "AWS_SECRET_ACCESS_KEY");
    refused(r#"{"bucket": "abc", "access_key_id": "AKIA"}"#, "no credentials");
    let keys = r#""access_key_id": "AKIA", "secret_access_key": "hunter2", "session_token": "t0ken""#;
    for (setting, hint) in [
        (r#""bucket": "a""#, "bucket"),
        (r#""bucket": "abc/d""#, "bucket"),
        (r#""bucket": "abc", "endpoint": "http://h""#, "allow_http"),
        (r#""bucket": "abc", "endpoint": "h:9000""#, "https://"),
        (r#""bucket": "abc", "endpoint": "https://me:hunter2@h""#, "password"),
        (r#""bucket": "abc", "endpoint": "https://h/path""#, "host"),
        (r#""bucket": "abc", "prefix": "a//b""#, "prefix"),
        (r#""bucket": "abc", "prefix": "../b""#, "prefix"),
        (r#""bucket": "abc", "region": "a b""#, "region"),
        (r#""bucket": "abc", "connect_timeout_ms": 0"#, "connect_timeout_ms"),
        (r#""bucket": "abc", "request_timeout_ms": 3600001"#, "request_timeout_ms"),
        (r#""bucket": "abc", "retries_max": 21"#, "retries_max"),
        (r#""bucket": "abc", "buffer_bytes": 4096"#, "buffer_bytes"),
    ] {
        refused(&format!("{{{keys}, {setting}}}"), hint);
    }
    refused(
        r#"{"bucket": "abc", "access_key_id": "AKIA\r\nX: y", "secret_access_key": "hunter2"}"#,
        "line ends",
    );
    let unknown = serde_json::from_str::<S3Config>(r#"{"bucket": "abc", "bukkit": 1}"#).unwrap_err();
    assert!(unknown.to_string().contains("bukkit"));

    // The environment is used when the settings have no key.
    let server = Server::start();
    let nameless = S3Config { access_key_id: None, secret_access_key: None, ..impatient(&server) };
    let environment = |variable: &str| match variable {
        "AWS_ACCESS_KEY_ID" => Some(String::from("AKIA")),
        "AWS_SECRET_ACCESS_KEY" => Some(String::from("hunter2")),
        _ => None,
    };
    let store = S3Store::open_in(nameless, &environment).unwrap();
    let shown = format!("{store:?} {} {}", store.label(), store.stat(&name("a")).unwrap_err());
    assert!(shown.contains("bucket/p") && !shown.contains("hunter2") && !shown.contains("AKIA"), "{shown}");
}

#[test]
fn the_bucket_stands_in_the_path_or_in_the_host() {
    let with = |path_style, endpoint: Option<&str>| {
        S3Config { path_style, endpoint: endpoint.map(String::from), ..S3Config::new("abc") }.bucket_url()
    };
    assert_eq!(with(true, Some("http://h:9000/")), "http://h:9000/abc");
    assert_eq!(with(false, Some("https://h")), "https://abc.h");
    assert_eq!(with(true, None), "https://s3.us-east-1.amazonaws.com/abc");
    assert_eq!(with(false, None), "https://abc.s3.us-east-1.amazonaws.com");
}

#[test]
fn of_two_owners_of_a_bucket_one_is_overtaken() {
    let server = Server::start();
    let store: std::sync::Arc<dyn Store> = std::sync::Arc::new(open(&server));
    crate::archive::owner::tests::contest(&store);
}
