//! Texts: what operators write, names of objects, and small records that are JSON.

use uuid::Uuid;

use crate::archive::object::{ClaimId, ObjectId};
use crate::archive::owner::{Acknowledged, Generation, HistoryId};
use crate::archive::retention::KeepRules;
use crate::log::{Lsn, SegmentSeq};
use crate::text::units::SizeBytes;
use crate::volume::{Point, SynchInfo};

const POOL: Uuid = Uuid::from_u128(0x7661_7276);

fn seeds<const N: usize>(texts: [&str; N]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The text of bytes; what is not UTF-8 never gets to these parsers.
fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

pub(super) fn point_seeds() -> Vec<Vec<u8>> {
    seeds([
        "lsn:77",
        "lsn:77-3",
        "now+3",
        "write:5",
        "time:2026-01-31T12:00:00.5+01:00",
        "time:2026-01-31 12:00[+01:00]",
        "time:14:03 Europe/Berlin",
        "time:-1h30m5s",
        "time:5 min ago",
        "synch:before: it",
        "snapshot:s1",
    ])
}

pub(super) fn point(data: &[u8]) -> bool {
    let text = text(data);
    match text.parse::<Point>() {
        Ok(read) => {
            assert_eq!(read.to_string().parse::<Point>(), Ok(read), "{text}");
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("is not a point in time"));
            false
        }
    }
}

pub(super) fn size_seeds() -> Vec<Vec<u8>> {
    seeds(["4096", "512MiB", "1 gib", "16383PiB", "18446744073709551615", "7k", "12b"])
}

pub(super) fn size(data: &[u8]) -> bool {
    let text = text(data);
    match text.parse::<SizeBytes>() {
        Ok(size) => {
            assert_eq!(size.0.to_string().parse::<SizeBytes>(), Ok(size), "{text}");
            let shown = size.to_string();
            // With a fraction it is rounded.
            if !shown.contains('.') {
                assert_eq!(shown.parse::<SizeBytes>(), Ok(size), "{text}");
            }
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("is not a size"));
            false
        }
    }
}

pub(super) fn retention_seeds() -> Vec<Vec<u8>> {
    seeds([
        "every-write 48h; synch 30d; synch 'night*' keep 2y; every 1d keep 12M",
        "every 15m keep forever\nsynch \"a;b\" keep 7d",
        "",
    ])
}

pub(super) fn retention(data: &[u8]) -> bool {
    let text = text(data);
    match KeepRules::parse(text) {
        Ok(rules) => {
            assert_eq!(KeepRules::parse(&rules.to_string()), Ok(rules), "{text}");
            true
        }
        Err(error) => {
            assert!(error.number > 0 && !error.to_string().is_empty());
            false
        }
    }
}

pub(super) fn synch_seeds() -> Vec<Vec<u8>> {
    let synch = serde_json::json!({
        "id": 7, "label": "nightly", "lsn": 99, "time_ns": 5, "details": {"table": ["a", null, 5]},
    });
    vec![synch.to_string().into_bytes()]
}

pub(super) fn synch(data: &[u8]) -> bool {
    let Ok(synch) = serde_json::from_slice::<SynchInfo>(data) else { return false };
    let again = serde_json::to_vec(&synch).expect("it is plain data");
    let mut again = serde_json::from_slice::<SynchInfo>(&again).expect("it was written from one");
    if has_fraction(&synch.details) {
        // The last digit of a number with a fraction may change.
        again.details = synch.details.clone();
    }
    assert_eq!(again, synch);
    true
}

fn has_fraction(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Number(number) => number.is_f64(),
        serde_json::Value::Array(values) => values.iter().any(has_fraction),
        serde_json::Value::Object(members) => members.values().any(has_fraction),
        _ => false,
    }
}

pub(super) fn object_name_seeds() -> Vec<Vec<u8>> {
    let id = ObjectId {
        pool: POOL,
        epoch: 3,
        sequence: SegmentSeq(7),
        from_lsn: Lsn(1792),
        to_lsn: Lsn(2048),
        whole: true,
        claim: ClaimId::NONE,
    };
    let part = ObjectId { whole: false, to_lsn: Lsn(1800), claim: ClaimId(9), ..id };
    [id, part].iter().map(|id| id.name().expect("a name").as_str().as_bytes().to_vec()).collect()
}

pub(super) fn object_name(data: &[u8]) -> bool {
    let text = text(data);
    let Ok(id) = ObjectId::parse(text) else { return false };
    assert_eq!(id.name().expect("a name").as_str(), text);
    assert_eq!(ObjectId::at(id.pool, id.place()), id);
    true
}

fn generation() -> Generation {
    let acknowledged = vec![Acknowledged { claim: ClaimId(4), end_lsn: Lsn(77) }];
    let mut generation = Generation::first(POOL, ClaimId(9), HistoryId(Uuid::from_u128(3)), acknowledged);
    generation.tombstones = vec!["v1/x".to_owned()];
    generation.rules = Some("synch 30d".to_owned());
    generation.beside = vec![generation.aside()];
    generation
}

pub(super) fn owner_seeds() -> Vec<Vec<u8>> {
    let mut second = generation();
    (second.number, second.beside) = (2, Vec::new());
    vec![generation().encode(), second.encode()]
}

/// The text of a generation, with and without its digests corrected.
pub(super) fn owner(data: &[u8]) -> bool {
    let mut accepted = false;
    let line = data.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let digest = blake3::hash(line).to_hex();
    let sealed = [line, b"\n", digest.as_bytes(), b"\n"].concat();
    for bytes in [data, &sealed[..]] {
        for number in [1, 2] {
            let Ok(read) = Generation::decode(bytes, POOL, number) else { continue };
            accepted = true;
            assert_eq!(Generation::decode(&read.encode(), POOL, number), Ok(read.clone()));
            assert_eq!(Generation::number_of(POOL, &read.name()), Some(number));
            assert!(read.histories().count() > read.beside.len());
        }
    }
    accepted
}
