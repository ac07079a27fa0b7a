//! Tests the command plane over a real Unix socket, with methods that need no pool.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use varve::cli::{Client, ClientError};
use varve::rpc::{Dispatch, MAX_CONNECTIONS, RpcError, RpcServer, RpcServerConfig};

/// Methods: `echo` returns its parameters, `slow` answers after a second, `bad` fails, `panic`
/// panics, `big` returns `bytes` bytes.
struct Fake;

impl Dispatch for Fake {
    fn dispatch(&self, method: &str, params: Map<String, Value>) -> Result<Value, RpcError> {
        match method {
            "echo" => Ok(Value::Object(params)),
            "slow" => {
                std::thread::sleep(Duration::from_secs(1));
                Ok(json!("late"))
            }
            "bad" => Err(RpcError::Unsupported { reason: "not today; try tomorrow".to_owned() }),
            "panic" => panic!("on purpose, for a test"),
            "big" => {
                let bytes = params.get("bytes").and_then(Value::as_u64).unwrap_or(0);
                Ok(json!("x".repeat(usize::try_from(bytes).expect("small enough"))))
            }
            _ => Err(RpcError::MethodNotFound { method: method.to_owned(), suggestion: None }),
        }
    }
}

struct Plane {
    server: RpcServer,
    _directory: tempfile::TempDir,
}

impl Plane {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut RpcServerConfig)) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut config = RpcServerConfig::new(directory.path().join("rpc.sock"));
        change(&mut config);
        Plane { server: RpcServer::start(config, Arc::new(Fake)).expect("starts"), _directory: directory }
    }

    fn path(&self) -> &Path {
        self.server.path()
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.path()).expect("listening");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("settable");
        stream
    }

    /// Sends `text`, closes the sending side, and returns all answers.
    fn exchange(&self, text: &[u8]) -> Vec<Value> {
        let mut stream = self.connect();
        // The server may close before it has read everything; what it sent before still counts.
        let _ = stream.write_all(text);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8(answer).expect("JSON is UTF-8");
        assert!(text.is_empty() || text.ends_with('\n'), "an answer ends in a newline");
        text.lines().map(|line| serde_json::from_str(line).expect("an answer a line")).collect()
    }

    fn is_alive(&self) {
        let mut client = Client::connect(self.path(), Duration::from_secs(20)).expect("listening");
        client.call("echo", Map::new()).expect("answers");
    }
}

fn code(answer: &Value) -> i64 {
    answer["error"]["code"].as_i64().unwrap_or(0)
}

#[test]
fn every_shape_of_request_gets_its_answer() {
    let plane = Plane::start();
    let long_id = "i".repeat(129);
    let many =
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"echo","params":{{"a":[{}1]}}}}"#, "1,".repeat(8200));
    // Request, the id of the answer, its error code (0: a result).
    let table: &[(&str, Value, i64)] = &[
        (r#"{"jsonrpc":"2.0","id":1,"method":"echo"}"#, json!(1), 0),
        (r#"{"jsonrpc":"2.0","id":"a","method":"echo","params":{"x":[1,{"y":null}]}}"#, json!("a"), 0),
        (r#"{"jsonrpc":"2.0","id":null,"method":"echo"}"#, json!(null), 0),
        (r#"{"jsonrpc":"2.0","id":-1.5,"method":"echo"}"#, json!(-1.5), 0),
        (r#"{"jsonrpc":"2.0","id":2,"method":"nothing"}"#, json!(2), -32601),
        (r#"{"jsonrpc":"2.0","id":3,"method":"bad"}"#, json!(3), -22),
        (r#"{"jsonrpc":"2.0","id":4,"method":"panic"}"#, json!(4), -32603),
        (r#"{"jsonrpc":"2.0","id":5,"method":"echo","params":[1]}"#, json!(5), -32602),
        (r#"{"jsonrpc":"2.0","id":5,"method":"echo","params":null}"#, json!(5), -32602),
        (r#"{"jsonrpc":"1.0","id":6,"method":"echo"}"#, json!(6), -32600),
        (r#"{"jsonrpc":2.0,"id":6,"method":"echo"}"#, json!(6), -32600),
        (r#"{"id":7,"method":"echo"}"#, json!(7), -32600),
        (r#"{"jsonrpc":"2.0","id":8}"#, json!(8), -32600),
        (r#"{"jsonrpc":"2.0","id":8,"method":5}"#, json!(8), -32600),
        (r#"{"jsonrpc":"2.0","id":9,"method":"echo","param":{}}"#, json!(9), -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"echo"}"#, json!(null), -32600),
        (r#"{"jsonrpc":"2.0","id":true,"method":"echo"}"#, json!(null), -32600),
        (&format!(r#"{{"jsonrpc":"2.0","id":"{long_id}","method":"echo"}}"#), json!(null), -32600),
        (&many, json!(null), -32600),
        ("{}", json!(null), -32600),
        ("[]", json!(null), -32600),
        ("42", json!(null), -32700),
        ("hello", json!(null), -32700),
        (r#"{"jsonrpc":"2.0" "id":1}"#, json!(null), -32700),
        (r#"{"jsonrpc":"2.0","#, json!(null), -32700),
        ("\u{0}\u{1}\u{2}", json!(null), -32700),
    ];
    for (request, id, expected) in table {
        let answers = plane.exchange(request.as_bytes());
        assert_eq!(answers.len(), 1, "{request}: {answers:?}");
        assert_eq!((&answers[0]["id"], code(&answers[0])), (id, *expected), "{request}: {answers:?}");
        assert_eq!(answers[0]["jsonrpc"], "2.0");
        assert_eq!(answers[0].get("result").is_some(), *expected == 0);
        let message = answers[0]["error"]["message"].as_str();
        assert_eq!(message.is_some_and(|text| !text.is_empty()), *expected != 0, "{request}");
    }
    plane.is_alive();
}

#[test]
fn notifications_are_carried_out_in_silence() {
    let plane = Plane::start();
    for request in [
        r#"{"jsonrpc":"2.0","method":"echo"}"#,
        r#"{"jsonrpc":"2.0","method":"nothing"}"#,
        r#"[{"jsonrpc":"2.0","method":"bad"},{"jsonrpc":"2.0","method":"echo"}]"#,
    ] {
        assert_eq!(plane.exchange(request.as_bytes()), Vec::<Value>::new(), "{request}");
    }
}

#[test]
fn batches_are_answered_in_one_array() {
    let plane = Plane::start();
    let request = r#"[{"jsonrpc":"2.0","id":1,"method":"echo","params":{"a":1}},
        {"jsonrpc":"2.0","method":"echo"}, {"jsonrpc":"2.0","id":2,"method":"bad"}, 7]"#;
    let answers = plane.exchange(request.as_bytes());
    let [Value::Array(batch)] = &answers[..] else { panic!("one array: {answers:?}") };
    assert_eq!(batch.len(), 3);
    assert_eq!(batch[0]["result"], json!({"a": 1}));
    assert_eq!((code(&batch[1]), code(&batch[2])), (-22, -32600));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let plane = Plane::start();
    let requests: Vec<String> =
        (0..500).map(|id| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"echo"}}"#)).collect();
    let answers = plane.exchange(requests.concat().as_bytes());
    assert_eq!(answers.len(), 500);
    assert!(answers.iter().enumerate().all(|(id, answer)| answer["id"] == json!(id)));
}

#[test]
fn a_request_may_come_byte_by_byte() {
    let plane = Plane::start();
    let mut stream = plane.connect();
    for byte in b" {\"jsonrpc\" : \"2.0\", \"id\": 1,\r\n \"method\": \"echo\", \"params\": {\"a\": \"}\"}}" {
        stream.write_all(&[*byte]).expect("taken");
    }
    let mut answer = [0; 256];
    let count = stream.read(&mut answer).expect("answered without an end of the stream");
    let answer: Value = serde_json::from_slice(&answer[..count]).expect("small enough to come whole");
    assert_eq!(answer["result"], json!({"a": "}"}));
}

#[test]
fn garbage_behind_a_request_ends_only_its_connection() {
    let plane = Plane::start();
    let mut other = Client::connect(plane.path(), Duration::from_secs(20)).expect("listening");
    let answers = plane.exchange(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"echo\"}xyz{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"echo\"}");
    assert_eq!(answers.iter().map(code).collect::<Vec<_>>(), [0, -32700]);
    other.call("echo", Map::new()).expect("untouched");
}

#[test]
fn an_oversized_request_is_refused() {
    let plane = Plane::start();
    let mut stream = plane.connect();
    let request = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"echo","params":{{"a":"{}"}}}}"#,
        "x".repeat(256 * 1024)
    );
    let _ = stream.write_all(request.as_bytes());
    let mut line = vec![0; 4096];
    let count = stream.read(&mut line).expect("told before it is closed");
    let answer: Value = serde_json::from_slice(&line[..count]).expect("one answer");
    assert_eq!(code(&answer), -32600);
    assert!(answer["error"]["message"].as_str().expect("a message").contains("262144 bytes"));
    plane.is_alive();
}

#[test]
fn large_answers_arrive_whole_and_too_large_ones_are_replaced() {
    let plane = Plane::start();
    let mut client = Client::connect(plane.path(), Duration::from_secs(20)).expect("listening");
    let params = |bytes: u64| json!({"bytes": bytes}).as_object().expect("an object").clone();
    let answer = client.call("big", params(8 << 20)).expect("within the bound");
    assert_eq!(answer.as_str().map(str::len), Some(8 << 20));
    let error = client.call("big", params(33 << 20)).expect_err("above the bound");
    assert!(matches!(&error, ClientError::Refused { error, .. } if error.code == -32603), "{error}");
}

#[test]
fn a_long_call_holds_nobody_up() {
    let plane = Plane::start();
    let mut slow = plane.connect();
    slow.write_all(br#"{"jsonrpc":"2.0","id":1,"method":"slow"}"#).expect("taken");
    let began = Instant::now();
    plane.is_alive();
    assert!(began.elapsed() < Duration::from_millis(900), "{:?}", began.elapsed());
}

#[test]
fn a_request_that_does_not_end_is_ended() {
    let plane = Plane::with(|config| config.request_timeout = Duration::from_millis(100));
    let mut stream = plane.connect();
    stream.write_all(b"{\"jsonrpc\":").expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("told and closed");
    assert_eq!(code(&serde_json::from_str(&answer).expect("one answer")), -32600);
    // A connection that has not started a request may stay open without a limit.
    let mut idle = plane.connect();
    std::thread::sleep(Duration::from_millis(250));
    idle.write_all(br#"{"jsonrpc":"2.0","id":1,"method":"echo"}"#).expect("still open");
    assert!(idle.read(&mut [0; 256]).expect("answered") > 0);
}

#[test]
fn a_client_that_takes_no_answers_is_dropped() {
    let plane = Plane::with(|config| config.write_timeout = Duration::from_millis(100));
    let mut stream = plane.connect();
    stream
        .write_all(br#"{"jsonrpc":"2.0","id":1,"method":"big","params":{"bytes":8388608}}"#)
        .expect("taken");
    let began = Instant::now();
    while plane.server.connection_count() == 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "the connection must begin");
        std::thread::sleep(Duration::from_millis(1));
    }
    while plane.server.connection_count() > 0 {
        assert!(began.elapsed() < Duration::from_secs(10), "the connection must end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn at_the_bound_idle_connections_make_room() {
    let plane = Plane::start();
    let idle: Vec<UnixStream> = (0..MAX_CONNECTIONS).map(|_| plane.connect()).collect();
    for _ in 0..3 {
        plane.is_alive();
    }
    assert!(plane.server.connection_count() <= MAX_CONNECTIONS);
    // The first ones have been closed.
    assert_eq!((&idle[0]).read(&mut [0; 16]).expect("closed, not broken"), 0);
}

#[test]
fn at_the_bound_half_requests_make_room_and_are_told() {
    let plane = Plane::start();
    let half: Vec<UnixStream> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let mut stream = plane.connect();
            stream.write_all(b"{\"jsonrpc\":").expect("taken");
            stream
        })
        .collect();
    let began = Instant::now();
    plane.is_alive();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let told = half.iter().filter_map(|mut stream| {
        stream.set_nonblocking(true).expect("settable");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok().map(|_| answer)
    });
    let told: Vec<String> = told.collect();
    assert_eq!(told.len(), 1, "as many as had to: {told:?}");
    assert_eq!(code(&serde_json::from_str(&told[0]).expect("one answer")), -32600);
    assert!(told[0].contains("others wait"), "{told:?}");
}

#[test]
fn at_the_bound_a_client_waits_for_its_turn() {
    let plane = Plane::start();
    let mut busy: Vec<UnixStream> = (0..MAX_CONNECTIONS)
        .map(|_| {
            let mut stream = plane.connect();
            stream.write_all(br#"{"jsonrpc":"2.0","id":1,"method":"slow"}"#).expect("taken");
            stream
        })
        .collect();
    plane.is_alive();
    for stream in &mut busy {
        assert!(stream.read(&mut [0; 256]).expect("answered") > 0, "nobody was cut off");
    }
}

#[test]
fn stopping_answers_what_is_under_way_and_removes_the_socket() {
    let plane = Plane::start();
    let path = plane.path().to_owned();
    let mut slow = plane.connect();
    slow.write_all(br#"{"jsonrpc":"2.0","id":1,"method":"slow"}"#).expect("taken");
    std::thread::sleep(Duration::from_millis(100));
    let Plane { server, _directory: directory } = plane;
    server.stop();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).expect("answered and closed");
    assert!(answer.contains("late"), "{answer}");
    assert!(!path.exists());
    let error = Client::connect(&path, Duration::from_secs(1)).expect_err("gone").to_string();
    assert!(error.contains("varve serve") && error.contains("rpc.sock"), "{error}");
    drop(directory);
}
