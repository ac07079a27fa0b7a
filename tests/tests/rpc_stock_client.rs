//! SPDK's stock client from `PyPI` calls the command plane, where a few methods that record their
//! calls replace an appliance. `stock_client.rs` calls a real one.

use std::process::Output;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use varve::histogram::Histogram;
use varve::rpc::{Dispatch, HistogramReport, RpcError, RpcServer, RpcServerConfig};
use varve_tests::stock_client::StockClient;

/// 3 requests of 10 µs and one of 2 ms.
fn histogram() -> Histogram {
    let mut histogram = Histogram::default();
    for latency_ns in [10_000, 10_000, 10_000, 2_000_000] {
        histogram.record(latency_ns);
    }
    histogram
}

/// An appliance with a few methods that answer like the real one; it records its calls.
#[derive(Default)]
struct Fake {
    calls: Mutex<Vec<(String, Value)>>,
}

impl Dispatch for Fake {
    fn dispatch(&self, method: &str, params: Map<String, Value>) -> Result<Value, RpcError> {
        let config = match params.get("name").and_then(Value::as_str) {
            Some("nvmf") => json!([{"method": "nvmf_subsystem_add_listener", "params": {"nqn": "n"}}]),
            _ => json!([]),
        };
        self.calls.lock().expect("no panic").push((method.to_owned(), Value::Object(params)));
        match method {
            "spdk_get_version" => Ok(
                json!({"version": "varve v0.1.0", "fields": {"major": 0, "minor": 1, "patch": 0, "suffix": ""}}),
            ),
            "rpc_get_methods" => Ok(json!([
                "rpc_get_methods",
                "spdk_get_version",
                "volume_create",
                "nvmf_subsystem_add_listener"
            ])),
            "framework_get_subsystems" => Ok(json!([
                {"subsystem": "bdev", "depends_on": []},
                {"subsystem": "nvmf", "depends_on": ["bdev"]},
            ])),
            "framework_get_config" => Ok(config),
            "bdev_get_histogram" => Ok(json!(HistogramReport::new(&histogram()))),
            "volume_create" => Ok(json!({"name": "a", "size_bytes": 4096})),
            "bdev_enable_histogram" | "nvmf_subsystem_add_listener" => Ok(json!(true)),
            _ => Err(RpcError::MethodNotFound { method: method.to_owned(), suggestion: None }),
        }
    }
}

struct Stock {
    client: StockClient,
    directory: tempfile::TempDir,
    server: RpcServer,
    fake: Arc<Fake>,
}

impl Stock {
    /// A server and the client; `None` where the client cannot be installed.
    fn start() -> Option<Self> {
        let client = StockClient::install("rpc_stock_client")?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let fake = Arc::new(Fake::default());
        let config = RpcServerConfig::new(directory.path().join("rpc.sock"));
        let server = RpcServer::start(config, Arc::clone(&fake) as Arc<dyn Dispatch>).expect("starts");
        Some(Stock { client, directory, server, fake })
    }

    fn python(&self, arguments: &[&str]) -> Output {
        self.client.python(arguments)
    }

    /// Runs `spdk-rpc` with these arguments; returns its standard output.
    fn rpc(&self, arguments: &[&str]) -> String {
        self.client.rpc(self.server.path(), arguments)
    }

    fn calls(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.fake.calls.lock().expect("no panic"))
    }
}

#[test]
fn its_commands_work() {
    let Some(stock) = Stock::start() else { return };
    let version: Value = serde_json::from_str(&stock.rpc(&["spdk_get_version"])).expect("JSON");
    assert_eq!(version["version"], "varve v0.1.0");
    let methods: Value = serde_json::from_str(&stock.rpc(&["rpc_get_methods"])).expect("JSON");
    assert!(methods.as_array().expect("a list").contains(&json!("volume_create")));
    stock.calls();
    stock.rpc(&["nvmf_subsystem_add_listener", "discovery", "-t", "TCP", "-a", "127.0.0.1", "-s", "4420"]);
    let calls = stock.calls();
    assert_eq!(calls[0].0, "nvmf_subsystem_add_listener");
    assert_eq!(
        calls[0].1,
        json!({"nqn": "nqn.2014-08.org.nvmexpress.discovery", "secure_channel": false,
               "listen_address": {"trtype": "TCP", "traddr": "127.0.0.1", "trsvcid": "4420"}})
    );
}

#[test]
fn it_enables_histograms_and_reads_them() {
    let Some(stock) = Stock::start() else { return };
    stock.rpc(&["bdev_enable_histogram", "--histogram", "vol0"]);
    stock.rpc(&["bdev_enable_histogram", "--no-histogram", "--opc", "read", "vol0"]);
    assert_eq!(
        stock.calls(),
        [
            ("bdev_enable_histogram".to_owned(), json!({"name": "vol0", "enable": true})),
            ("bdev_enable_histogram".to_owned(), json!({"name": "vol0", "enable": false, "opc": "read"})),
        ]
    );
    let file = stock.directory.path().join("histogram.json");
    std::fs::write(&file, stock.rpc(&["bdev_get_histogram", "vol0"])).expect("writable");
    // As every reader of these answers does: each range is twice as wide as the one before (except
    // the first two) and has 2^granularity buckets.
    let program = "import base64, json, sys\n\
                   h = json.load(open(sys.argv[1]))\n\
                   data, bits = base64.b64decode(h['histogram']), h['granularity']\n\
                   assert h['bucket_shift'] == bits and len(data) == 8 * (h['max_range'] - h['min_range'] + 1) << bits\n\
                   for b in range(len(data) // 8):\n\
                   \x20   n, r, i = int.from_bytes(data[8 * b:8 * b + 8], 'little'), b >> bits, b & ((1 << bits) - 1)\n\
                   \x20   first, width = ((1 << bits) + i << r - 1, 1 << r - 1) if r else (i, 1)\n\
                   \x20   us = 1e6 / h['tsc_rate']\n\
                   \x20   if n: print('%.1f %.1f %d' % (first * us, (first + width) * us, n))\n";
    let output = stock.python(&["-c", program, file.to_str().expect("UTF-8")]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "10.0 10.0 3\n1998.8 2007.0 1\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn its_save_config_and_load_config_work() {
    let Some(stock) = Stock::start() else { return };
    let saved = stock.rpc(&["save_config"]);
    let value: Value = serde_json::from_str(&saved).expect("JSON");
    assert_eq!(value["subsystems"][1]["config"][0]["method"], "nvmf_subsystem_add_listener");
    let file = stock.directory.path().join("config.json");
    std::fs::write(&file, saved).expect("writable");
    stock.calls();
    stock.rpc(&["load_config", "-j", file.to_str().expect("UTF-8")]);
    assert!(stock.calls().contains(&("nvmf_subsystem_add_listener".to_owned(), json!({"nqn": "n"}))));
}

#[test]
fn its_generic_call_reaches_our_own_methods() {
    let Some(stock) = Stock::start() else { return };
    let socket = stock.server.path().to_str().expect("UTF-8");
    let program = "import sys, json; from spdk.rpc.client import JSONRPCClient, JSONRPCException\n\
                   c = JSONRPCClient(sys.argv[1], timeout=20.0)\n\
                   print(json.dumps(c.call('volume_create', {'name': 'a', 'size': '4KiB'})))\n\
                   print(json.dumps(c.volume_create(name='b', size=4096, uuid=None)))\n\
                   try: c.call('volume_creat')\n\
                   except JSONRPCException as e: print(json.dumps(e.message))\n";
    let output = stock.python(&["-c", program, socket]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines[0], json!({"name": "a", "size_bytes": 4096}));
    assert!(lines[2].as_str().expect("text").contains("Method not found"), "{text}");
    let calls = stock.calls();
    assert_eq!(calls[1], ("volume_create".to_owned(), json!({"name": "b", "size": 4096})));
}

#[test]
fn our_plugin_adds_the_generic_call_to_its_command_line() {
    let Some(stock) = Stock::start() else { return };
    let answer = stock.rpc(&[
        "--plugin",
        "varve_rpc_plugin",
        "call",
        "volume_create",
        r#"{"name": "a", "size": "4KiB"}"#,
    ]);
    assert_eq!(
        serde_json::from_str::<Value>(&answer).expect("JSON"),
        json!({"name": "a", "size_bytes": 4096})
    );
    assert_eq!(stock.calls(), [("volume_create".to_owned(), json!({"name": "a", "size": "4KiB"}))]);
}

#[test]
fn its_batch_mode_works() {
    let Some(stock) = Stock::start() else { return };
    let socket = stock.server.path().to_str().expect("UTF-8");
    let program = "import sys, json; from spdk.rpc.client import JSONRPCClient\n\
                   c = JSONRPCClient(sys.argv[1], timeout=20.0, batch_mode=True)\n\
                   c.spdk_get_version(); c.rpc_get_methods(); c.nothing(); c.send_batch()\n\
                   results, errors = JSONRPCClient.handle_batch_response(c.recv())\n\
                   print(len(results), errors[0]['code'])\n";
    let output = stock.python(&["-c", program, socket]);
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "2 -32601",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
