//! The real program with its archive in a bucket, behind a proxy that imitates faults of networks,
//! services and clocks. Nothing is lost or stored twice, the operator sees which bucket has a
//! problem, the cause and the remedy, and no restart is needed afterwards.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use varve::archive::object::ObjectId;
use varve::nvmf::wire::status::Status;
use varve_s3_server::{ACCESS_KEY, BUCKET, Fault, Header, Proxy, S3Server, SECRET_KEY, error};
use varve_tests::appliance::rounds::{Host, archive_status, wait_for};
use varve_tests::appliance::{Appliance, ApplianceConfig, WallClock};
use varve_tests::faults::bed::status_of;

/// The label in every problem of the bucket.
const LABEL: &str = "s3 archive/one at http://";

/// A server, a proxy in front of it, and the folder of the credentials.
struct Rig {
    proxy: Proxy,
    server: S3Server,
    folder: tempfile::TempDir,
}

impl Rig {
    fn start() -> Self {
        let server = S3Server::start();
        let folder = tempfile::tempdir().expect("a folder");
        let rig = Rig { proxy: Proxy::start(server.url()), server, folder };
        rig.renew("FirstToken");
        rig
    }

    fn credentials(&self) -> PathBuf {
        self.folder.path().join("credentials")
    }

    /// Renews the credentials as a tool does: replaces the file.
    fn renew(&self, token: &str) {
        let text = format!(
            "[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\naws_session_token = {token}\n"
        );
        let new = self.folder.path().join("new");
        std::fs::write(&new, text).expect("written");
        std::fs::rename(&new, self.credentials()).expect("in place");
    }

    /// From now on the service accepts no request with this token.
    fn expire(&self, token: &str) {
        let header = Header::With(format!("x-amz-security-token: {token}"));
        self.proxy.inject_when("", header, Fault::Answer(400, error("ExpiredToken")), usize::MAX);
    }

    fn config(&self, more: &[&str]) -> ApplianceConfig {
        let (url, credentials) = (self.proxy.url(), self.credentials());
        let spec =
            format!("s3://{BUCKET}/one?endpoint={url}&allow_http=true&credentials={}", credentials.display());
        let sizes = ["--pool-size", "16MiB", "--volume-size", "2MiB", "--seal-seconds", "0"];
        let mut arguments = sizes.to_vec();
        arguments.extend(["--archive", &spec]);
        arguments.extend(more);
        ApplianceConfig::with_arguments(&arguments)
    }

    /// The objects of the pools' logs, and the number of objects that record the archive's owner.
    fn objects(&self) -> (Vec<ObjectId>, usize) {
        let root = self.server.root().join(BUCKET).join("one");
        let names: Vec<String> = files(&root)
            .iter()
            .filter_map(|file| Some(file.strip_prefix(&root).ok()?.to_str()?.to_owned()))
            .collect();
        let objects = names.iter().filter_map(|name| ObjectId::parse(name).ok()).collect();
        (objects, names.iter().filter(|name| name.contains("/owner/")).count())
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The problem of the archive, which must be the same in the status and in the list of the pool's
/// problems.
fn told(appliance: &Appliance) -> String {
    let status = archive_status(appliance);
    let problem = status["problem"].as_str().unwrap_or_default().to_owned();
    let pools = appliance.rpc("pool_list", Value::Null).expect("it answers");
    let shown = appliance.command(&["archive", "status"]).expect("it answers");
    if !problem.is_empty() && archive_status(appliance)["problem"] == status["problem"] {
        assert!(pools.to_string().contains(LABEL), "{pools}");
        assert!(shown.contains(LABEL), "{shown}");
    }
    problem
}

fn wait_until_told(appliance: &Appliance, words: &[&str]) {
    let mut problem = String::new();
    wait_for(&format!("{words:?} is told"), || {
        problem = told(appliance);
        words.iter().chain(&[LABEL]).all(|word| problem.contains(word))
    });
}

/// Waits until the archive works again by itself.
fn wait_until_well(appliance: &Appliance) {
    wait_for("the archive works again", || {
        let status = archive_status(appliance);
        status["problem"].is_null() && status["state"] != "away"
    });
}

/// Writes until writes are refused; returns the round that is not complete.
fn write_until_refused(appliance: &Appliance) -> u64 {
    let mut host = Host::connect(appliance, "vol0");
    for round in 2..200 {
        if let Err(error) = host.try_write_round(round) {
            let status = status_of::<()>(Err(error)).expect("a status");
            assert_eq!(status.code_only(), Status::CAPACITY_EXCEEDED, "{status}");
            return round;
        }
    }
    panic!("history was given away");
}

/// Checks that everything is in the archive and undamaged.
fn check_archive(appliance: &Appliance) {
    appliance.command(&["archive", "seal"]).expect("it seals");
    appliance.command(&["archive", "verify"]).expect("it is whole");
    let status = archive_status(appliance);
    assert_eq!(status["archived_to_lsn"], status["stored_to_lsn"], "{status}");
    assert_eq!((&status["problem"], &status["gaps"]), (&Value::Null, &json!([])), "{status}");
}

#[test]
fn puts_whose_answers_are_lost_are_there_once_and_the_owner_stays_the_owner() {
    let rig = Rig::start();
    // The first of every two tries of a put is executed but not answered.
    for _ in 0..500 {
        rig.proxy.inject("PUT ", Fault::LoseAnswer, 1);
        rig.proxy.inject("PUT ", Fault::None, 1);
    }
    let mut appliance = Appliance::start(&rig.config(&[])).expect("it starts");
    let mut host = Host::connect(&appliance, "vol0");
    for round in 1..=4 {
        host.write_round(round);
        appliance.command(&["archive", "seal"]).expect("it seals");
    }
    drop(host);
    appliance.stop().expect("it stops");
    appliance.restart().expect("it starts again");
    Host::connect(&appliance, "vol0").check_round(4);
    Host::connect(&appliance, "vol0").write_round(5);
    check_archive(&appliance);
    // Parts are deleted after their segment is archived as a whole.
    wait_for("nothing is there twice", || {
        let mut objects = rig.objects().0;
        objects.sort_unstable_by_key(|id| (id.claim, id.from_lsn));
        let is_twice =
            |pair: &[ObjectId]| pair[0].claim == pair[1].claim && pair[1].from_lsn < pair[0].to_lsn;
        objects.len() > 5 && !objects.windows(2).any(is_twice)
    });
    // The last three stay; while the next one is made there are four.
    wait_for("three records of who owns it at most", || (1..=3).contains(&rig.objects().1));
    let puts = rig.proxy.requests().iter().filter(|request| request.starts_with("PUT ")).count();
    assert!((20..1000).contains(&puts), "{puts} puts");
    assert!(!appliance.complaints().contains("WARN"), "{}", appliance.complaints());
}

#[test]
fn credentials_that_expire_are_told_while_writes_are_refused_and_read_again() {
    let rig = Rig::start();
    let appliance = Appliance::start(&rig.config(&[])).expect("it starts");
    Host::connect(&appliance, "vol0").write_round(1);
    appliance.command(&["archive", "seal"]).expect("it seals");
    rig.expire("FirstToken");
    write_until_refused(&appliance);
    wait_until_told(&appliance, &["writes are refused", "credentials have expired", "is read again"]);
    assert_eq!(archive_status(&appliance)["state"], "refusing");
    assert!(!told(&appliance).contains("FirstToken"));
    // A tool renews them; nobody notifies the appliance.
    rig.renew("SecondToken");
    wait_until_well(&appliance);
    Host::connect(&appliance, "vol0").write_round(201);
    check_archive(&appliance);
    Host::connect(&appliance, "vol0").check_round(201);
}

#[test]
fn credentials_that_have_expired_at_a_start_are_waited_for() {
    let rig = Rig::start();
    let mut appliance = Appliance::start(&rig.config(&[])).expect("it starts");
    Host::connect(&appliance, "vol0").write_round(1);
    appliance.command(&["archive", "seal"]).expect("it seals");
    appliance.stop().expect("it stops");
    rig.expire("FirstToken");
    appliance.restart().expect("it starts without its archive");
    assert_eq!(archive_status(&appliance)["state"], "away");
    wait_until_told(&appliance, &["credentials have expired"]);
    Host::connect(&appliance, "vol0").check_round(1);
    rig.renew("SecondToken");
    wait_until_well(&appliance);
    Host::connect(&appliance, "vol0").write_round(2);
    check_archive(&appliance);
    // A mistake must not leave a new pool without an archive.
    rig.expire("SecondToken");
    let refused = Appliance::start(&rig.config(&[])).expect_err("a new pool has no archive").to_string();
    assert!(refused.contains("credentials have expired") && refused.contains(LABEL), "{refused}");
}

#[test]
fn a_clock_that_is_off_is_named_and_all_goes_on_when_it_is_right() {
    let rig = Rig::start();
    let mut clock = WallClock::new().expect("a clock");
    let environment = clock.environment();
    let config = ApplianceConfig { environment, ..rig.config(&[]) };
    let mut appliance = Appliance::start(&config).expect("it starts");
    Host::connect(&appliance, "vol0").write_round(1);
    appliance.command(&["archive", "seal"]).expect("it seals");
    clock.set_ahead_s(20 * 60);
    Host::connect(&appliance, "vol0").write_round(2);
    appliance.command(&["archive", "seal"]).expect_err("the service checks the time");
    wait_until_told(&appliance, &["RequestTimeTooSkewed", "set this machine's clock"]);
    appliance.stop().expect("it stops");
    appliance.restart().expect("it starts without its archive");
    assert_eq!(archive_status(&appliance)["state"], "away");
    wait_until_told(&appliance, &["RequestTimeTooSkewed", "set this machine's clock"]);
    Host::connect(&appliance, "vol0").check_round(2);
    clock.set_ahead_s(0);
    wait_until_well(&appliance);
    Host::connect(&appliance, "vol0").write_round(3);
    check_archive(&appliance);
}

#[test]
fn a_service_that_is_unwell_in_every_way_costs_only_time() {
    let rig = Rig::start();
    let appliance = Appliance::start(&rig.config(&[])).expect("it starts");
    let mut host = Host::connect(&appliance, "vol0");
    let answers = [
        (503, "SlowDown"),
        (500, "InternalError"),
        (409, "ConditionalRequestConflict"),
        (200, "InternalError"),
        (200, "SlowDown"),
        (400, "RequestTimeout"),
    ];
    for (round, (status, code)) in (1..).zip(answers) {
        // A body inside a 200 could be an object's own bytes.
        let gets = if status == 200 { format!("GET /{BUCKET}?") } else { "GET ".to_owned() };
        for request in ["PUT ", &gets] {
            rig.proxy.inject(request, Fault::Answer(status, error(code)), 2);
        }
        host.write_round(round);
        appliance.command(&["archive", "seal"]).expect("it seals");
        rig.proxy.heal();
    }
    check_archive(&appliance);
    assert_eq!(archive_status(&appliance)["failures"], 0);
}

#[test]
fn a_bucket_that_keeps_what_is_deleted_is_explained_and_keeps_nothing_else() {
    const VERSIONS: &str = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    const LOCK: &str = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>";
    let rig = Rig::start();
    for (query, answer) in [("versioning", VERSIONS), ("object-lock", LOCK)] {
        let request = format!("GET /{BUCKET}?{query}");
        rig.proxy.inject(&request, Fault::Answer(200, answer.to_owned()), usize::MAX);
    }
    // Not even the object of the probe can be deleted.
    let denied = || Fault::Answer(403, error("AccessDenied"));
    rig.proxy.inject(&format!("DELETE /{BUCKET}/one/probe/"), denied(), 1);
    let appliance = Appliance::start(&rig.config(&["--expire-seconds", "0"])).expect("it starts");
    let said = appliance.said();
    for words in ["30 days, mode COMPLIANCE", "keeps versions", "lifecycle rule", "s3:DeleteObject", LABEL] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let mut host = Host::connect(&appliance, "vol0");
    for round in 1..=16 {
        host.write_round(round);
    }
    appliance.command(&["archive", "seal"]).expect("it seals");
    appliance.command(&["archive", "keep", "every-write 1s"]).expect("rules");
    std::thread::sleep(Duration::from_secs(2));
    // One object is locked.
    rig.proxy.inject(&format!("DELETE /{BUCKET}/one/v1/"), denied(), 1);
    let before = rig.objects().0.len();
    let report = appliance.rpc("archive_expire", json!({"all": true})).expect("it expires");
    let deleted = report["deleted_objects"].as_u64().expect("a number") as usize;
    assert!(report["failed_objects"] == 1 && deleted > 2, "{report}");
    let failure = report["failure"].as_str().expect("why");
    assert!(failure.contains("s3:DeleteObject") && failure.contains(LABEL), "{failure}");
    assert_eq!(rig.objects().0.len(), before - deleted);
    host.write_round(17);
    check_archive(&appliance);
}
