//! Tests the appliance's methods over a reactor that has no pool yet: the methods that must answer
//! then do.

use std::cell::RefCell;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use varve::cli::{LocalCommands, run_with};
use varve::options::{CommandError, InspectOptions, RecoverOptions, ServeOptions};
use varve::reactor::{Reactor, ReactorConfig, ReactorHandle};
use varve::rpc::{
    App, ControllerView, DISCOVERY_NQN, Dispatch, ListenerError, NamespaceView, QueuePairView, Registry,
    RpcError, RpcServer, RpcServerConfig, SubsystemView, TargetStats, TargetView, TransportView, config,
};

/// A target with one subsystem.
struct FakeTarget {
    listeners: RefCell<Vec<SocketAddr>>,
}

impl TargetView for FakeTarget {
    fn subsystems(&self) -> Vec<SubsystemView> {
        let subsystem = |nqn: &str, discovery| SubsystemView {
            nqn: nqn.to_owned(),
            discovery,
            serial_number: "1".to_owned(),
            model_number: "varve".to_owned(),
            max_namespaces: 1024,
            min_cntlid: 1,
            max_cntlid: 0xffef,
            namespaces: vec![NamespaceView { nsid: 1, volume: "a".to_owned(), uuid: uuid::Uuid::nil() }],
        };
        vec![subsystem(DISCOVERY_NQN, true), subsystem("nqn.2026-01.io.varve:a", false)]
    }

    fn transport(&self) -> TransportView {
        TransportView {
            max_queue_depth: 128,
            max_io_qpairs_per_ctrlr: 16,
            in_capsule_data_size: 8192,
            max_io_size: 524_288,
            io_unit_size: 131_072,
            max_aq_depth: 32,
            c2h_success: true,
        }
    }

    fn listeners(&self) -> Vec<SocketAddr> {
        self.listeners.borrow().clone()
    }

    fn controllers(&self, _: &str) -> Vec<ControllerView> {
        vec![ControllerView {
            cntlid: 1,
            hostnqn: "nqn.host".to_owned(),
            hostid: "h".to_owned(),
            num_io_qpairs: 2,
        }]
    }

    fn queue_pairs(&self, _: &str) -> Vec<QueuePairView> {
        let listen_address = SocketAddr::from(([127, 0, 0, 1], 4420));
        let (state, hostnqn) = ("active".to_owned(), "nqn.host".to_owned());
        vec![QueuePairView { cntlid: 1, qid: 0, state, hostnqn, listen_address, peer_address: None }]
    }

    fn stats(&self) -> TargetStats {
        TargetStats { io_qpairs: 2, ..TargetStats::default() }
    }

    fn add_listener(&self, address: SocketAddr) -> Result<SocketAddr, ListenerError> {
        if self.listeners.borrow().contains(&address) {
            return Err(ListenerError::Exists { address });
        }
        self.listeners.borrow_mut().push(address);
        Ok(address)
    }

    fn remove_listener(&self, address: SocketAddr) -> Result<(), ListenerError> {
        let before = self.listeners.borrow().len();
        self.listeners.borrow_mut().retain(|listener| *listener != address);
        if self.listeners.borrow().len() == before {
            Err(ListenerError::NotFound { address })
        } else {
            Ok(())
        }
    }
}

struct Appliance {
    handle: ReactorHandle<App>,
    thread: Option<JoinHandle<()>>,
}

impl Appliance {
    /// Starts a reactor on its own thread.
    fn start(with_target: bool) -> Self {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut reactor = Reactor::new(ReactorConfig::default()).expect("a reactor");
            let app = App::new(reactor.local(), "reactor0", None);
            if with_target {
                app.set_target(Rc::new(FakeTarget { listeners: RefCell::default() }));
            }
            sender.send(reactor.handle()).expect("awaited");
            reactor.run(&app);
        });
        Appliance { handle: receiver.recv().expect("started"), thread: Some(thread) }
    }

    fn registry(&self) -> Registry {
        Registry::new(self.handle.clone()).with_call_timeout(Duration::from_secs(20))
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("ends well");
        }
    }
}

fn call(registry: &Registry, method: &str, params: Value) -> Result<Value, RpcError> {
    let Value::Object(params) = params else { panic!("an object") };
    registry.dispatch(method, params)
}

fn failure(registry: &Registry, method: &str, params: Value) -> (i64, String) {
    let error = call(registry, method, params).expect_err("must be refused");
    (error.code(), error.to_string())
}

#[test]
fn the_stock_client_finds_what_it_asks_first() {
    let appliance = Appliance::start(false);
    let registry = appliance.registry();
    let all = call(&registry, "rpc_get_methods", json!({"include_aliases": true})).expect("answers");
    let current = call(&registry, "rpc_get_methods", json!({"current": true})).expect("answers");
    let has = |list: &Value, name: &str| list.as_array().expect("a list").contains(&json!(name));
    for name in [
        "volume_create",
        "restore_clone",
        "synch_create",
        "pool_segments",
        "pool_set_working_set",
        "pool_grow",
        "framework_start_init",
        "bdev_get_bdevs",
    ] {
        assert!(has(&all, name), "{name}");
    }
    assert!(!has(&current, "framework_start_init") && has(&current, "volume_create"));
    let version = call(&registry, "spdk_get_version", json!({})).expect("answers");
    assert!(version["version"].as_str().expect("text").starts_with("varve v"));
    assert!(version["fields"]["major"].is_u64() && version["fields"]["suffix"].is_string());
    let reactors = call(&registry, "framework_get_reactors", json!({})).expect("answers");
    assert_eq!(reactors["reactors"][0]["lw_threads"][0]["name"], "reactor0");
    assert_eq!(failure(&registry, "framework_start_init", json!({})).0, -1);
}

#[test]
fn mistakes_get_the_right_code_and_advice() {
    let appliance = Appliance::start(true);
    let registry = appliance.registry();
    for (method, params, code, text) in [
        ("volume_creat", json!({}), -32601, "did you mean 'volume_create'?"),
        ("nothing_like_it", json!({}), -32601, "rpc_get_methods"),
        (
            "volume_create",
            json!({"name": "a", "size": 4096, "colour": 1}),
            -32602,
            "unknown parameter 'colour'; allowed are name, size, uuid, if_absent",
        ),
        ("volume_create", json!({"name": "a"}), -32602, "parameter 'size' is missing"),
        ("volume_create", json!({"name": "a", "size": "1GB"}), -32602, "units of 1000"),
        ("volume_create", json!({"name": 1, "size": 4096}), -32602, "parameter 'name'"),
        ("pool_list", json!({"x": 1}), -32602, "it takes none"),
        ("pool_set_working_set", json!({}), -32602, "parameter 'segments' is missing"),
        ("spdk_kill_instance", json!({"sig_name": "SIGWINCH"}), -32602, "SIGTERM"),
        ("restore_resolve", json!({"point": "yesterday"}), -22, "synch:LABEL"),
        ("pool_list", json!({}), -1, "framework_wait_init"),
        ("framework_get_config", json!({"name": "iscsi"}), -19, "framework_get_subsystems"),
        ("archive_list", json!({}), -1, "--archive DIRECTORY"),
        ("archive_verify", json!({"from": 1}), -1, "no archive"),
        ("archive_get_keep", json!({}), -1, "no archive"),
        ("archive_set_keep", json!({"rules": "synch tomorrow"}), -22, "synch SPAN"),
        ("archive_set_keep", json!({"rules": "synch 1d"}), -1, "no archive"),
        ("archive_get_verify", json!({}), -1, "no archive"),
        ("archive_set_verify", json!({"policy": "tail"}), -1, "no archive"),
        ("archive_set_verify", json!({"policy": "glance"}), -32602, "`digest`"),
        ("nvmf_get_subsystems", json!({"nqn": "nqn.none"}), -19, "nqn.none"),
        ("nvmf_get_subsystems", json!({"tgt_name": "other"}), -19, "leave tgt_name out"),
        ("nvmf_get_transports", json!({"trtype": "RDMA"}), -32602, "TCP"),
        ("bdev_enable_histogram", json!({"name": "v", "enable": true, "granularity": 8}), -22, "has 7"),
        ("bdev_enable_histogram", json!({"name": "v", "enable": true, "max_nsec": 5}), -22, "leave them out"),
        ("bdev_enable_histogram", json!({"name": "v", "enable": true, "opc": "copy"}), -22, "write_zeroes"),
        ("bdev_enable_histogram", json!({"name": "v"}), -32602, "'enable' is missing"),
        ("bdev_get_iostat", json!({"per_channel": true}), -22, "leave per_channel out"),
    ] {
        let (actual, message) = failure(&registry, method, params);
        assert_eq!(actual, code, "{method}: {message}");
        assert!(message.contains(text), "{method}: {message}");
    }
}

#[test]
fn listeners_are_added_shown_saved_and_removed() {
    let appliance = Appliance::start(true);
    let registry = appliance.registry();
    let nqn = "nqn.2026-01.io.varve:a";
    let listener =
        |port: &str| json!({"trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": port, "adrfam": "ipv4"});
    let add = json!({"nqn": nqn, "listen_address": listener("4420"), "secure_channel": false});
    for _ in 0..2 {
        assert_eq!(call(&registry, "nvmf_subsystem_add_listener", add.clone()).expect("added"), json!(true));
    }
    let subsystems = call(&registry, "nvmf_get_subsystems", json!({})).expect("shown");
    assert_eq!(subsystems[0]["subtype"], "Discovery");
    assert_eq!(subsystems[1]["listen_addresses"][0]["trsvcid"], "4420");
    assert_eq!(subsystems[1]["namespaces"][0]["bdev_name"], "a");

    let saved = config::save(|method, params| registry.dispatch(method, params)).expect("saved");
    let remove = json!({"nqn": nqn, "listen_address": listener("4420")});
    call(&registry, "nvmf_subsystem_remove_listener", remove.clone()).expect("removed");
    assert_eq!(failure(&registry, "nvmf_subsystem_remove_listener", remove).0, -2);
    assert_eq!(
        call(&registry, "nvmf_subsystem_get_listeners", json!({"nqn": nqn})).expect("shown"),
        json!([])
    );
    // Loading twice has the same effect as once, and saving what was loaded gives the same file.
    for _ in 0..2 {
        let applied = config::apply(&saved.to_string(), |method, params| registry.dispatch(method, params));
        assert_eq!(applied.expect("loads"), 1);
    }
    let again = config::save(|method, params| registry.dispatch(method, params)).expect("saved again");
    assert_eq!(again.to_string(), saved.to_string());

    for (listen_address, code, text) in [
        (listener("no"), -22, "not a port"),
        (json!({"trtype": "TCP", "traddr": "::1", "trsvcid": "1", "adrfam": "ipv4"}), -22, "adrfam"),
        (json!({"trtype": "TCP", "traddr": "here", "trsvcid": "1"}), -32602, "listen_address"),
        (json!({"trtype": "RDMA", "traddr": "127.0.0.1", "trsvcid": "1"}), -32602, "TCP"),
    ] {
        let params = json!({"nqn": nqn, "listen_address": listen_address});
        let (actual, message) = failure(&registry, "nvmf_subsystem_add_listener", params);
        assert_eq!(actual, code, "{message}");
        assert!(message.contains(text), "{message}");
    }
    for method in ["nvmf_subsystem_get_controllers", "nvmf_subsystem_get_qpairs"] {
        assert_eq!(call(&registry, method, json!({"nqn": nqn})).expect("shown")[0]["cntlid"], 1);
    }
    assert_eq!(
        call(&registry, "nvmf_get_stats", json!({})).expect("shown")["poll_groups"][0]["io_qpairs"],
        2
    );
    assert_eq!(
        call(&registry, "nvmf_get_transports", json!({"trtype": "tcp"})).expect("shown")[0]["trtype"],
        "TCP"
    );
}

struct NoLocal;

impl LocalCommands for NoLocal {
    fn serve(&self, _: ServeOptions) -> Result<(), CommandError> {
        Err("not here".into())
    }

    fn inspect(&self, _: InspectOptions) -> Result<(), CommandError> {
        Err("not here".into())
    }

    fn recover(&self, _: RecoverOptions) -> Result<(), CommandError> {
        Err("not here".into())
    }
}

#[test]
fn the_command_line_shows_real_answers() {
    let appliance = Appliance::start(true);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = RpcServerConfig::new(directory.path().join("rpc.sock"));
    let server = RpcServer::start(config, Arc::new(appliance.registry())).expect("starts");
    let run = |line: &str| {
        let socket = server.path().to_str().expect("UTF-8");
        let arguments = ["varve", "--rpc", socket].into_iter().chain(line.split(' ')).map(OsString::from);
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let code = run_with(arguments, &NoLocal, &mut output, &mut errors);
        output.extend(errors);
        (code, String::from_utf8(output).expect("UTF-8"))
    };
    for (line, code, text) in [
        ("nvmf subsystem-add-listener 127.0.0.1:4420", 0, "listening on 127.0.0.1:4420"),
        ("nvmf get-subsystems", 0, "127.0.0.1:4420  1=a"),
        ("nvmf get-transports", 0, "TRTYPE"),
        ("nvmf subsystem-get-controllers discovery", 0, "nqn.host"),
        ("nvmf subsystem-get-qpairs discovery", 0, "active"),
        ("nvmf get-stats", 0, "reactor0"),
        ("framework get-reactors", 0, "p99.999"),
        ("framework get-subsystems", 0, "nvmf"),
        ("thread get-stats", 0, "reactor0"),
        ("spdk get-version", 0, "varve v"),
        ("config save", 0, "nvmf_subsystem_add_listener"),
        ("pool list", 1, "varve: pool_list: the pool is not open"),
        ("rpc volume_creat", 1, "did you mean 'volume_create'?"),
        (
            "rpc volume_create {\"nam\":1}",
            1,
            "unknown parameter 'nam'; allowed are name, size, uuid, if_absent",
        ),
    ] {
        let (actual, output) = run(line);
        println!("$ varve {line}\n{output}");
        assert_eq!(actual, code, "{line}: {output}");
        assert!(output.contains(text), "{line}: {output}");
    }
}

#[test]
fn a_reactor_that_does_not_answer_is_reported_and_the_rest_still_answers() {
    let appliance = Appliance::start(false);
    let registry = Registry::new(appliance.handle.clone()).with_call_timeout(Duration::from_millis(50));
    let (code, message) = failure(&registry, "framework_wait_init", json!({}));
    assert_eq!(code, -32603);
    assert!(message.contains("50 ms") && message.contains("may still take effect"), "{message}");
    call(&registry, "spdk_get_version", json!({})).expect("needs no reactor");
    drop(appliance);
    let (code, message) = failure(&registry, "pool_list", json!({}));
    assert_eq!(code, -32603);
    assert!(message.contains("stopped"), "{message}");
}
