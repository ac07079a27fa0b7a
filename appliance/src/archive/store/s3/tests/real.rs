//! Tests against a complete S3 server, in this process.

use varve_s3_server::{BUCKET, S3Server};

use super::*;

struct RealServer(S3Server);

impl RealServer {
    fn start() -> Self {
        RealServer(S3Server::start())
    }

    fn config(&self, prefix: &str) -> S3Config {
        S3Config { bucket: String::from(BUCKET), prefix: prefix.into(), ..config(self.0.url()) }
    }

    /// The size of the files below the root whose names contain a text: of objects, of uploads, of
    /// anything.
    fn bytes_in_files(&self, part: &str) -> u64 {
        let entries = std::fs::read_dir(self.0.root()).unwrap().map(Result::unwrap);
        let ours = entries.filter(|entry| entry.file_name().to_str().unwrap().contains(part));
        ours.map(|entry| entry.metadata().unwrap().len()).sum()
    }
}

impl Fixture for RealServer {
    type Opened = S3Store;

    fn open(&self) -> S3Store {
        S3Store::open(self.config("pool/one")).unwrap()
    }

    fn open_small(&self) -> S3Store {
        S3Store::open(S3Config { capacity_bytes: Some(1 << 20), ..self.config("small") }).unwrap()
    }
}

#[test]
fn it_conforms() {
    conformance::run(&RealServer::start());
}

#[test]
fn big_objects_go_up_in_parts_and_leave_nothing_when_they_are_dropped() {
    let server = RealServer::start();
    let store = S3Store::open(S3Config { buffer_bytes: 5 << 20, ..server.config("") }).unwrap();
    let bytes = content(17 << 20);
    assert_eq!(put(&store, "big", &bytes).unwrap().len_bytes, 17 << 20);
    assert!(get(&store, "big").unwrap() == bytes);
    let mut range = vec![0; 4096];
    store.get_range(&name("big"), (5 << 20) - 2048, &mut range).unwrap();
    assert!(range == bytes[(5 << 20) - 2048..(5 << 20) + 2048], "over the edge of two parts");
    // The condition holds on this path too, and for two concurrent puts.
    assert_eq!(kind(put(&store, "big", &bytes)), StoreErrorKind::Exists);
    let mut one = store.put_start(&name("twin"), 12 << 20).unwrap();
    let mut other = store.put_start(&name("twin"), 12 << 20).unwrap();
    one.write(&bytes[..12 << 20]).unwrap();
    other.write(&bytes[..11 << 20]).unwrap();
    one.commit().unwrap();
    assert_eq!(kind(other.commit()), StoreErrorKind::Exists);
    assert_eq!(store.stat(&name("twin")).unwrap().len_bytes, 12 << 20);
    assert_eq!(server.bytes_in_files("upload"), 0);

    let mut dropped = store.put_start(&name("dropped"), 17 << 20).unwrap();
    dropped.write(&bytes).unwrap();
    assert!(server.bytes_in_files("upload") >= 15 << 20, "three parts are there");
    drop(dropped);
    assert_eq!(server.bytes_in_files("upload"), 0);
    assert_eq!(kind(store.stat(&name("dropped"))), StoreErrorKind::NotFound);
}

#[test]
fn wrong_credentials_and_buckets_are_named_and_secrets_are_not() {
    let server = RealServer::start();
    let good = server.config("");
    for (change, hint) in [
        (S3Config { access_key_id: Some(Secret::new("stranger")), ..good.clone() }, "access"),
        (
            S3Config { secret_access_key: Some(Secret::new("Wr0ngSecret")), ..good.clone() },
            "secret_access_key",
        ),
        (S3Config { bucket: String::from("elsewhere"), ..good.clone() }, "no such bucket"),
    ] {
        let error = S3Store::open(change).unwrap_err();
        assert!(matches!(error.kind, StoreErrorKind::Refused(_)), "{error}");
        assert!(error.to_string().contains(hint), "{error}");
        for secret in ["stranger", "Wr0ngSecret", ACCESS_KEY, SECRET_KEY] {
            assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
        }
    }
}
