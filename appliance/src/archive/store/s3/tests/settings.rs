//! Tests of buckets with special settings: versions, locks, policies that forbid deletes.

use std::sync::Arc;

use varve_s3_server::{BUCKET, Fault, Header, error};

use super::proxied::{Rig, refused};
use super::*;
use crate::archive::store::LockEnd;

const VERSIONING: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
const LOCK: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Days>7</Days></DefaultRetention></Rule></ObjectLockConfiguration>";

fn target(query: &str) -> String {
    format!("GET /{BUCKET}?{query}")
}

#[test]
fn versions_and_locks_are_noticed_and_explained() {
    let rig = Rig::start();
    assert_eq!(rig.open().notes(), [""; 0]);
    rig.proxy.inject(&target("versioning"), Fault::Answer(200, VERSIONING.into()), 1);
    // A service that fails is asked again.
    rig.proxy.inject(&target("object-lock"), refused(503, "SlowDown"), 2);
    rig.proxy.inject(&target("object-lock"), Fault::Answer(200, LOCK.into()), 1);
    let notes = rig.open().notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
    for text in
        [&format!("s3 {BUCKET}/p"), "7 days, mode GOVERNANCE", "deletes are refused", "lifecycle rule"]
    {
        assert!(notes[0].contains(text), "{text}: {notes:?}");
    }
    for text in [&format!("s3 {BUCKET}/p"), "keeps versions", "not current: set one"] {
        assert!(notes[1].contains(text), "{text}: {notes:?}");
    }
    // Without the permission to read the settings, or at a service without them, the store opens
    // without them.
    for (status, code) in [
        (403, "AccessDenied"),
        (404, "ObjectLockConfigurationNotFoundError"),
        (501, "NotImplemented"),
        (503, "SlowDown"),
        (200, "InternalError"),
    ] {
        rig.proxy.inject(&target("versioning"), refused(status, code), usize::MAX);
        rig.proxy.inject(&target("object-lock"), refused(status, code), usize::MAX);
        let store = rig.open();
        assert_eq!(store.notes(), [""; 0], "{code}");
        put(&store, &format!("a{status}"), b"1").unwrap();
        rig.proxy.heal();
    }
    rig.proxy.inject(&target("versioning"), Fault::LoseAnswer, usize::MAX);
    assert_eq!(rig.open().notes(), [""; 0]);
}

/// A bucket with object lock accepts only puts with checksums.
#[test]
fn a_bucket_with_object_lock_gets_its_checksums() {
    let rig = Rig::start();
    let without = || Header::Without("x-amz-checksum-sha256".to_owned());
    rig.proxy.inject(&target("object-lock"), Fault::Answer(200, LOCK.into()), 1);
    let store = S3Store::open(S3Config { buffer_bytes: 5 << 20, ..rig.config() }).unwrap();
    let refusal = || Fault::Answer(400, error("InvalidRequest"));
    rig.proxy.inject_when(&format!("PUT /{BUCKET}"), without(), refusal(), usize::MAX);
    let bytes = content(11 << 20);
    put(&store, "small", &bytes[..1000]).unwrap();
    put(&store, "big", &bytes).unwrap();
    assert!(get(&store, "big").unwrap() == bytes);
    assert_eq!(get(&store, "small").unwrap(), bytes[..1000]);
    assert_eq!(kind(put(&store, "small", b"x")), StoreErrorKind::Exists);
    // Other buckets get no checksums: not every service supports them.
    assert!(matches!(kind(put(&rig.open(), "other", b"x")), StoreErrorKind::Refused(_)));
}

#[test]
fn deletes_that_are_refused_say_why_and_keep_no_other() {
    let rig = Rig::start();
    let store = rig.open();
    for object in ["a", "b", "c"] {
        put(&store, object, b"1").unwrap();
    }
    let of = |object: &str| format!("DELETE /{BUCKET}/p/{object}");
    rig.proxy.inject(&of("a"), refused(403, "AccessDenied"), usize::MAX);
    rig.proxy.inject(&of("b"), refused(400, "InvalidRequest"), usize::MAX);
    let denied = store.delete(&name("a")).unwrap_err().to_string();
    assert!(denied.contains("s3:DeleteObject") && denied.contains("lock"), "{denied}");
    let locked = store.delete(&name("b")).unwrap_err().to_string();
    assert!(locked.contains("WORM") && locked.contains("until its lock ends"), "{locked}");
    for text in [&denied, &locked] {
        assert!(text.contains(&format!("s3 {BUCKET}/p")), "{text}");
    }
    // If the service reports the end of the lock, the error has it.
    let lock = "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2036-01-02T03:04:05.678Z</RetainUntilDate></Retention>";
    rig.proxy.inject(&format!("GET /{BUCKET}/p/b?retention"), Fault::Answer(200, lock.into()), 1);
    let until = store.delete(&name("b")).unwrap_err();
    assert!(until.to_string().contains("locked until 2036-01-02T03:04:05Z") && until.is_refusal(), "{until}");
    for text in ["", "soon", "2036-01-02T03:04:05+01:00", "2036-01-02", "2036-01-02T03:04:0äZ"] {
        assert_eq!(LockEnd::parse(text), None, "{text}");
    }
    store.delete(&name("c")).unwrap();
    assert_eq!(store.list("", None, 10).unwrap().objects.len(), 2);
    assert_eq!(get(&store, "a").unwrap(), b"1");
    // The answer to a delete is lost, but the delete was executed.
    rig.proxy.heal();
    rig.inject("DELETE", Fault::LoseAnswer, 4);
    let _ = store.delete(&name("a"));
    assert_eq!(kind(store.delete(&name("a"))), StoreErrorKind::NotFound);
}

#[test]
fn what_an_owner_may_not_delete_keeps_no_other() {
    let rig = Rig::start();
    let store: Arc<dyn Store> = Arc::new(rig.open());
    crate::archive::owner::tests::keep_one(&store, &|name| {
        let request = format!("DELETE /{BUCKET}/p/{name}");
        rig.proxy.inject(&request, refused(403, "AccessDenied"), usize::MAX);
    });
}
