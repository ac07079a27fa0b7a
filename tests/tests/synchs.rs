//! Many synchs, and synchs with long details: what they take in memory, and where they are read.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use varve::archive::store::faulty::{Call, Fault, FaultyStore, When};
use varve::archive::store::{Reason, StoreErrorKind};
use varve::cli::Client;
use varve::log::Lsn;
use varve::volume::{Point, PointKind, Pool, SynchDetails, SynchInfo};
use varve_tests::appliance::{Appliance, ApplianceConfig};
use varve_tests::sim::store::MemoryStore;
use varve_tests::sim::workload::{Run, Shape};
use varve_tests::sim::world;

const CALL_LIMIT: Duration = Duration::from_mins(1);
const CLIENTS: u64 = 8;
/// Enough for two pages of a list.
const SYNCHS: u64 = 20_000;
/// What the lists of all clients may take. As trees of JSON values they took some 150 MiB.
const GROWTH_KIB_MAX: u64 = 40 << 10;

fn members(params: Value) -> Map<String, Value> {
    params.as_object().cloned().unwrap_or_default()
}

/// Runs as many clients at once, each with its number.
fn with_clients(appliance: &Appliance, run: impl Fn(u64, &mut Client) + Sync) {
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let run = &run;
            scope.spawn(move || {
                let mut client = Client::connect(&appliance.rpc_socket(), CALL_LIMIT).expect("connected");
                run(number, &mut client);
            });
        }
    });
}

/// The most resident memory that the program ever had, in KiB.
fn most_resident_kib(appliance: &Appliance) -> u64 {
    let pid = appliance.process_id().expect("it runs");
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it is there");
    let line = text.lines().find(|line| line.starts_with("VmHWM:")).expect("a figure");
    line.split_whitespace().nth(1).and_then(|figure| figure.parse().ok()).expect("a number")
}

/// All synchs of a pool, page by page; returns how many.
fn list_all(client: &mut Client) -> u64 {
    let (mut from, mut count) = (0, 0);
    loop {
        let page = client.call("synch_list", members(json!({"from": from}))).expect("a page");
        let page = page.as_array().expect("a list");
        let Some(last) = page.last() else { return count };
        assert!(last["details"]["by"].is_u64(), "{last}");
        from = last["lsn"].as_u64().expect("a position") + 1;
        count += page.len() as u64;
    }
}

#[test]
fn lists_of_many_clients_take_little_memory() {
    let appliance = Appliance::start(&ApplianceConfig::with_arguments(&["--no-archive"])).expect("it starts");
    with_clients(&appliance, |number, client| {
        for at in 0..SYNCHS / CLIENTS {
            let params = json!({"label": format!("s-{number}-{at}"), "details": {"by": number, "at": at}});
            client.call("synch_create", members(params)).expect("a synch");
        }
    });
    let before_kib = most_resident_kib(&appliance);
    for _ in 0..3 {
        with_clients(&appliance, |_, client| assert_eq!(list_all(client), SYNCHS));
    }
    let grown_kib = most_resident_kib(&appliance) - before_kib;
    assert!(grown_kib < GROWTH_KIB_MAX, "{grown_kib} KiB");
}

/// Details that are too long to stay in memory are the same in every answer, also after a restart.
#[test]
fn long_details_are_listed_from_the_log() {
    let mut appliance =
        Appliance::start(&ApplianceConfig::with_arguments(&["--no-archive"])).expect("it starts");
    // With 245 bytes of text they have 256 and stay in memory, with 246 not.
    let lengths = [1, 245, 246, 5000, 16_000, 3];
    for length in lengths {
        let details = json!({"text": "x".repeat(length)});
        appliance.rpc("synch_create", json!({"label": "a", "details": details})).expect("a synch");
    }
    let check = |appliance: &Appliance| {
        let list = appliance.rpc("synch_list", json!({})).expect("a list");
        let list: Vec<&Value> = list.as_array().expect("a list").iter().collect();
        let listed: Vec<usize> =
            list.iter().map(|synch| synch["details"]["text"].as_str().expect("a text").len()).collect();
        assert_eq!(listed, lengths);
        assert!(list.iter().all(|synch| synch.get("details_unread").is_none()));
    };
    check(&appliance);
    appliance.restart().expect("it starts again");
    check(&appliance);
}

/// The synch as a list shows it.
fn listed(pool: &Rc<Pool>, lsn: u64) -> SynchInfo {
    let range = Lsn(lsn)..Lsn(lsn + 1);
    world::wait(pool, Rc::clone(pool).read_synchs(range, 1)).pop().expect("it is there")
}

/// Long details of a synch that has left the primary device come from the archive. While the
/// archive is away the list says so, and has everything else.
#[test]
fn long_details_come_from_the_archive_or_say_why_not() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::default()), 9));
    let shape =
        Shape { device_blocks: 257 + 8 * 256, segment_blocks: 256, volatile_cache: true, volume_blocks: 40 };
    let shared: Arc<FaultyStore> = Arc::clone(&store);
    let mut run = Run::with_archive(9, shape, shared);
    let details = json!({"text": "x".repeat(6000)});
    let create = Rc::clone(&run.pool).create_synch("long".to_owned(), details);
    let synch = world::wait(&run.pool, create).expect("a synch");
    let kept =
        run.pool.synchs().get(Lsn(synch.lsn)).map(|kept| matches!(kept.details, SynchDetails::Kept(_)));
    assert_eq!(kept, Some(false));
    assert_eq!(listed(&run.pool, synch.lsn), synch);
    while run.pool.segments().iter().any(|segment| segment.sequence == Some(synch.lsn / 256)) {
        run.step_lone_write();
    }
    let away = Fault::Error(StoreErrorKind::Unavailable(Reason::Away));
    store.add(Call::Get, When::Always, away);
    let told = listed(&run.pool, synch.lsn);
    assert!(told.details_unread.as_deref().is_some_and(|why| why.contains("archive")), "{told:?}");
    let without =
        SynchInfo { details: Value::Null, details_unread: told.details_unread.clone(), ..synch.clone() };
    assert_eq!(told, without);
    store.heal();
    assert_eq!(listed(&run.pool, synch.lsn), synch);
    let point = world::wait(&run.pool, Rc::clone(&run.pool).resolve(Point::Synch("long".to_owned())));
    assert_eq!(point.expect("it resolves").kind, PointKind::Synch(synch));
}
