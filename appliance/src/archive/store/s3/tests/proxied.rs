//! Tests against a complete S3 server behind a proxy that injects the faults of networks, load
//! balancers and services.

use varve_s3_server::{BUCKET, Fault, Proxy, S3Server, error, truncated_page};

use super::*;

pub(super) struct Rig {
    pub(super) proxy: Proxy,
    pub(super) server: S3Server,
}

impl Rig {
    pub(super) fn start() -> Self {
        let server = S3Server::start();
        Rig { proxy: Proxy::start(server.url()), server }
    }

    pub(super) fn config(&self) -> S3Config {
        let prefix = "p".into();
        S3Config { bucket: BUCKET.into(), prefix, retries_max: 3, ..config(&self.proxy.url()) }
    }

    pub(super) fn open(&self) -> S3Store {
        S3Store::open(self.config()).unwrap()
    }

    pub(super) fn impatient(&self) -> S3Store {
        S3Store::open(S3Config { retries_max: 0, ..self.config() }).unwrap()
    }

    pub(super) fn inject(&self, method: &str, fault: Fault, times: usize) {
        self.proxy.inject(&format!("{method} /{BUCKET}"), fault, times);
    }
}

pub(super) fn refused(status: u16, code: &str) -> Fault {
    Fault::Answer(status, error(code))
}

#[test]
fn it_conforms_through_a_proxy_that_does_nothing() {
    struct Proxied(Rig);
    impl Fixture for Proxied {
        type Opened = S3Store;
        fn open(&self) -> S3Store {
            self.0.open()
        }
        fn open_small(&self) -> S3Store {
            let small = S3Config { prefix: "s".into(), capacity_bytes: Some(1 << 20), ..self.0.config() };
            S3Store::open(small).unwrap()
        }
        fn big_bytes(&self) -> usize {
            6 << 20
        }
    }
    conformance::run(&Proxied(Rig::start()));
}

#[test]
fn a_put_whose_answer_is_lost_is_known_for_ours_and_anothers_for_foreign() {
    let rig = Rig::start();
    let store = rig.open();
    // Executed, cut, retried: 412, and it is this put's own.
    rig.inject("PUT", Fault::LoseAnswer, 1);
    put(&store, "a", b"ours").unwrap();
    assert_eq!(get(&store, "a").unwrap(), b"ours");
    // The same when every answer is lost, and when the service reports a failure.
    rig.inject("PUT", Fault::LoseAnswer, 4);
    put(&store, "b", b"ours").unwrap();
    rig.inject("PUT", Fault::DoneBut(500, error("InternalError")), 1);
    put(&store, "c", b"ours").unwrap();
    rig.inject("PUT", Fault::DoneBut(409, error("ConditionalRequestConflict")), 1);
    put(&store, "d", b"ours").unwrap();
    // Another put's object stays as it is, even if it has the same length.
    rig.inject("PUT", Fault::LoseAnswer, 1);
    assert_eq!(kind(put(&store, "a", b"more")), StoreErrorKind::Exists);
    assert_eq!(get(&store, "a").unwrap(), b"ours");
}

#[test]
fn a_refusal_within_an_answer_of_200_is_a_refusal() {
    let rig = Rig::start();
    let store = rig.impatient();
    put(&store, "there", b"x").unwrap();
    let inside = |code| Fault::Answer(200, error(code));
    rig.inject("PUT", inside("InternalError"), 1);
    assert_eq!(kind(put(&store, "a", b"1")), StoreErrorKind::Unavailable(Reason::Http(500)));
    assert_eq!(kind(store.stat(&name("a"))), StoreErrorKind::NotFound);
    rig.inject("GET", inside("SlowDown"), 1);
    assert_eq!(kind(store.list("", None, 10)), StoreErrorKind::Unavailable(Reason::Http(503)));
    rig.inject("DELETE", inside("AccessDenied"), 1);
    assert!(matches!(kind(store.delete(&name("there"))), StoreErrorKind::Refused(_)));
    assert_eq!(get(&store, "there").unwrap(), b"x");
    // With retries enabled they are retried.
    let patient = rig.open();
    rig.inject("PUT", inside("SlowDown"), 2);
    put(&patient, "a", b"1").unwrap();
    assert_eq!(get(&patient, "a").unwrap(), b"1");
}

#[test]
fn a_service_under_load_is_asked_again() {
    let rig = Rig::start();
    let store = rig.open();
    for (status, code) in [(503, "SlowDown"), (503, "ServiceUnavailable"), (500, "InternalError"), (429, "")]
    {
        for method in ["PUT", "GET", "HEAD", "DELETE"] {
            rig.inject(method, refused(status, code), 2);
        }
        put(&store, "a", b"1").unwrap();
        assert_eq!(get(&store, "a").unwrap(), b"1");
        store.delete(&name("a")).unwrap();
        rig.proxy.heal();
    }
    // A conflict means that another request works on the same object. It is retried like an
    // overloaded service, and after that by the caller.
    for code in ["ConditionalRequestConflict", "OperationAborted"] {
        rig.inject("PUT", refused(409, code), 2);
        rig.proxy.requests();
        put(&store, "a", b"1").unwrap();
        let requests = rig.proxy.requests();
        assert_eq!(requests.iter().filter(|request| request.starts_with("PUT ")).count(), 3, "{code}");
        rig.inject("DELETE", refused(409, code), 2);
        store.delete(&name("a")).unwrap();
        rig.proxy.heal();
    }
    let impatient = rig.impatient();
    put(&impatient, "there", b"x").unwrap();
    for method in ["PUT", "GET", "DELETE"] {
        rig.inject(method, refused(409, "OperationAborted"), 1);
    }
    let conflict = StoreErrorKind::Unavailable(Reason::Http(409));
    assert!(put(&impatient, "b", b"1").unwrap_err().is_retryable());
    assert_eq!(kind(impatient.get_range(&name("there"), 0, &mut [0])), conflict);
    assert_eq!(kind(impatient.delete(&name("there"))), conflict);
    put(&impatient, "b", b"1").unwrap();
    impatient.delete(&name("there")).unwrap();
}

#[test]
fn clocks_that_differ_are_named_also_where_an_answer_has_no_words() {
    let rig = Rig::start();
    let store = rig.open();
    put(&store, "there", b"1").unwrap();
    // An answer to a HEAD has no body.
    for method in ["PUT", "GET", "HEAD", "DELETE"] {
        rig.inject(method, refused(403, "RequestTimeTooSkewed"), usize::MAX);
    }
    for error in [
        put(&store, "a", b"1").unwrap_err(),
        store.list("", None, 10).unwrap_err(),
        store.stat(&name("there")).unwrap_err(),
        store.delete(&name("there")).unwrap_err(),
        get(&store, "there").unwrap_err(),
        S3Store::open(rig.config()).unwrap_err(),
    ] {
        let text = error.to_string();
        assert!(text.contains("RequestTimeTooSkewed") && text.contains("set this machine's clock"), "{text}");
        assert!(text.contains(&format!("s3 {BUCKET}/p")) && error.is_retryable(), "{text}");
    }
    rig.proxy.heal();
    put(&store, "a", b"1").unwrap();
    store.delete(&name("there")).unwrap();
}

#[test]
fn credentials_in_a_file_are_read_again_when_they_have_changed() {
    let rig = Rig::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("credentials");
    let write = |secret: &str, rest: &str| {
        let text =
            format!("[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {secret}\n{rest}");
        // As tools do: a new file replaces the old one.
        let new = folder.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
    };
    write(SECRET_KEY, "");
    let config = S3Config {
        access_key_id: None,
        secret_access_key: None,
        credentials_file: Some(path.clone()),
        ..rig.config()
    };
    let store = S3Store::open_in(config.clone(), &|_| None).unwrap();
    put(&store, "a", b"1").unwrap();
    write("TheSecretOfYesterday", "# old\n");
    let error = put(&store, "b", b"2").unwrap_err();
    assert!(matches!(error.kind, StoreErrorKind::Refused(_)), "{error}");
    // With an incomplete file the old key stays in use; the next valid file is used without a
    // restart.
    std::fs::write(&path, "[default]\naws_access_key_id = x\n").unwrap();
    assert!(put(&store, "b", b"2").is_err());
    std::fs::remove_file(&path).unwrap();
    assert!(put(&store, "b", b"2").is_err());
    write(SECRET_KEY, "# new\n");
    put(&store, "b", b"2").unwrap();
    // Expired: the error names the cause and the remedy.
    rig.inject("GET", refused(400, "ExpiredToken"), 1);
    let error = store.list("", None, 1).unwrap_err().to_string();
    assert!(error.contains("session token") && error.contains("credentials file"), "{error}");
    // The environment can name the file too; its content is never printed.
    let named =
        |variable: &str| (variable == "AWS_SHARED_CREDENTIALS_FILE").then(|| path.display().to_string());
    let by_environment =
        S3Store::open_in(S3Config { credentials_file: None, ..config.clone() }, &named).unwrap();
    assert_eq!(get(&by_environment, "a").unwrap(), b"1");
    std::fs::remove_file(&path).unwrap();
    let error = S3Store::open_in(config, &|_| None).unwrap_err();
    assert!(error.to_string().contains("credentials_file"), "{error}");
    assert!(!format!("{store:?} {error:?}").contains(SECRET_KEY));
}

#[test]
fn empty_pages_and_thousands_of_objects_are_listed_whole() {
    let rig = Rig::start();
    let store = rig.open();
    let count = 1_050;
    for index in 0..count {
        put(&store, &format!("l/{index:05}"), b"").unwrap();
    }
    let expected: Vec<String> = (0..count).map(|index| format!("l/{index:05}")).collect();
    let listed = |store: &S3Store| {
        let page = store.list("l/", None, PAGE_OBJECTS_MAX).unwrap();
        assert!(!page.more);
        page.objects.iter().map(|stat| stat.name.to_string()).collect::<Vec<_>>()
    };
    rig.proxy.requests();
    assert_eq!(listed(&store), expected);
    let lists = rig.proxy.requests().iter().filter(|request| request.contains("list-type=2")).count();
    assert_eq!(lists, 2, "more than one page of the service");
    // Empty pages that report more pages: before the first object, and in the middle.
    rig.inject("GET", Fault::EmptyPages(3), 1);
    let first = store.list("l/", None, 5).unwrap();
    assert_eq!(first.objects.len(), 5);
    assert!(first.more);
    let names: Vec<String> = first.objects.iter().map(|stat| stat.name.to_string()).collect();
    assert_eq!(names, expected[..5]);
    rig.proxy.inject(&format!("GET /{BUCKET}?continuation-token="), Fault::EmptyPages(2), 1);
    rig.proxy.requests();
    assert_eq!(listed(&store), expected);
    let lists = rig.proxy.requests().iter().filter(|request| request.contains("list-type=2")).count();
    assert_eq!(lists, 4, "two pages, and two that are empty");
}

#[test]
fn lists_without_an_end_or_cut_short_are_errors() {
    let rig = Rig::start();
    let store = rig.open();
    let contents = "<Contents><Key>p/a</Key><Size>1</Size><LastModified>2020-01-01T00:00:00.000Z</LastModified></Contents>";
    for (contents, token, text) in [
        ("", Some("again"), "leads to itself"),
        (contents, Some("again"), "order"),
        ("", None, "not where they begin"),
        (contents, None, "not where they begin"),
    ] {
        rig.inject("GET", Fault::Answer(200, truncated_page(contents, token)), usize::MAX);
        rig.proxy.requests();
        let error = store.list("", None, 100).unwrap_err();
        assert!(matches!(error.kind, StoreErrorKind::Corrupt(_)), "{error}");
        assert!(error.to_string().contains(text) && error.to_string().contains(BUCKET), "{error}");
        assert!(rig.proxy.requests().len() <= 2, "it does not turn in a circle");
        rig.proxy.heal();
    }
    // No further page is requested when there are enough objects.
    rig.inject("GET", Fault::Answer(200, truncated_page(contents, None)), 1);
    let page = store.list("", None, 0).unwrap();
    assert!(page.objects.is_empty() && page.more);
    assert!(store.list("", None, 100).unwrap().objects.is_empty());
}
