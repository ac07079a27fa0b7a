//! Tests with lost answers, and answers whose status contradicts their body, for uploads in parts
//! and for owners' records.

use std::sync::Arc;

use varve_s3_server::{BUCKET, Fault, error};

use super::proxied::{Rig, refused};
use super::*;

const BIG_BYTES: usize = 11 << 20;

fn in_parts(rig: &Rig, retries_max: u32) -> S3Store {
    S3Store::open(S3Config { buffer_bytes: 5 << 20, retries_max, ..rig.config() }).unwrap()
}

/// The uploads that are under way at the server.
fn uploads(rig: &Rig) -> usize {
    let entries = std::fs::read_dir(rig.server.root()).unwrap().map(Result::unwrap);
    entries.filter(|entry| entry.file_name().to_string_lossy().contains("upload")).count()
}

fn completion(object: &str) -> String {
    format!("POST /{BUCKET}/p/{object}?uploadId=")
}

#[test]
fn a_completion_whose_answer_is_lost_is_known_for_ours() {
    let rig = Rig::start();
    let store = in_parts(&rig, 3);
    let bytes = content(BIG_BYTES);
    let failed = || error("InternalError");
    for (object, fault, times) in [
        ("a", Fault::LoseAnswer, 1),
        ("b", Fault::LoseAnswer, 4),
        ("c", Fault::DoneBut(500, failed()), 1),
        ("d", Fault::DoneBut(200, failed()), 1),
        ("e", Fault::DoneBut(409, error("ConditionalRequestConflict")), 1),
    ] {
        rig.proxy.inject(&completion(object), fault, times);
        put(&store, object, &bytes).unwrap();
        assert!(get(&store, object).unwrap() == bytes, "{object}");
        rig.proxy.heal();
    }
    assert_eq!(uploads(&rig), 0);
    let other = content(BIG_BYTES + 1);
    rig.proxy.inject(&completion("a"), Fault::LoseAnswer, 1);
    assert_eq!(kind(put(&store, "a", &other)), StoreErrorKind::Exists);
    assert!(get(&store, "a").unwrap() == bytes);
    assert_eq!(store.list("", None, 100).unwrap().objects.len(), 5);
}

#[test]
fn a_refusal_within_200_is_tried_again_in_every_request_of_an_upload() {
    let rig = Rig::start();
    let bytes = content(BIG_BYTES);
    let requests = |object: &str| {
        [
            format!("POST /{BUCKET}/p/{object}?uploads"),
            format!("PUT /{BUCKET}/p/{object}?partNumber=2"),
            completion(object),
        ]
    };
    let (patient, impatient) = (in_parts(&rig, 3), in_parts(&rig, 0));
    for code in ["InternalError", "SlowDown", "ServiceUnavailable"] {
        for index in 0..3 {
            let object = format!("{}{index}", code.to_lowercase());
            let request = &requests(&object)[index];
            rig.proxy.inject(request, Fault::Answer(200, error(code)), 1);
            let failed = put(&impatient, &object, &bytes).unwrap_err();
            assert!(failed.is_retryable(), "{request}: {failed}");
            assert_eq!(kind(impatient.stat(&name(&object))), StoreErrorKind::NotFound);
            rig.proxy.inject(request, Fault::Answer(200, error(code)), 2);
            put(&patient, &object, &bytes).unwrap();
            assert!(get(&patient, &object).unwrap() == bytes, "{request}");
            rig.proxy.heal();
        }
    }
    // An error that a retry cannot cure is not retried, and its message explains it.
    rig.proxy.inject(&completion("z"), Fault::Answer(200, error("RequestTimeTooSkewed")), 1);
    let skewed = put(&patient, "z", &bytes).unwrap_err().to_string();
    assert!(skewed.contains("RequestTimeTooSkewed"), "{skewed}");
    // A conflict ends the upload: the caller must make another one.
    rig.proxy.requests();
    rig.proxy.inject(&completion("z"), refused(409, "ConditionalRequestConflict"), 1);
    let conflict = put(&patient, "z", &bytes).unwrap_err();
    assert_eq!(conflict.kind, StoreErrorKind::Unavailable(Reason::Http(409)));
    let asked = rig.proxy.requests().iter().filter(|request| request.starts_with(&completion("z"))).count();
    assert_eq!((asked, uploads(&rig)), (1, 0));
    put(&patient, "z", &bytes).unwrap();
}

#[test]
fn an_owner_that_does_not_hear_of_its_record_stays_the_owner() {
    let rig = Rig::start();
    let store: Arc<dyn Store> = Arc::new(S3Store::open(S3Config { retries_max: 1, ..rig.config() }).unwrap());
    crate::archive::owner::tests::lose_answers(
        &store,
        &|| rig.inject("PUT", Fault::LoseAnswer, usize::MAX),
        &|| {
            // It checks for the record, finds none, writes it, and then gets no more answers.
            rig.inject("HEAD", Fault::None, 1);
            rig.inject("HEAD", refused(503, "SlowDown"), usize::MAX);
            rig.proxy.inject(&format!("GET /{BUCKET}/p/"), refused(503, "SlowDown"), usize::MAX);
            rig.inject("PUT", Fault::LoseAnswer, usize::MAX);
        },
        &|| rig.proxy.heal(),
    );
}

/// Whether an object is this put's own is unknown while it cannot be looked up.
#[test]
fn a_put_that_cannot_be_looked_up_is_to_be_tried_again() {
    let rig = Rig::start();
    let store = rig.open();
    rig.inject("PUT", Fault::LoseAnswer, 1);
    rig.inject("HEAD", refused(503, "SlowDown"), 4);
    assert!(put(&store, "a", b"ours").unwrap_err().is_retryable());
    assert_eq!(get(&store, "a").unwrap(), b"ours");
    assert_eq!(kind(put(&store, "a", b"ours")), StoreErrorKind::Exists, "whoever calls compares");
}
