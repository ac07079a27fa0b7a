//! Tests the command line against a command plane with canned answers: calls, output, exit codes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use varve::cli::{LocalCommands, run_with};
use varve::options::{CommandError, InspectOptions, RecoverOptions, ServeOptions};
use varve::rpc::{Dispatch, RpcError, RpcServer, RpcServerConfig};
use varve::volume::VolumeError;

/// Answers most methods with their name and parameters, and records its calls.
#[derive(Default)]
struct Fake {
    calls: Mutex<Vec<(String, Value)>>,
    /// How far the archive is, one more position for each status call; and its failures, one more
    /// for each status call if it fails.
    archived_to_lsn: AtomicU64,
    archive_fails: AtomicBool,
    failures: AtomicU64,
}

impl Fake {
    fn archive_status(&self) -> Value {
        let fails = self.archive_fails.load(Ordering::SeqCst);
        let archived_to_lsn = self.archived_to_lsn.fetch_add(u64::from(!fails), Ordering::SeqCst);
        json!({
            "store": "s", "state": "working", "problem": fails.then_some("it is full"), "back_pressure": "throttle", "verify": "digest", "throttled_ms_per_s": 0.0,
            "seal_interval_s": 20.0, "archived_to_lsn": archived_to_lsn, "head_lsn": 4, "backlog_segments": 0,
            "backlog_bytes": (4_u64.saturating_sub(archived_to_lsn)) * 4096, "recovery_point_age_s": 0.0,
            "segments": 1, "oldest_segment": 0, "objects_written": 1, "content_bytes": 1, "object_bytes": 1,
            "compression_ratio": 1.0, "throughput_bytes_per_s": 1.0,
            "failures": self.failures.fetch_add(u64::from(fails), Ordering::SeqCst), "gaps": [],
            "store_used_bytes": 1, "store_total_bytes": null,
        })
    }
}

fn verification(state: &str, damaged: &[&str]) -> Value {
    json!({"id": 7, "state": state, "objects": 2, "objects_done": 2, "bytes": 10, "bytes_done": 10, "gone": 0,
           "damaged_objects": damaged.len(), "damaged": damaged, "problem": null})
}

impl Dispatch for Fake {
    fn dispatch(&self, method: &str, params: Map<String, Value>) -> Result<Value, RpcError> {
        let params = Value::Object(params);
        self.calls.lock().expect("no panic").push((method.to_owned(), params.clone()));
        match method {
            "volume_delete" => {
                let name = params["name"].as_str().unwrap_or_default().to_owned();
                Err(VolumeError::NoSuchVolume { name }.into())
            }
            "synch_list" => Ok(
                json!([{"id": 1, "label": "before\u{1b}[2J", "lsn": 42, "time_ns": 1_000_000_000, "details": {"a": 1}}]),
            ),
            "snapshot_delete" => Ok(json!(true)),
            "archive_get_status" => Ok(self.archive_status()),
            "archive_seal" => Ok(json!({"lsn": 4, "done": false})),
            "archive_verify" if params["from"] == 3 => {
                let mut done = verification("done", &[]);
                done["damaged_anchors"] = json!(1);
                done["slower"] = json!(["anchor of image 1 at LSN 9: it is torn"]);
                Ok(done)
            }
            "archive_verify" => Ok(verification("running", &[])),
            "archive_verify_check" if params["id"] == 7 => Ok(verification("done", &["object x is torn"])),
            "archive_verify_check" => panic!("the id that was given"),
            "rpc_get_methods" => Ok(json!(["snapshot_delete"])),
            "framework_get_subsystems" => Ok(json!([{"subsystem": "bdev", "depends_on": []}])),
            "framework_get_config" => Ok(json!([])),
            _ => Ok(json!({"method": method, "params": params})),
        }
    }
}

/// Records which commands were run.
#[derive(Default)]
struct Local {
    asked: Mutex<Vec<String>>,
}

impl LocalCommands for Local {
    fn serve(&self, options: ServeOptions) -> Result<(), CommandError> {
        self.asked.lock().expect("no panic").push(format!("serve {}", options.rpc_socket().display()));
        Err("the address\nis taken".into())
    }

    fn inspect(&self, options: InspectOptions) -> Result<(), CommandError> {
        let InspectOptions { file, entries, json } = options;
        self.asked.lock().expect("no panic").push(format!("inspect {} {entries} {json}", file.display()));
        Ok(())
    }

    fn recover(&self, options: RecoverOptions) -> Result<(), CommandError> {
        let RecoverOptions { from, dir, pool, json, .. } = options;
        let pool = pool.map_or("any".to_owned(), |pool| pool.to_string());
        self.asked.lock().expect("no panic").push(format!("recover {pool} {from} {} {json}", dir.display()));
        Ok(())
    }
}

struct Bed {
    server: RpcServer,
    fake: Arc<Fake>,
    local: Local,
    directory: tempfile::TempDir,
}

impl Bed {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let fake = Arc::new(Fake::default());
        let config = RpcServerConfig::new(directory.path().join("rpc.sock"));
        let server = RpcServer::start(config, Arc::clone(&fake) as Arc<dyn Dispatch>).expect("starts");
        Bed { server, fake, local: Local::default(), directory }
    }

    /// Runs `varve --rpc SOCKET ARGUMENTS`: exit code, output, errors.
    fn run(&self, arguments: &[&str]) -> (u8, String, String) {
        let socket = self.server.path().as_os_str().to_owned();
        let start = [OsString::from("varve"), OsString::from("--rpc"), socket];
        let all = start.into_iter().chain(arguments.iter().map(OsString::from));
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let code = run_with(all, &self.local, &mut output, &mut errors);
        (code, String::from_utf8(output).expect("UTF-8"), String::from_utf8(errors).expect("UTF-8"))
    }

    fn calls(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.fake.calls.lock().expect("no panic"))
    }
}

#[test]
fn every_command_is_one_call() {
    let bed = Bed::new();
    let discovery = "nqn.2014-08.org.nvmexpress.discovery";
    for (line, method, params) in [
        ("pool list", "pool_list", json!({})),
        ("pool info", "pool_list", json!({})),
        ("pool set-working-set 12", "pool_set_working_set", json!({"segments": 12})),
        ("pool grow", "pool_grow", json!({})),
        ("pool stats", "pool_stats", json!({})),
        ("pool segments", "pool_segments", json!({})),
        ("volume create a 1GiB", "volume_create", json!({"name": "a", "size": 1_073_741_824})),
        (
            "volume create a --size 4096 --if-absent",
            "volume_create",
            json!({"name": "a", "size": 4096, "if_absent": true}),
        ),
        ("volume create a 4096 --thin", "volume_create", json!({"name": "a", "size": 4096, "thin": true})),
        ("archive status", "archive_get_status", json!({})),
        ("archive list", "archive_list", json!({})),
        ("archive list --from 3 --limit 9", "archive_list", json!({"from": 3, "limit": 9})),
        ("archive explain lsn:7", "archive_explain", json!({"point": "lsn:7"})),
        ("archive verify-policy", "archive_get_verify", json!({})),
        ("archive verify-policy tail", "archive_set_verify", json!({"policy": "tail"})),
        ("archive keep", "archive_get_keep", json!({})),
        ("archive keep synch", "archive_set_keep", json!({"rules": "synch"})),
        ("volume list", "volume_list", json!({})),
        ("volume list a", "volume_list", json!({"name": "a"})),
        ("volume resize a 2GiB", "volume_resize", json!({"name": "a", "size": 2_147_483_648_u64})),
        (
            "synch create --label l --details {\"x\":1}",
            "synch_create",
            json!({"label": "l", "details": {"x": 1}}),
        ),
        ("synch create --label l", "synch_create", json!({"label": "l"})),
        ("synch create --label l --volume a", "synch_create", json!({"label": "l", "volume": "a"})),
        (
            "synch list --label n* --volume a --to 9",
            "synch_list",
            json!({"from": 0, "to": 9, "label": "n*", "volume": "a"}),
        ),
        ("synch delete l --all", "synch_delete", json!({"synch": "l", "all": true})),
        ("synch delete 7", "synch_delete", json!({"synch": "7"})),
        ("snapshot create s", "snapshot_create", json!({"name": "s"})),
        ("snapshot create s --at synch:l-1", "snapshot_create", json!({"name": "s", "at": "synch:l-1"})),
        ("snapshot list", "snapshot_list", json!({"from": 0})),
        ("restore resolve time:-10m", "restore_resolve", json!({"point": "time:-10m"})),
        ("restore resolve now-3 --volume a", "restore_resolve", json!({"point": "now-3", "volume": "a"})),
        ("restore plan a --at write:9", "restore_plan", json!({"volume": "a", "at": "write:9"})),
        (
            "restore plan a --at now --quick",
            "restore_plan",
            json!({"volume": "a", "at": "now", "quick": true}),
        ),
        (
            "restore clone a --at synch:l --name b",
            "restore_clone",
            json!({"volume": "a", "at": "synch:l", "name": "b"}),
        ),
        (
            "restore clone a --at lsn:7 --name b --read-only",
            "restore_clone",
            json!({"volume": "a", "at": "lsn:7", "name": "b", "read_only": true}),
        ),
        (
            "restore roll-back a --at snapshot:s --force",
            "restore_roll_back",
            json!({"volume": "a", "at": "snapshot:s", "force": true}),
        ),
        ("restore roll-back a --at lsn:7", "restore_roll_back", json!({"volume": "a", "at": "lsn:7"})),
        ("clone list", "clone_list", json!({})),
        ("clone reset c", "clone_reset", json!({"name": "c"})),
        (
            "clone reset c --at time:-10m --force",
            "clone_reset",
            json!({"name": "c", "at": "time:-10m", "force": true}),
        ),
        ("clone promote c", "clone_promote", json!({"name": "c"})),
        ("clone promote c --stand-alone", "clone_promote", json!({"name": "c", "stand_alone": true})),
        ("volume rename a b", "volume_rename", json!({"name": "a", "to": "b"})),
        (
            "restore open a --at lsn:7 --name t --read-only",
            "restore_open",
            json!({"volume": "a", "at": "lsn:7", "name": "t", "read_only": true}),
        ),
        ("restore step t -5", "restore_step", json!({"name": "t", "count": -5})),
        ("restore step t +5 --force", "restore_step", json!({"name": "t", "count": 5, "force": true})),
        (
            "restore step t --to lsn:7 --discard-writes",
            "restore_step",
            json!({"name": "t", "to": "lsn:7", "discard_writes": true}),
        ),
        ("restore good t", "restore_judge", json!({"name": "t", "verdict": "good"})),
        ("restore bad t --at lsn:7", "restore_judge", json!({"name": "t", "verdict": "bad", "at": "lsn:7"})),
        ("restore skip t", "restore_judge", json!({"name": "t", "verdict": "skip"})),
        ("restore bisect t --json", "restore_bisect", json!({"name": "t"})),
        ("restore status", "restore_status", json!({})),
        ("restore status t", "restore_status", json!({"name": "t"})),
        (
            "restore commit t --roll-back --discard-writes",
            "restore_commit",
            json!({"name": "t", "roll_back": true, "discard_writes": true}),
        ),
        ("restore commit t --keep b", "restore_commit", json!({"name": "t", "keep": "b"})),
        ("restore abort t --force", "restore_abort", json!({"name": "t", "force": true})),
        ("nvmf get-subsystems", "nvmf_get_subsystems", json!({})),
        ("nvmf get-transports", "nvmf_get_transports", json!({})),
        ("nvmf get-stats", "nvmf_get_stats", json!({})),
        ("nvmf subsystem-get-qpairs discovery", "nvmf_subsystem_get_qpairs", json!({"nqn": discovery})),
        ("nvmf subsystem-get-controllers n", "nvmf_subsystem_get_controllers", json!({"nqn": "n"})),
        ("nvmf subsystem-get-listeners n", "nvmf_subsystem_get_listeners", json!({"nqn": "n"})),
        (
            "nvmf subsystem-add-listener [::1]:4420",
            "nvmf_subsystem_add_listener",
            json!({"nqn": discovery, "listen_address": {"trtype": "TCP", "adrfam": "IPv6", "traddr": "::1", "trsvcid": "4420"}}),
        ),
        ("bdev get-bdevs", "bdev_get_bdevs", json!({})),
        ("bdev get-iostat a b", "bdev_get_iostat", json!({"names": ["a", "b"]})),
        ("volume histogram a", "bdev_get_histogram", json!({"name": "a"})),
        (
            "volume histogram a --enable --only read",
            "bdev_enable_histogram",
            json!({"name": "a", "enable": true, "opc": "read"}),
        ),
        ("volume histogram a --disable", "bdev_enable_histogram", json!({"name": "a", "enable": false})),
        ("bdev get-histogram a", "bdev_get_histogram", json!({"name": "a"})),
        ("bdev enable-histogram a false", "bdev_enable_histogram", json!({"name": "a", "enable": false})),
        ("framework get-reactors", "framework_get_reactors", json!({})),
        ("framework get-config nvmf", "framework_get_config", json!({"name": "nvmf"})),
        ("thread get-stats", "thread_get_stats", json!({})),
        ("spdk get-version", "spdk_get_version", json!({})),
        ("spdk kill-instance SIGTERM", "spdk_kill_instance", json!({"sig_name": "SIGTERM"})),
        ("rpc anything {\"a\":[1]}", "anything", json!({"a": [1]})),
        ("rpc anything", "anything", json!({})),
    ] {
        let arguments: Vec<&str> = line.split(' ').collect();
        let (code, _, errors) = bed.run(&arguments);
        assert_eq!((code, errors.as_str()), (0, ""), "{line}");
        assert_eq!(bed.calls(), [(method.to_owned(), params)], "{line}");
    }
}

#[test]
fn results_are_tables_for_people_and_exact_for_programs() {
    let bed = Bed::new();
    let (_, output, _) = bed.run(&["synch", "list"]);
    assert!(output.starts_with("ID  LABEL") && output.contains("1970-01-01T00:00:01.000Z"), "{output}");
    assert!(!output.contains('\u{1b}'), "labels must not steer the terminal");
    let (_, output, _) = bed.run(&["synch", "list", "--json"]);
    let value: Value = serde_json::from_str(&output).expect("JSON");
    assert_eq!(value[0]["label"], "before\u{1b}[2J");
    assert!(output.find("\"id\"") < output.find("\"label\""), "members keep their order");
    assert_eq!(bed.run(&["snapshot", "delete", "s"]).1, "snapshot s is deleted\n");
    assert_eq!(bed.run(&["--json", "snapshot", "delete", "s"]).1, "true\n");
}

#[test]
fn failures_are_one_line_and_an_exit_code() {
    let bed = Bed::new();
    let (code, output, errors) = bed.run(&["volume", "delete", "gone"]);
    assert_eq!((code, output.as_str()), (1, ""));
    let expected = "varve: volume_delete: there is no volume 'gone'; `varve volume list` shows what there is (code -19)\n";
    assert_eq!(errors, expected);

    let (code, _, errors) = bed.run(&["serve"]);
    assert_eq!((code, errors.as_str()), (1, "varve: the address is taken\n"));
    assert_eq!(bed.run(&["inspect", "pool.img", "--entries", "--json"]).0, 0);
    let asked = bed.local.asked.lock().expect("no panic").clone();
    assert_eq!(
        asked,
        [format!("serve {}", bed.server.path().display()), "inspect pool.img true true".to_owned()]
    );

    assert_eq!(bed.run(&["volume", "create", "a"]).0, 2);
    let nowhere = bed.directory.path().join("nowhere.sock");
    let (code, _, errors) = bed.run(&["pool", "list", "--rpc", nowhere.to_str().expect("UTF-8")]);
    assert_eq!(code, 1);
    assert!(
        errors.contains("nowhere.sock") && errors.contains("varve serve") && errors.lines().count() == 1,
        "{errors}"
    );
}

#[test]
fn sealing_is_begun_and_watched_until_it_is_done_or_fails() {
    let bed = Bed::new();
    let (code, output, errors) = bed.run(&["archive", "seal"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(output.contains("before LSN 4"), "{output}");
    let calls = bed.calls();
    assert_eq!(calls[1], ("archive_seal".to_owned(), json!({"wait": false})));
    assert!(calls.iter().filter(|(method, _)| method == "archive_get_status").count() >= 4, "{calls:?}");
    let (_, output, _) = bed.run(&["archive", "seal", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&output).expect("JSON"), json!({"lsn": 4, "done": true}));

    bed.fake.archived_to_lsn.store(0, Ordering::SeqCst);
    bed.fake.archive_fails.store(true, Ordering::SeqCst);
    let (code, output, errors) = bed.run(&["archive", "seal"]);
    assert_eq!((code, output.as_str()), (1, ""));
    assert_eq!(errors, "varve: the archive was not sealed: it is full\n");
}

#[test]
fn a_verification_is_watched_and_damage_is_an_exit_code() {
    let bed = Bed::new();
    let (code, output, errors) = bed.run(&["archive", "verify", "--from", "2"]);
    assert_eq!(code, 1);
    assert!(output.contains("2 of 2") && output.contains("object x is torn"), "{output}");
    assert_eq!(errors, "varve: 1 objects of the archive are damaged\n");
    assert_eq!(bed.calls()[0], ("archive_verify".to_owned(), json!({"from": 2})));
    let (_, output, _) = bed.run(&["archive", "verify", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&output).expect("JSON")["damaged_objects"], 1);
}

#[test]
fn a_damaged_anchor_is_told_and_is_no_failure() {
    let (code, output, errors) = Bed::new().run(&["archive", "verify", "--from", "3"]);
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(output.contains("Anchors damaged:  1") && output.contains("it is torn"), "{output}");
}

#[test]
fn recovering_a_pool_is_local_work() {
    let bed = Bed::new();
    let pool = "00000000-0000-4000-8000-000000000001";
    assert_eq!(bed.run(&["pool", "recover", "--from", "tape:t", "--dir", "d", "--pool", pool]).0, 0);
    assert_eq!(bed.run(&["pool", "recover", "--from", "a", "--json"]).0, 0);
    let asked = bed.local.asked.lock().expect("no panic").clone();
    assert_eq!(asked, [format!("recover {pool} tape:t d false"), "recover any a varve-data true".to_owned()]);
    assert!(bed.calls().is_empty());
}

#[test]
fn configurations_are_saved_and_loaded() {
    let bed = Bed::new();
    let (code, saved, _) = bed.run(&["config", "save"]);
    assert_eq!(code, 0);
    let value: Value = serde_json::from_str(&saved).expect("JSON");
    assert_eq!(value, json!({"subsystems": [{"subsystem": "bdev", "config": []}]}));
    let file: PathBuf = bed.directory.path().join("c.json");
    let load = |text: &str| {
        std::fs::write(&file, text).expect("writable");
        bed.calls();
        bed.run(&["config", "load", file.to_str().expect("UTF-8")])
    };
    assert_eq!(load(&saved), (0, "0 calls were made\n".to_owned(), String::new()));
    let (code, output, _) = load(
        r#"{"subsystems":[{"subsystem":"x","config":[{"method":"snapshot_delete","params":{"name":"s"}}]}]}"#,
    );
    assert_eq!((code, output.as_str()), (0, "1 calls were made\n"));
    assert_eq!(bed.calls()[1], ("snapshot_delete".to_owned(), json!({"name": "s"})));
    let (code, _, errors) = load(
        r#"{"subsystems":[{"subsystem":"x","config":[{"method":"snapshot_delete"},{"method":"bdev_malloc_create"}]}]}"#,
    );
    assert!(
        code == 1 && errors.contains("'bdev_malloc_create'") && errors.contains("nothing was changed"),
        "{errors}"
    );
    assert_eq!(bed.calls().len(), 1, "only the list of methods was asked for");
    assert!(load("{").2.contains("not understood"));
}
