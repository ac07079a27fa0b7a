//! JSON-RPC: the framing of the stream, and the answer to each request.

use serde_json::{Map, Value};

use crate::audit::Caller;
use crate::rpc::framing::{Framer, FramingError};
use crate::rpc::{Dispatch, RpcError, protocol};

/// Answers every call with its parameters.
struct Echo;

impl Dispatch for Echo {
    fn dispatch(&self, method: &str, params: Map<String, Value>) -> Result<Value, RpcError> {
        if method == "refused" {
            return Err(RpcError::Parse { reason: "as asked for".to_owned() });
        }
        Ok(Value::Object(params))
    }
}

pub(super) fn json_rpc_seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"jsonrpc":"2.0","id":1,"method":"volume_create","params":{"name":"v\"\\\u00e4","size":"1GiB"}}"#,
        r#"[{"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","id":"x","method":"refused"}]  {"id":null}"#,
        "{\n \"jsonrpc\": \"2.0\", \"id\": 2, \"method\": \"b\", \"params\": {\"a\": [[[1.5e300, -0, true]]]}}\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// All values of a stream that comes in pieces, and the error that ends it.
fn values(stream: &[u8], piece_bytes: usize) -> (Vec<Vec<u8>>, Option<FramingError>) {
    let (mut framer, mut values) = (Framer::new(), Vec::new());
    for piece in stream.chunks(piece_bytes.max(1)) {
        framer.push(piece);
        loop {
            match framer.next_value() {
                Ok(Some(value)) => values.push(value.to_vec()),
                Ok(None) => break,
                Err(error) => return (values, Some(error)),
            }
        }
    }
    (values, None)
}

pub(super) fn json_rpc(data: &[u8]) -> bool {
    let (whole, error) = values(data, data.len());
    assert_eq!(values(data, 1), (whole.clone(), error.clone()), "pieces change nothing");
    assert_eq!(values(data, 7), (whole.clone(), error), "pieces change nothing");
    let joined = whole.join(&b'\n');
    assert_eq!(values(&joined, 5), (whole.clone(), None), "a value ends where it ends");
    for value in &whole {
        let Some(answer) = protocol::answer(value, &Caller::Unknown, &Echo) else { continue };
        let (line, end) = answer.split_at(answer.len() - 1);
        assert_eq!(end, b"\n");
        assert!(serde_json::from_slice::<Value>(line).is_ok(), "an answer is JSON");
        assert_eq!(values(&answer, answer.len()), (vec![line.to_vec()], None), "an answer is one value");
    }
    !whole.is_empty()
}
